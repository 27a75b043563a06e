//! The Open Inference Protocol over a model: clients of Triton and KServe ask it as they are used
//! to. A model says which tensors it takes and gives, and how it scores a batch; all else is here.

mod tensor;

use proto::inference::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelReadyRequest, ModelReadyResponse, RepositoryIndexRequest, RepositoryIndexResponse,
    ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse,
    ServerReadyRequest, ServerReadyResponse,
    grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
    model_infer_request::InferRequestedOutputTensor,
    repository_index_response::ModelIndex,
};
use runtime::{Refusal, required};
use scoring::Model;
use tonic::{Request, Response, Status};

pub use tensor::{Batch, Element, Info, Output, Tensor, at};

use crate::{Live, Loaded, limited};

/// What runs a model, as its metadata says.
const PLATFORM: &str = "shopkeeper";

/// A model as the protocol asks it.
#[derive(Debug)]
pub struct Interface<M: 'static> {
    /// What it takes.
    pub inputs: &'static [Info],
    /// What it gives.
    pub outputs: &'static [Info],
    /// Scores a batch; gives every output.
    pub infer: fn(&M, &Batch<'_>) -> Result<Vec<Output>, Refusal>,
}

/// The protocol's service over a model.
pub fn service<M: Model>(
    live: &Live<M>,
    interface: &'static Interface<M>,
) -> GrpcInferenceServiceServer<impl GrpcInferenceService> {
    limited!(GrpcInferenceServiceServer::new(Api {
        live: live.clone(),
        interface
    }))
}

struct Api<M: 'static> {
    live: Live<M>,
    interface: &'static Interface<M>,
}

fn expect_model<M: Model>(field: &str, name: &str) -> Result<(), Refusal> {
    if required(field, name)? == M::KIND.as_str() {
        return Ok(());
    }
    Err(Refusal::NotServed {
        kind: "model",
        name: name.to_owned(),
        known: M::KIND.to_string(),
    })
}

fn expect_version<M>(loaded: &Loaded<M>, version: &str) -> Result<(), Refusal> {
    let known = &loaded.info.version;
    if version.is_empty() || version == known {
        return Ok(());
    }
    Err(Refusal::NotServed {
        kind: "version",
        name: version.to_owned(),
        known: known.clone(),
    })
}

#[tonic::async_trait]
impl<M: Model> GrpcInferenceService for Api<M> {
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
        Ok(Response::new(ServerReadyResponse {
            ready: self.live.current().is_ok(),
        }))
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
        let status = self.live.status().borrow().clone();
        let version = Some(status.version.as_str()).filter(|version| !version.is_empty());
        let model = ModelIndex::new(&status.model, version, &status.refusal);
        Ok(Response::new(RepositoryIndexResponse::of(
            [model],
            request.get_ref().ready,
        )))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        expect_model::<M>("name", &request.get_ref().name)?;
        if self.live.current().is_err() {
            return Ok(Response::new(ModelReadyResponse { ready: false }));
        }
        let asked = request.get_ref();
        self.live.asked(&request)?.answer(|loaded| {
            expect_version(loaded, &asked.version)?;
            Ok(ModelReadyResponse { ready: true })
        })
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        expect_model::<M>("name", &request.get_ref().name)?;
        let (interface, asked) = (self.interface, request.get_ref());
        self.live.asked(&request)?.answer(|loaded| {
            expect_version(loaded, &asked.version)?;
            Ok(ModelMetadataResponse {
                name: asked.name.clone(),
                versions: vec![loaded.info.version.clone()],
                platform: PLATFORM.to_owned(),
                inputs: interface.inputs.iter().map(Info::metadata).collect(),
                outputs: interface.outputs.iter().map(Info::metadata).collect(),
            })
        })
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        expect_model::<M>("model_name", &request.get_ref().model_name)?;
        let interface = self.interface;
        self.live.answer(request, move |loaded, asked| {
            infer(loaded, interface, asked)
        })
    }
}

fn infer<M>(
    loaded: &Loaded<M>,
    interface: &Interface<M>,
    request: &ModelInferRequest,
) -> Result<ModelInferResponse, Refusal> {
    expect_version(loaded, &request.model_version)?;
    let wanted = wanted(&request.outputs, interface.outputs)?;
    let batch = Batch::of(request, interface.inputs)?;
    let mut given = (interface.infer)(&loaded.model, &batch)?;
    let mut response = ModelInferResponse {
        model_name: request.model_name.clone(),
        model_version: loaded.info.version.clone(),
        id: request.id.clone(),
        ..ModelInferResponse::default()
    };
    for info in wanted {
        let place = given
            .iter()
            .position(|output| output.info == *info)
            .ok_or(Refusal::Internal)?;
        let output = given.swap_remove(place);
        response.outputs.push(output.info.output(batch.rows()));
        response.raw_output_contents.push(output.raw);
    }
    Ok(response)
}

/// The outputs that are asked for, each once.
fn wanted<'a>(
    asked: &[InferRequestedOutputTensor],
    outputs: &'a [Info],
) -> Result<Vec<&'a Info>, Refusal> {
    let mut wanted: Vec<&Info> = Vec::with_capacity(outputs.len());
    for InferRequestedOutputTensor { name, parameters } in asked {
        let refused = |problem: String| Err(Refusal::field(format!("outputs.{}", name), problem));
        match outputs.iter().find(|info| info.name() == name) {
            None => {
                return refused(format!(
                    "is none of the model's: {}",
                    tensor::names(outputs)
                ));
            }
            Some(info) if wanted.contains(&info) => {
                return refused("is asked for twice".to_owned());
            }
            Some(_) if !parameters.is_empty() => {
                return refused("has parameters, and takes none".to_owned());
            }
            Some(info) => wanted.push(info),
        }
    }
    Ok(if wanted.is_empty() {
        outputs.iter().collect()
    } else {
        wanted
    })
}

#[cfg(test)]
mod tests;
