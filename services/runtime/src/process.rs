//! What the process itself uses, under OpenTelemetry's names for it: processor time, memory,
//! threads, open files. Read from Linux's /proc at each scrape; a system without /proc has only the
//! uptime.

use std::{fmt, fs, time::Instant};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use crate::metrics;

/// Unit in which Linux counts processor time, seconds; part of its interface to programs.
const TICK: f64 = 0.01;

/// Registers the metrics of this process. Its uptime starts now.
pub(crate) fn observe() {
    metrics::collect(Process {
        started: Instant::now(),
    });
}

#[derive(Debug)]
struct Process {
    started: Instant,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let uptime = self.started.elapsed().as_secs_f64();
        encoder
            .encode_descriptor(
                "process_uptime_seconds",
                "Time since the process started",
                None,
                MetricType::Gauge,
            )?
            .encode_gauge(&uptime)?;
        if let Some(modes) = cpu_time() {
            let mut family = encoder.encode_descriptor(
                "process_cpu_time_seconds",
                "Processor time taken, by mode",
                None,
                MetricType::Counter,
            )?;
            for (mode, seconds) in modes {
                family
                    .encode_family(&[("cpu_mode", mode)])?
                    .encode_counter::<NoLabelSet, _, f64>(&seconds, None)?;
            }
        }
        let memory_bytes = status("VmRSS:").map(|kib| kib * 1024);
        let gauges = [
            ("process_memory_usage_bytes", "Memory in use", memory_bytes),
            ("process_thread_count", "Threads", status("Threads:")),
            (
                "process_unix_file_descriptor_count",
                "Open files and sockets",
                open_files(),
            ),
        ];
        for (name, help, value) in gauges {
            let Some(value) = value else { continue };
            encoder
                .encode_descriptor(name, help, None, MetricType::Gauge)?
                .encode_gauge(&value)?;
        }
        Ok(())
    }
}

fn open_files() -> Option<i64> {
    i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

/// Processor time by mode, seconds.
fn cpu_time() -> Option<[(&'static str, f64); 2]> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name is in parentheses, and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut seconds = || Some(fields.next()?.parse::<f64>().ok()? * TICK);
    Some([("user", seconds()?), ("system", seconds()?)])
}

/// A number of /proc/self/status.
fn status(field: &str) -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(field))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_takes_time_memory_and_threads() {
        let spent = std::hint::black_box(
            (0..50_000_000_u64).fold(0, |sum, n| sum ^ std::hint::black_box(n)),
        );
        let [(_, user), (_, system)] = cpu_time().unwrap();
        assert!(
            user + system > 0.0 && user + system < 3600.0,
            "{user} {system} {spent}"
        );
        assert!(status("VmRSS:").unwrap() > 100 && status("Threads:").unwrap() >= 1);
        assert_eq!(status("Nothing:"), None);
    }
}
