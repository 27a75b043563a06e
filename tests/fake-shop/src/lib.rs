//! Services of the real API, without models, for tests: over real sockets, with answers that are
//! easy to check and faults that a test chooses.

#![expect(clippy::unwrap_used, reason = "what helps tests fails as tests do")]

use std::time::{Duration, Instant};

mod model;
mod risk_only;
mod running;
mod wires;

pub use model::{Manner, Model};
pub use risk_only::{RiskOnly, risk_only};
pub use running::Running;
pub use wires::Wires;

/// Longest that a condition is waited for, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
