//! What a line costs that is scored alone, or with others of a stream, as AnomalyService does it:
//! `cargo bench -p scoring --bench anomaly`.
//!
//! The shop is made up, and as large as Online Retail: 4,000 products and as many customers, each
//! with as many lines as are remembered, and 200 trees of depth 5. Lines take products and
//! customers in an order that no cache foresees.
#![expect(clippy::print_stdout, reason = "what was measured is the output")]

mod draw;

use std::{hint::black_box, time::Instant};

use scoring::{
    Forest, ModelError,
    anomaly::{
        ALONE, History, Judge, Level, OF_PRODUCT, Parameters, Scorer, Shop, Transaction, WIDTH,
    },
};

use draw::Draw;

const PRODUCTS: usize = 4_000;
const CUSTOMERS: usize = 4_000;
const TREES: usize = 200;
const DEPTH: u32 = 5;
const LINES: usize = 200_000;
/// Lines of a stream that AnomalyService scores together at most.
const AT_ONCE: usize = 64;

fn forest(width: usize, draw: &mut Draw) -> Result<Forest, ModelError> {
    let inner = (1 << DEPTH) - 1;
    let features: Vec<i32> = (0..TREES * inner)
        .map(|_| draw.below(width) as i32)
        .collect();
    let thresholds: Vec<f32> = features
        .iter()
        .map(|_| draw.below(600) as f32 / 100.0 - 3.0)
        .collect();
    let values: Vec<f32> = (0..TREES * (2 * inner + 1))
        .map(|_| draw.below(100) as f32 / 1_000.0)
        .collect();
    Forest::new(width, DEPTH, &features, &thresholds, &values)
}

fn parameters(shop: Shop) -> Parameters {
    let judge = Judge {
        base: 0.0,
        learnt_below: 1.0,
        severity: [0.0, 1.0, 2.0],
    };
    Parameters {
        shop,
        whole: judge,
        alone: judge,
    }
}

fn main() -> Result<(), ModelError> {
    let mut draw = Draw(20_240_607);
    let level = |median, spread| Level { median, spread };
    let shop = Shop {
        quantity: level(1.4, 0.9),
        price: level(0.7, 1.0),
        price_within: 0.1,
    };
    let products: Vec<String> = (0..PRODUCTS).map(|product| format!("P{product}")).collect();
    let customers: Vec<String> = (0..CUSTOMERS)
        .map(|customer| format!("{customer}"))
        .collect();
    let mut line = || Transaction {
        stock_code: &products[draw.below(PRODUCTS)],
        quantity: (1 + draw.below(48)) as f64,
        unit_price: (10 + draw.below(900)) as f64 / 100.0,
        customer_id: &customers[draw.below(CUSTOMERS)],
    };
    let mut history = History::new(shop);
    for _ in 0..2 * PRODUCTS * OF_PRODUCT {
        let line = history.number(&line());
        history.push(&line, 0);
    }
    history.refresh_all();
    let lines: Vec<Transaction<'_>> = (0..LINES).map(|_| line()).collect();
    let scorer = Scorer {
        parameters: parameters(shop),
        whole: forest(WIDTH, &mut draw)?,
        alone: forest(ALONE, &mut draw)?,
        history,
    };
    let start = Instant::now();
    let total: f64 = lines
        .iter()
        .map(|line| black_box(scorer.score(black_box(line))).score)
        .sum();
    let took = start.elapsed().as_nanos() / LINES as u128;
    println!(
        "a line alone: {took} ns (mean of {LINES} lines, mean score {:.3})",
        total / LINES as f64
    );
    let start = Instant::now();
    let total: f64 = lines
        .chunks(AT_ONCE)
        .flat_map(|lines| black_box(scorer.scores(lines)))
        .map(|score| score.score)
        .sum();
    let took = start.elapsed().as_nanos() / LINES as u128;
    println!(
        "a line among {AT_ONCE}: {took} ns (mean score {:.3})",
        total / LINES as f64
    );
    Ok(())
}
