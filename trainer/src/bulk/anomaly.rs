//! Anomaly scores of the lines of a file.

use scoring::{
    Artifact,
    anomaly::{AnomalyModel, Sold, Transaction},
};
use transactions::LineKind;

use super::{BulkTable, Request, table::load};
use crate::{Failure, columns::column};

/// A row for each line. Lines that are not sales have severity `none` and the lowest score.
pub(crate) fn score(artifact: &Artifact, request: &Request) -> Result<BulkTable, Failure> {
    let model: AnomalyModel = load(artifact)?;
    let Some(input) = &request.input else {
        return Err(Failure::Flag {
            flag: "--input",
            problem: "is missing: the lines to score".to_owned(),
        });
    };
    let options = request.layout.options()?;
    let lake::Transactions { lines, rejected } =
        lake::read_transactions(std::slice::from_ref(input), &options)?;
    let is_sale = |line: &&lake::Transaction| line.kind == LineKind::Sale;
    let sales: Vec<_> = lines.iter().filter(is_sale).map(sold).collect();
    let mut scores_of_sales = model.score_all(&sales).into_iter();
    let mut score = |line: &lake::Transaction| match is_sale(&line) {
        true => scores_of_sales.next().flatten(),
        false => None,
    };
    let scored: Vec<_> = lines.iter().map(&mut score).collect();
    // No score is lower, so that lines without a score are not alerts at any threshold.
    let lowest = scored
        .iter()
        .flatten()
        .map(|score| score.score)
        .fold(f64::INFINITY, f64::min);
    let lowest = if lowest.is_finite() { lowest } else { 0.0 };
    let reasons: Vec<String> = lines
        .iter()
        .zip(&scored)
        .map(|(line, score)| match score {
            Some(score) => score.reason(&line.stock_code, customer(line)),
            None => "no sale: returns, services and adjustments are not scored".to_owned(),
        })
        .collect();
    let scores = || scored.iter().map(Option::as_ref);
    let columns = vec![
        column("line_id", lines.iter().map(|line| line.line_id.as_str())),
        column("score", scores().map(|s| s.map_or(lowest, |s| s.score))),
        column(
            "severity",
            scores().map(|s| s.map_or("none", |s| s.severity.as_str())),
        ),
        column("reason", reasons.iter().map(String::as_str)),
        column("size", scores().map(|s| s.map_or(0.0, |s| s.size))),
    ];
    let left_out = rejected
        .into_iter()
        .map(|(file, row, why)| format!("{file}, row {row}: {} {}", why.field, why.reason))
        .collect();
    Ok(BulkTable { columns, left_out })
}

fn customer(line: &lake::Transaction) -> &str {
    line.customer_id.as_deref().unwrap_or_default()
}

fn sold(line: &lake::Transaction) -> Sold<'_> {
    Sold {
        invoice: &line.invoice,
        time: line.time,
        line: Transaction {
            stock_code: &line.stock_code,
            quantity: line.quantity as f64,
            unit_price: line.unit_price,
            customer_id: customer(line),
        },
    }
}
