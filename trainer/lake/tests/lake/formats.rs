//! The real file in every encoding, layout and format gives the same tables, to the byte.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use chrono::NaiveDateTime;
use polars::prelude::*;
use rust_xlsxwriter::{Format, Workbook, Worksheet};

use lake::Lake;

use super::{curated, files};

/// Rows of a sheet, fewer than the file has, so that there are two.
const SHEET: usize = 300_000;

fn online_retail() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/online_retail.csv")
}

/// The file's rows, as texts.
fn rows() -> Vec<csv::StringRecord> {
    // Every byte of Latin-1 is the character of that number.
    let text: String = fs_err::read(online_retail())
        .unwrap()
        .into_iter()
        .map(char::from)
        .collect();
    csv::Reader::from_reader(text.as_bytes())
        .into_records()
        .map(Result::unwrap)
        .collect()
}

fn time(text: &str) -> NaiveDateTime {
    NaiveDateTime::parse_from_str(text, "%m/%d/%Y %H:%M").unwrap()
}

const FIRST: [&str; 8] = [
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
];
const SECOND: [&str; 8] = [
    "Invoice",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "Price",
    "Customer ID",
    "Country",
];

/// As UTF-8, plain, gzip or zstd.
fn utf8(to: impl Write, rows: &[csv::StringRecord]) {
    let mut writer = csv::Writer::from_writer(to);
    writer.write_record(FIRST).unwrap();
    rows.iter()
        .for_each(|row| writer.write_record(row).unwrap());
    writer.flush().unwrap();
}

/// Online Retail II's names, times with seconds, and customer ids that a spreadsheet made numbers
/// of.
fn second_layout(to: impl Write, rows: &[csv::StringRecord]) {
    let mut writer = csv::Writer::from_writer(to);
    writer.write_record(SECOND).unwrap();
    for row in rows {
        let customer = if row[6].is_empty() {
            String::new()
        } else {
            format!("{}.0", &row[6])
        };
        let time = time(&row[4]).format("%Y-%m-%d %H:%M:%S").to_string();
        writer
            .write_record([
                &row[0], &row[1], &row[2], &row[3], &time, &row[5], &customer, &row[7],
            ])
            .unwrap();
    }
    writer.flush().unwrap();
}

/// Typed: whole quantities, times, prices and customers as numbers with fractions, as pandas writes
/// them.
fn parquet(path: &Path, rows: &[csv::StringRecord]) {
    let text = |at: usize| {
        let texts = rows
            .iter()
            .map(|row| Some(&row[at]).filter(|text| !text.is_empty()))
            .collect::<Vec<_>>();
        Column::new(FIRST[at].into(), texts)
    };
    let number = |at: usize| {
        Column::new(
            FIRST[at].into(),
            rows.iter()
                .map(|row| row[at].parse::<f64>().ok())
                .collect::<Vec<_>>(),
        )
    };
    let quantities: Vec<i64> = rows.iter().map(|row| row[3].parse().unwrap()).collect();
    let times: Vec<i64> = rows
        .iter()
        .map(|row| time(&row[4]).and_utc().timestamp_millis())
        .collect();
    let times = Column::new(FIRST[4].into(), times)
        .cast(&DataType::Datetime(TimeUnit::Milliseconds, None))
        .unwrap();
    let quantities = Column::new(FIRST[3].into(), quantities);
    let columns = vec![
        text(0),
        text(1),
        text(2),
        quantities,
        times,
        number(5),
        number(6),
        text(7),
    ];
    let mut table = DataFrame::new_infer_height(columns).unwrap();
    ParquetWriter::new(File::create(path).unwrap())
        .finish(&mut table)
        .unwrap();
}

/// Typed cells on two sheets: codes that are numbers are numbers, times are days since 1900.
fn xlsx(path: &Path, rows: &[csv::StringRecord]) {
    let mut workbook = Workbook::new();
    let day = Format::new().set_num_format("yyyy-mm-dd hh:mm");
    for rows in rows.chunks(SHEET) {
        let sheet = workbook.add_worksheet_with_constant_memory().unwrap();
        sheet.write_row(0, 0, FIRST).unwrap();
        for (row, line) in (1..).zip(rows) {
            for (column, text) in (0..).zip(line) {
                cell(sheet, row, column, text, &day);
            }
        }
    }
    workbook.save(path).unwrap();
}

