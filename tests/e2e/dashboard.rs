//! The dashboard in a browser, over the models of the real file, and the OpenAPI document of the
//! JSON that it requests.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use e2e::{
    AREAS, Shop, Standalone, Trained, binary, checks, node, online_retail, stderr, stdout, trained,
    trained_well,
};
use serde_json::{Value, json};

/// Held while a test drives a browser.
static BROWSER: Mutex<()> = Mutex::new(());

fn browser() -> MutexGuard<'static, ()> {
    BROWSER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a file of tests/dashboard against a gateway.
fn browse(file: &str, gateway: std::net::SocketAddr, more: &[(&str, String)]) {
    let mut node = node("node");
    node.args(["--test", "--test-concurrency=1", file]);
    node.env("DASHBOARD_URL", format!("http://{gateway}"))
        .envs(more.iter().cloned());
    let output = node.output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
}

/// The models of the other tests and an earlier segmentation, as of a month before.
fn with_a_month_before() -> &'static Trained {
    static TRAINED: LazyLock<Trained> = LazyLock::new(|| {
        let (copy, earlier) = (trained().copy(), Trained::empty());
        let [lake, models] =
            [earlier.lake(), copy.models()].map(std::path::PathBuf::into_os_string);
        let mut run: Vec<std::ffi::OsString> = [
            "run",
            "--only",
            "segmentation",
            "--as-of",
            "2011-08-01",
            "--input",
        ]
        .map(Into::into)
        .to_vec();
        run.extend([
            online_retail().into_os_string(),
            "--lake".into(),
            lake,
            "--models".into(),
            models.clone(),
        ]);
        trained_well(run);
        trained_well([
            "rollback".into(),
            "segmentation".into(),
            "--models".into(),
            models,
        ]);
        copy
    });
    &TRAINED
}

/// The figures that the overview shows for some filters, from `trainer sql` over the curated table.
fn counted(filters: &str, lines: &str) -> Value {
    let sql = |query: String| -> Vec<Value> {
        let arguments = [
            "sql".into(),
            "--json".into(),
            query.into(),
            "--lake".into(),
            trained().lake().into(),
        ];
        serde_json::from_str(&stdout(&trained_well::<std::ffi::OsString>(arguments))).unwrap()
    };
    let booked = format!("FROM transactions WHERE kind IN ('sale', 'cancellation') AND {lines}");
    let sold = format!("FROM transactions WHERE kind = 'sale' AND {lines}");
    let all = &sql(format!(
        "SELECT SUM(line_total) AS revenue, COUNT(*) AS lines {booked}"
    ))[0];
    let sales = &sql(format!(
        "SELECT COUNT(DISTINCT invoice) AS orders, SUM(quantity) AS items {sold}"
    ))[0];
    let known = &sql(format!(
        "SELECT COUNT(DISTINCT customer_id) AS customers {sold} AND customer_id IS NOT NULL"
    ))[0];
    let products = sql(format!(
        "SELECT stock_code, SUM(line_total) AS revenue {booked} GROUP BY stock_code ORDER BY \
         revenue DESC, stock_code LIMIT 5"
    ));
    let months = sql(format!(
        "SELECT STRFTIME(invoice_time, '%Y-%m') AS month, SUM(line_total) AS revenue {booked} \
         GROUP BY month ORDER BY month"
    ));
    json!({
        "filters": filters,
        "revenue": all["revenue"],
        "lines": all["lines"],
        "orders": sales["orders"],
        "items": sales["items"],
        "customers": known["customers"],
        "products": products,
        "months": months,
    })
}

#[test]
fn every_page_works_in_a_browser_and_tells_the_right_figures() {
    let _one = browser();
    let standalone = Standalone::start_with(
        with_a_month_before(),
        &["--allow-publish", "--currency", "GBP"],
    );
    let spring = "invoice_time >= '2011-03-14' AND invoice_time < '2011-06-02'";
    let figures = json!([
        counted("", "TRUE"),
        counted("country=France", "country = 'France'"),
        counted("from=2011-03-14&to=2011-06-01", spring),
        counted(
            "country=EIRE&from=2011-03-14&to=2011-06-01",
            &format!("country = 'EIRE' AND {spring}")
        ),
    ]);
    browse(
        "dashboard.test.mjs",
        standalone.address,
        &[("DASHBOARD_FIGURES", figures.to_string())],
    );
}

#[test]
fn a_service_that_dies_shows_in_a_browser_and_comes_back() {
    let _one = browser();
    let mut shop = Shop::start(&trained().models());
    let at = AREAS.iter().position(|area| *area == "churn").unwrap();
    let (process, address) = &mut shop.services[at];
    // From here on the browser test starts and stops it.
    process.kill();
    let models = trained().models().display().to_string();
    let churn = [
        binary("churn").display().to_string(),
        "--models".into(),
        models,
        "--listen".into(),
        address.to_string(),
    ];
    browse(
        "outage.test.mjs",
        shop.gateway,
        &[("CHURN", json!(churn).to_string())],
    );
}

#[test]
fn keys_are_asked_for_in_a_browser_and_say_who_may_publish() {
    let _one = browser();
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.toml");
    // The SHA-256 sums of `sesame` and `open sesame`.
    let text = r#"
        [[keys]]
        name = "analyst"
        sha256 = "d0c04f4b1951e4aeaaec8223ed2039e542f3aae805a6fa7f6d794e5afff5d272"
        methods = [
            "shopkeeper.segmentation.*", "shopkeeper.churn.*",
            "shopkeeper.insights.*", "shopkeeper.forecast.*",
            "shopkeeper.model.v1.ModelService/Get*", "shopkeeper.model.v1.ModelService/List*",
        ]
        [[keys]]
        name = "operator"
        sha256 = "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb"
    "#;
    fs_err::write(&keys, text).unwrap();
    let models = with_a_month_before().copy();
    let keys = keys.display().to_string();
    let standalone = Standalone::start_with(&models, &["--allow-publish", "--api-keys", &keys]);
    browse("keys.test.mjs", standalone.address, &[]);
}

#[test]
fn movements_between_segments_are_those_of_two_lists_of_customers() {
    let models = with_a_month_before().copy();
    let standalone =
        Standalone::start_with(&models, &["--allow-publish", "--reload-every", "200ms"]);
    println!(
        "{}",
        checks(["movements".to_owned(), standalone.address.to_string()])
    );
}

#[test]
fn the_openapi_document_is_as_linters_want_it() {
    let standalone = Standalone::start(trained());
    let document = format!("http://{}/openapi.json", standalone.address);
    let mut linter = node("redocly");
    linter.args(["lint", "--extends", "recommended-strict", &document]);
    linter
        .env("REDOCLY_TELEMETRY", "off")
        .env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true");
    let output = linter.output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
}
