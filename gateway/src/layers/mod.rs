//! What a call meets on its way down, a file each. `stack.rs` has their order.

pub(crate) mod adaptive_concurrency;
pub(crate) mod auth;
pub(crate) mod buffer;
pub mod cache;
pub(crate) mod deadline;
pub(crate) mod load_shed;
pub(crate) mod policy;
pub(crate) mod rescue;
pub(crate) mod retry;
pub(crate) mod route;
