//! Flags that say how input files are read.

use std::path::PathBuf;

use clap::Args;
use lake::{ColumnMapping, DateOrder, IngestOptions, LakeError};

#[derive(Debug, Args)]
pub(crate) struct LayoutArgs {
    /// TOML file that names the columns, if their names are unusual: `invoice = "Order"`
    #[arg(long, value_name = "FILE", env = "SHOPKEEPER_MAPPING")]
    mapping: Option<PathBuf>,

    /// Order of day and month in dates such as 03/04/2024 and 03-04-2024. Default: as in the
    /// mapping, or else month first
    #[arg(long, value_enum, env = "SHOPKEEPER_DATE_ORDER")]
    date_order: Option<DateOrderChoice>,

    /// Stock codes that are services rather than products. Default: POST, DOT, M and other usual
    /// ones
    #[arg(
        long,
        value_name = "CODE",
        env = "SHOPKEEPER_SERVICE_CODES",
        value_delimiter = ','
    )]
    service_codes: Vec<String>,
}

impl LayoutArgs {
    /// The options; reads the mapping, if one is given.
    pub(crate) fn options(&self) -> Result<IngestOptions, LakeError> {
        let mapping = self.mapping.as_deref().map(ColumnMapping::read);
        let default = IngestOptions::default();
        Ok(IngestOptions {
            mapping: mapping.transpose()?,
            service_codes: if self.service_codes.is_empty() {
                default.service_codes
            } else {
                self.service_codes.clone()
            },
            date_order: self.date_order.map(|order| match order {
                DateOrderChoice::MonthFirst => DateOrder::MonthFirst,
                DateOrderChoice::DayFirst => DateOrder::DayFirst,
            }),
        })
    }
}

/// Order of day and month.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum DateOrderChoice {
    /// 12/31/2024
    MonthFirst,
    /// 31/12/2024
    DayFirst,
}
