//! The shop's entrances under arbitrary bytes: gRPC calls, JSON requests, tensors, model files.
//! tests/fuzz generates the bytes; the end-to-end tests replay its seeds and the inputs that once
//! broke something. A function here panics if an answer breaks what callers may rely on.

use std::{net::Ipv4Addr, path::Path};

use bytes::{BufMut, Bytes, BytesMut};
use clap::Parser;
use http::{HeaderMap, Method as Verb, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use model_store::ModelStore;
use prost::Message;
use proto::inference::ModelInferResponse;
use scoring::{
    Artifact, Model, ModelError, ModelKind, anomaly::AnomalyModel, churn::ChurnModel,
    forecast::ForecastModel, insights::InsightsModel, recommendation::RecommendationModel,
    segmentation::SegmentationModel,
};
use standalone::{Standalone, StandaloneArgs};
use tokio::runtime::Runtime;
use tonic::{Code, Status, body::Body, service::Routes};
use tower::ServiceExt;

/// A stream that does not end by itself.
const WATCH: &str = "/shopkeeper.model.v1.ModelService/WatchModel";
const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
/// The message that a bug is answered with.
const INTERNAL: &str = "internal error";

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    standalone: StandaloneArgs,
}

/// A shop in this process, without a socket, and the models that it serves.
pub struct Entrances {
    runtime: Runtime,
    routes: Routes,
    artifacts: Vec<Artifact>,
    _shop: Standalone,
}

impl Entrances {
    /// Opens the shop over a model store with a version of every model.
    pub fn open(models: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("no runtime");
        let args = Args::parse_from([
            "standalone".as_ref(),
            "--models".as_ref(),
            models.as_os_str(),
        ]);
        let (shop, artifacts) = runtime.block_on(async {
            let shop = args
                .standalone
                .build((Ipv4Addr::LOCALHOST, 0).into())
                .await
                .expect("the shop does not open");
            let store = ModelStore::open(&models.to_string_lossy()).expect("no model store");
            let mut artifacts = Vec::new();
            for kind in ModelKind::ALL {
                let current = store
                    .current(kind)
                    .await
                    .expect("no pointer")
                    .expect("no model")
                    .version;
                artifacts.push(store.fetch(kind, &current).await.expect("no artifact"));
            }
            (shop, artifacts)
        });
        Self {
            runtime,
            routes: shop.gateway.service().routes.prepare(),
            artifacts,
            _shop: shop,
        }
    }

    /// Makes a gRPC call: a line with its path, a line with its `grpc-encoding`, then the body.
    pub fn grpc(&self, bytes: &[u8]) {
        let Some((path, rest)) = line(bytes) else {
            return;
        };
        let Some((encoding, body)) = line(rest) else {
            return;
        };
        if path != WATCH {
            self.call(path, encoding, body);
        }
    }

