//! `trainer score` and the services give the same answers.

use std::{collections::HashMap, path::Path};

use e2e::{Standalone, stdout, trained, trained_well};
use serde_json::Value;

/// The rows of a CSV file that `trainer score` wrote: columns by name. No field contains a comma.
fn scored(model: &str, folder: &Path, flags: &[&str]) -> Vec<HashMap<String, String>> {
    let output = folder.join(format!("{model}.csv"));
    let arguments = [
        "score".into(),
        model.into(),
        "--output".into(),
        output.clone().into_os_string(),
    ];
    let flags = flags.iter().map(Into::into);
    trained_well(
        arguments
            .into_iter()
            .chain(trained().flags().skip(2))
            .chain(flags),
    );
    let text = fs_err::read_to_string(output).unwrap();
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    lines
        .map(|line| {
            header
                .iter()
                .zip(line.split(','))
                .map(|(k, v)| ((*k).to_owned(), v.to_owned()))
                .collect()
        })
        .collect()
}

fn same(written: &str, answered: &Value) {
    let (written, answered): (f64, f64) = (
        written.parse().unwrap(),
        answered.as_f64().unwrap_or_default(),
    );
    assert!(
        (written - answered).abs() <= 1e-9 * answered.abs().max(1.0),
        "{written} is not {answered}"
    );
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "a list of bulk scores and the answers that equal them, model by model"
)]
fn bulk_scores_are_what_the_services_answer() {
    let folder = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(trained());
    let ask = |method: &str, request: &str| -> Value {
        let name = format!("shopkeeper.{method}");
        let output = e2e::python(
            "client.py",
            [standalone.address.to_string(), name, request.to_owned()],
        );
        serde_json::from_str(&stdout(&output))
            .unwrap_or_else(|_| panic!("{}", e2e::stderr(&output)))
    };
    let customer = r#"{"customerId": "14911"}"#;
    let row_of = |rows: &[HashMap<String, String>], column: &str, id: &str| {
        rows.iter().find(|row| row[column] == id).unwrap().clone()
    };

    let segments = scored("segmentation", folder.path(), &[]);
    assert!(segments.len() > 3_000);
    let row = row_of(&segments, "customer_id", "14911");
    let answer = ask(
        "segmentation.v1.SegmentationService/GetCustomerSegment",
        customer,
    );
    let answer = &answer["customerSegment"];
    assert_eq!(answer["segmentName"], row["segment_name"].as_str());
    assert_eq!(answer["segmentId"].to_string(), row["segment_id"]);
    same(&row["expected_spend"], &answer["expectedSpend"]);

    let row = row_of(&scored("churn", folder.path(), &[]), "customer_id", "14911");
    let answer = ask("churn.v1.ChurnService/GetChurnRisk", customer);
    same(&row["probability"], &answer["churnRisk"]["probability"]);
    assert_eq!(
        answer["churnRisk"]["riskLevel"],
        format!("RISK_LEVEL_{}", row["risk_level"].to_uppercase())
    );

    let rows = scored(
        "recommendation",
        folder.path(),
        &["--top", "5", "--new-only"],
    );
    let answer = ask(
        "recommendation.v1.RecommendationService/RecommendProducts",
        r#"{"customerId": "14911", "limit": 5, "newOnly": true}"#,
    );
    let rows: Vec<_> = rows
        .iter()
        .filter(|row| row["customer_id"] == "14911")
        .collect();
    assert_eq!(rows.len(), 5);
    for (row, found) in rows
        .iter()
        .zip(answer["recommendations"].as_array().unwrap())
    {
        assert_eq!(found["stockCode"], row["stock_code"].as_str());
        same(&row["score"], &found["score"]);
    }

    let rows = scored(
        "forecast",
        folder.path(),
        &[
            "--level",
            "country",
            "--frequency",
            "weekly",
            "--horizon",
            "3",
        ],
    );
    let answer = ask(
        "forecast.v1.ForecastService/ForecastSales",
        r#"{
            "level": "LEVEL_COUNTRY", "key": "Germany", "frequency": "FREQUENCY_WEEKLY",
            "horizon": 3, "quantiles": [0.1, 0.5, 0.9]
        }"#,
    );
    let rows: Vec<_> = rows
        .iter()
        .filter(|row| row["series_id"] == "weekly_country/Germany")
        .collect();
    assert_eq!(rows.len(), 3);
    for (row, point) in rows.iter().zip(answer["points"].as_array().unwrap()) {
        same(&row["mean"], &point["mean"]);
        same(&row["q90"], &point["quantiles"][2]["value"]);
    }

    let wanted = folder.path().join("series.csv");
    fs_err::write(
        &wanted,
        "series_id\nweekly_country/Germany\nmonthly_total\n",
    )
    .unwrap();
    let named = scored(
        "forecast",
        folder.path(),
        &["--input", wanted.to_str().unwrap(), "--horizon", "3"],
    );
    let germany: Vec<_> = named
        .iter()
        .filter(|row| row["series_id"] == "weekly_country/Germany")
        .collect();
    assert_eq!((named.len(), germany), (6, rows));

    let lines = folder.path().join("lines.csv");
    let text = "line_id,Invoice,StockCode,Quantity,InvoiceDate,Price,Customer \
                ID\none,600000,85123A,6,2011-09-02 \
                10:00:00,255,14911\ntwo,C600001,85123A,-6,2011-09-02 \
                10:00:00,2.55,14911\nthree,600002,85123A,soon,2011-09-02 10:00:00,2.55,14911\n";
    fs_err::write(&lines, text).unwrap();
    let rows = scored(
        "anomaly",
        folder.path(),
        &["--input", lines.to_str().unwrap()],
    );
    assert_eq!(
        rows.iter()
            .map(|row| row["line_id"].as_str())
            .collect::<Vec<_>>(),
        ["one", "two"]
    );
    assert_eq!(
        (rows[0]["severity"].as_str(), rows[1]["severity"].as_str()),
        ("high", "none")
    );
    let answer = ask(
        "anomaly.v1.AnomalyService/ScoreTransaction",
        r#"{"transaction": {
            "stockCode": "85123A", "quantity": 6, "unitPrice": 255, "customerId": "14911"
        }}"#,
    );
    assert_eq!(answer["score"]["reason"], rows[0]["reason"].as_str());
    same(&rows[0]["size"], &answer["score"]["size"]);
}
