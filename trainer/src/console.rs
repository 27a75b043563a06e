//! Output of commands: progress bars on a terminal, plain lines otherwise, JSON on request. Results
//! go to stdout, everything else to stderr.

use std::{
    io::{ErrorKind, IsTerminal, Write},
    sync::Mutex,
    time::{Duration, Instant},
};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use lake::Progress;
use polars::prelude::{AnyValue, Column, DataFrame};
use serde::Serialize;

use crate::{Failure, failure::chain, output::csv};

/// Templates of progress bars with and without a known total.
const BAR: &str = "{msg:32} {bar:40} {human_pos}/{human_len} {elapsed}";
const SPINNER: &str = "{msg:32} {spinner} {human_pos} {elapsed}";

/// How often a stage reports its progress if stderr is not a terminal.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Rows of an answer that are shown on a terminal.
const PAGE_ROWS: usize = 100;

/// The output of a command.
#[derive(Debug)]
pub struct Console {
    json: bool,
    terminal: bool,
    stage: Mutex<Option<Stage>>,
}

#[derive(Debug)]
struct Stage {
    name: String,
    total: Option<u64>,
    done: u64,
    reported: Instant,
    bar: Option<ProgressBar>,
}

impl Console {
    /// For JSON or for people.
    pub fn new(json: bool) -> Self {
        Self {
            json,
            terminal: !json && std::io::stderr().is_terminal(),
            stage: Mutex::new(None),
        }
    }

    /// Prints a result: the value as JSON, or the text.
    ///
    /// # Errors
    /// [`Failure::Output`] if stdout is closed.
    pub fn result(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let output = |source| Failure::Output {
            path: "standard output".into(),
            source,
        };
        let mut out = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, value).map_err(|e| output(e.into()))?;
            writeln!(out).map_err(output)
        } else {
            writeln!(out, "{}", text().trim_end()).map_err(output)
        }
    }

    /// Prints the answer to a query: in full as JSON or as CSV, one page of it on a terminal.
    ///
    /// # Errors
    /// [`Failure::Output`] if stdout is closed.
    pub(crate) fn answer(&self, answer: &DataFrame) -> Result<(), Failure> {
        if self.json {
            return self.result(&lake::rows(answer)?, String::new);
        }
        let out = std::io::stdout();
        let output = |source| Failure::Output {
            path: "standard output".into(),
            source,
        };
        if out.is_terminal() {
            writeln!(out.lock(), "{}", page(answer)).map_err(output)
        } else {
            match csv(answer, out.lock()) {
                // A reader such as `head` closes the pipe when it has enough.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                written => written.map_err(output),
            }
        }
    }

    /// Prints a note to stderr.
    pub fn note(&self, text: &str) {
        if self.json {
            self.line(&serde_json::json!({ "note": text }).to_string());
        } else {
            self.line(text);
        }
    }

    /// Prints the reason of a failure to stderr.
    pub fn failure(&self, failure: &Failure) {
        if self.json {
            self.line(&serde_json::json!({ "error": chain(failure) }).to_string());
        } else {
            self.line(&format!("error: {}", chain(failure)));
        }
    }

    fn line(&self, text: &str) {
        // If stderr is closed there is no way to report it.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    fn report(&self, stage: &Stage) {
        let Stage {
            name, total, done, ..
        } = stage;
        let text = match (self.json, total) {
            (true, _) => {
                serde_json::json!({ "stage": name, "done": done, "total": total }).to_string()
            }
            (false, Some(total)) => {
                format!("{name}: {} of {}", HumanCount(*done), HumanCount(*total))
            }
            (false, None) => format!("{name}: {}", HumanCount(*done)),
        };
        self.line(&text);
    }
}

impl Progress for Console {
    fn begin(&self, stage: &str, total: Option<u64>) {
        let bar = self.terminal.then(|| match total {
            Some(total) => ProgressBar::new(total).with_style(style(BAR)),
            None => ProgressBar::new_spinner().with_style(style(SPINNER)),
        });
        if let Some(bar) = &bar {
            bar.set_message(stage.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        let stage = Stage {
            name: stage.to_owned(),
            total,
            done: 0,
            reported: Instant::now(),
            bar,
        };
        if stage.bar.is_none() {
            self.line(&match self.json {
                true => serde_json::json!({ "stage": stage.name, "total": total }).to_string(),
                false => stage.name.clone(),
            });
        }
        if let Ok(mut state) = self.stage.lock() {
            *state = Some(stage);
        }
    }

    fn advance(&self, n: u64) {
        let Ok(mut state) = self.stage.lock() else {
            return;
        };
        let Some(stage) = state.as_mut() else { return };
        stage.done += n;
        match &stage.bar {
            Some(bar) => bar.inc(n),
            None if stage.reported.elapsed() >= REPORT_INTERVAL => {
                stage.reported = Instant::now();
                self.report(stage);
            }
            None => {}
        }
    }

    fn end(&self) {
        let Ok(mut state) = self.stage.lock() else {
            return;
        };
        if let Some(Stage { bar: Some(bar), .. }) = state.take() {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The first rows of a table with all columns, and how many rows are left out.
fn page(answer: &DataFrame) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(answer.get_column_names());
    let cell = |column: &Column, row| lake::text(&column.get(row).unwrap_or(AnyValue::Null));
    table.add_rows(
        (0..answer.height().min(PAGE_ROWS))
            .map(|row| answer.columns().iter().map(move |column| cell(column, row))),
    );
    match answer.height().checked_sub(PAGE_ROWS) {
        None | Some(0) => table.to_string(),
        Some(more) => format!(
            "{table}\n{} of {} rows are left out; all go to a file with --output, or into a pipe",
            HumanCount(more as u64),
            HumanCount(answer.height() as u64)
        ),
    }
}

/// A table with a heading, for people.
pub(crate) fn table<const N: usize>(
    heading: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(heading);
    table.add_rows(rows);
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_every_column_and_says_what_it_leaves_out() {
        let rows = PAGE_ROWS + 1_234;
        let names: Vec<String> = (0..20).map(|at| format!("column{at}")).collect();
        let column =
            |name: &String| Column::new(name.as_str().into(), (0..rows as i64).collect::<Vec<_>>());
        let answer = DataFrame::new_infer_height(names.iter().map(column).collect()).unwrap();
        let (whole, page) = (page(&answer.head(Some(PAGE_ROWS))), page(&answer));
        assert!(
            names.iter().all(|name| page.contains(name.as_str())) && !whole.contains("left out"),
            "{page}"
        );
        assert!(
            page.ends_with(
                "\n1,234 of 1,334 rows are left out; all go to a file with --output, or into a \
                 pipe"
            ),
            "{page}"
        );
    }
}
