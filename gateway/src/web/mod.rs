//! Entrances for callers without gRPC: JSON over HTTP with its OpenAPI document, gRPC-Web, and the
//! dashboard's pages. Each makes the same call of the same stack, so that the answer is the same.

mod dashboard;
mod json;
mod openapi;
mod rule;
mod template;
mod transcode;

use std::{
    collections::HashSet,
    convert::Infallible,
    sync::{Arc, LazyLock},
};

use axum::{Router, response::IntoResponse, routing::get};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response,
    header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE},
};
use prost_reflect::DescriptorPool;
use runtime::{Call, CallLayer};
use tonic::{Code, body::Body};
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::{Layer, ServiceExt, service_fn};
use tower_http::cors::{AllowOrigin, CorsLayer};
use url::Url;

use self::{
    rule::Rules,
    transcode::{Errors, Transcoder},
};
use crate::{
    layers::{auth::Auth, rescue},
    model_versions::MODEL_CHANNEL,
    stack::Stack,
};

/// Why the web cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The bytes are not a descriptor set.
    #[error("the descriptors cannot be read")]
    Descriptors(#[from] prost_reflect::DescriptorError),
    /// A path beside a method cannot be used.
    #[error("{0}")]
    Rule(String),
}

/// Options of the web.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Web")]
pub struct WebArgs {
    /// Sites with pages that may call this gateway, such as `https://admin.shop.example`; its own
    /// pages always may. Repeatable
    #[arg(
        long = "cors-origin",
        env = "SHOPKEEPER_CORS_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ',',
        value_parser = origin
    )]
    cors_origins: Vec<HeaderValue>,
    /// The shop's currency (ISO 4217, such as GBP), in which the dashboard writes amounts. Default:
    /// amounts without a unit
    #[arg(long, env = "SHOPKEEPER_CURRENCY", value_name = "CODE", value_parser = currency)]
    currency: Option<String>,
}

/// A site as browsers write it: without a path, and compared letter by letter.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let url = Url::parse(text)
        .ok()
        .filter(|url| ["http", "https"].contains(&url.scheme()));
    let origin = url.map(|url| url.origin().ascii_serialization());
    match origin {
        Some(origin) if origin == text => {
            HeaderValue::from_str(text).map_err(|error| error.to_string())
        }
        Some(origin) => Err(format!("a site is written as browsers do: {origin}")),
        None => Err(
            "a site is https://, its name, and its port if it has one; wildcards are not accepted"
                .to_owned(),
        ),
    }
}

fn currency(text: &str) -> Result<String, &'static str> {
    let is_code = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase());
    is_code
        .then(|| text.to_owned())
        .ok_or("a currency has three capital letters, such as GBP")
}

/// The entrances.
#[derive(Debug, Clone)]
pub(crate) struct Web {
    json: Transcoder<Call<Stack>>,
    grpc_web: GrpcWebService<Call<Stack>>,
    errors: Errors,
    openapi: Arc<LazyLock<String, Box<dyn FnOnce() -> String + Send>>>,
    auth: Auth,
    cors: CorsLayer,
    currency: Option<String>,
}

impl Web {
    /// Entrances to the methods of these descriptors, which `calls` answers.
    ///
    /// # Errors
    /// [`WebError`] if the options beside a method cannot be used.
    pub(crate) fn new(
        args: &WebArgs,
        descriptors: &[u8],
        auth: Auth,
        calls: Stack,
    ) -> Result<Self, WebError> {
        let pool = DescriptorPool::decode(descriptors)?;
        let rules =
            Arc::new(Rules::read(&pool).map_err(|error| WebError::Rule(error.to_string()))?);
        let calls = CallLayer.layer(calls);
        let cors = cors(&args.cors_origins, &rules);
        let document = rules.clone();
        Ok(Self {
            json: Transcoder::new(rules, &pool, calls.clone()),
            grpc_web: GrpcWebLayer::new().layer(calls),
            errors: Errors::new(&pool),
            openapi: Arc::new(LazyLock::new(Box::new(move || {
                openapi::document(&document).to_string()
            }))),
            auth,
            cors,
            currency: args.currency.clone(),
        })
    }

