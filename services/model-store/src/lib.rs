//! The model store: versions, the pointer that names the current one, publishing and rollback; in a
//! folder or an object store.
//!
//! ```text
//! <model>/<version>/manifest.json   and the files it lists, written before it
//! <model>/current.json              the pointer, written last and atomically; it also names
//!                                   versions on trial
//! ```
//!
//! A version never changes: its name is a checksum of its content. A publisher that dies leaves
//! files that no pointer names. The store knows a model by its name alone.

mod error;
mod fetch;
mod mapped;
mod pointer;
mod publish;
mod store;

pub use error::StoreError;
pub use pointer::{Canary, Channel, Pointer};
pub use store::ModelStore;
