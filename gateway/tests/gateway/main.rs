//! The gateway over real sockets, with services built on the real API and a real Redis.

#![expect(clippy::unwrap_used, reason = "what helps tests fails as tests do")]

mod answers;
mod auth;
mod caching;
mod calls;
mod failures;
mod hostile;
mod load;
mod redis_cache;
mod redis_servers;
mod replicas;
mod secrets;
mod shop;
mod shutdown;
mod web;
