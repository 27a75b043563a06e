//! The Redis that replicas share: cached answers and callers' quotas go through one connection,
//! which is left out of calls while it fails.

mod args;
mod certificates;
mod client;
mod servers;

pub use self::{args::RedisArgs, certificates::Certificates, client::Client, servers::RedisError};
pub(crate) use self::{args::secret, servers::is_about_the_value};
