//! The command line. A command is a file; the macro `commands` below lists them.
//!
//! Flags that hold for a shop are also environment variables; flags that say what one command does
//! are not.

mod curate;
mod evaluate;
mod ingest;
mod models;
mod promote;
mod publish;
mod rollback;
mod run;
mod score;
mod sql;
mod synth;
#[cfg(test)]
mod testing;
mod train;

use clap::{Parser, Subcommand, builder::BoolishValueParser};

use self::{
    curate::Curate, evaluate::Evaluate, ingest::Ingest, models::Models, promote::Promote,
    publish::Publish, rollback::Rollback, run::Run, score::Score, sql::Sql, synth::Synth,
    train::Train,
};
use crate::{Context, Failure};

/// Learn five models from a shop's transactions, and publish them with the shop's figures.
///
/// Exit codes: 0 success, 1 internal error, 2 wrong command line, 3 bad input, 4 bad environment
/// (disk, store, device), 5 a model did not pass its gates. After any failure, the last good tables
/// and models stay in use.
#[derive(Debug, Parser)]
#[command(name = "trainer", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Write results and progress as JSON, one value per line
    #[arg(long, global = true, env = "SHOPKEEPER_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
}

impl Cli {
    /// Whether the output is JSON.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Runs the command.
    ///
    /// # Errors
    /// [`Failure`], which has the exit code.
    pub fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        self.command.run(context)
    }
}

/// Lists the commands in the order of `--help`.
macro_rules! commands {
    ($($name:ident),* $(,)?) => {
        #[derive(Debug, Subcommand)]
        enum Command {
            $($name($name)),*
        }

        impl Command {
            fn run(self, context: &Context<'_>) -> Result<(), Failure> {
                match self {
                    $(Self::$name(command) => command.run(context)),*
                }
            }
        }
    };
}

commands![
    Run, Ingest, Curate, Train, Evaluate, Publish, Promote, Rollback, Models, Score, Sql, Synth
];

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use scoring::ModelKind;

    use super::*;
    use crate::catalog::entry;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }

    #[test]
    fn help_names_the_models_and_their_recipes() {
        let mut command = Cli::command();
        let run = command.find_subcommand_mut("run").unwrap();
        let help = run.render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for kind in ModelKind::ALL {
            assert!(help.contains(kind.as_str()), "{kind}: {help}");
            for recipe in entry(kind).learner.recipes() {
                assert!(help.contains(recipe), "{kind}: {help}");
            }
        }
    }

    #[test]
    fn a_trial_has_a_share_and_ends_by_its_channel() {
        let parses = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        for right in [
            "trainer publish churn --channel canary --lake l --models m",
            "trainer publish churn --channel canary --percent 100 --lake l --models m",
            "trainer rollback churn --channel shadow --models m",
            "trainer promote churn --models m",
        ] {
            assert!(parses(right), "{right}");
        }
        for wrong in [
            "trainer publish churn --percent 10 --lake l --models m",
            "trainer publish churn --channel canary --percent 0 --lake l --models m",
            "trainer publish churn --channel canary --percent 101 --lake l --models m",
            "trainer rollback churn v1 --channel canary --models m",
        ] {
            assert!(!parses(wrong), "{wrong}");
        }
    }
}
