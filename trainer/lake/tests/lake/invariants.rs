//! Invariants of every input: rows are accounted for, money is exact and equal in all tables, and
//! nothing panics.

use std::path::Path;

use lake::{IngestOptions, Lake, NoProgress, ingest};
use polars::prelude::*;
use proptest::prelude::*;

use super::{curated, files};

const HEADER: &str =
    "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

const GOOD: &str = "10,10,A THING,2,1/1/2011 8:00,1.5,12,EIRE\n";

/// A row of plausible and implausible fields.
fn row() -> impl Strategy<Value = String> {
    let invoice = prop_oneof![8 => "[0-9]{2}", 2 => "C[0-9]", 1 => "A1", 1 => Just(String::new())];
    let code =
        prop_oneof![6 => "[0-9]{2}[A-C]?", 1 => Just("POST".to_owned()), 1 => Just(String::new())];
    let quantity = prop_oneof![8 => (-50..200_i64).prop_map(|q| q.to_string()), 1 => "[a-z.]{1,3}"];
    let time = (1..13_u32, 1..29_u32, 0..24_u32);
    let time = time.prop_map(|(m, d, h)| format!("{m}/{d}/2011 {h}:05"));
    let time = prop_oneof![8 => time, 1 => Just("soon".to_owned())];
    let price = (0..100_000_i64).prop_map(|p| format!("{}.{:04}", p / 10_000, p % 10_000));
    let odd_price = prop_oneof![Just("-3.5".to_owned()), Just("NaN".to_owned())];
    let price = prop_oneof![8 => price, 2 => odd_price];
    let customer = prop_oneof![3 => "1[0-9]", 1 => "1[0-9]\\.0", 1 => Just(String::new())];
    let country = prop_oneof![Just("EIRE"), Just("France"), Just("")];
    (invoice, code, quantity, time, price, customer, country)
        .prop_map(|(i, s, q, t, p, c, l)| format!("{i},{s},A THING,{q},{t},{p},{c},{l}\n"))
}

/// The sum of a column of money, in ten-thousandths.
fn money(table: &LazyFrame, column: &str, filter: Expr) -> i128 {
    let sum = table
        .clone()
        .filter(filter)
        .select([col(column)])
        .collect()
        .unwrap();
    let column = sum
        .column(column)
        .unwrap()
        .decimal()
        .unwrap()
        .physical()
        .clone();
    column.iter().flatten().sum()
}

fn count(table: &LazyFrame, column: &str) -> i64 {
    let table = table
        .clone()
        .select([col(column).cast(DataType::Int64).sum()])
        .collect()
        .unwrap();
    table
        .column(column)
        .unwrap()
        .i64()
        .unwrap()
        .get(0)
        .unwrap_or_default()
}

