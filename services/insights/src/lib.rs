//! InsightsService over the shop's lines: figures, customers, products, and the lines themselves.

mod ask;
mod export;
mod figures;

use std::{
    fmt::Display,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{Stream, stream};
use proto::insights::v1::{
    ExportFormat, ExportTransactionsRequest, ExportTransactionsResponse, GetCustomerProfileRequest,
    GetCustomerProfileResponse, GetSummaryRequest, GetSummaryResponse, ListCohortRetentionRequest,
    ListCohortRetentionResponse, ListCountriesRequest, ListCountriesResponse,
    ListCustomerGrowthRequest, ListCustomerGrowthResponse, ListCustomerOrdersRequest,
    ListCustomerOrdersResponse, ListRevenueBySegmentRequest, ListRevenueBySegmentResponse,
    ListSalesByCountryRequest, ListSalesByCountryResponse, ListSalesTrendRequest,
    ListSalesTrendResponse, ListTopProductsRequest, ListTopProductsResponse, SearchProductsRequest,
    SearchProductsResponse,
    insights_service_server::{InsightsService, InsightsServiceServer},
};
use runtime::Refusal;
use scoring::{insights::InsightsModel, segmentation::SegmentationModel};
use serving::{Live, Loaded};
use tonic::{Request, Response, Status};

use crate::{
    ask::Asked,
    export::{Export, Format},
    figures::Groups,
};

/// The service over the lines, and over the segments that group revenue.
pub fn service(live: Live<InsightsModel>, segments: Live<SegmentationModel>) -> runtime::Service {
    let api = Api {
        live: live.clone(),
        segments,
        groups: Arc::default(),
    };
    serving::service(&live, serving::limited!(InsightsServiceServer::new(api)))
}

struct Api {
    live: Live<InsightsModel>,
    segments: Live<SegmentationModel>,
    /// The segment of each customer, for the versions that were asked last.
    groups: Arc<Mutex<Option<Arc<Groups>>>>,
}

impl Api {
    async fn answer<R: Send + 'static, T: PartialEq + Send + 'static>(
        &self,
        request: Request<R>,
        with: impl Fn(&Loaded<InsightsModel>, &R) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let live = self.live.clone();
        aside(move || live.answer(request, with)).await
    }
}

/// Runs an answer that may take milliseconds on a blocking thread, so that it does not delay the
/// calls of this one.
async fn aside<T: Send + 'static>(
    answer: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(answer).await {
        Ok(answer) => answer,
        // Panics here as well, so that the layer around every call answers it.
        Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
        Err(_) => Err(Refusal::Internal.into()),
    }
}

#[tonic::async_trait]
impl InsightsService for Api {
    async fn get_summary(
        &self,
        request: Request<GetSummaryRequest>,
    ) -> Result<Response<GetSummaryResponse>, Status> {
        // The figures of everything were computed when the model was loaded.
        if *request.get_ref() == GetSummaryRequest::default() {
            return self.live.answer(request, figures::summary);
        }
        self.answer(request, figures::summary).await
    }

    async fn list_sales_by_country(
        &self,
        request: Request<ListSalesByCountryRequest>,
    ) -> Result<Response<ListSalesByCountryResponse>, Status> {
        self.answer(request, figures::by_country).await
    }

    async fn list_sales_trend(
        &self,
        request: Request<ListSalesTrendRequest>,
    ) -> Result<Response<ListSalesTrendResponse>, Status> {
        self.answer(request, figures::trend).await
    }

    async fn list_top_products(
        &self,
        request: Request<ListTopProductsRequest>,
    ) -> Result<Response<ListTopProductsResponse>, Status> {
        self.answer(request, figures::top_products).await
    }

    async fn list_customer_growth(
        &self,
        request: Request<ListCustomerGrowthRequest>,
    ) -> Result<Response<ListCustomerGrowthResponse>, Status> {
        self.answer(request, figures::growth).await
    }

    async fn list_cohort_retention(
        &self,
        request: Request<ListCohortRetentionRequest>,
    ) -> Result<Response<ListCohortRetentionResponse>, Status> {
        self.answer(request, figures::cohorts).await
    }

