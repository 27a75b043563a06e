//! ModelService: which model answers, and when that changes.

use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use model_store::ModelStore;
use proto::model::v1::{
    GetModelStatusRequest, GetModelStatusResponse, ListModelVersionsRequest, ListModelVersionsResponse, ModelStatus,
    WatchModelRequest, WatchModelResponse,
    model_service_server::{ModelService, ModelServiceServer},
};
use runtime::{Page, Refusal};
use scoring::{Model, ModelKind};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use crate::{Live, live};

/// ModelService over a model.
pub(crate) fn server<M: Model>(live: &Live<M>) -> ModelServiceServer<Api> {
    ModelServiceServer::new(Api { kind: M::KIND, status: live.status(), store: live.store() })
}

#[derive(Debug, Clone)]
pub(crate) struct Api {
    kind: ModelKind,
    status: watch::Receiver<ModelStatus>,
    store: Option<ModelStore>,
}

impl Api {
    fn check(&self, model: &str) -> Result<(), Refusal> {
        if model.is_empty() || model == self.kind.as_str() {
            return Ok(());
        }
        Err(Refusal::NotServed { kind: "model", name: model.to_owned(), known: self.kind.to_string() })
    }

    async fn versions(&self, request: ListModelVersionsRequest) -> Result<ListModelVersionsResponse, Refusal> {
        self.check(&request.model)?;
        let versions = match &self.store {
            None => self.status.borrow().details.clone().into_iter().collect(),
            Some(store) => {
                let versions = store.versions(self.kind).await.map_err(|error| Refusal::Unreachable {
                    service: "the model store".to_owned(),
                    problem: error.to_string(),
                    retry_in: std::time::Duration::from_secs(2),
                })?;
                versions.iter().map(|(manifest, current)| live::version(manifest, *current)).collect::<Vec<_>>()
            }
        };
        // The list may grow meanwhile, which moves the pages but loses nothing that was there.
        let page = Page::of(request.page_size, &request.page_token, self.kind, "")?;
        let (versions, next_page_token) = page.cut(&versions);
        Ok(ListModelVersionsResponse { versions: versions.to_vec(), next_page_token })
    }
}

#[tonic::async_trait]
impl ModelService for Api {
    async fn get_model_status(
        &self,
        request: Request<GetModelStatusRequest>,
    ) -> Result<Response<GetModelStatusResponse>, Status> {
        self.check(&request.into_inner().model)?;
        Ok(Response::new(GetModelStatusResponse { status: Some(self.status.borrow().clone()) }))
    }

    async fn list_model_versions(
        &self,
        request: Request<ListModelVersionsRequest>,
    ) -> Result<Response<ListModelVersionsResponse>, Status> {
        Ok(Response::new(self.versions(request.into_inner()).await?))
    }

    type WatchModelStream = Pin<Box<dyn Stream<Item = Result<WatchModelResponse, Status>> + Send>>;

    async fn watch_model(
        &self,
        request: Request<WatchModelRequest>,
    ) -> Result<Response<Self::WatchModelStream>, Status> {
        self.check(&request.into_inner().model)?;
        let changes = WatchStream::new(self.status.clone());
        Ok(Response::new(Box::pin(changes.map(|status| Ok(WatchModelResponse { status: Some(status) })))))
    }
}
