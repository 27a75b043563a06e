//! The lake as its users have it: files in, tables out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod formats;
mod hostile;
mod invariants;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use lake::{
    CurateOptions, IngestOptions, IngestReport, Lake, LakeError, NoProgress, curate, ingest,
};

/// A file's lines and tables in a lake of their own.
fn curated(input: &Path, lake: &Path) -> (Lake, IngestReport) {
    let lake = Lake::create(lake).unwrap();
    let report = ingest(
        &[input.to_owned()],
        &lake,
        &IngestOptions::default(),
        &NoProgress,
    )
    .unwrap();
    curate(&lake, &CurateOptions::default(), &NoProgress).unwrap();
    (lake, report)
}

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
                found.insert(
                    path.strip_prefix(folder).unwrap().to_owned(),
                    fs_err::read(&path).unwrap(),
                );
            }
        }
    }
    found
}
