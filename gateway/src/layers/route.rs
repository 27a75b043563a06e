//! Decides which service answers: the method's own, the one that a field of the request names, or
//! the gateway itself. A call of a service that this gateway has no address of ends here.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    call::{Call, Payload},
    grpc::frame,
    method::GATEWAY,
    middleware::{Handler, Middleware, MiddlewareLayer},
    outcome::Answer,
};

/// Why no service can answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouteError {
    /// The field that should name the service does not name any.
    #[error("{field} {problem}")]
    Field {
        /// The field.
        field: Arc<str>,
        /// What is wrong with it.
        problem: String,
    },
    /// The field names a service that is not here.
    #[error("there is no model `{name}` here; there is {known}")]
    Unknown {
        /// The name in the field.
        name: String,
        /// The names that would do.
        known: String,
    },
    /// The gateway was given no address of the service.
    #[error("this gateway has no {area} service")]
    NotConfigured {
        /// The service.
        area: Arc<str>,
    },
}

/// Routes calls to these services.
pub(crate) fn layer(areas: BTreeSet<Arc<str>>) -> MiddlewareLayer<Route> {
    MiddlewareLayer::new(Route { areas })
}

/// See [`layer`].
#[derive(Debug)]
pub(crate) struct Route {
    areas: BTreeSet<Arc<str>>,
}

impl Middleware<Call> for Route {
    type Next = Call;

    async fn handle(&self, mut call: Call, next: &impl Handler<Call>) -> Answer {
        call.area = self.area(&call)?;
        next.call(call).await
    }
}

impl Route {
    /// The service that answers.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::tests::call;
    use crate::{error::BoxError, middleware::tests::Bottom};
    use http::Response;
    use tonic::body::Body;
    use tower::{Layer, service_fn};

    /// The service that a call goes to.
    async fn routed(path: &str, message: &'static [u8]) -> Result<String, String> {
        let inner = service_fn(async |call: Call| {
            Ok::<_, BoxError>(
                Response::builder()
                    .header("area", &*call.area)
                    .body(Body::empty())
                    .unwrap(),
            )
        });
        let service =
            layer(["anomaly", "churn", "insights"].map(Into::into).into()).layer(Bottom(inner));
        let answer = service
            .call(call(path, message))
            .await
            .map_err(|error| error.to_string())?;
        Ok(answer.headers()["area"].to_str().unwrap().to_owned())
    }

    #[tokio::test]
    #[expect(
        clippy::too_many_lines,
        reason = "a table with a case per way to name a service"
    )]
    async fn a_method_or_its_field_names_the_service() {
        let status = "/shopkeeper.model.v1.ModelService/GetModelStatus";
        let infer = "/inference.GRPCInferenceService/ModelInfer";
        struct Case {
            path: &'static str,
            message: &'static [u8],
            area: Result<&'static str, &'static str>,
        }
        for Case {
            path,
            message,
            area,
        } in [
            Case {
                path: "/shopkeeper.churn.v1.ChurnService/GetChurnRisk",
                message: &b""[..],
                area: Ok("churn"),
            },
            Case {
                path: status,
                message: b"\x0a\x05churn",
                area: Ok("churn"),
            },
            Case {
                path: status,
                message: b"\x0a\x07anomaly",
                area: Ok("anomaly"),
            },
            Case {
                path: status,
                message: b"",
                area: Err("model is empty; it is one of anomaly, churn, insights"),
            },
            Case {
                path: status,
                message: b"\x0a\x01x",
                area: Err("there is no model `x` here; there is anomaly, churn, insights"),
            },
            Case {
                path: status,
                message: b"\x0a",
                area: Err("model cannot be read"),
            },
            Case {
                path: status,
                message: b"\x0a\x08insights",
                area: Ok("insights"),
            },
            Case {
                path: infer,
                message: b"\x0a\x05churn",
                area: Ok("churn"),
            },
            Case {
                path: infer,
                message: b"\x0a\x08insights",
                area: Err("there is no model `insights` here; there is anomaly, churn"),
            },
            Case {
                path: infer,
                message: b"\x0a\x07gateway",
                area: Err("there is no model `gateway` here; there is anomaly, churn"),
            },
            Case {
                path: infer,
                message: b"",
                area: Err("model_name is empty; it is one of anomaly, churn"),
            },
            Case {
                path: "/inference.GRPCInferenceService/ServerReady",
                message: b"",
                area: Ok("gateway"),
            },
            Case {
                path: "/shopkeeper.forecast.v1.ForecastService/ListSeries",
                message: b"",
                area: Err("this gateway has no forecast service"),
            },
        ] {
            assert_eq!(
                routed(path, message).await,
                area.map(Into::into).map_err(Into::into),
                "{path} {message:?}"
            );
        }
    }
}
