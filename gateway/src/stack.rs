//! The gateway on one page: what a call meets, from top to bottom.
//!
//! Around it is what every process has: a span, the caller's W3C trace context, a duration metric,
//! a guard against panics (`runtime::Server`).

use std::convert::Infallible;

use http::{Request, Response};
use tokio::sync::watch;
use tonic::body::Body;
use tower::{ServiceBuilder, util::BoxCloneSyncService};

use crate::{
    layers::{
        adaptive_concurrency,
        auth::{self, Auth},
        buffer,
        cache::{self, Tiers},
        deadline, load_shed, policy, rescue, retry, route,
    },
    method::{GATEWAY, Methods},
    model_versions::ModelVersions,
    upstream::{backend::Backend, backends::Backends},
};

/// Answers every call of every service.
pub type Stack = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// The parts of the stack.
#[derive(Debug)]
pub struct Parts {
    /// The methods and their policies, from the .proto files.
    pub methods: Methods,
    /// The services.
    pub backends: Backends,
    /// The caches of answers.
    pub cache: Tiers,
    /// Which callers are admitted.
    pub auth: Auth,
    /// Calls that may be in flight.
    pub in_flight: usize,
}

pub(crate) fn stack(
    parts: Parts,
    versions: ModelVersions,
    own: Backend,
    draining: watch::Receiver<bool>,
) -> Stack {
    let areas = parts.backends.areas();
    ServiceBuilder::new()
        .layer(rescue::layer()) // an error from below becomes a status here, and nowhere else
        .layer(policy::layer(parts.methods)) // the options beside the rpc in its .proto
        .layer(load_shed::layer(parts.in_flight)) // before the call has cost any work
        .layer(auth::layer(parts.auth)) // from here on the caller is known and admitted
        .layer(deadline::layer(draining)) // the caller's or the method's, whichever is sooner
        .layer(buffer::layer()) // requests that a layer below needs whole
        .layer(route::layer(areas.clone())) // from here on the service is known
        .layer(cache::layer(parts.cache, versions)) // a hit ends here
        .layer(retry::layer(areas.clone())) // NO_SIDE_EFFECTS only
        .layer(adaptive_concurrency::layer(areas, parts.in_flight)) // what a service keeps up with
        // To a service, or to the gateway's own methods.
        .service(parts.backends.with(GATEWAY, own).dispatch())
}
