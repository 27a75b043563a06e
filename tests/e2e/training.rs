//! The trainer's command on the real file.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use e2e::{Trained, online_retail, stdout, trained, trained_well};

/// Every file below a folder, with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs_err::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), fs_err::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_second_run_changes_no_byte_of_tables_or_models() {
    let trained = trained().copy();
    let curated = trained.lake().join("curated");
    let versions = |trained: &Trained| {
        let flags = trained.flags().skip(2);
        stdout(&trained_well(["models", "--json"].map(Into::into).into_iter().chain(flags)))
    };
    let (tables, models) = (files(&curated), versions(&trained));
    assert!(!tables.is_empty());

    let input = online_retail().into_os_string();
    let run = ["run", "--as-of", "2011-09-01", "--input"].map(Into::into).into_iter().chain([input]);
    trained_well(run.chain(trained.flags()));

    let again = files(&curated);
    assert_eq!(tables.keys().collect::<Vec<_>>(), again.keys().collect::<Vec<_>>());
    for (path, bytes) in &tables {
        assert!(bytes == &again[path], "{} has changed", path.display());
    }
    assert_eq!(models, versions(&trained), "the same input gives the same models");
}

#[test]
fn sql_answers_in_text_and_json() {
    let lake = || ["--lake".into(), trained().lake().into_os_string()];
    let query = "SELECT COUNT(*) AS lines FROM transactions";
    let output = trained_well(["sql", "--json", query].map(Into::into).into_iter().chain(lake()));
    let rows: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(rows[0]["lines"].as_u64().unwrap() > 300_000, "{rows}");
}

/// The curated tables of a file.
fn curated(input: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let lake = Trained::empty();
    let flags = || trained_flags(&lake);
    let ingest = ["ingest".into(), "--input".into(), input.as_os_str().to_owned()];
    trained_well(ingest.into_iter().chain(flags()));
    trained_well(["curate".into()].into_iter().chain(flags()));
    files(&lake.lake().join("curated"))
}

fn trained_flags(lake: &Trained) -> [std::ffi::OsString; 2] {
    ["--lake".into(), lake.lake().into_os_string()]
}

/// `12/1/2010 8:26` as Online Retail II writes it.
fn second_layout_time(text: &str) -> String {
    let (day, clock) = text.split_once(' ').unwrap();
    let part: Vec<u32> = day.split('/').map(|part| part.parse().unwrap()).collect();
    let (hour, minute) = clock.split_once(':').unwrap();
    let hour: u32 = hour.parse().unwrap();
    format!("{}-{:02}-{:02} {hour:02}:{minute}:00", part[2], part[0], part[1])
}

#[test]
fn every_encoding_and_layout_gives_the_same_tables() {
    let folder = tempfile::tempdir().unwrap();
    let whole = fs_err::read(online_retail()).unwrap();
    let end = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(60_000).unwrap().0;
    let latin1 = &whole[..=end];
    let utf8: String = latin1.iter().map(|byte| char::from(*byte)).collect();
    let header = "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country\n";
    let second: String = utf8.lines().skip(1).fold(header.to_owned(), |text, line| {
        // The last comma-free fields are date, price, customer, country: descriptions come before them.
        let mut fields: Vec<&str> = line.rsplitn(5, ',').collect();
        fields.reverse();
        let customer = if fields[3].is_empty() { String::new() } else { format!("{}.0", fields[3]) };
        text + &format!("{},{},{},{customer},{}\n", fields[0], second_layout_time(fields[1]), fields[2], fields[4])
    });
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs_err::write(&path, bytes).unwrap();
        path
    };
    let expected = curated(&write("latin1.csv", latin1));
    assert!(!expected.is_empty());
    assert!(utf8.contains('£'), "the two encodings differ");
    let gzip = std::process::Command::new("gzip").args(["-k", "-9"]).arg(folder.path().join("latin1.csv")).status();
    assert!(gzip.unwrap().success());
    for (what, input) in [
        ("UTF-8", write("utf8.csv", utf8.as_bytes())),
        ("Online Retail II", write("second.csv", second.as_bytes())),
        ("gzip", folder.path().join("latin1.csv.gz")),
    ] {
        assert!(curated(&input) == expected, "{what}");
    }
}
