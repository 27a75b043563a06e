//! The trainer's commands on the real file.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use e2e::{Trained, online_retail, stdout, trained, trained_well};

/// Every file below a folder, with its content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs_err::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(
                    path.strip_prefix(folder).unwrap().to_owned(),
                    fs_err::read(&path).unwrap(),
                );
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
        stdout(&trained_well(
            ["models", "--json"]
                .map(Into::into)
                .into_iter()
                .chain(flags),
        ))
    };
    let (tables, models) = (files(&curated), versions(&trained));
    assert!(!tables.is_empty());

    let input = online_retail().into_os_string();
    let run = ["run", "--as-of", "2011-09-01", "--input"]
        .map(Into::into)
        .into_iter()
        .chain([input]);
    trained_well(run.chain(trained.flags()));

    let again = files(&curated);
    assert_eq!(
        tables.keys().collect::<Vec<_>>(),
        again.keys().collect::<Vec<_>>()
    );
    for (path, bytes) in &tables {
        assert!(bytes == &again[path], "{} has changed", path.display());
    }
    assert_eq!(
        models,
        versions(&trained),
        "the same input gives the same models"
    );
}

#[test]
fn sql_answers_in_text_and_json() {
    let lake = || ["--lake".into(), trained().lake().into_os_string()];
    let query = "SELECT COUNT(*) AS lines FROM transactions";
    let output = trained_well(
        ["sql", "--json", query]
            .map(Into::into)
            .into_iter()
            .chain(lake()),
    );
    let rows: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(rows[0]["lines"].as_u64().unwrap() > 300_000, "{rows}");
}
