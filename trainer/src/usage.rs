//! Wall time and peak memory of stages.

use std::time::Instant;

use serde::Serialize;

/// Wall time and peak memory of a stage.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Usage {
    pub(crate) stage: String,
    pub(crate) wall_s: f64,
    /// Peak resident memory during the stage in MiB; `None` if the system does not report it.
    pub(crate) peak_mib: Option<u64>,
}

/// Runs a stage; if it succeeds, appends its usage to `stages`.
pub(crate) fn measure<T, E>(
    stage: &str,
    stages: &mut Vec<Usage>,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    // On Linux, writing 5 resets the peak of resident memory. If that fails, the peak is that of
    // the whole process.
    let _ = fs_err::write("/proc/self/clear_refs", "5");
    let start = Instant::now();
    let value = work()?;
    stages.push(Usage {
        stage: stage.to_owned(),
        wall_s: start.elapsed().as_secs_f64(),
        peak_mib: peak_mib(),
    });
    Ok(value)
}

fn peak_mib() -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}
