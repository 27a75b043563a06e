//! ModelService: which model answers, and when that changes.

use std::pin::Pin;

use chrono::Utc;
use futures_util::{Stream, StreamExt};
use model_store::{ModelStore, StoreError};
use proto::model::v1::{
    GetModelStatusRequest, GetModelStatusResponse, ListModelVersionsRequest, ListModelVersionsResponse, ModelStatus,
    SetCurrentVersionRequest, SetCurrentVersionResponse, WatchModelRequest, WatchModelResponse,
    model_service_server::{ModelService, ModelServiceServer},
};
use runtime::{Page, Refusal, required};
use scoring::{Model, ModelKind};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use crate::{Live, live, live::unreachable};

/// ModelService over a model.
pub(crate) fn server<M: Model>(live: &Live<M>) -> ModelServiceServer<Api> {
    let store = live.store();
    let publishing = store.clone().filter(|_| live.allows_publish());
    ModelServiceServer::new(Api { kind: M::KIND, status: live.status(), store, publishing })
}

#[derive(Debug, Clone)]
pub(crate) struct Api {
    kind: ModelKind,
    status: watch::Receiver<ModelStatus>,
    store: Option<ModelStore>,
    /// The store again, where callers may move its pointer.
    publishing: Option<ModelStore>,
}

impl Api {
    fn check(&self, model: &str) -> Result<(), Refusal> {
        if model.is_empty() || model == self.kind.as_str() {
            return Ok(());
        }
        Err(Refusal::field("model", format!("is `{model}`; this service has the {} model", self.kind)))
    }

    async fn versions(&self, request: ListModelVersionsRequest) -> Result<ListModelVersionsResponse, Refusal> {
        self.check(&request.model)?;
        let versions = match &self.store {
            None => self.status.borrow().details.clone().into_iter().collect(),
            Some(store) => {
                let versions = store.versions(self.kind).await.map_err(|error| unreachable(&error))?;
                versions.iter().map(|(manifest, current)| live::version(manifest, *current)).collect::<Vec<_>>()
            }
        };
        // The list may grow meanwhile, which moves the pages but loses nothing that was there.
        let page = Page::of(request.page_size, &request.page_token, self.kind, "")?;
        let (versions, next_page_token) = page.cut(&versions);
        Ok(ListModelVersionsResponse { versions: versions.to_vec(), next_page_token })
    }

    async fn set_current(&self, request: SetCurrentVersionRequest) -> Result<SetCurrentVersionResponse, Refusal> {
        self.check(&request.model)?;
        let SetCurrentVersionRequest { model: _, version, expected_version } = request;
        let store = self.publishing.as_ref().ok_or(Refusal::NotAllowed { action: "publishing" })?;
        let version = required("version", &version)?;
        let pointer = match store.point_from(self.kind, &expected_version, version, Utc::now()).await {
            Ok(pointer) => pointer,
            Err(StoreError::NoVersion { version, .. }) => return Err(Refusal::not_found("version", version)),
            Err(StoreError::Moved { expected, found, .. }) => {
                return Err(Refusal::Changed { what: "the current version", expected, found });
            }
            Err(error) => return Err(unreachable(&error)),
        };
        tracing::info!(model = %self.kind, model.version = version, before = expected_version, "published over the API");
        Ok(SetCurrentVersionResponse {
            version: pointer.version,
            previous_version: pointer.previous.unwrap_or_default(),
        })
    }
}

#[tonic::async_trait]
impl ModelService for Api {
    async fn get_model_status(
        &self,
        request: Request<GetModelStatusRequest>,
    ) -> Result<Response<GetModelStatusResponse>, Status> {
        self.check(&request.into_inner().model)?;
        let status = Some(self.status.borrow().clone());
        Ok(Response::new(GetModelStatusResponse { status, allows_publish: self.publishing.is_some() }))
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

    async fn set_current_version(
        &self,
        request: Request<SetCurrentVersionRequest>,
    ) -> Result<Response<SetCurrentVersionResponse>, Status> {
        Ok(Response::new(self.set_current(request.into_inner()).await?))
    }
}
