//! Input with the faults of real files.

use lake::{ColumnMapping, DateOrder};
use polars::prelude::{ParquetReader, SerReader};
use tempfile::TempDir;

use super::*;

/// A lake of some rows, without their heading.
struct Shop {
    folder: TempDir,
    lake: Lake,
}

impl Shop {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::create(folder.path().join("lake")).unwrap();
        Self { folder, lake }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs_err::write(&path, text).unwrap();
        path
    }

    fn ingest(&self, rows: &str) -> Result<IngestReport, LakeError> {
        let input = self.file("rows.csv", &(HEADING.to_owned() + rows));
        ingest(&[input], &self.lake, &IngestOptions::default(), &NoProgress)
    }
}

const HEADING: &str =
    "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";
const SALE: &str = "1,10,A THING,2,1/1/2011 8:00,1.5,12,EIRE\n";

#[test]
fn one_writer_at_a_time_locks_a_lake_and_readers_go_on() {
    let shop = Shop::new();
    shop.ingest(SALE).unwrap();
    curate(&shop.lake, &CurateOptions::default(), &NoProgress).unwrap();
    let held = shop.lake.lock().unwrap();
    let error = shop.ingest(SALE).unwrap_err();
    assert!(
        matches!(error, LakeError::Busy(_)) && !error.is_bad_input(),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains(&shop.lake.root().display().to_string()),
        "{error}"
    );
    assert!(matches!(
        curate(&shop.lake, &CurateOptions::default(), &NoProgress),
        Err(LakeError::Busy(_))
    ));
    let read = Lake::open(shop.lake.root()).unwrap();
    assert_eq!(read.sql("SELECT * FROM transactions").unwrap().height(), 1);
    // The holder of the lock goes on from stage to stage.
    curate(&held, &CurateOptions::default(), &NoProgress).unwrap();
    drop(held);
    shop.ingest(SALE).unwrap();
}

#[test]
fn a_cancellation_has_a_quantity_of_0_or_below_and_no_price_below_0() {
    for (row, reason) in [
        (
            "C2,10,A THING,5,1/1/2011 8:00,1.5,12,EIRE\n",
            "quantity is above 0 in a cancellation:",
        ),
        (
            "c2,10,A THING,1,1/1/2011 8:00,-1.5,12,EIRE\n",
            "quantity is above 0 in a cancellation:",
        ),
        (
            "C2,10,A THING,-1,1/1/2011 8:00,-1.5,12,EIRE\n",
            "unit price is below 0 in a cancellation:",
        ),
    ] {
        let report = Shop::new().ingest(&[SALE, row].concat()).unwrap();
        assert_eq!(
            report.reasons.into_iter().collect::<Vec<_>>(),
            [(reason.to_owned(), 1)],
            "{row}"
        );
    }
    let taken_back =
        "C2,10,A THING,-1,1/1/2011 8:00,1.5,12,EIRE\nC2,10,A THING,-1,1/1/2011 8:00,0,12,EIRE\n";
    assert_eq!(
        Shop::new()
            .ingest(&[SALE, taken_back].concat())
            .unwrap()
            .kinds["cancellation"],
        2
    );
}

#[test]
fn no_sum_of_money_leaves_64_bits() {
    let rows: String = (0..8)
        .map(|invoice| format!("{invoice},10,A THING,99000000,1/1/2011 8:00,1000000,12,EIRE\n"))
        .collect();
    let shop = Shop::new();
    let report = shop.ingest(&rows).unwrap();
    let reason = "line total is too large beside those before it:".to_owned();
    assert_eq!(
        (report.accepted, report.reasons.into_iter().collect()),
        (4, vec![(reason, 4)])
    );
    curate(&shop.lake, &CurateOptions::default(), &NoProgress).unwrap();
    let sum = shop
        .lake
        .sql("SELECT gross_revenue FROM customers")
        .unwrap();
    let sum = sum
        .column("gross_revenue")
        .unwrap()
        .decimal()
        .unwrap()
        .physical()
        .get(0)
        .unwrap();
    assert_eq!(i64::try_from(sum), Ok(4 * 990_000_000_000_000_000));
}

#[test]
fn a_customers_country_is_that_of_the_latest_purchase() {
    let shop = Shop::new();
    let rows = [
        "1,10,A THING,2,1/3/2011 8:00,1.5,12,France\n",
        "2,10,A THING,2,1/1/2011 8:00,1.5,12,Spain\n",
    ];
    shop.ingest(&rows.concat()).unwrap();
    curate(&shop.lake, &CurateOptions::default(), &NoProgress).unwrap();
    let country = shop.lake.sql("SELECT country FROM customers").unwrap();
    assert_eq!(
        country.column("country").unwrap().str().unwrap().get(0),
        Some("France")
    );
}

#[test]
fn lines_of_a_file_are_what_they_are_in_a_lake_of_it() {
    let shop = Shop::new();
    let rows = [
        SALE,
        "2,10,A THING,two,1/1/2011 8:00,1.5,12,EIRE\n",
        "C3,10,A THING,-1,1/1/2011 8:00,1.5,12,EIRE\n",
        "4,POST,POSTAGE,1,1/1/2011 8:00,18,12,EIRE\n",
    ];
    shop.ingest(&rows.concat()).unwrap();
    curate(&shop.lake, &CurateOptions::default(), &NoProgress).unwrap();
    let table = shop
        .lake
        .sql("SELECT line_id, kind FROM transactions ORDER BY line_id")
        .unwrap();
    let (ids, kinds) = (
        table.column("line_id").unwrap().i64().unwrap(),
        table.column("kind").unwrap().str().unwrap(),
    );
    let kept: Vec<_> = ids
        .iter()
        .flatten()
        .map(|id| id.to_string())
        .zip(kinds.iter().flatten())
        .collect();
    let read = lake::read_transactions(
        &[shop.folder.path().join("rows.csv")],
        &IngestOptions::default(),
    )
    .unwrap();
    assert_eq!(
        read.lines
            .iter()
            .map(|line| (line.line_id.clone(), line.kind.as_str()))
            .collect::<Vec<_>>(),
        kept
    );
    assert_eq!(kept.len(), 3);
}

