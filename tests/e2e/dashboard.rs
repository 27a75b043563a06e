//! The dashboard in a browser, over the models of the real file.

use std::process::Command;

use e2e::{Standalone, root, stdout, trained};

#[test]
fn every_page_works_in_a_browser() {
    let standalone = Standalone::start(trained());
    let mut npm = Command::new("npm");
    npm.args(["test", "--silent"]).current_dir(root().join("tests/dashboard"));
    // Where the machine's own Node is too old there is another.
    let path = std::env::var("PATH").unwrap_or_default();
    let node = root().join(".tools/node/run");
    npm.env("PATH", format!("{}:{path}", node.display()));
    npm.env("DASHBOARD_URL", format!("http://{}", standalone.address));
    let output = npm.output().unwrap();
    assert!(output.status.success(), "{}{}", stdout(&output), e2e::stderr(&output));
}
