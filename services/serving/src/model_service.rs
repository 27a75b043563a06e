//! ModelService: the versions of a model, the current one, and its changes.

use std::{pin::Pin, time::SystemTime};

use futures_util::{Stream, StreamExt};
use model_store::StoreError;
use proto::model::v1::{
    GetModelStatusRequest, GetModelStatusResponse, ListModelVersionsRequest,
    ListModelVersionsResponse, SetCurrentVersionRequest, SetCurrentVersionResponse,
    WatchModelRequest, WatchModelResponse,
    model_service_server::{ModelService, ModelServiceServer},
};
use runtime::{Page, Refusal, required};
use scoring::Model;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use crate::{
    live::{Live, unreachable},
    loaded::{describe, read},
};

/// ModelService of a model. Its watches end when the process drains.
pub(crate) fn server<M: Model>(
    live: &Live<M>,
    draining: watch::Receiver<bool>,
) -> ModelServiceServer<Api<M>> {
    ModelServiceServer::new(Api {
        live: live.clone(),
        draining,
    })
}

#[derive(Debug)]
pub(crate) struct Api<M> {
    live: Live<M>,
    draining: watch::Receiver<bool>,
}

impl<M: Model> Api<M> {
    fn check(&self, model: &str) -> Result<(), Refusal> {
        if model.is_empty() || model == M::KIND.as_str() {
            return Ok(());
        }
        Err(Refusal::NotServed {
            kind: "model",
            name: model.to_owned(),
            known: M::KIND.to_string(),
        })
    }

    async fn versions(
        &self,
        request: ListModelVersionsRequest,
    ) -> Result<ListModelVersionsResponse, Refusal> {
        self.check(&request.model)?;
        let versions = match self.live.store() {
            None => self.live.report().details.into_iter().collect(),
            Some(store) => {
                let versions = store
                    .versions(M::KIND)
                    .await
                    .map_err(|error| unreachable(&error))?;
                versions
                    .iter()
                    .map(|(manifest, channel)| describe(manifest, *channel))
                    .collect::<Vec<_>>()
            }
        };
        // The list may grow between two pages, which moves them but loses no version.
        let page = Page::of(
            "versions",
            request.page_size,
            &request.page_token,
            M::KIND,
            "",
        )?;
        let (versions, next_page_token) = page.cut(&versions);
        Ok(ListModelVersionsResponse {
            versions: versions.to_vec(),
            next_page_token,
        })
    }

    async fn set_current(
        &self,
        request: SetCurrentVersionRequest,
    ) -> Result<SetCurrentVersionResponse, Refusal> {
        self.check(&request.model)?;
        let SetCurrentVersionRequest {
            model: _,
            version,
            expected_version,
        } = request;
        let store = self.live.store().filter(|_| self.live.allows_publish());
        let store = store.ok_or(Refusal::NotAllowed {
            action: "publishing",
        })?;
        let version = required("version", &version)?;
        // A version that no service could load must not become current.
        let unusable =
            |problem: String| Refusal::field("version", format!("cannot be used: {problem}"));
        let artifact = match store.fetch(M::KIND, version).await {
            Ok(artifact) => artifact,
            Err(StoreError::NoVersion { version, .. }) => {
                return Err(Refusal::not_found("version", version));
            }
            Err(StoreError::Refused { source, .. }) => return Err(unusable(source.to_string())),
            Err(error) => return Err(unreachable(&error)),
        };
        read::<M>(artifact).await.map_err(unusable)?;
        let now = SystemTime::now().into();
        let pointer = match store
            .point_from(M::KIND, &expected_version, version, now)
            .await
        {
            Ok(pointer) => pointer,
            Err(StoreError::NoVersion { version, .. }) => {
                return Err(Refusal::not_found("version", version));
            }
            Err(StoreError::Moved {
                expected, found, ..
            }) => {
                return Err(Refusal::Changed {
                    what: "the current version",
                    expected,
                    found,
                });
            }
            Err(error) => return Err(unreachable(&error)),
        };
        let (model, before) = (M::KIND, expected_version);
        tracing::info!(%model, model.version = version, before, "published over the API");
        Ok(SetCurrentVersionResponse {
            version: pointer.version,
            previous_version: pointer.previous.unwrap_or_default(),
        })
    }
}

#[tonic::async_trait]
impl<M: Model> ModelService for Api<M> {
    async fn get_model_status(
        &self,
        request: Request<GetModelStatusRequest>,
    ) -> Result<Response<GetModelStatusResponse>, Status> {
        self.check(&request.into_inner().model)?;
        let (status, allows_publish) = (Some(self.live.report()), self.live.allows_publish());
        Ok(Response::new(GetModelStatusResponse {
            status,
            allows_publish,
        }))
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
        let changes = WatchStream::new(self.live.status()).map(|status| {
            Ok(WatchModelResponse {
                status: Some(status),
            })
        });
        let mut draining = self.draining.clone();
        let end = async move {
            if draining.wait_for(|draining| *draining).await.is_err() {
                // Without a listener, as in a test, no drain ends the watch.
                std::future::pending::<()>().await;
            }
        };
        Ok(Response::new(Box::pin(changes.take_until(Box::pin(end)))))
    }

    async fn set_current_version(
        &self,
        request: Request<SetCurrentVersionRequest>,
    ) -> Result<Response<SetCurrentVersionResponse>, Status> {
        Ok(Response::new(self.set_current(request.into_inner()).await?))
    }
}
