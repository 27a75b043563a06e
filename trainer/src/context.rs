//! What every command is given.

use chrono::{DateTime, Utc};
use tokio::runtime::{Builder, Runtime};

use crate::{Console, Failure};

/// What every command is given.
#[derive(Debug)]
pub struct Context<'a> {
    /// For results, progress and notes.
    pub console: &'a Console,
    /// The present time.
    pub now: DateTime<Utc>,
    /// Runs calls of the model store.
    pub runtime: Runtime,
}

impl<'a> Context<'a> {
    /// A context with a runtime of its own.
    ///
    /// # Errors
    /// [`Failure::Process`].
    pub fn new(console: &'a Console, now: DateTime<Utc>) -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::Process)?;
        Ok(Self {
            console,
            now,
            runtime,
        })
    }
}
