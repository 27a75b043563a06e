//! How long this process did not run: because it was stopped, its container had used up its share
//! of the processor, or the virtual machine was moved. Meanwhile callers' deadlines pass, and what
//! they sent in all that time is read at once.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// The time between two beats.
const INTERVAL: Duration = Duration::from_millis(50);
/// A gap between two beats from which on the process counts as paused.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// How long after a pause the backlog of that time may still be read.
const BACKLOG: Duration = Duration::from_secs(1);

/// Beats as long as the process runs.
#[derive(Debug)]
pub(crate) struct Heartbeat(Mutex<Beats>);

#[derive(Debug)]
struct Beats {
    last: Instant,
    /// The latest pause: its length and its end.
    pause: Option<(Duration, Instant)>,
}

impl Heartbeat {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(Beats {
            last: now,
            pause: None,
        }))
    }

    /// Beats until it is dropped.
    pub(crate) async fn run(&self) {
        loop {
            sleep(INTERVAL).await;
            self.beats().beat(Instant::now());
        }
    }

    /// How long the process was paused, if it is only now working off what came meanwhile.
    pub(crate) fn recent_pause(&self, now: Instant) -> Duration {
        self.beats().recent_pause(now)
    }

    fn beats(&self) -> MutexGuard<'_, Beats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Beats {
    fn beat(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(self.last);
        if gap >= SHORTEST_PAUSE {
            self.pause = Some((gap, now));
        }
        self.last = now;
    }

    fn recent_pause(&self, now: Instant) -> Duration {
        // A connection may run before the first beat after a pause.
        let gap = now.saturating_duration_since(self.last);
        if gap >= SHORTEST_PAUSE {
            return gap;
        }
        match self.pause {
            Some((length, end)) if now.saturating_duration_since(end) < BACKLOG => length,
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_known_from_its_end_until_its_backlog_is_read() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut beats = Beats {
            last: start,
            pause: None,
        };
        let recent = |beats: &Beats, millis| beats.recent_pause(at(millis)).as_millis();
        for millis in [50, 100, 160] {
            beats.beat(at(millis));
            assert_eq!(recent(&beats, millis), 0);
        }
        assert_eq!(recent(&beats, 460), 300, "before the next beat");
        beats.beat(at(470));
        assert_eq!(recent(&beats, 500), 310);
        for millis in (520..1_500).step_by(50) {
            beats.beat(at(millis));
        }
        assert_eq!(recent(&beats, 1_460), 310);
        assert_eq!(recent(&beats, 1_480), 0);
    }
}
