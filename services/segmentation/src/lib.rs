//! SegmentationService and the Open Inference Protocol over the segmentation model.

use std::{collections::BTreeMap, sync::Arc};

use prost_types::Timestamp;
use proto::segmentation::v1::{
    BatchGetCustomerSegmentsRequest, BatchGetCustomerSegmentsResponse, ClassifyCustomerRequest,
    ClassifyCustomerResponse, CustomerSegment, GetCustomerSegmentRequest,
    GetCustomerSegmentResponse, Lifecycle, ListCustomerSegmentsRequest,
    ListCustomerSegmentsResponse, ListSegmentMovementsRequest, ListSegmentMovementsResponse,
    ListSegmentsRequest, ListSegmentsResponse, Rfm, Segment, SegmentMovement,
    batch_get_customer_segments_response::{Result as Item, result},
    segmentation_service_server::{SegmentationService, SegmentationServiceServer},
};
use runtime::{Page, Refusal, at_least_one, finite, item_status, non_negative, required};
use scoring::segmentation::{self as model, SegmentationModel};
use serving::{
    Live, Loaded,
    inference::{Batch, Interface, Output, Tensor, at},
};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};

/// Most customers of a batch.
const MOST: usize = 1000;

/// Place of a customer in no segment: after all others.
const NONE: usize = usize::MAX;

/// The service over a model.
pub fn service(live: Live<SegmentationModel>) -> runtime::Service {
    let api = Api {
        live: live.clone(),
        earlier: Mutex::default(),
    };
    let own = serving::limited!(SegmentationServiceServer::new(api));
    serving::service(&live, own).and(serving::inference::service(&live, &INTERFACE))
}

struct Api {
    live: Live<SegmentationModel>,
    /// The earlier version that was requested last. One is kept, because versions are large; a
    /// request for another one fetches it while others wait.
    earlier: Mutex<Option<Arc<Loaded<SegmentationModel>>>>,
}

impl Api {
    /// A named version, or the last one of the same recipe that was current before; fetched unless
    /// it was requested last.
    async fn earlier(
        &self,
        name: &str,
        loaded: &Loaded<SegmentationModel>,
    ) -> Result<Option<Arc<Loaded<SegmentationModel>>>, Refusal> {
        let name = match name {
            "" => self.live.before(loaded).await?,
            name => Some(name.to_owned()),
        };
        let Some(name) = name else { return Ok(None) };
        let mut kept = self.earlier.lock().await;
        if let Some(kept) = kept.as_ref().filter(|kept| kept.info.version == name) {
            return Ok(Some(Arc::clone(kept)));
        }
        let fetched = Arc::new(self.live.version(&name).await?);
        *kept = Some(Arc::clone(&fetched));
        Ok(Some(fetched))
    }
}

#[tonic::async_trait]
impl SegmentationService for Api {
    async fn get_customer_segment(
        &self,
        request: Request<GetCustomerSegmentRequest>,
    ) -> Result<Response<GetCustomerSegmentResponse>, Status> {
        self.live
            .answer(request, |loaded, asked| get(loaded, &asked.customer_id))
    }

    async fn batch_get_customer_segments(
        &self,
        request: Request<BatchGetCustomerSegmentsRequest>,
    ) -> Result<Response<BatchGetCustomerSegmentsResponse>, Status> {
        self.live
            .answer(request, |loaded, asked| batch(loaded, &asked.customer_ids))
    }

    async fn classify_customer(
        &self,
        request: Request<ClassifyCustomerRequest>,
    ) -> Result<Response<ClassifyCustomerResponse>, Status> {
        self.live
            .answer(request, |loaded, asked| classify(loaded, asked.rfm))
    }

    async fn list_segments(
        &self,
        request: Request<ListSegmentsRequest>,
    ) -> Result<Response<ListSegmentsResponse>, Status> {
        self.live.answer(request, |loaded, _| Ok(list(loaded)))
    }

    async fn list_customer_segments(
        &self,
        request: Request<ListCustomerSegmentsRequest>,
    ) -> Result<Response<ListCustomerSegmentsResponse>, Status> {
        self.live.answer(request, list_customers)
    }

    async fn list_segment_movements(
        &self,
        request: Request<ListSegmentMovementsRequest>,
    ) -> Result<Response<ListSegmentMovementsResponse>, Status> {
        let loaded = self.live.asked(&request)?;
        let before = self
            .earlier(&request.get_ref().since_version, &loaded)
            .await?;
        loaded.answer(|loaded| {
            let recipes = before
                .as_ref()
                .map(|before| [&before.manifest.recipe, &loaded.manifest.recipe]);
            comparable(recipes.map(|recipes| recipes.map(String::as_str)))?;
            Ok(movements(loaded, before.as_deref()))
        })
    }
}