    /// Adds the paths of JSON and of the dashboard to those of gRPC.
    pub(crate) fn routes(&self, router: Router) -> Router {
        let json = self.json.clone();
        let json = service_fn(move |request: Request<axum::body::Body>| {
            let json = json.clone();
            async move { Ok::<_, Infallible>(json.answer(request.map(Body::new)).await) }
        });
        let document = self.openapi.clone();
        let document = get(async move || {
            (
                [(CONTENT_TYPE, "application/json")],
                LazyLock::force(&document).clone(),
            )
        });
        let (auth, errors) = (self.auth.clone(), self.errors.clone());
        // At this address as well as at the one for Prometheus: the dashboard shows them.
        let metrics = get(
            async move |headers: HeaderMap| match auth.check(&headers).await {
                Ok(()) => runtime::metrics::scrape(&headers).into_response(),
                Err(error) => errors
                    .answer(&rescue::not_admitted(error))
                    .map(axum::body::Body::new),
            },
        );
        let paths = Router::new()
            .route("/openapi.json", document)
            .route("/metrics", metrics)
            .route_service("/v1/{*path}", json);
        dashboard::routes(
            router.merge(paths.layer(self.cors.clone())),
            self.currency.as_deref(),
        )
    }

    /// Answers a request that is not gRPC at a path of gRPC: gRPC-Web, or a mistake.
    pub(crate) async fn answer(self, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        let web = request
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|t| t.as_bytes().starts_with(b"application/grpc-web"));
        let preflight = request.method() == Method::OPTIONS;
        if web || preflight {
            return self.cors.layer(self.grpc_web).oneshot(request).await;
        }
        let path = request.uri().path();
        let message = format!(
            "{path} is a method of gRPC, for application/grpc and application/grpc-web; \
             /openapi.json lists what JSON has"
        );
        Ok(self.errors.answer(&rescue::status_of(
            Code::NotFound,
            message,
            "NO_SUCH_PATH",
            None,
        )))
    }
}

/// Lets pages of these sites call, send a call's headers, and read an answer's headers.
fn cors(origins: &[HeaderValue], rules: &Rules) -> CorsLayer {
    const REQUEST: [HeaderName; 10] = [
        AUTHORIZATION,
        CACHE_CONTROL,
        CONTENT_TYPE,
        HeaderName::from_static("x-api-key"),
        HeaderName::from_static("x-request-id"),
        HeaderName::from_static("x-grpc-web"),
        HeaderName::from_static("x-user-agent"),
        HeaderName::from_static("grpc-timeout"),
        HeaderName::from_static("traceparent"),
        MODEL_CHANNEL,
    ];
    const RESPONSE: [HeaderName; 6] = [
        HeaderName::from_static("grpc-status"),
        HeaderName::from_static("grpc-message"),
        HeaderName::from_static("grpc-status-details-bin"),
        HeaderName::from_static("x-cache"),
        HeaderName::from_static("x-model-version"),
        HeaderName::from_static("retry-after"),
    ];
    let verbs: HashSet<_> = rules.iter().map(|rule| rule.verb.clone()).collect();
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins.iter().cloned()))
        .allow_methods(Vec::from_iter(verbs))
        .allow_headers(REQUEST)
        .expose_headers(RESPONSE)
        .max_age(std::time::Duration::from_secs(600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_written_as_browsers_write_it() {
        for (text, problem) in [
            ("https://shop.example", None),
            ("http://localhost:5173", None),
            (
                "https://shop.example/",
                Some("a site is written as browsers do: https://shop.example"),
            ),
            (
                "https://Shop.example:443",
                Some("a site is written as browsers do: https://shop.example"),
            ),
            ("*", Some("a site is https://, its name")),
            ("null", Some("a site is https://, its name")),
            ("shop.example", Some("a site is https://, its name")),
        ] {
            let refused = origin(text).err();
            let expected = refused
                .as_deref()
                .zip(problem)
                .is_some_and(|(said, problem)| said.starts_with(problem));
            assert!(
                expected || refused.is_none() && problem.is_none(),
                "{text}: {refused:?}"
            );
        }
    }
}
