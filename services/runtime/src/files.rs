//! Files that are read again when they change: API keys, certificates.

use std::{path::PathBuf, time::Duration, time::SystemTime};

/// Pause between two looks at the files.
const POLL_EVERY: Duration = Duration::from_secs(2);

/// Files, with their times and sizes at the last look. They are polled, since network file systems
/// and mounted secrets send no events.
#[derive(Debug)]
pub struct Files {
    paths: Vec<PathBuf>,
    seen: Vec<Option<(SystemTime, u64)>>,
}

impl Files {
    /// These files, as they are now.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let paths: Vec<_> = paths.into_iter().collect();
        let seen = paths
            .iter()
            .map(|path| stamp(std::fs::metadata(path)))
            .collect();
        Self { paths, seen }
    }

    /// Resolves when one of them has changed since the last look.
    pub async fn changed(&mut self) {
        loop {
            tokio::time::sleep(POLL_EVERY).await;
            let mut now = Vec::with_capacity(self.paths.len());
            for path in &self.paths {
                now.push(stamp(tokio::fs::metadata(path).await));
            }
            if now != self.seen {
                self.seen = now;
                return;
            }
        }
    }
}

fn stamp(metadata: std::io::Result<std::fs::Metadata>) -> Option<(SystemTime, u64)> {
    let metadata = metadata.ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