fn kind(of: &[&str]) -> Expr {
    of.iter()
        .fold(lit(false), |any, kind| any.or(col("kind").eq(lit(*kind))))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn rows_and_money_add_up_in_every_table(rows in prop::collection::vec(row(), 1..60)) {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("rows.csv");
        fs_err::write(&input, HEADER.to_owned() + &rows.concat() + GOOD).unwrap();
        let (lake, report) = curated(&input, &folder.path().join("lake"));

        // Every row is a line or in quarantine.
        prop_assert_eq!(report.rows, rows.len() as u64 + 1);
        prop_assert_eq!(report.accepted + report.rejected, report.rows);
        prop_assert_eq!(report.kinds.values().sum::<u64>(), report.accepted);
        prop_assert_eq!(report.reasons.values().sum::<u64>(), report.rejected);
        let quarantine = lake.root().join("quarantine/rows.parquet");
        let quarantine = ParquetReader::new(std::fs::File::open(quarantine).unwrap());
        prop_assert_eq!(quarantine.finish().unwrap().height() as u64, report.rejected);
        let lines = lake.transactions().unwrap();
        prop_assert_eq!(lines.clone().collect().unwrap().height() as u64, report.accepted);

        // A line total is quantity times price, to the ten-thousandth.
        let all = lines.clone().collect().unwrap();
        let quantity = all.column("quantity").unwrap().i64().unwrap().clone();
        let amounts = |name: &str| all.column(name).unwrap().decimal().unwrap().physical().clone();
        let (price, total) = (amounts("unit_price"), amounts("line_total"));
        for ((quantity, price), total) in quantity.iter().zip(price.iter()).zip(total.iter()) {
            prop_assert_eq!(quantity.map(i128::from).zip(price).map(|(q, p)| q * p), total);
        }

        // Every table has the same money, units and orders.
        let revenue = money(&lines, "line_total", kind(&["sale", "cancellation"]));
        let sold = money(&lines, "line_total", kind(&["sale"]));
        let table = |name: &str| lake.table(name).unwrap();
        let per = ["sales_daily", "sales_per_country", "monthly_sales"];
        for name in per.into_iter().chain(["product_performance"]) {
            prop_assert_eq!(money(&table(name), "revenue", lit(true)), revenue, "{}", name);
        }
        prop_assert_eq!(money(&table("sales_daily"), "gross_revenue", lit(true)), sold);
        prop_assert_eq!(money(&table("baskets"), "value", lit(true)), sold);
        prop_assert_eq!(money(&table("products"), "revenue", lit(true)), sold);
        prop_assert_eq!(money(&table("product_weekly"), "revenue", lit(true)), sold);
        let known = kind(&["sale"]).and(col("customer_id").is_not_null());
        let of_known = money(&lines, "line_total", known);
        prop_assert_eq!(money(&table("customers"), "gross_revenue", lit(true)), of_known);
        let units = count(&lines.clone().filter(kind(&["sale"])), "quantity");
        for name in per.into_iter().chain(["product_weekly", "products"]) {
            prop_assert_eq!(count(&table(name), "units"), units, "{}", name);
        }
        prop_assert_eq!(count(&table("line_kinds"), "lines"), report.accepted as i64);
    }

    #[test]
    fn a_second_run_gives_the_same_bytes(rows in prop::collection::vec(row(), 1..30)) {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("rows.csv");
        fs_err::write(&input, HEADER.to_owned() + &rows.concat() + GOOD).unwrap();
        let lake = folder.path().join("lake");
        let first = files(&curated(&input, &lake).0.curated_dir());
        prop_assert!(first == files(&curated(&input, &lake).0.curated_dir()));
    }
}

/// What files of each kind begin with, so that every reader is reached.
const BEGINNINGS: [&[u8]; 6] = [
    b"",
    HEADER.as_bytes(),
    b"\x1f\x8b\x08\0\0\0\0\0",
    b"\x28\xb5\x2f\xfd",
    b"PAR1",
    b"PK\x03\x04[Content_Types].xml",
];

fn ingested(bytes: &[u8], folder: &Path) -> Result<u64, lake::LakeError> {
    let input = folder.join("input");
    fs_err::write(&input, bytes).unwrap();
    let lake = Lake::create(folder.join("lake"))?;
    ingest(&[input], &lake, &IngestOptions::default(), &NoProgress).map(|report| report.accepted)
}

/// A good file of each binary format.
fn good() -> Vec<Vec<u8>> {
    let row = GOOD.repeat(50);
    let text = HEADER.to_owned() + &row;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, text.as_bytes()).unwrap();
    let mut table = df!(
        "InvoiceNo" => ["10"; 50],
        "StockCode" => ["10"; 50],
        "Quantity" => [2; 50],
        "InvoiceDate" => ["1/1/2011 8:00"; 50],
        "UnitPrice" => [1.5; 50],
        "CustomerID" => ["12"; 50],
    )
    .unwrap();
    let mut parquet = Vec::new();
    ParquetWriter::new(&mut parquet).finish(&mut table).unwrap();
    let mut workbook = rust_xlsxwriter::Workbook::new();
    let sheet = workbook.add_worksheet();
    for (number, line) in (0..).zip(text.lines()) {
        sheet.write_row(number, 0, line.split(',')).unwrap();
    }
    let xlsx = workbook.save_to_buffer().unwrap();
    // With the checksum that the zstd command writes: without one, a damaged length is just another
    // good file.
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    zstd.include_checksum(true).unwrap();
    std::io::Write::write_all(&mut zstd, text.as_bytes()).unwrap();
    vec![
        text.clone().into_bytes(),
        gzip.finish().unwrap(),
        zstd.finish().unwrap(),
        parquet,
        xlsx,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_bytes_make_ingestion_panic(
        beginning in prop::sample::select(&BEGINNINGS[..]),
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let _ = ingested(&[beginning, &rest].concat(), folder.path());
    }

    #[test]
    fn a_good_file_that_was_damaged_is_an_error_or_fewer_lines(
        which in 0..5_usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = good().swap_remove(which);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        prop_assert!(ingested(&bytes, folder.path()).unwrap_or_default() <= 50);
    }
}
