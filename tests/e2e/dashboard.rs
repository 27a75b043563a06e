//! The dashboard in a browser, over the models of the real file, and the description of the JSON that it and others ask.

use e2e::{Standalone, node, stderr, stdout, trained};

#[test]
fn every_page_works_in_a_browser() {
    let standalone = Standalone::start(trained());
    let mut npm = node("npm");
    npm.args(["test", "--silent"]).env("DASHBOARD_URL", format!("http://{}", standalone.address));
    let output = npm.output().unwrap();
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
}

#[test]
fn the_openapi_document_is_as_linters_want_it() {
    let standalone = Standalone::start(trained());
    let document = format!("http://{}/openapi.json", standalone.address);
    let mut linter = node("redocly");
    linter.args(["lint", "--extends", "recommended-strict", &document]);
    linter.env("REDOCLY_TELEMETRY", "off").env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true");
    let output = linter.output().unwrap();
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
}
