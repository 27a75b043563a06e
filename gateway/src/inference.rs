//! The Open Inference Protocol's methods about a server: whether it is live and ready, and which
//! models it has. The gateway answers them for the services behind it; a call that names a model
//! goes to the service of that model.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proto::inference::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelReadyRequest, ModelReadyResponse, RepositoryIndexRequest, RepositoryIndexResponse,
    ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse,
    ServerReadyRequest, ServerReadyResponse,
    grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
    repository_index_response::ModelIndex,
};
use runtime::Refusal;
use tokio::sync::watch;
use tonic::{
    Request, Response, Status,
    codec::CompressionEncoding::{Gzip, Zstd},
    server::NamedService,
    service::Routes,
};

use crate::{
    model_versions::ModelVersions,
    upstream::backend::{Backend, in_process},
};

/// The gateway's own service, which answers for those services that implement the protocol.
pub(crate) fn answers(
    services: &BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    ready: &BTreeMap<Arc<str>, watch::Receiver<bool>>,
    versions: ModelVersions,
) -> Backend {
    let implementing = services.get(GrpcInferenceServiceServer::<Server>::NAME);
    let implements = |area: &Arc<str>| implementing.is_some_and(|areas| areas.contains(area));
    let models = ready
        .iter()
        .filter(|(area, _)| implements(area))
        .map(|(area, ready)| (area.clone(), ready.clone()));
    let server = GrpcInferenceServiceServer::new(Server {
        models: models.collect(),
        versions,
    });
    let server = server.accept_compressed(Gzip).accept_compressed(Zstd);
    in_process(Routes::new(
        server.send_compressed(Zstd).send_compressed(Gzip),
    ))
}

/// The models behind this gateway as those of one server.
struct Server {
    models: BTreeMap<Arc<str>, watch::Receiver<bool>>,
    versions: ModelVersions,
}

/// Answers a call that names a model. Such calls go to the service of the model; one that arrives
/// here names none that exists.
fn no_model(name: &str) -> Status {
    Refusal::NotServed {
        kind: "model",
        name: name.to_owned(),
        known: "none".to_owned(),
    }
    .into()
}

#[tonic::async_trait]
impl GrpcInferenceService for Server {
    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        let ready = !self.models.is_empty() && self.models.values().all(|ready| *ready.borrow());
        Ok(Response::new(ServerReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse::shopkeeper()))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let models = self.models.iter().map(|(model, ready)| {
            let version = self.versions.stable(model).filter(|_| *ready.borrow());
            ModelIndex::new(model, version.as_deref().map(String::as_str), "")
        });
        Ok(Response::new(RepositoryIndexResponse::of(
            models,
            request.get_ref().ready,
        )))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        Err(no_model(&request.get_ref().name))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        Err(no_model(&request.get_ref().name))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        Err(no_model(&request.get_ref().model_name))
    }
}