fn cell(sheet: &mut Worksheet, row: u32, column: u16, text: &str, day: &Format) {
    let number = text
        .parse::<f64>()
        .ok()
        .filter(|number| number.to_string() == text || column == 5);
    match (column, number) {
        _ if text.is_empty() => {}
        (4, _) => drop(
            sheet
                .write_datetime_with_format(row, column, time(text), day)
                .unwrap(),
        ),
        // A description of digits is text nonetheless; so is 22E7, which is no number of a product.
        (0 | 1 | 3 | 5 | 6, Some(number)) => drop(sheet.write_number(row, column, number).unwrap()),
        _ => drop(sheet.write_string(row, column, text).unwrap()),
    }
}

#[test]
fn every_encoding_layout_and_format_gives_the_same_tables() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let create = |name: &str| File::create(at(name)).unwrap();
    let rows = rows();
    assert_eq!(rows.len(), 541_909);
    utf8(create("utf8.csv"), &rows);
    utf8(
        flate2::write::GzEncoder::new(create("gzip.csv.gz"), flate2::Compression::fast()),
        &rows,
    );
    utf8(
        zstd::Encoder::new(create("zstd.csv.zst"), 1)
            .unwrap()
            .auto_finish(),
        &rows,
    );
    second_layout(create("second.csv"), &rows);
    parquet(&at("typed.parquet"), &rows);
    xlsx(&at("typed.xlsx"), &rows);

    let tables = |input: &Path, lake: &str| {
        let (lake, report) = curated(input, &at(lake));
        assert_eq!(
            (report.rows, report.rejected),
            (541_909, 0),
            "{}",
            input.display()
        );
        files(&lake.curated_dir())
    };
    let expected = tables(&online_retail(), "latin1");
    assert!(expected.len() > 12, "a file for each table and month");
    for input in [
        "utf8.csv",
        "gzip.csv.gz",
        "zstd.csv.zst",
        "second.csv",
        "typed.parquet",
        "typed.xlsx",
    ] {
        let found = tables(&at(input), "lake");
        for (name, bytes) in &expected {
            assert!(
                found.get(name) == Some(bytes),
                "{input}: {} is another",
                name.display()
            );
        }
        assert_eq!(found.len(), expected.len(), "{input}");
    }
}

#[test]
fn a_row_of_a_workbook_is_named_with_its_sheet() {
    let folder = tempfile::tempdir().unwrap();
    let book = folder.path().join("book.xlsx");
    let mut workbook = Workbook::new();
    for (name, quantity) in [("Year 2010", "6"), ("Year 2011", "many")] {
        let sheet = workbook.add_worksheet().set_name(name).unwrap();
        sheet.write_row(0, 0, FIRST).unwrap();
        let row = [
            "536365",
            "85123A",
            "LANTERN",
            quantity,
            "12/1/2010 8:26",
            "2.55",
            "17850",
            "France",
        ];
        sheet.write_row(1, 0, row).unwrap();
    }
    workbook.save(&book).unwrap();
    let read = lake::read_transactions(&[book], &lake::IngestOptions::default()).unwrap();
    let [(file, row, rejection)] = &read.rejected[..] else {
        panic!("{read:?}")
    };
    assert_eq!(
        (file.as_str(), *row, rejection.field),
        ("book.xlsx, sheet Year 2011", 1, "quantity")
    );
}

#[test]
fn repeated_files_and_other_encodings_are_noted() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let text = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\\
                n536365,85123A,CAFÉ,6,12/1/2010 8:26,2.55,17850,France\n";
    fs_err::write(at("first.csv"), text).unwrap();
    fs_err::write(at("second.csv"), text.replace("CAFÉ", "TEA")).unwrap();
    let notes = || {
        let lake = Lake::create(at(".lake")).unwrap();
        // A file that is named beside its folder is read once.
        let inputs = [folder.path().to_owned(), at("first.csv")];
        let report = lake::ingest(
            &inputs,
            &lake,
            &lake::IngestOptions::default(),
            &lake::NoProgress,
        )
        .unwrap();
        let text = report.to_string();
        text.lines()
            .filter_map(|line| line.strip_prefix("note: ").map(str::to_owned))
            .collect::<Vec<_>>()
    };
    assert_eq!(notes(), [""; 0]);
    fs_err::copy(at("first.csv"), at("copy.csv")).unwrap();
    let latin: Vec<u8> = text
        .replace("17850", "17851")
        .chars()
        .map(|letter| u8::try_from(letter).unwrap())
        .collect();
    fs_err::write(at("latin.csv"), latin).unwrap();
    assert_eq!(
        notes(),
        [
            "every line of first.csv repeats an earlier one: was it given twice?",
            "latin.csv is not UTF-8 throughout and was read as windows-1252"
        ]
    );
}