fn known<'a, 'b>(
    model: &'a SegmentationModel,
    id: &'b str,
) -> Result<(&'b str, &'a model::Customer), Refusal> {
    let id = scoring::CustomerId::canonical(required("customer_id", id)?);
    let customer = model
        .customer(id)
        .ok_or_else(|| Refusal::not_found("customer", id))?;
    Ok((id, customer))
}

fn find(model: &SegmentationModel, id: &str) -> Result<CustomerSegment, Refusal> {
    let (id, customer) = known(model, id)?;
    Ok(CustomerSegment {
        customer_id: id.to_owned(),
        lifecycle: lifecycle(model.lifecycle(customer)).into(),
        expected_spend: customer.expected_spend(),
        ..message(model.place(customer), customer.rfm)
    })
}

fn lifecycle(lifecycle: model::Lifecycle) -> Lifecycle {
    match lifecycle {
        model::Lifecycle::New => Lifecycle::New,
        model::Lifecycle::Active => Lifecycle::Active,
        model::Lifecycle::Cooling => Lifecycle::Cooling,
        model::Lifecycle::Lapsed => Lifecycle::Lapsed,
    }
}

fn message(
    model::Classified {
        segment,
        rfm_cell,
        reasons,
    }: model::Classified<'_>,
    rfm: model::Rfm,
) -> CustomerSegment {
    CustomerSegment {
        customer_id: String::new(),
        segment_id: segment.id.cast_signed(),
        segment_name: segment.name.clone(),
        strategy: segment.strategy.clone(),
        rfm: Some(measures(rfm)),
        rfm_cell: rfm_cell.to_owned(),
        lifecycle: Lifecycle::Unspecified.into(),
        reasons,
        expected_spend: None,
    }
}

fn measures(
    model::Rfm {
        recency_days,
        frequency,
        monetary,
    }: model::Rfm,
) -> Rfm {
    Rfm {
        recency_days,
        frequency,
        monetary,
    }
}

fn get(
    loaded: &Loaded<SegmentationModel>,
    id: &str,
) -> Result<GetCustomerSegmentResponse, Refusal> {
    let customer_segment = Some(find(&loaded.model, id)?);
    Ok(GetCustomerSegmentResponse {
        customer_segment,
        model: Some(loaded.info.clone()),
    })
}

fn batch(
    loaded: &Loaded<SegmentationModel>,
    ids: &[String],
) -> Result<BatchGetCustomerSegmentsResponse, Refusal> {
    let results = at_least_one("customer_ids", ids, MOST)?.iter().map(|id| {
        let result = match find(&loaded.model, id) {
            Ok(segment) => result::Result::CustomerSegment(segment),
            Err(refusal) => result::Result::Error(item_status(refusal)),
        };
        Item {
            result: Some(result),
        }
    });
    Ok(BatchGetCustomerSegmentsResponse {
        results: results.collect(),
        model: Some(loaded.info.clone()),
    })
}

/// Measures as the model accepts them.
fn usable(rfm: Rfm) -> Result<model::Rfm, Refusal> {
    let rfm = model::Rfm {
        recency_days: non_negative("recency_days", rfm.recency_days)?,
        frequency: non_negative("frequency", rfm.frequency)?,
        monetary: finite("monetary", rfm.monetary)?,
    };
    if rfm.frequency < 1.0 {
        return Err(Refusal::field(
            "frequency",
            "is below 1; who has never ordered is in no segment",
        ));
    }
    Ok(rfm)
}

fn classify(
    loaded: &Loaded<SegmentationModel>,
    rfm: Option<Rfm>,
) -> Result<ClassifyCustomerResponse, Refusal> {
    let rfm = rfm.ok_or_else(|| Refusal::field("rfm", "is missing"))?;
    let rfm = usable(rfm).map_err(|refusal| refusal.renamed(|field| format!("rfm.{field}")))?;
    loaded.note([
        ("recency_days", rfm.recency_days),
        ("frequency", rfm.frequency),
        ("monetary", rfm.monetary),
    ]);
    let customer_segment = Some(message(loaded.model.classify(rfm), rfm));
    Ok(ClassifyCustomerResponse {
        customer_segment,
        model: Some(loaded.info.clone()),
    })
}

