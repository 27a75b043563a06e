//! The `grpc-timeout` header of a request to a service: the time that is left.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::error::DeadlineError;

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Writes what is left until the deadline into a request's headers.
pub(crate) fn carry(headers: &mut HeaderMap, deadline: Instant) -> Result<(), DeadlineError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(DeadlineError::Passed);
    }
    if let Ok(value) = HeaderValue::try_from(written(left)) {
        headers.insert(TIMEOUT, value);
    }
    Ok(())
}

/// At most eight digits and a unit, as the protocol has it. Rounded up: a service must not give up
/// before its caller does.
fn written(left: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let units = [
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
    ];
    let written = units.iter().find_map(|(nanos, unit)| {
        let count = left.as_nanos().div_ceil(*nanos);
        (count <= MOST).then(|| format!("{count}{unit}"))
    });
    written.unwrap_or_else(|| format!("{MOST}M"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_written_in_eight_digits() {
        for (left, text) in [
            (Duration::from_nanos(1), "1u"),
            (Duration::from_millis(250), "250000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(200_000), "200000S"),
            (Duration::from_secs(100_000_000), "1666667M"),
            (Duration::MAX, "99999999M"),
        ] {
            assert_eq!(written(left), text);
        }
        let mut headers = HeaderMap::new();
        assert!(carry(&mut headers, Instant::now() + Duration::from_secs(1)).is_ok());
        assert!(carry(&mut headers, Instant::now()).is_err());
    }
}
