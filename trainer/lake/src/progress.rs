//! How a stage reports its progress.

/// Receives the progress of a stage.
pub trait Progress {
    /// A stage begins, with `total` steps ahead if that is known.
    fn begin(&self, stage: &str, total: Option<u64>);
    /// `n` more steps are done.
    fn advance(&self, n: u64);
    /// The stage is over.
    fn end(&self);
}

/// Ignores all progress.
#[derive(Debug, Clone, Copy)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn begin(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}