fn list(loaded: &Loaded<SegmentationModel>) -> ListSegmentsResponse {
    let model::Parameters {
        segments,
        silhouette,
        ..
    } = loaded.model.parameters();
    let segments = segments.iter().map(|segment| Segment {
        segment_id: segment.id.cast_signed(),
        name: segment.name.clone(),
        strategy: segment.strategy.clone(),
        customers: segment.customers.cast_signed(),
        customer_share: segment.customer_share,
        monetary_share: segment.monetary_share,
        average: Some(measures(segment.average)),
    });
    ListSegmentsResponse {
        segments: segments.collect(),
        recipe: loaded.manifest.recipe.clone(),
        silhouette: *silhouette,
        as_of: loaded.info.as_of.map(|time| Timestamp {
            seconds: time.seconds,
            nanos: time.nanos,
        }),
        model: Some(loaded.info.clone()),
    }
}

/// Refuses a segment or cell that does not exist; 0 and an empty name stand for all.
fn known_group(
    segments: &[model::Segment],
    segment_id: i32,
    rfm_cell: &str,
) -> Result<(), Refusal> {
    let is_known = |id: i32| segments.iter().any(|of| of.id.cast_signed() == id);
    if segment_id != 0 && !is_known(segment_id) {
        return Err(Refusal::field(
            "segment_id",
            format!("is {segment_id}, which is no segment; ListSegments has them"),
        ));
    }
    if !rfm_cell.is_empty() && !model::RFM_CELLS.contains(&rfm_cell) {
        let cells = model::RFM_CELLS.join(", ");
        return Err(Refusal::field(
            "rfm_cell",
            format!("is `{rfm_cell}`, which is no cell: {cells}"),
        ));
    }
    Ok(())
}

fn list_customers(
    loaded: &Loaded<SegmentationModel>,
    request: &ListCustomerSegmentsRequest,
) -> Result<ListCustomerSegmentsResponse, Refusal> {
    let ListCustomerSegmentsRequest {
        page_size,
        page_token,
        segment_id,
        rfm_cell,
        lifecycle: stage,
    } = request;
    let model = &loaded.model;
    let segments = &model.parameters().segments;
    known_group(segments, *segment_id, rfm_cell)?;
    let unknown = |_| {
        Refusal::field(
            "lifecycle",
            format!("is {stage}, which is no point of a life"),
        )
    };
    let stage = Some(Lifecycle::try_from(*stage).map_err(unknown)?)
        .filter(|stage| *stage != Lifecycle::Unspecified);
    let filter = (segment_id, rfm_cell, request.lifecycle);
    let page = Page::of(
        "customers",
        *page_size,
        page_token,
        filter,
        &loaded.info.version,
    )?;
    let matching = model.customers().filter(|(_, customer)| {
        (*segment_id == 0 || segments[customer.segment].id.cast_signed() == *segment_id)
            && (rfm_cell.is_empty() || model.cell(customer.rfm) == rfm_cell)
            && stage.is_none_or(|stage| lifecycle(model.lifecycle(customer)) == stage)
    });
    let matching: Vec<_> = matching.collect();
    let (customers, next_page_token) = page.cut(&matching);
    let customers = customers.iter().map(|(id, customer)| {
        let segment = &segments[customer.segment];
        CustomerSegment {
            customer_id: id.to_string(),
            segment_id: segment.id.cast_signed(),
            segment_name: segment.name.clone(),
            strategy: String::new(),
            rfm: Some(measures(customer.rfm)),
            rfm_cell: model.cell(customer.rfm).to_owned(),
            lifecycle: lifecycle(model.lifecycle(customer)).into(),
            reasons: Vec::new(),
            expected_spend: customer.expected_spend(),
        }
    });
    Ok(ListCustomerSegmentsResponse {
        customer_segments: customers.collect(),
        next_page_token,
        total_size: i32::try_from(matching.len()).unwrap_or(i32::MAX),
        model: Some(loaded.info.clone()),
    })
}

/// Refuses to compare segments of different recipes.
fn comparable(recipes: Option<[&str; 2]>) -> Result<(), Refusal> {
    match recipes {
        Some([then, now]) if then != now => {
            let problem =
                format!("is of recipe `{then}`, whose segments are others than those of `{now}`");
            Err(Refusal::field("since_version", problem))
        }
        Some(_) | None => Ok(()),
    }
}