#[test]
fn a_path_is_no_pattern() {
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join("gl[1]?*");
    fs_err::create_dir(&odd).unwrap();
    fs_err::write(odd.join("rows.csv"), HEADING.to_owned() + SALE).unwrap();
    let (first, _) = curated(&odd.join("rows.csv"), &odd.join("lake"));
    assert_eq!(first.sql("SELECT * FROM customers").unwrap().height(), 1);
    // Its own raw rows are an input as well.
    let (second, report) = curated(&odd.join("lake/raw/rows.parquet"), &odd.join("second"));
    assert_eq!(
        (
            report.accepted,
            second.transactions().unwrap().collect().unwrap().height()
        ),
        (1, 1)
    );
}

#[test]
fn dates_are_read_in_the_order_that_is_asked_for() {
    let rows = ["03/04/2024", "12/04/2024 9:00", "25/04/2024"]
        .map(|day| SALE.replace("1/1/2011 8:00", day))
        .concat();
    let shop = Shop::new();
    let refused = shop.ingest(&rows).unwrap_err().to_string();
    assert!(
        refused.starts_with("1 of 3 rows have a date that is invalid with the month first"),
        "{refused}"
    );
    assert!(refused.contains("add --date-order day-first"), "{refused}");
    let input = shop.file("rows.csv", &(HEADING.to_owned() + &rows));
    let as_said = IngestOptions {
        date_order: Some(DateOrder::MonthFirst),
        ..IngestOptions::default()
    };
    let report = ingest(
        std::slice::from_ref(&input),
        &shop.lake,
        &as_said,
        &NoProgress,
    )
    .unwrap();
    let hint = "invoice date is no date with the month first; is --date-order day-first meant?";
    assert_eq!(report.reasons.into_keys().collect::<Vec<_>>(), [hint]);

    let mapping =
        ColumnMapping::read(&shop.file("mapping.toml", "date_order = \"day-first\"\n")).unwrap();
    let by_option = IngestOptions {
        date_order: Some(DateOrder::DayFirst),
        ..IngestOptions::default()
    };
    let by_mapping = IngestOptions {
        mapping: Some(mapping),
        ..IngestOptions::default()
    };
    for options in [by_option, by_mapping] {
        let report = ingest(
            std::slice::from_ref(&input),
            &shop.lake,
            &options,
            &NoProgress,
        )
        .unwrap();
        let day = |time: Option<chrono::NaiveDateTime>| time.unwrap().date().to_string();
        assert_eq!(
            (report.accepted, day(report.first), day(report.last)),
            (3, "2024-04-03".into(), "2024-04-25".into())
        );
    }
}

#[test]
fn a_quarantined_row_is_kept_as_it_stood() {
    let shop = Shop::new();
    let rows = [
        "EIRE;12;1,50;1/1/2011 8:00;two;\"A \"\"THING\"\"; BIG\";10;1;extra",
        "EIRE;12;1,50",
    ];
    let heading =
        "Country;CustomerID;UnitPrice;InvoiceDate;Quantity;Description;StockCode;InvoiceNo;Till\n";
    let good = "EIRE;12;1,50;1/1/2011 8:00;2;A THING;10;1;extra\n";
    let input = shop.file("rows.csv", &(heading.to_owned() + good + &rows.join("\n")));
    ingest(&[input], &shop.lake, &IngestOptions::default(), &NoProgress).unwrap();
    let quarantine = std::fs::File::open(shop.lake.root().join("quarantine/rows.parquet")).unwrap();
    let held = ParquetReader::new(quarantine).finish().unwrap();
    let texts: Vec<_> = held
        .column("text")
        .unwrap()
        .str()
        .unwrap()
        .iter()
        .flatten()
        .collect();
    assert_eq!(texts, rows);
}

#[test]
fn the_documented_columns_are_the_real_ones() {
    let shop = Shop::new();
    shop.ingest(SALE).unwrap();
    curate(&shop.lake, &CurateOptions::default(), &NoProgress).unwrap();
    let documentation = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/data.md");
    let documentation = fs_err::read_to_string(documentation).unwrap();
    for name in lake::TABLES
        .map(|table| table.name)
        .into_iter()
        .chain(["quarantine"])
    {
        let schema = shop.lake.table(name).unwrap().collect_schema().unwrap();
        let words = [
            ("str", "text"),
            ("list", "texts"),
            ("bool", "truth"),
            ("decimal", "money"),
            ("datetime", "time"),
            ("date", "day"),
            ("f", "number"),
            ("", "whole"),
        ];
        let word = |of: String| {
            words
                .iter()
                .find(|(begin, _)| of.starts_with(begin))
                .map_or("", |(_, word)| word)
        };
        let columns: Vec<_> = schema
            .iter()
            .map(|(column, of)| format!("`{column}` {}", word(of.to_string())))
            .collect();
        let row = format!("| `{name}` | {} |\n", columns.join(", "));
        assert!(documentation.contains(&row), "docs/data.md lacks {row}");
    }
}
