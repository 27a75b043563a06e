//! SegmentationService over the segmentation model.

use prost_types::Timestamp;
use proto::segmentation::v1::{
    BatchGetCustomerSegmentsRequest, BatchGetCustomerSegmentsResponse, ClassifyCustomerRequest,
    ClassifyCustomerResponse, CustomerSegment, GetCustomerSegmentRequest, GetCustomerSegmentResponse, Lifecycle,
    ListSegmentsRequest, ListSegmentsResponse, Rfm, Segment,
    batch_get_customer_segments_response::{Result as Item, result},
    segmentation_service_server::{SegmentationService, SegmentationServiceServer},
};
use runtime::{Refusal, at_least_one, finite, item_status, non_negative, required};
use scoring::segmentation::{self as model, Segmentation};
use serving::{Live, Loaded};
use tonic::{Request, Response, Status};

/// Most customers of a batch.
const MOST: usize = 1000;

/// The service over a model.
pub fn service(live: Live<Segmentation>) -> runtime::Service {
    serving::service(&live, serving::limited!(SegmentationServiceServer::new(Api(live.clone()))))
}

struct Api(Live<Segmentation>);

#[tonic::async_trait]
impl SegmentationService for Api {
    async fn get_customer_segment(
        &self,
        request: Request<GetCustomerSegmentRequest>,
    ) -> Result<Response<GetCustomerSegmentResponse>, Status> {
        self.0.answer(|loaded| get(loaded, &request.get_ref().customer_id))
    }

    async fn batch_get_customer_segments(
        &self,
        request: Request<BatchGetCustomerSegmentsRequest>,
    ) -> Result<Response<BatchGetCustomerSegmentsResponse>, Status> {
        self.0.answer(|loaded| batch(loaded, &request.get_ref().customer_ids))
    }

    async fn classify_customer(
        &self,
        request: Request<ClassifyCustomerRequest>,
    ) -> Result<Response<ClassifyCustomerResponse>, Status> {
        self.0.answer(|loaded| classify(loaded, request.get_ref().rfm))
    }

    async fn list_segments(&self, _: Request<ListSegmentsRequest>) -> Result<Response<ListSegmentsResponse>, Status> {
        self.0.answer(|loaded| Ok(list(loaded)))
    }
}

fn find(model: &Segmentation, id: &str) -> Result<CustomerSegment, Refusal> {
    let id = scoring::CustomerId::canonical(required("customer_id", id)?);
    let customer = model.customer(id).ok_or_else(|| Refusal::not_found("customer", id))?;
    let lifecycle = match model.lifecycle(customer) {
        model::Lifecycle::New => Lifecycle::New,
        model::Lifecycle::Active => Lifecycle::Active,
        model::Lifecycle::Cooling => Lifecycle::Cooling,
        model::Lifecycle::Lapsed => Lifecycle::Lapsed,
    };
    Ok(CustomerSegment {
        customer_id: id.to_owned(),
        lifecycle: lifecycle.into(),
        expected_spend: customer.expected_spend(),
        ..message(model.place(customer), customer.rfm)
    })
}

fn message(
    model::Classified { segment, rfm_cell, reasons }: model::Classified<'_>,
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

fn measures(model::Rfm { recency_days, frequency, monetary }: model::Rfm) -> Rfm {
    Rfm { recency_days, frequency, monetary }
}

fn get(loaded: &Loaded<Segmentation>, id: &str) -> Result<GetCustomerSegmentResponse, Refusal> {
    let customer_segment = Some(find(&loaded.model, id)?);
    Ok(GetCustomerSegmentResponse { customer_segment, model: Some(loaded.info.clone()) })
}

fn batch(loaded: &Loaded<Segmentation>, ids: &[String]) -> Result<BatchGetCustomerSegmentsResponse, Refusal> {
    let results = at_least_one("customer_ids", ids, MOST)?.iter().map(|id| {
        let result = match find(&loaded.model, id) {
            Ok(segment) => result::Result::CustomerSegment(segment),
            Err(refusal) => result::Result::Error(item_status(refusal)),
        };
        Item { result: Some(result) }
    });
    Ok(BatchGetCustomerSegmentsResponse { results: results.collect(), model: Some(loaded.info.clone()) })
}

fn classify(loaded: &Loaded<Segmentation>, rfm: Option<Rfm>) -> Result<ClassifyCustomerResponse, Refusal> {
    let Rfm { recency_days, frequency, monetary } = rfm.ok_or_else(|| Refusal::field("rfm", "is missing"))?;
    let rfm = model::Rfm {
        recency_days: non_negative("rfm.recency_days", recency_days)?,
        frequency: non_negative("rfm.frequency", frequency)?,
        monetary: finite("rfm.monetary", monetary)?,
    };
    if rfm.frequency < 1.0 {
        return Err(Refusal::field("rfm.frequency", "is below 1; who has never ordered is in no segment"));
    }
    let customer_segment = Some(message(loaded.model.classify(rfm), rfm));
    Ok(ClassifyCustomerResponse { customer_segment, model: Some(loaded.info.clone()) })
}

fn list(loaded: &Loaded<Segmentation>) -> ListSegmentsResponse {
    let model::Parameters { segments, silhouette, .. } = loaded.model.parameters();
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
        as_of: loaded.info.as_of.map(|time| Timestamp { seconds: time.seconds, nanos: time.nanos }),
        model: Some(loaded.info.clone()),
    }
}