fn movements(
    loaded: &Loaded<SegmentationModel>,
    before: Option<&Loaded<SegmentationModel>>,
) -> ListSegmentMovementsResponse {
    let model = Some(loaded.info.clone());
    let Some(before) = before else {
        return ListSegmentMovementsResponse {
            movements: Vec::new(),
            since: None,
            model,
        };
    };
    // Customers and their spend by place among the earlier segments and among the current ones.
    let mut pairs = BTreeMap::<(usize, usize), (i64, f64)>::new();
    let mut count = |from, to, customer: &model::Customer| {
        let (customers, monetary) = pairs.entry((from, to)).or_default();
        *customers += 1;
        *monetary += customer.rfm.monetary;
    };
    for (id, now) in loaded.model.customers() {
        count(
            before
                .model
                .customer(id.as_str())
                .map_or(NONE, |then| then.segment),
            now.segment,
            now,
        );
    }
    for (id, then) in before.model.customers() {
        if loaded.model.customer(id.as_str()).is_none() {
            count(then.segment, NONE, then);
        }
    }
    let (then, now) = (
        &before.model.parameters().segments,
        &loaded.model.parameters().segments,
    );
    let movements = pairs
        .into_iter()
        .map(|((from, to), (customers, monetary))| {
            let (from, to) = (then.get(from), now.get(to));
            SegmentMovement {
                from_segment_id: from.map(|segment| segment.id.cast_signed()),
                from_segment_name: from.map(|segment| segment.name.clone()).unwrap_or_default(),
                to_segment_id: to.map(|segment| segment.id.cast_signed()),
                to_segment_name: to.map(|segment| segment.name.clone()).unwrap_or_default(),
                customers,
                monetary,
            }
        });
    ListSegmentMovementsResponse {
        movements: movements.collect(),
        since: Some(before.info.clone()),
        model,
    }
}

const RECENCY_DAYS: Tensor<f64> = Tensor::column("recency_days");
const FREQUENCY: Tensor<f64> = Tensor::column("frequency");
const MONETARY: Tensor<f64> = Tensor::column("monetary");
const CUSTOMER_ID: Tensor<String> = Tensor::column("customer_id");
const SEGMENT_ID: Tensor<i32> = Tensor::column("segment_id");
const SEGMENT_NAME: Tensor<String> = Tensor::column("segment_name");

/// Accepts the fields of ClassifyCustomer, or ids of customers that the model knows.
static INTERFACE: Interface<SegmentationModel> = Interface {
    inputs: &[
        RECENCY_DAYS.info(),
        FREQUENCY.info(),
        MONETARY.info(),
        CUSTOMER_ID.info(),
    ],
    outputs: &[SEGMENT_ID.info(), SEGMENT_NAME.info()],
    infer,
};

fn infer(model: &SegmentationModel, batch: &Batch<'_>) -> Result<Vec<Output>, Refusal> {
    let segments: Vec<_> = match batch.alone(&CUSTOMER_ID)? {
        Some(ids) => {
            let placed = ids.iter().enumerate().map(|(row, id)| {
                let (_, customer) =
                    known(model, id).map_err(|refusal| refusal.renamed(|field| at(field, row)))?;
                Ok(model.place(customer).segment)
            });
            placed.collect::<Result<_, Refusal>>()?
        }
        None => {
            let (frequency, monetary) = (batch.required(&FREQUENCY)?, batch.required(&MONETARY)?);
            let rows = batch
                .required(&RECENCY_DAYS)?
                .into_iter()
                .zip(frequency)
                .zip(monetary)
                .enumerate();
            let placed = rows.map(|(row, ((recency_days, frequency), monetary))| {
                let rfm = usable(Rfm {
                    recency_days,
                    frequency,
                    monetary,
                });
                Ok(model
                    .classify(rfm.map_err(|refusal| refusal.renamed(|field| at(field, row)))?)
                    .segment)
            });
            placed.collect::<Result<_, Refusal>>()?
        }
    };
    Ok(vec![
        SEGMENT_ID.of(segments.iter().map(|segment| segment.id.cast_signed())),
        SEGMENT_NAME.of(segments.iter().map(|segment| segment.name.clone())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_of_another_recipe_are_not_compared() {
        assert_eq!(
            (comparable(None), comparable(Some(["default", "default"]))),
            (Ok(()), Ok(()))
        );
        let refused = comparable(Some(["rfm3", "default"]))
            .unwrap_err()
            .to_string();
        assert_eq!(
            refused,
            "since_version is of recipe `rfm3`, whose segments are others than those of `default`"
        );
    }
}
