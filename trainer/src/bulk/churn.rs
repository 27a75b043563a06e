//! Churn risks of customers in bulk.

use scoring::{
    Artifact,
    churn::{ChurnModel, Customer, RiskLevel},
};

use super::{BulkTable, Request, ids::requested, table::load};
use crate::{Failure, columns::column};

/// A row for each customer: probability and level of risk, yearly value and value at risk.
pub(crate) fn score(artifact: &Artifact, request: &Request) -> Result<BulkTable, Failure> {
    let model: ChurnModel = load(artifact)?;
    let all = model
        .customers()
        .iter()
        .map(|customer| (customer.id.to_string(), customer))
        .collect();
    let (customers, left_out) = requested(request.input.as_deref(), "customer_id", all)?;
    let level = |customer: &Customer| match model.level(customer.probability) {
        RiskLevel::Low => "Low",
        RiskLevel::Medium => "Medium",
        RiskLevel::High => "High",
    };
    let customers_alone = || customers.iter().map(|(_, customer)| *customer);
    let of = |name: &str, value: fn(&Customer) -> f64| column(name, customers_alone().map(value));
    let columns = vec![
        column("customer_id", customers.iter().map(|(id, _)| id.as_str())),
        of("probability", |customer| customer.probability),
        column("risk_level", customers_alone().map(level)),
        of("annual_value", |customer| customer.annual_value),
        of("value_at_risk", Customer::value_at_risk),
    ];
    Ok(BulkTable { columns, left_out })
}
