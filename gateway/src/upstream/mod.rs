//! The services behind this gateway: how one is found, watched, chosen among its replicas, and called.

pub(crate) mod backends;
pub(crate) mod balancer;
pub(crate) mod connection;
pub(crate) mod discovery;
pub(crate) mod hedge;
