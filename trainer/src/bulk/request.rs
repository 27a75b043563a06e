//! The flags of bulk scoring, some of which are for one model.

use std::path::PathBuf;

use scoring::ModelKind;

use crate::{Failure, layout::LayoutArgs};

#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// For anomaly: the lines to score, in any layout that `ingest` reads, with or without a
    /// `line_id`. For other models: a file with a column of customer ids (forecast: series ids) to
    /// score. Default: all
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
    /// For recommendation: number of products for each customer. Default: 20
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) top: Option<u16>,
    /// For recommendation: leave out products that the customer has already bought
    #[arg(long)]
    pub(crate) new_only: bool,
    /// For forecast: which series. Default: those named by the input, or else the shop
    #[arg(long, value_enum)]
    pub(crate) level: Option<LevelChoice>,
    /// For forecast: the length of a period. Default: as named by the input, or else a day
    #[arg(long, value_enum)]
    pub(crate) frequency: Option<FrequencyChoice>,
    /// For forecast: number of periods from the as-of time on. Default: 28 days, 8 weeks or 3
    /// months
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=366))]
    pub(crate) horizon: Option<u16>,
}

/// Which series to forecast.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum LevelChoice {
    /// Revenue of the shop
    Total,
    /// Revenue of each country
    Country,
    /// Units of each product
    Product,
}

/// The length of a period.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum FrequencyChoice {
    /// A day
    Daily,
    /// A week from Monday
    Weekly,
    /// A calendar month
    Monthly,
}

impl Request {
    /// Refuses flags that are for another model.
    pub(crate) fn check(&self, model: ModelKind) -> Result<(), Failure> {
        let flags = [
            ("--top", self.top.is_some(), ModelKind::Recommendation),
            ("--new-only", self.new_only, ModelKind::Recommendation),
            ("--level", self.level.is_some(), ModelKind::Forecast),
            ("--frequency", self.frequency.is_some(), ModelKind::Forecast),
            ("--horizon", self.horizon.is_some(), ModelKind::Forecast),
        ];
        for (flag, is_given, of) in flags {
            if is_given && of != model {
                let problem = format!("is for {of}, not for {model}");
                return Err(Failure::Flag { flag, problem });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        request: Request,
    }

    pub(crate) fn request(flags: &str) -> Request {
        let flags = flags.split_whitespace();
        Line::parse_from(["trainer"].into_iter().chain(flags)).request
    }

    #[test]
    fn a_flag_of_another_model_is_refused() {
        let check = |model, flags| request(flags).check(model);
        let refused = |model, flags| check(model, flags).unwrap_err().to_string();
        assert_eq!(
            refused(ModelKind::Churn, "--top 3"),
            "--top is for recommendation, not for churn"
        );
        assert_eq!(
            refused(ModelKind::Anomaly, "--horizon 3"),
            "--horizon is for forecast, not for anomaly"
        );
        check(ModelKind::Recommendation, "--top 3 --new-only").unwrap();
        let forecast = "--level total --frequency daily --horizon 3";
        check(ModelKind::Forecast, forecast).unwrap();
        check(ModelKind::Churn, "").unwrap();
    }
}
