//! A service as callers see it, wherever it runs.

use std::convert::Infallible;

use http::{Request, Response};
use tonic::{body::Body, service::Routes};
use tower::{ServiceExt, util::BoxCloneSyncService};

use crate::error::BoxError;

/// A service behind the gateway.
pub type Backend = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// A service in this process, called without a socket.
pub fn in_process(routes: Routes) -> Backend {
    let routes = routes.prepare();
    BoxCloneSyncService::new(ServiceExt::<Request<Body>>::map_err(
        routes,
        |never: Infallible| match never {},
    ))
}
