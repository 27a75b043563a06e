//! Derives the curated tables and the quality profile.

use chrono::{DateTime, Days, NaiveDateTime};
use polars::prelude::*;

use crate::{
    error::LakeError,
    lake::Lake,
    profile,
    progress::Progress,
    report::CurateReport,
    staged::{Staged, replace, scan, write},
    tables::{TABLES, TRANSACTIONS, month},
};

/// How tables are derived.
#[derive(Debug, Clone, Default)]
pub struct CurateOptions {
    /// The tables hold lines before this instant. `None`: all lines, as of the midnight after the
    /// last.
    pub as_of: Option<NaiveDateTime>,
}

/// Derives all tables and the quality profile. The same lines and as-of time give the same bytes.
///
/// # Errors
/// [`LakeError`]; the tables are then unchanged.
pub fn curate(
    lake: &Lake,
    options: &CurateOptions,
    progress: &dyn Progress,
) -> Result<CurateReport, LakeError> {
    let lake = &lake.lock()?;
    let lines = scan(&lake.processed().join("lines.parquet"))?;
    let Span { lines: all, last } = Span::of(&lines)?;
    let as_of = match (options.as_of, last) {
        (Some(as_of), _) => as_of,
        (None, Some(last)) => midnight_after(last),
        (None, None) => {
            return Err(LakeError::NothingUsable {
                rows: 0,
                example: "there are no lines".to_owned(),
            });
        }
    };

    let staged = Staged::new(lake.curated_dir())?;
    progress.begin("curate: tables", Some(TABLES.len() as u64));
    let kept = write_by_month(&(TRANSACTIONS.derive)(lines, as_of), &staged)?;
    if kept == 0 {
        return Err(LakeError::NothingBefore(as_of));
    }
    progress.advance(1);
    // The other tables are derived from the written one, so that they cannot differ from it.
    let transactions = scan(&staged.path(TRANSACTIONS.name))?;
    let mut tables = vec![(TRANSACTIONS.name.to_owned(), kept)];
    for table in TABLES.into_iter().skip(1) {
        let mut rows = (table.derive)(transactions.clone(), as_of).collect()?;
        write(&mut rows, &staged.path(&format!("{}.parquet", table.name)))?;
        tables.push((table.name.to_owned(), rows.height() as u64));
        progress.advance(1);
    }
    staged.write("as_of", &as_of.format("%Y-%m-%dT%H:%M:%S").to_string())?;
    progress.end();

    let report = CurateReport {
        as_of,
        tables,
        later_lines: u64::from(all) - kept,
    };
    let quality = profile::quality(lake, &transactions, &report)?;
    staged.swap()?;
    replace(
        &lake.root().join("quality.json"),
        &serde_json::to_string_pretty(&quality).unwrap_or_default(),
    )?;
    replace(&lake.root().join("profile.html"), &profile::html(&quality))?;
    Ok(report)
}

/// How many lines there are, and the time of the last.
struct Span {
    lines: u32,
    last: Option<NaiveDateTime>,
}

impl Span {
    fn of(lines: &LazyFrame) -> Result<Self, LakeError> {
        let span = lines
            .clone()
            .select([
                col("invoice_time").max().alias("last"),
                len().alias("lines"),
            ])
            .collect()?;
        let last = span.column("last")?.datetime()?.physical().get(0);
        Ok(Self {
            lines: span.column("lines")?.u32()?.get(0).unwrap_or_default(),
            last: last
                .and_then(DateTime::from_timestamp_micros)
                .map(|last| last.naive_utc()),
        })
    }
}

fn midnight_after(time: NaiveDateTime) -> NaiveDateTime {
    let day = time.date();
    day.checked_add_days(Days::new(1)).unwrap_or(day).into()
}

/// Writes `transactions` as a folder for each month, in the order of the input.
fn write_by_month(lines: &LazyFrame, staged: &Staged) -> Result<u64, LakeError> {
    let months = lines
        .clone()
        .select([month().alias("month")])
        .unique(None, UniqueKeepStrategy::Any)
        .collect()?;
    let months = months.column("month")?.str()?;
    let mut months: Vec<String> = months.iter().flatten().map(str::to_owned).collect();
    months.sort();
    let mut rows = 0;
    for name in months {
        let folder = staged.path(TRANSACTIONS.name).join(format!("month={name}"));
        std::fs::create_dir_all(&folder).map_err(LakeError::disk("create", &folder))?;
        let mut part = lines
            .clone()
            .filter(month().eq(lit(name)))
            .sort(["line_id"], SortMultipleOptions::default())
            .collect()?;
        write(&mut part, &folder.join("lines.parquet"))?;
        rows += part.height() as u64;
    }
    Ok(rows)
}
