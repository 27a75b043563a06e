//! Segments of customers in bulk.

use scoring::{Artifact, segmentation::SegmentationModel};

use super::{BulkTable, Request, ids::requested, table::load};
use crate::{Failure, columns::column};

/// A row for each customer: segment, lifecycle, RFM cell and expected spend.
pub(crate) fn score(artifact: &Artifact, request: &Request) -> Result<BulkTable, Failure> {
    let model: SegmentationModel = load(artifact)?;
    let all = model
        .customers()
        .map(|(id, customer)| (id.to_string(), *customer))
        .collect();
    let (customers, left_out) = requested(request.input.as_deref(), "customer_id", all)?;
    let placed: Vec<_> = customers
        .iter()
        .map(|(_, customer)| model.place(customer))
        .collect();
    let lifecycles = customers
        .iter()
        .map(|(_, customer)| model.lifecycle(customer).as_str());
    let spend = customers
        .iter()
        .map(|(_, customer)| customer.expected_spend());
    let columns = vec![
        column("customer_id", customers.iter().map(|(id, _)| id.as_str())),
        column("segment_id", placed.iter().map(|place| place.segment.id)),
        column(
            "segment_name",
            placed.iter().map(|place| place.segment.name.as_str()),
        ),
        column("lifecycle", lifecycles),
        column("rfm_cell", placed.iter().map(|place| place.rfm_cell)),
        column("expected_spend", spend),
    ];
    Ok(BulkTable { columns, left_out })
}
