//! What the process itself takes, under OpenTelemetry's names. Read from Linux's /proc whenever
//! somebody asks; where there is none, nothing is said.

use std::{fs, time::Instant};

use opentelemetry::{KeyValue, global};

/// What Linux counts processor time in, seconds; part of its interface to programs.
const TICK: f64 = 0.01;

/// Tells it from here on.
pub(crate) fn observe() {
    let (meter, started) = (global::meter("shopkeeper"), Instant::now());
    meter
        .f64_observable_gauge("process.uptime")
        .with_unit("s")
        .with_description("Time since the process started")
        .with_callback(move |observer| observer.observe(started.elapsed().as_secs_f64(), &[]))
        .build();
    meter
        .f64_observable_counter("process.cpu.time")
        .with_unit("s")
        .with_description("Processor time taken, by mode")
        .with_callback(|observer| {
            for (mode, seconds) in cpu_time().into_iter().flatten() {
                observer.observe(seconds, &[KeyValue::new("cpu.mode", mode)]);
            }
        })
        .build();
    let number = |name, unit, description, read: fn() -> Option<i64>| {
        let counter = meter
            .i64_observable_up_down_counter(name)
            .with_unit(unit)
            .with_description(description);
        counter
            .with_callback(move |observer| {
                read()
                    .into_iter()
                    .for_each(|now| observer.observe(now, &[]))
            })
            .build();
    };
    number("process.memory.usage", "By", "Memory in use", || {
        status("VmRSS:").map(|kib| kib * 1024)
    });
    number("process.thread.count", "{thread}", "Threads", || {
        status("Threads:")
    });
    number(
        "process.unix.file_descriptor.count",
        "{file_descriptor}",
        "Open files and sockets",
        open_files,
    );
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
