//! ModelService: which model answers, and when that changes.

use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use proto::model::v1::{
    GetModelStatusRequest, GetModelStatusResponse, ListModelVersionsRequest, ListModelVersionsResponse,
    WatchModelRequest, WatchModelResponse,
    model_service_server::{ModelService, ModelServiceServer},
};
use runtime::{Page, Refusal};
use scoring::Model;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use crate::{Live, live};

/// ModelService over a model.
pub(crate) fn server<M: Model>(live: &Live<M>) -> ModelServiceServer<Api<M>> {
    ModelServiceServer::new(Api(live.clone()))
}

#[derive(Debug)]
pub(crate) struct Api<M>(Live<M>);

impl<M: Model> Api<M> {
    fn check(&self, model: &str) -> Result<(), Refusal> {
        if model.is_empty() || model == M::KIND.as_str() {
            return Ok(());
        }
        Err(Refusal::field("model", format!("is `{model}`; this service has the {} model", M::KIND)))
    }

    async fn versions(&self, request: ListModelVersionsRequest) -> Result<ListModelVersionsResponse, Refusal> {
        self.check(&request.model)?;
        let versions = match self.0.store() {
            None => self.0.report().details.into_iter().collect(),
            Some(store) => {
                let versions = store.versions(M::KIND).await.map_err(|error| Refusal::Unreachable {
                    service: "the model store".to_owned(),
                    problem: error.to_string(),
                    retry_in: std::time::Duration::from_secs(2),
                })?;
                versions.iter().map(|(manifest, channel)| live::version(manifest, *channel)).collect::<Vec<_>>()
            }
        };
        // The list may grow meanwhile, which moves the pages but loses nothing that was there.
        let page = Page::of(request.page_size, &request.page_token, M::KIND, "")?;
        let (versions, next_page_token) = page.cut(&versions);
        Ok(ListModelVersionsResponse { versions: versions.to_vec(), next_page_token })
    }
}

#[tonic::async_trait]
impl<M: Model> ModelService for Api<M> {
    async fn get_model_status(
        &self,
        request: Request<GetModelStatusRequest>,
    ) -> Result<Response<GetModelStatusResponse>, Status> {
        self.check(&request.into_inner().model)?;
        Ok(Response::new(GetModelStatusResponse { status: Some(self.0.report()) }))
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
        let changes = WatchStream::new(self.0.status());
        Ok(Response::new(Box::pin(changes.map(|status| Ok(WatchModelResponse { status: Some(status) })))))
    }
}
