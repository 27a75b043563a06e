//! The Redis that replicas share: cached answers and callers' quotas go through one connection,
//! which is left out of calls while it fails.

mod args;
mod client;
mod servers;

pub(crate) use self::{args::secret, servers::is_about_the_value};
pub use self::{
    args::{Certificates, RedisArgs},
    client::Client,
    servers::RedisError,
};
