//! What a stage cost: wall time, and the most memory the process held meanwhile.

use std::time::Instant;

use serde::Serialize;

/// What a stage cost.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Usage {
    pub(crate) stage: String,
    pub(crate) wall_s: f64,
    /// Peak resident memory during the stage, MiB; `None` where the system does not say.
    pub(crate) peak_mib: Option<u64>,
}

/// Runs `work` and measures it.
pub(crate) fn measure<T, E>(
    stage: &str,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<(T, Usage), E> {
    // Linux forgets the peak so far when told to; elsewhere, and where that is forbidden, the peak
    // is the process's.
    let _ = fs_err::write("/proc/self/clear_refs", "5");
    let start = Instant::now();
    let value = work()?;
    let wall_s = start.elapsed().as_secs_f64();
    Ok((
        value,
        Usage {
            stage: stage.to_owned(),
            wall_s,
            peak_mib: peak_mib(),
        },
    ))
}

fn peak_mib() -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}
