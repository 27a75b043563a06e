//! Decides who is asked: the method's own service, the one that a field of the request names, or
//! the gateway itself. What is asked of a service that this gateway was not told of ends here.

use std::{
    collections::BTreeSet,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{Either, Ready, ready};
use http::Response;
use tonic::body::Body;
use tower::{Layer, Service, layer::layer_fn};

use crate::{
    call::{Call, Payload},
    error::BoxError,
    grpc::frame,
    method::GATEWAY,
};

/// Why nobody is asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouteError {
    /// The field that names whom to ask does not.
    #[error("{field} {problem}")]
    Field {
        /// The field.
        field: Arc<str>,
        /// What is wrong with it.
        problem: String,
    },
    /// The field names nobody.
    #[error("there is no model `{name}` here; there is {known}")]
    Unknown {
        /// Whom it names.
        name: String,
        /// Whom it can name.
        known: String,
    },
    /// Nobody said where the service is.
    #[error("this gateway has no {area} service")]
    NotConfigured {
        /// Which.
        area: Arc<str>,
    },
}

/// Knows these services.
pub(crate) fn layer<S>(areas: BTreeSet<Arc<str>>) -> impl Layer<S, Service = Routing<S>> + Clone {
    let areas = Arc::new(areas);
    layer_fn(move |inner| Routing {
        inner,
        areas: areas.clone(),
    })
}

/// See [`layer`].
#[derive(Debug, Clone)]
pub(crate) struct Routing<S> {
    inner: S,
    areas: Arc<BTreeSet<Arc<str>>>,
}

impl<S> Routing<S> {
    fn area(&self, call: &Call) -> Result<Arc<str>, RouteError> {
        let Some(field) = &call.method.route_field else {
            let known = &*call.area == GATEWAY || self.areas.contains(&call.area);
            let area = known.then(|| call.area.clone());
            return area.ok_or_else(|| RouteError::NotConfigured {
                area: call.area.clone(),
            });
        };
        let can_be_named = |area: &&Arc<str>| field.to.is_empty() || field.to.contains(*area);
        let named = match &call.payload {
            Payload::Whole {
                message: Some(message),
                ..
            } => frame::string_field(message, field.number),
            Payload::Whole { message: None, .. } | Payload::Stream(_) => None,
        };
        let known = || {
            let areas: Vec<_> = self
                .areas
                .iter()
                .filter(can_be_named)
                .map(|area| &**area)
                .collect();
            if areas.is_empty() {
                "none".to_owned()
            } else {
                areas.join(", ")
            }
        };
        let problem = match named {
            None => "cannot be read".to_owned(),
            Some("") => format!("is empty; it is one of {}", known()),
            Some(named) => {
                let area = self.areas.get(named).filter(can_be_named).cloned();
                return area.ok_or_else(|| RouteError::Unknown {
                    name: named.to_owned(),
                    known: known(),
                });
            }
        };
        Err(RouteError::Field {
            field: field.name.clone(),
            problem,
        })
    }
}

impl<S> Service<Call> for Routing<S>
where
    S: Service<Call, Response = Response<Body>, Error = BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<Response<Body>, BoxError>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        match self.area(&call) {
            Ok(area) => {
                call.area = area;
                Either::Left(self.inner.call(call))
            }
            Err(error) => Either::Right(ready(Err(error.into()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::tests::call;
    use tower::{ServiceExt, service_fn};

    async fn asked(path: &str, message: &'static [u8]) -> Result<String, String> {
        let inner = service_fn(async |call: Call| {
            Ok::<_, BoxError>(
                Response::builder()
                    .header("area", &*call.area)
                    .body(Body::empty())
                    .unwrap(),
            )
        });
        let service = layer(["anomaly", "churn", "insights"].map(Into::into).into()).layer(inner);
        let answer = service
            .oneshot(call(path, message))
            .await
            .map_err(|error| error.to_string())?;
        Ok(answer.headers()["area"].to_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn a_method_or_its_field_says_who_is_asked() {
        let status = "/shopkeeper.model.v1.ModelService/GetModelStatus";
        let infer = "/inference.GRPCInferenceService/ModelInfer";
        for (path, message, area) in [
            (
                "/shopkeeper.churn.v1.ChurnService/GetChurnRisk",
                &b""[..],
                Ok("churn"),
            ),
            (status, b"\x0a\x05churn", Ok("churn")),
            (status, b"\x0a\x07anomaly", Ok("anomaly")),
            (
                status,
                b"",
                Err("model is empty; it is one of anomaly, churn, insights"),
            ),
            (
                status,
                b"\x0a\x01x",
                Err("there is no model `x` here; there is anomaly, churn, insights"),
            ),
            (status, b"\x0a", Err("model cannot be read")),
            (status, b"\x0a\x08insights", Ok("insights")),
            (infer, b"\x0a\x05churn", Ok("churn")),
            (
                infer,
                b"\x0a\x08insights",
                Err("there is no model `insights` here; there is anomaly, churn"),
            ),
            (
                infer,
                b"\x0a\x07gateway",
                Err("there is no model `gateway` here; there is anomaly, churn"),
            ),
            (
                infer,
                b"",
                Err("model_name is empty; it is one of anomaly, churn"),
            ),
            (
                "/inference.GRPCInferenceService/ServerReady",
                b"",
                Ok("gateway"),
            ),
            (
                "/shopkeeper.forecast.v1.ForecastService/ListSeries",
                b"",
                Err("this gateway has no forecast service"),
            ),
        ] {
            assert_eq!(
                asked(path, message).await,
                area.map(Into::into).map_err(Into::into),
                "{path} {message:?}"
            );
        }
    }
}
