//! `quality.json` and `profile.html`: rows read, rows rejected and why, missing values, ranges of
//! values, and drift since the previous run.

use std::fmt::Write;

use polars::prelude::*;
use serde_json::{Map, Value, json};

use crate::{
    error::LakeError,
    lake::Lake,
    render::rows,
    report::CurateReport,
    tables::{is_sale, month},
};

/// Columns with a distribution that is compared with the previous run.
const MEASURES: [&str; 3] = ["quantity", "unit_price", "line_total"];

/// The content of `quality.json`.
pub(crate) fn quality(
    lake: &Lake,
    transactions: &LazyFrame,
    curated: &CurateReport,
) -> Result<Value, LakeError> {
    let ingest = fs_err::read_to_string(lake.processed().join("report.json")).unwrap_or_default();
    let ingest: Value = serde_json::from_str(&ingest).unwrap_or(Value::Null);
    let before = fs_err::read_to_string(lake.root().join("quality.json")).unwrap_or_default();
    let before: Value = serde_json::from_str(&before).unwrap_or(Value::Null);

    let nulls = transactions
        .clone()
        .select([all().as_expr().null_count()])
        .collect()?;
    let mut ranges = Map::new();
    for measure in MEASURES {
        ranges.insert(measure.to_owned(), range(transactions, measure)?);
    }
    let mut months = transactions.clone().select([month().alias("month")]);
    months = months
        .group_by([col("month")])
        .agg([len().alias("lines")])
        .sort(["month"], SortMultipleOptions::default());

    let drift: Map<String, Value> = MEASURES
        .iter()
        .filter_map(|measure| {
            let (was, is) = (
                before["ranges"][measure]["median"].as_f64()?,
                ranges[*measure]["median"].as_f64()?,
            );
            Some((
                (*measure).to_owned(),
                json!({ "median_before": was, "median": is, "change": relative(was, is) }),
            ))
        })
        .collect();
    let lines = before["lines"]
        .as_u64()
        .map(|was| json!({ "before": was, "now": curated.tables[0].1 }));

    let [rows_in, accepted, rejected] =
        ["rows", "accepted", "rejected"].map(|count| ingest[count].as_u64());
    let all_rows = rows_in == accepted.zip(rejected).map(|(lines, rows)| lines + rows);
    let all_lines = accepted == Some(curated.tables[0].1 + curated.later_lines);
    let tables: Map<_, _> = curated
        .tables
        .iter()
        .map(|(name, rows)| (name.clone(), json!(rows)))
        .collect();
    Ok(json!({
        "as_of": curated.as_of,
        "ingest": ingest,
        "lines": curated.tables[0].1,
        "later_lines": curated.later_lines,
        "tables": tables,
        "nulls": first_row(&nulls)?,
        "ranges": ranges,
        "lines_per_month": rows(&months.collect()?)?,
        "checks": [
            { "check": "rows in = lines + quarantined rows", "holds": all_rows },
            { "check": "lines = curated lines + later lines", "holds": all_lines },
        ],
        "drift": { "lines": lines, "medians": drift },
    }))
}

/// Quantiles and mean of a measure over all sales.
fn range(transactions: &LazyFrame, measure: &str) -> Result<Value, LakeError> {
    let value = col(measure).filter(is_sale()).cast(DataType::Float64);
    let quantile = |q: f64| value.clone().quantile(lit(q), QuantileMethod::Nearest);
    let figures = transactions.clone().select([
        value.clone().min().alias("min"),
        quantile(0.1).alias("p10"),
        quantile(0.25).alias("p25"),
        quantile(0.5).alias("median"),
        quantile(0.75).alias("p75"),
        quantile(0.9).alias("p90"),
        value.clone().max().alias("max"),
        value.clone().mean().alias("mean"),
    ]);
    first_row(&figures.collect()?)
}

fn first_row(table: &DataFrame) -> Result<Value, LakeError> {
    Ok(rows(table)?
        .into_iter()
        .next()
        .map_or(Value::Null, Value::Object))
}

fn relative(was: f64, is: f64) -> f64 {
    if was == 0.0 { 0.0 } else { (is - was) / was }
}

