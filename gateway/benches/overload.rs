//! What becomes of calls when there are more than a service can answer: `cargo bench -p gateway
//! --bench overload`.
//!
//! A service that can do 40 calls a second is offered one, two, five and ten times as many through
//! a gateway, over real sockets: checkouts for half of what it can do, the others
//! lists that can wait.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement, for somebody who looks on"
)]

#[path = "../tests/gateway/load.rs"]
mod load;
#[path = "../tests/gateway/shop.rs"]
#[expect(dead_code, reason = "the tests need more of it")]
mod shop;

use std::time::{Duration, Instant};

use load::{Became, CAPACITY, HANDS, TAKES, checkout, list, offer};

const LASTS: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() {
    println!("{HANDS} calls at once, {TAKES:?} each: {CAPACITY} a second, for {LASTS:?}");
    println!(
        "load | answered of capacity | checkouts: answered, p50, p99 | lists: answered, refused, \
         failed, p50, p99"
    );
    for times in [1, 2, 5, 10] {
        let (_model, _service, front) = load::start().await;
        let start = Instant::now();
        let (checkouts, lists) = tokio::join!(
            offer(&front, CAPACITY / 2, LASTS, checkout),
            offer(&front, CAPACITY * times - CAPACITY / 2, LASTS, list)
        );
        let answered = checkouts.answered.len() + lists.answered.len();
        let could = f64::from(CAPACITY) * start.elapsed().as_secs_f64();
        println!(
            "{times:>3}x | {:.0} % | {} of {}, {:.0?}, {:.0?} | {} of {}, {}, {}, {:.0?}, {:.0?}",
            100.0 * answered as f64 / could,
            checkouts.answered.len(),
            checkouts.offered,
            within(&checkouts, 0.5),
            within(&checkouts, 0.99),
            lists.answered.len(),
            lists.offered,
            lists.refused,
            lists.failed.len(),
            within(&lists, 0.5),
            within(&lists, 0.99),
        );
    }
}

/// The time within which this share of the answered calls was answered.
fn within(calls: &Became, share: f64) -> Duration {
    let mut took = calls.answered.clone();
    took.sort();
    let at = (took.len() as f64 * share) as usize;
    took.get(at.min(took.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}
