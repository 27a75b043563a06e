//! Bad files and folders: the trainer prints one clear message, exits with the right code and
//! leaves the last good state in place.

use std::{
    ffi::OsString,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use e2e::{Trained, stderr, stdout, trained, trainer};

const HEADER: &str =
    "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";
const BAD_INPUT: i32 = 3;
const BAD_ENVIRONMENT: i32 = 4;
const NOT_MOUNTED: &str = "a small file system cannot be mounted here: not tested";

fn ingest(input: &Path, lake: &Path) -> Output {
    let [ingest, input_flag, lake_flag] = ["ingest", "--input", "--lake"].map(OsString::from);
    trainer([ingest, input_flag, input.into(), lake_flag, lake.into()])
}

fn assert_refused(output: &Output, code: i32, parts: &[&str]) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    let error = message
        .split_once("error: ")
        .unwrap_or_else(|| panic!("no error in {message}"))
        .1;
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
    assert!(!error.contains("panicked"), "{error}");
}

/// Checks that the lake of the last good run answers queries.
fn assert_usable(lake: &Path) {
    let query = "SELECT COUNT(*) AS lines FROM transactions";
    let output = trainer([
        "sql".into(),
        "--json".into(),
        query.into(),
        "--lake".into(),
        lake.as_os_str().to_owned(),
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn files_that_cannot_be_read_are_refused_by_name_and_leave_the_lake_as_it_was() {
    let good = trained().copy();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs_err::write(&path, bytes).unwrap();
        path
    };

    let whole = fs_err::read(e2e::online_retail()).unwrap();
    let gzip = {
        let mut child = Command::new("gzip")
            .args(["-1", "-c"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let head = whole[..2_000_000].to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&head));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        output.stdout
    };
    let mixed = folder.path().join("mixed");
    fs_err::create_dir(&mixed).unwrap();
    fs_err::write(mixed.join("a.csv"), &whole[..100_000]).unwrap();
    fs_err::write(mixed.join("notes.docx"), b"PK\x03\x04 not transactions").unwrap();

    for (input, parts) in [
        (folder.path().join("absent.csv"), &["absent.csv"][..]),
        (write("empty.csv", b""), &["empty.csv", "empty"]),
        (
            write("columns.csv", b"InvoiceNo,Quantity,Country\n1,2,UK\n"),
            &["columns.csv", "stock code", "unit price"],
        ),
        (
            write("cut.csv.gz", &gzip[..gzip.len() / 2]),
            &["cut.csv.gz"],
        ),
        (mixed, &["notes.docx"]),
    ] {
        assert_refused(&ingest(&input, &good.lake()), BAD_INPUT, parts);
        assert_usable(&good.lake());
    }
}

#[test]
fn broken_rows_among_good_ones_are_quarantined_with_their_reasons() {
    let lake = Trained::empty();
    let folder = tempfile::tempdir().unwrap();
    let mut text = HEADER.to_owned();
    for i in 0..2_000 {
        let line = match i % 4 {
            0 => format!("{i},85123A,HEART,six,12/1/2010 8:26,2.55,17850,United Kingdom\n"),
            1 => format!("{i},85123A,HEART,6,yesterday,2.55,17850,United Kingdom\n"),
            _ => format!("{i},85123A,HEART,6,12/1/2010 8:26,2.55,17850,United Kingdom\n"),
        };
        text.push_str(&line);
    }
    let input = folder.path().join("some.csv");
    fs_err::write(&input, text).unwrap();
    let [ingest, input_flag, lake_flag, json] =
        ["ingest", "--input", "--lake", "--json"].map(OsString::from);
    let output = trainer([
        ingest,
        json,
        input_flag,
        input.into(),
        lake_flag,
        lake.lake().into(),
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report = stdout(&output);
    assert!(report.contains("1000"), "{report}");
}

#[test]
fn a_lake_or_store_that_cannot_be_written_is_named_and_the_published_models_stay() {
    let good = trained().copy();
    // A folder below a plain file cannot be created, not even by root.
    let blocker = tempfile::NamedTempFile::new().unwrap();
    let below = blocker.path().join("lake");
    let output = ingest(&e2e::online_retail(), &below);
    assert_refused(&output, BAD_ENVIRONMENT, &[&below.display().to_string()]);

    let store = blocker.path().join("models");
    let publish = ["publish", "churn", "--lake"]
        .map(OsString::from)
        .into_iter();
    let output =
        trainer(publish.chain([good.lake().into(), "--models".into(), store.clone().into()]));
    assert_refused(
        &output,
        BAD_ENVIRONMENT,
        &[&blocker.path().display().to_string()],
    );
    assert_usable(&good.lake());
}

#[test]
fn versions_and_trials_that_are_not_there_are_bad_input_and_publishing_says_what_for() {
    let good = trained().copy();
    let (lake, models) = (good.lake(), good.models());
    let command = |words: &[&str], with_lake: bool| {
        let words = words.iter().map(OsString::from);
        let lake = ["--lake".into(), lake.clone().into_os_string()]
            .into_iter()
            .filter(|_| with_lake);
        trainer(
            words
                .chain(lake)
                .chain(["--models".into(), models.clone().into_os_string()]),
        )
    };
    assert_refused(
        &command(&["rollback", "churn", "20110901T000000-nonsense"], false),
        BAD_INPUT,
        &["nonsense"],
    );
    assert_refused(
        &command(&["rollback", "churn"], false),
        BAD_INPUT,
        &["no version before"],
    );
    for channel in ["canary", "shadow"] {
        let end = || command(&["rollback", "churn", "--channel", channel], false);
        assert_refused(
            &end(),
            BAD_INPUT,
            &[&format!("the churn model has no {channel}")],
        );
        let published = command(&["publish", "churn", "--channel", channel], true);
        assert!(
            published.status.success() && stdout(&published).contains(channel),
            "{}",
            stdout(&published)
        );
        assert!(end().status.success());
    }
    assert_refused(
        &command(&["promote", "churn"], false),
        BAD_INPUT,
        &["the churn model has no canary"],
    );
    let published = command(&["publish", "churn"], true);
    assert!(
        published.status.success() && stdout(&published).contains("stable"),
        "{}",
        stdout(&published)
    );
}

#[test]
fn a_full_model_store_is_named_and_the_current_version_stays() {
    let good = trained().copy();
    let current = |models: &Path| {
        let output = trainer([
            "models".into(),
            "churn".into(),
            "--json".into(),
            "--models".into(),
            models.as_os_str().to_owned(),
        ]);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    // A small file system of its own is soon full.
    let mount = tempfile::tempdir().unwrap();
    let Some(_mounted) = Mounted::at(mount.path()) else {
        return println!("{NOT_MOUNTED}");
    };
    let store = mount.path().join("models");
    let publish = |kind: &str, store: &Path| {
        let publish = ["publish", kind, "--lake"].map(OsString::from).into_iter();
        trainer(publish.chain([
            good.lake().into(),
            "--models".into(),
            store.as_os_str().to_owned(),
        ]))
    };
    let first = publish("segmentation", &store);
    assert!(first.status.success(), "{}", stderr(&first));
    fs_err::write(mount.path().join("filler"), vec![0; 4 << 20]).unwrap_err();
    assert_refused(
        &publish("recommendation", &store),
        BAD_ENVIRONMENT,
        &[&mount.path().display().to_string()],
    );
    let listed = trainer([
        "models".into(),
        "--json".into(),
        "--models".into(),
        store.as_os_str().to_owned(),
    ]);
    assert!(
        stdout(&listed).contains("\"current\":true"),
        "{}",
        stdout(&listed)
    );
    assert!(!current(&good.models()).is_empty());
}

#[test]
fn a_lake_that_may_be_read_alone_is_named_and_still_answers() {
    let mount = tempfile::tempdir().unwrap();
    let Some(mounted) = Mounted::at(mount.path()) else {
        return println!("{NOT_MOUNTED}");
    };
    let (lake, input) = (mount.path().join("lake"), mount.path().join("some.csv"));
    fs_err::write(
        &input,
        format!("{HEADER}1,85123A,HEART,6,12/1/2010 8:26,2.55,17850,United Kingdom\n"),
    )
    .unwrap();
    let curate = || {
        trainer([
            "curate".into(),
            "--lake".into(),
            lake.as_os_str().to_owned(),
        ])
    };
    for output in [ingest(&input, &lake), curate()] {
        assert!(output.status.success(), "{}", stderr(&output));
    }
    mounted.again("remount,ro");
    for output in [ingest(&input, &lake), curate()] {
        assert_refused(
            &output,
            BAD_ENVIRONMENT,
            &[&lake.display().to_string(), "Read-only"],
        );
    }
    assert_usable(&lake);
}

/// A small file system that is unmounted when this is dropped.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    /// None if this machine does not let tests mount one.
    fn at(folder: &'a Path) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs"])
            .arg(folder);
        mount
            .status()
            .is_ok_and(|status| status.success())
            .then_some(Self(folder))
    }

    fn again(&self, options: &str) {
        let status = Command::new("mount")
            .args(["-o", options])
            .arg(self.0)
            .status()
            .unwrap();
        assert!(status.success(), "mount -o {options}");
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}
