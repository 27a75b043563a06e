//! What the Open Inference Protocol asks of a server rather than of a model: whether it lives,
//! whether its models are ready, and which there are. The gateway answers for the services behind
//! it; what is asked of a model goes to its service.

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

/// Answers for those of the services behind this gateway that speak the protocol.
pub(crate) fn answers(
    services: &BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    ready: &BTreeMap<Arc<str>, watch::Receiver<bool>>,
    versions: ModelVersions,
) -> Backend {
    let speak = services.get(GrpcInferenceServiceServer::<Server>::NAME);
    let speaks = |area: &Arc<str>| speak.is_some_and(|areas| areas.contains(area));
    let models = ready
        .iter()
        .filter(|(area, _)| speaks(area))
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

/// The models behind this gateway, as one server.
struct Server {
    models: BTreeMap<Arc<str>, watch::Receiver<bool>>,
    versions: ModelVersions,
}

/// Calls that name a model have gone to its service; the gateway has none of its own.
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