    /// Makes a JSON request: a line with method and target, then the body.
    pub fn json(&self, bytes: &[u8]) {
        let Some((head, body)) = line(bytes) else {
            return;
        };
        let Some((verb, target)) = head.split_once(' ') else {
            return;
        };
        let Ok(verb) = Verb::from_bytes(verb.as_bytes()) else {
            return;
        };
        if !target.starts_with("/v1/") || target.contains(":watch") {
            return;
        }
        let request = Request::builder()
            .method(verb)
            .uri(target)
            .body(pieces(body));
        let Ok(request) = request else { return };
        let (head, body, _) = self.answer(request);
        assert_ne!(
            head.status,
            StatusCode::INTERNAL_SERVER_ERROR,
            "{}",
            String::from_utf8_lossy(&body)
        );
        for line in body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let read = serde_json::from_slice::<serde_json::Value>(line);
            assert!(
                read.is_ok(),
                "{} is not JSON",
                String::from_utf8_lossy(&body)
            );
        }
    }

    /// Calls ModelInfer with this message.
    pub fn inference(&self, message: &[u8]) {
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        body.put_slice(message);
        let Some(answer) = self.call(INFER, "identity", &body) else {
            return;
        };
        let answer = ModelInferResponse::decode(&answer[5..]).expect("the answer is none");
        assert_eq!(answer.outputs.len(), answer.raw_output_contents.len());
        for (output, raw) in answer.outputs.iter().zip(&answer.raw_output_contents) {
            if output.datatype == "FP64" {
                let numbers = raw
                    .as_chunks()
                    .0
                    .iter()
                    .map(|number| f64::from_le_bytes(*number));
                assert_eq!(
                    (numbers.len() as i64, raw.len() % 8),
                    (output.shape[0], 0),
                    "{}",
                    output.name
                );
                assert!(
                    numbers.into_iter().all(f64::is_finite),
                    "{} is not finite",
                    output.name
                );
            }
        }
    }

    /// Loads a damaged model whose checksums are right. The first byte selects the model, the
    /// others say how its files are changed; see `damaged`.
    pub fn model(&self, bytes: &[u8]) {
        let Some((which, damage)) = bytes.split_first() else {
            return;
        };
        let Some(artifact) = self.artifacts.get(usize::from(*which)) else {
            // Past the last model, the bytes are a manifest.
            let _ = Artifact::read_manifest(damage);
            return;
        };
        let damaged = damaged(artifact, damage);
        // Loading may fail; a model that loads must answer.
        let _ = match artifact.manifest().model {
            ModelKind::Segmentation => loads::<SegmentationModel>(&damaged),
            ModelKind::Forecast => loads::<ForecastModel>(&damaged),
            ModelKind::Recommendation => loads::<RecommendationModel>(&damaged),
            ModelKind::Churn => loads::<ChurnModel>(&damaged),
            ModelKind::Anomaly => loads::<AnomalyModel>(&damaged),
            ModelKind::Insights => loads::<InsightsModel>(&damaged),
        };
    }

    /// The body of the answer, if its status is OK.
    fn call(&self, path: &str, encoding: &str, body: &[u8]) -> Option<Bytes> {
        let request = Request::builder()
            .method(Verb::POST)
            .uri(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-encoding", encoding)
            .body(pieces(body))
            .ok()?;
        let (head, body, trailers) = self.answer(request);
        if head.status != StatusCode::OK {
            return None; // not the path of a method
        }
        let status =
            Status::from_header_map(&head.headers).or_else(|| Status::from_header_map(&trailers));
        let status = status.unwrap_or_else(|| panic!("{path} ends without a status"));
        assert_ne!(status.message(), INTERNAL, "{path}");
        (status.code() == Code::Ok).then_some(body)
    }

    fn answer(&self, request: Request<Body>) -> (http::response::Parts, Bytes, HeaderMap) {
        self.runtime.block_on(async {
            let response: Response<Body> = self
                .routes
                .clone()
                .oneshot(request)
                .await
                .unwrap_or_else(|never| match never {});
            let (head, body) = response.into_parts();
            let body = body.collect().await.expect("the answer breaks off");
            let trailers = body.trailers().cloned().unwrap_or_default();
            (head, body.to_bytes(), trailers)
        })
    }
}

fn loads<M: Model>(artifact: &Artifact) -> Result<(), ModelError> {
    M::load(artifact).map(|model| model.warm())
}

/// The first line, and the bytes after it.
fn line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

/// A body of two frames.
fn pieces(bytes: &[u8]) -> Body {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let frames =
        [first, second].map(|piece| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(piece))));
    Body::new(StreamBody::new(tokio_stream::iter(frames)))
}

/// An artifact with changed files. A change is: the number of the file (the last one is the
/// parameters), the kind of change, two bytes of offset (from the end if the highest bit of the
/// kind is set), a length, and the bytes.
fn damaged(artifact: &Artifact, mut damage: &[u8]) -> Artifact {
    let manifest = artifact.manifest();
    let mut files: Vec<(String, Vec<u8>)> = artifact
        .files()
        .iter()
        .map(|(name, bytes)| (name.clone(), bytes.to_vec()))
        .collect();
    files.push((String::new(), manifest.parameters.to_string().into_bytes()));
    while let Some(([file, what, high, low, length], rest)) = damage.split_first_chunk() {
        let (given, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        damage = rest;
        let place = usize::from(*file) % files.len();
        let (_, bytes) = &mut files[place];
        let distance = usize::from(u16::from_be_bytes([*high, *low])).min(bytes.len());
        let start = if what & 0x80 == 0 {
            distance
        } else {
            bytes.len() - distance
        };
        let end = bytes.len().min(start + given.len());
        match what % 4 {
            0 => bytes[start..end].copy_from_slice(&given[..end - start]),
            1 => drop(bytes.splice(start..start, given.iter().copied())),
            2 => drop(bytes.drain(start..end)),
            _ => bytes.truncate(start),
        }
    }
    let parameters = files
        .pop()
        .and_then(|(_, text)| serde_json::from_slice(&text).ok());
    let parameters: serde_json::Value = parameters.unwrap_or_default();
    let builder = Artifact::builder(
        manifest.model,
        &manifest.recipe,
        manifest.as_of,
        manifest.seed,
    );
    let builder = builder.parameters(&parameters).expect("JSON is JSON");
    let builder = files
        .into_iter()
        .fold(builder, |builder, (name, bytes)| builder.file(&name, bytes));
    builder.finish().evaluated(
        manifest.metrics.clone(),
        manifest.gates.clone(),
        manifest.backtest.clone(),
    )
}
