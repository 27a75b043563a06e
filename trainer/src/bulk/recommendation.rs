//! Recommendations for customers in bulk.

use rayon::prelude::*;
use scoring::{
    Artifact,
    recommendation::{Query, RecommendationModel},
};

use super::{BulkTable, Request, ids::requested, table::load};
use crate::{Failure, columns::column};

/// Products of a customer, unless the request says otherwise.
const DEFAULT_TOP: usize = 20;

/// A row for each customer and recommended product, by rank.
pub(crate) fn score(artifact: &Artifact, request: &Request) -> Result<BulkTable, Failure> {
    let model: RecommendationModel = load(artifact)?;
    let all = model
        .customers()
        .map(|(id, row)| (id.to_string(), row))
        .collect();
    let (customers, left_out) = requested(request.input.as_deref(), "customer_id", all)?;
    let query = |customer: usize| Query {
        customer: Some(customer),
        limit: request.top.map_or(DEFAULT_TOP, usize::from),
        new_only: request.new_only,
        ..Query::default()
    };
    let lists: Vec<_> = customers
        .par_iter()
        .map(|(id, row)| (id, model.recommend(&query(*row))))
        .collect();
    let mut rows = Vec::new();
    for (id, list) in &lists {
        rows.extend((1_u32..).zip(list).map(|(rank, found)| (*id, rank, found)));
    }
    let codes = rows
        .iter()
        .map(|(.., found)| model.products()[found.product].stock_code.as_str());
    let columns = vec![
        column("customer_id", rows.iter().map(|(id, ..)| id.as_str())),
        column("rank", rows.iter().map(|(_, rank, _)| *rank)),
        column("stock_code", codes),
        column("score", rows.iter().map(|(.., found)| found.score)),
    ];
    Ok(BulkTable { columns, left_out })
}
