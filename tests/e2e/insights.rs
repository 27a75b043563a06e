//! The shop's figures against two other counts: a script on the raw file, and queries over the
//! curated tables.

use e2e::{Standalone, online_retail, python, stderr, stdout, trained, trained_well};
use serde_json::Value;

fn ask(address: std::net::SocketAddr, method: &str, request: &str) -> Value {
    let name = format!("shopkeeper.insights.v1.InsightsService/{method}");
    let output = python("client.py", [address.to_string(), name, request.to_owned()]);
    serde_json::from_str(&stdout(&output)).unwrap_or_else(|_| panic!("{}", stderr(&output)))
}

/// A number in JSON, also as a string (int64); a field of value 0 is absent.
fn number(value: &Value) -> f64 {
    match value {
        Value::String(text) => text.parse().unwrap(),
        Value::Null => 0.0,
        Value::Number(number) => number.as_f64().unwrap(),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => panic!("{value} is no number"),
    }
}

/// Checks that the figures of the service equal those of the script, exactly: both round to the
/// nearest double.
fn assert_same(told: &Value, counted: &Value, what: &str) {
    for (ours, theirs) in [
        ("transactions", "transactions"),
        ("orders", "orders"),
        ("customers", "customers"),
        ("items", "items"),
        ("returnedItems", "returned_items"),
        ("grossRevenue", "gross_revenue"),
        ("returns", "returns"),
        ("revenue", "revenue"),
    ] {
        assert_eq!(
            number(&told[ours]),
            number(&counted[theirs]),
            "{what}: {ours}"
        );
    }
}

#[test]
fn figures_of_the_real_file_equal_those_of_a_script_on_the_raw_lines() {
    let output = python(
        "figures.py",
        [
            online_retail().to_string_lossy().into_owned(),
            "2011-09-01".to_owned(),
        ],
    );
    let counted: Value =
        serde_json::from_str(&stdout(&output)).unwrap_or_else(|_| panic!("{}", stderr(&output)));
    let standalone = Standalone::start(trained());
    let ask = |method: &str, request: &str| ask(standalone.address, method, request);

    assert_same(
        &ask("GetSummary", "{}")["sales"],
        &counted["total"],
        "the shop",
    );

    let answer = ask("ListSalesByCountry", r#"{"pageSize": 1000}"#);
    let countries = answer["countries"].as_array().unwrap();
    assert_eq!(
        countries.len(),
        counted["countries"].as_object().unwrap().len()
    );
    for country in countries {
        let name = country["country"].as_str().unwrap();
        assert_same(&country["sales"], &counted["countries"][name], name);
    }

    let answer = ask("ListSalesTrend", r#"{"frequency": "FREQUENCY_MONTHLY"}"#);
    let months = answer["periods"].as_array().unwrap();
    assert_eq!(months.len(), counted["months"].as_object().unwrap().len());
    for month in months {
        let name = &month["periodStart"].as_str().unwrap()[..7];
        assert_same(&month["sales"], &counted["months"][name], name);
    }
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "a list of queries and the answers that equal them"
)]
fn figures_equal_queries_over_the_curated_tables() {
    let standalone = Standalone::start(trained());
    let sql = |query: &str| -> Vec<Value> {
        let arguments = [
            "sql".into(),
            "--json".into(),
            query.into(),
            "--lake".into(),
            trained().lake().into_os_string(),
        ];
        serde_json::from_str(&stdout(&trained_well(arguments))).unwrap()
    };

    let answer = ask(standalone.address, "ListSalesByCountry", "{}");
    let table = sql("SELECT * FROM sales_per_country");
    assert_eq!(answer["totalSize"].as_u64().unwrap(), table.len() as u64);
    for row in table {
        let countries = answer["countries"].as_array().unwrap();
        let told = &countries
            .iter()
            .find(|told| told["country"] == row["country"])
            .unwrap()["sales"];
        for (ours, theirs) in [
            ("revenue", 1.0),
            ("returns", -1.0),
            ("orders", 1.0),
            ("customers", 1.0),
        ] {
            assert_eq!(
                number(&told[ours]),
                theirs * number(&row[ours]),
                "{}: {ours}",
                row["country"]
            );
        }
        assert_eq!(number(&told["items"]), number(&row["units"]));
    }

    let request = r#"{
        "pageSize": 50,
        "startTime": "2011-03-14T00:00:00Z",
        "endTime": "2011-06-02T00:00:00Z"
    }"#;
    let products = sql(
        "SELECT stock_code, SUM(line_total) AS revenue FROM transactions WHERE kind IN ('sale', \
         'cancellation') AND invoice_time >= '2011-03-14' AND invoice_time < '2011-06-02' GROUP \
         BY stock_code ORDER BY revenue DESC, stock_code LIMIT 50",
    );
    let answer = ask(standalone.address, "ListTopProducts", request);
    for (told, row) in answer["products"].as_array().unwrap().iter().zip(&products) {
        assert_eq!(
            (&told["stockCode"], number(&told["revenue"])),
            (&row["stock_code"], number(&row["revenue"]))
        );
    }

    let answer = ask(
        standalone.address,
        "GetCustomerProfile",
        r#"{"customerId": "14911"}"#,
    );
    let row = &sql("SELECT * FROM customer_metrics WHERE customer_id = '14911'")[0];
    let told = &answer["profile"]["sales"];
    for (ours, theirs) in [
        ("revenue", "total_spent"),
        ("orders", "total_orders"),
        ("items", "total_items"),
    ] {
        assert_eq!(number(&told[ours]), number(&row[theirs]), "{ours}");
    }
}
