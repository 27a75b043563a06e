//! The services behind this gateway: how their replicas are found, watched, picked and called.

pub(crate) mod backend;
pub(crate) mod backends;
pub(crate) mod balancer;
mod body;
mod circuit_breaker;
pub(crate) mod connection;
pub(crate) mod discovery;
mod hedge;
mod in_flight;
mod outlier_detection;
mod peak_ewma;
mod picker;
mod replica;
mod replica_set;
mod target;
mod watch;