    async fn list_revenue_by_segment(
        &self,
        request: Request<ListRevenueBySegmentRequest>,
    ) -> Result<Response<ListRevenueBySegmentResponse>, Status> {
        let (segments, groups) = (self.segments.current()?, Arc::clone(&self.groups));
        self.answer(request, move |loaded, request| {
            let kept = groups
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let kept = kept.filter(|kept| kept.are_of(loaded, &segments));
            let of_customers = kept.unwrap_or_else(|| {
                let made = Arc::new(Groups::new(loaded, &segments));
                *groups.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&made));
                made
            });
            figures::by_segment(loaded, &segments, &of_customers, request)
        })
        .await
    }

    async fn list_countries(
        &self,
        request: Request<ListCountriesRequest>,
    ) -> Result<Response<ListCountriesResponse>, Status> {
        self.answer(request, figures::countries).await
    }

    async fn search_products(
        &self,
        request: Request<SearchProductsRequest>,
    ) -> Result<Response<SearchProductsResponse>, Status> {
        self.answer(request, figures::search).await
    }

    async fn get_customer_profile(
        &self,
        request: Request<GetCustomerProfileRequest>,
    ) -> Result<Response<GetCustomerProfileResponse>, Status> {
        self.answer(request, figures::profile).await
    }

    async fn list_customer_orders(
        &self,
        request: Request<ListCustomerOrdersRequest>,
    ) -> Result<Response<ListCustomerOrdersResponse>, Status> {
        self.answer(request, figures::orders).await
    }

    type ExportTransactionsStream =
        Pin<Box<dyn Stream<Item = Result<ExportTransactionsResponse, Status>> + Send>>;

    async fn export_transactions(
        &self,
        request: Request<ExportTransactionsRequest>,
    ) -> Result<Response<Self::ExportTransactionsStream>, Status> {
        let (loaded, request) = (self.live.asked(&request)?, request.into_inner());
        let begin =
            move || loaded.answer(|loaded| Ok((begin(loaded, &request)?, loaded.info.clone())));
        let started = aside(begin).await?;
        // All lines come from the version that the call began with. A chunk is written when the one
        // before it has been taken, so that the caller's flow-control window is the only buffer.
        Ok(started.map(|(export, info)| {
            let chunks = stream::try_unfold(export, move |mut export| {
                let model = Some(info.clone());
                async move {
                    let made = tokio::task::spawn_blocking(move || {
                        export.next().map(|chunk| (chunk, export))
                    })
                    .await;
                    let (chunk, export) = match made {
                        Ok(Ok(made)) => made,
                        Ok(Err(error)) => return Err(broken(&error).into()),
                        Err(error) => return Err(broken(&error).into()),
                    };
                    Ok(chunk.map(
                        |export::Chunk {
                             data,
                             rows,
                             total_rows,
                         }| {
                            (
                                ExportTransactionsResponse {
                                    data,
                                    rows,
                                    total_rows,
                                    model,
                                },
                                export,
                            )
                        },
                    ))
                }
            });
            Box::pin(chunks) as Self::ExportTransactionsStream
        }))
    }
}

fn begin(
    loaded: &Loaded<InsightsModel>,
    request: &ExportTransactionsRequest,
) -> Result<Export, Refusal> {
    let ExportTransactionsRequest {
        countries,
        start_time,
        end_time,
        stock_codes,
        customer_ids,
        kinds,
        format,
    } = request;
    let unknown = |_| Refusal::field("format", format!("is {format}, which is none"));
    let format = match ExportFormat::try_from(*format).map_err(unknown)? {
        ExportFormat::Unspecified | ExportFormat::Csv => Format::Csv,
        ExportFormat::Parquet => Format::Parquet,
    };
    let kinds = ask::kinds(kinds)?;
    let (start_time, end_time) = (start_time.as_ref(), end_time.as_ref());
    let shop = loaded.model.shop();
    let (selection, _) = Asked {
        countries,
        start_time,
        end_time,
        stock_codes,
        customer_ids,
    }
    .select(shop)?;
    Export::new(Arc::clone(shop), selection, kinds, format).map_err(|error| broken(&error))
}

/// Logs an error that the caller cannot do anything about.
fn broken(error: &impl Display) -> Refusal {
    tracing::error!(%error, "an export has failed");
    Refusal::Internal
}
