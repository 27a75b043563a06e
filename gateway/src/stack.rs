//! The gateway on one page: what a call meets, from top to bottom.
//!
//! Around it every process has the same: a span, the W3C context of the caller, a duration, a
//! caught panic (`runtime::Server`).

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

/// Every call of every service, answered.
pub type Stack = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// What the stack is made of.
#[derive(Debug)]
pub struct Parts {
    /// What the .proto files say.
    pub methods: Methods,
    /// The services behind.
    pub backends: Backends,
    /// Where answers are kept.
    pub cache: Tiers,
    /// Who is let in.
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
    BoxCloneSyncService::new(
        ServiceBuilder::new()
            .layer(rescue::layer()) // an error from below becomes a status here, and nowhere else
            .layer(policy::layer(parts.methods)) // the options beside the rpc in its .proto
            .layer(load_shed::layer(parts.in_flight)) // before anything has cost us work
            .layer(auth::layer(parts.auth)) // from here on there is a caller, who may call this
            .layer(deadline::layer(draining)) // the caller's or the method's, whichever is sooner
            .layer(buffer::layer()) // requests that are needed whole
            .layer(route::layer(areas.clone())) // from here on it is known who is asked
            .layer(cache::layer(parts.cache, versions)) // a hit ends here
            .layer(retry::layer(areas.clone())) // NO_SIDE_EFFECTS only
            .layer(adaptive_concurrency::layer(areas, parts.in_flight)) // as many as the service answers without delay
            // To a service, or to the gateway's own methods.
            .service(parts.backends.with(GATEWAY, own).dispatch()),
    )
}