/// `profile.html`: the same as one page for people, without any other file.
pub(crate) fn html(quality: &Value) -> String {
    let mut body = String::new();
    let ingest = &quality["ingest"];
    section(
        &mut body,
        "What came in",
        &pairs(
            &[
                "rows",
                "accepted",
                "rejected",
                "duplicates",
                "without_customer",
                "rounded_prices",
                "first",
                "last",
            ],
            ingest,
        ),
    );
    section(&mut body, "Files", &objects(&ingest["sources"]));
    section(&mut body, "Lines by kind", &entries(&ingest["kinds"]));
    if has_entries(&ingest["reasons"]) {
        section(
            &mut body,
            "Quarantined, by reason",
            &entries(&ingest["reasons"]),
        );
    }
    section(&mut body, "Checks", &objects(&quality["checks"]));
    section(&mut body, "Tables", &entries(&quality["tables"]));
    section(&mut body, "Missing values", &entries(&quality["nulls"]));
    section(
        &mut body,
        "Ranges of sales",
        &objects(&named_rows(&quality["ranges"])),
    );
    section(
        &mut body,
        "Lines per month",
        &bars(&quality["lines_per_month"]),
    );
    let medians = &quality["drift"]["medians"];
    if has_entries(medians) {
        section(
            &mut body,
            "Since the run before",
            &objects(&named_rows(medians)),
        );
    }
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>Quality \
         profile</title><style>{STYLE}</style><main><h1>Quality profile</h1><p>Transactions from \
         before {}</p>{body}</main></html>\n",
        escape(&text(&quality["as_of"]))
    )
}

/// The objects of an object as a list, each with its name as `measure`.
fn named_rows(objects: &Value) -> Value {
    let row = |(name, figures): (&String, &Value)| {
        let mut row = Map::from_iter([("measure".to_owned(), json!(name))]);
        row.extend(figures.as_object().cloned().unwrap_or_default());
        Value::Object(row)
    };
    let objects = objects.as_object().into_iter().flatten();
    Value::Array(objects.map(row).collect())
}

const STYLE: &str = "\
:root{color-scheme:light dark;font:16px/1.5 \
                     system-ui,sans-serif}body{margin:0}main{max-width:62rem;margin:auto;padding:\
                     1.5rem}h2{margin:2rem 0 \
                     .5rem;font-size:1.1rem}div{overflow-x:auto}table{border-collapse:collapse;\
                     font-variant-numeric:tabular-nums}th,td{padding:.25rem .9rem .25rem \
                     0;text-align:left;border-bottom:1px solid color-mix(in srgb,currentColor \
                     15%,transparent)}td+td{text-align:right}meter{width:18rem}";

fn has_entries(value: &Value) -> bool {
    value.as_object().is_some_and(|entries| !entries.is_empty())
}

fn section(body: &mut String, title: &str, table: &str) {
    // Writing to a string cannot fail.
    let _ = write!(
        body,
        "<h2>{}</h2><div><table>{table}</table></div>",
        escape(title)
    );
}

fn pairs(names: &[&str], of: &Value) -> String {
    names
        .iter()
        .map(|name| row(&[name.replace('_', " "), text(&of[*name])]))
        .collect()
}

fn entries(object: &Value) -> String {
    object
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| row(&[name.clone(), text(value)]))
        .collect()
}

fn objects(list: &Value) -> String {
    let rows: Vec<&Map<String, Value>> = list
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .collect();
    let Some(first) = rows.first() else {
        return String::new();
    };
    let head: String = first
        .keys()
        .map(|name| format!("<th>{}</th>", escape(&name.replace('_', " "))))
        .collect();
    let body: String = rows
        .iter()
        .map(|object| row(&object.values().map(text).collect::<Vec<_>>()))
        .collect();
    format!("<tr>{head}</tr>{body}")
}

fn bars(list: &Value) -> String {
    let rows: Vec<_> = list.as_array().into_iter().flatten().collect();
    let most = rows
        .iter()
        .filter_map(|row| row["lines"].as_u64())
        .max()
        .unwrap_or(1);
    rows.iter()
        .map(|row| {
            let lines = row["lines"].as_u64().unwrap_or_default();
            let month = escape(&text(&row["month"]));
            format!(
                "<tr><td>{month}</td><td>{lines}</td><td><meter max=\"{most}\" \
                 value=\"{lines}\"></meter></td></tr>"
            )
        })
        .collect()
}

fn row(cells: &[String]) -> String {
    let cells: String = cells
        .iter()
        .map(|cell| format!("<td>{}</td>", escape(cell)))
        .collect();
    format!("<tr>{cells}</tr>")
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(fraction) => format!("{fraction:.4}")
                .trim_end_matches('0')
                .trim_end_matches('.')
                .to_owned(),
            None => number.to_string(),
        },
        Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_files_cannot_become_markup() {
        let quality = json!({ "ingest": { "sources": [{ "file": "<script>alert(1)</script>" }] } });
        let page = html(&quality);
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script>"));
    }
}
