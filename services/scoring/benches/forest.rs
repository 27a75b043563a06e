//! What a vector costs a forest, alone and among many: `cargo bench -p scoring --bench forest`.
//!
//! Trees and vectors are made up, 48 features each. One core does it.
#![expect(clippy::print_stdout, reason = "what was measured is the output")]

mod draw;

use std::{hint::black_box, time::Instant};

use scoring::{Forest, ModelError};

use draw::Draw;

const WIDTH: usize = 48;
const VECTORS: usize = 1000;
const ROUNDS: usize = 21;

fn main() -> Result<(), ModelError> {
    println!(
        "{:>6} {:>6} {:>12} {:>18} {:>18}",
        "trees", "depth", "alone, µs", "with reasons, µs", "among 1000, µs"
    );
    let mut draw = Draw(7);
    let vectors: Vec<f32> = (0..VECTORS * WIDTH)
        .map(|_| draw.below(1000) as f32)
        .collect();
    for (trees, depth) in [(300, 8), (150, 4), (400, 6)] {
        let inner = (1 << depth) - 1;
        let features: Vec<i32> = (0..trees * inner)
            .map(|_| draw.below(WIDTH) as i32)
            .collect();
        let thresholds: Vec<f32> = features.iter().map(|_| draw.below(1000) as f32).collect();
        let values: Vec<f32> = (0..trees * (2 * inner + 1))
            .map(|_| draw.below(100) as f32 / 1000.0)
            .collect();
        let forest = Forest::new(WIDTH, depth, &features, &thresholds, &values)?;
        let mut parts = [0.0; WIDTH];
        let each = || vectors.chunks_exact(WIDTH);
        let alone = median(|| each().map(|vector| forest.sum(vector)).sum());
        let reasons = median(|| {
            each()
                .map(|vector| forest.contribute(vector, &mut parts))
                .sum()
        });
        let among = median(|| forest.sums(&vectors, WIDTH).iter().sum());
        println!("{trees:>6} {depth:>6} {alone:>12.2} {reasons:>18.2} {among:>18.2}");
    }
    Ok(())
}

/// Median time of a vector, µs.
fn median(mut score_all: impl FnMut() -> f64) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            black_box(score_all());
            1e6 * start.elapsed().as_secs_f64() / VECTORS as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}
