//! Command lines over a lake of one line, for the commands' tests.

use std::path::{Path, PathBuf};

use chrono::DateTime;
use clap::Parser;

use super::Cli;
use crate::{Console, Context, Failure};

/// Runs a command line with `--lake`.
pub(crate) fn trainer(arguments: &[&str], lake: &Path) -> Result<(), Failure> {
    let lake = lake.to_string_lossy();
    let arguments = ["trainer"].iter().chain(arguments).copied();
    let cli = Cli::parse_from(arguments.chain(["--lake", &lake]));
    cli.run(&Context::new(&Console::new(true), DateTime::UNIX_EPOCH)?)
}

/// A curated lake with one line, of 1 January 2011.
pub(crate) fn lake(folder: &Path) -> PathBuf {
    let (input, lake) = (folder.join("rows.csv"), folder.join("lake"));
    let heading =
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";
    let row = "1,10,A THING,2,1/1/2011 8:00,1.5,12,EIRE\n";
    fs_err::write(&input, heading.to_owned() + row).unwrap();
    trainer(&["ingest", "--input", &input.to_string_lossy()], &lake).unwrap();
    trainer(&["curate"], &lake).unwrap();
    lake
}
