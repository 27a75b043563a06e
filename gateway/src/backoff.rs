//! Exponential backoff with jitter, so that many clients of a lost server do not come back in step.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// The steps of a backoff: they double from `first` to `longest`. A pause is drawn at random
/// between half of its step and the whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

/// The pauses of one backoff, without end.
#[derive(Debug)]
pub(crate) struct Pauses {
    backoff: Backoff,
    delays: ExponentialBackoff,
}

impl Backoff {
    pub(crate) fn pauses(self) -> Pauses {
        Pauses {
            backoff: self,
            delays: self.delays(),
        }
    }

    fn delays(self) -> ExponentialBackoff {
        // The crate adds up to a whole step of jitter.
        ExponentialBuilder::new()
            .with_min_delay(self.first / 2)
            .with_max_delay(self.longest / 2)
            .without_max_times()
            .with_jitter()
            .build()
    }
}

impl Pauses {
    /// The pause before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        self.delays.next().unwrap_or(self.backoff.longest)
    }

    /// Begins again with the first pause: an attempt was a success.
    pub(crate) fn reset(&mut self) {
        self.delays = self.backoff.delays();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_differ() {
        let millis = Duration::from_millis;
        let backoff = Backoff {
            first: millis(20),
            longest: millis(500),
        };
        let mut pauses = backoff.pauses();
        for step in [20, 40, 80, 160, 320, 500, 500] {
            let pause = pauses.next();
            assert!(
                (millis(step) / 2..=millis(step)).contains(&pause),
                "{pause:?}"
            );
        }
        pauses.reset();
        assert!(pauses.next() <= millis(20));
        let mut others = backoff.pauses();
        assert!((0..10).any(|_| pauses.next() != others.next()));
    }
}
