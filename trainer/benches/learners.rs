//! Time and quality of parts of the learners on given data: `make bench-learners` runs this program
//! and scikit-learn or `implicit` on the same data, and prints both.
//!
//! ```text
//! learners kmeans X.npy RESTARTS K...
//!     Prints inertia and time for each k.
//! learners forest X.npy Y.npy NEW.npy TREES SHARES.npy
//!     Fits a forest to X and Y, prints its time, and writes its predictions for NEW to SHARES.
//! learners als CELLS.npy
//!     Prints the time of 20 iterations. CELLS has rows of (row, column, weight), in order.
//! learners fold-in FILE AS-OF
//!     Prints NDCG for customers with one order: as customers of the model, and as baskets.
//! ```
//!
//! Times are wall and CPU seconds.
#![expect(clippy::print_stdout, reason = "the measurements are the output")]

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
    time::Instant,
};

use chrono::{Duration, NaiveDate, NaiveDateTime};
use lake::{CurateOptions, IngestOptions, Lake, NoProgress};
use polars::prelude::{IntoLazy, col, lit};
use scoring::{
    Model,
    recommendation::{Query, RecommendationModel},
};
use tch::{Device, Kind, Tensor};
use trainer::learn::{
    Learner, Training,
    forest::{Bagging, Binned, Growth, bag},
    recommendation::{RecommendationLearner, als},
    segmentation::k_means,
};
use transactions::LineKind;

/// Iterations of ALS; the first is not measured.
const ITERATIONS: u64 = 21;

/// Measures wall and CPU seconds.
struct Stopwatch(Instant, f64);

impl Stopwatch {
    fn start() -> Self {
        Self(Instant::now(), cpu_seconds())
    }

    fn read(&self) -> String {
        format!(
            "{} {}",
            self.0.elapsed().as_secs_f64(),
            cpu_seconds() - self.1
        )
    }
}

/// CPU seconds of this process; Linux counts hundredths.
fn cpu_seconds() -> f64 {
    let stat = fs_err::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .skip(11)
        .take(2);
    ticks
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

type Done = Result<(), Box<dyn std::error::Error>>;

fn main() -> Done {
    // As in the trainer's `main`.
    tch::set_num_threads(1);
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["kmeans", x, restarts, ref ks @ ..] => {
            kmeans(&Tensor::read_npy(x)?, restarts.parse()?, ks)
        }
        ["forest", x, y, new, trees, shares] => forest(x, y, new, trees.parse()?, shares),
        ["als", cells] => factorise(&Tensor::read_npy(cells)?),
        ["fold-in", file, as_of] => fold_in(Path::new(file), as_of.parse::<NaiveDate>()?.into()),
        // `cargo bench` without a name runs every benchmark.
        [] => Ok(()),
        _ => Err("see the head of trainer/benches/learners.rs for the arguments".into()),
    }
}

fn kmeans(x: &Tensor, restarts: i64, ks: &[&str]) -> Done {
    for k in ks {
        let watch = Stopwatch::start();
        let fit = k_means(x, k.parse()?, restarts, 42, || {});
        println!("{} {}", fit.inertia, watch.read());
    }
    Ok(())
}

fn rows(path: &str) -> Result<(Vec<f32>, usize), Box<dyn std::error::Error>> {
    let tensor = Tensor::read_npy(path)?;
    Ok((
        Vec::try_from(tensor.contiguous().view(-1))?,
        tensor.size()[1] as usize,
    ))
}

fn forest(x: &str, y: &str, new: &str, trees: i64, shares: &str) -> Done {
    let ((x, width), (new, _)) = (rows(x)?, rows(new)?);
    let y: Vec<f64> = Vec::try_from(Tensor::read_npy(y)?.to_kind(Kind::Double))?;
    let growth = Growth {
        depth: 8,
        least: 20.0,
        ridge: 0.0,
        tried: 18,
    };
    let bagging = Bagging {
        trees,
        batch: trees,
        growth,
    };
    let watch = Stopwatch::start();
    let binned = Binned::of(&x.chunks_exact(width).collect::<Vec<_>>(), 64, Device::Cpu);
    let owner: Vec<u32> = (0..y.len() as u32).collect();
    let (forest, _) = bag(&binned, &owner, &y, bagging, 42, |_| {})?;
    println!("{}", watch.read());
    let found: Vec<f64> = new
        .chunks_exact(width)
        .map(|x| forest.sum(x) / trees as f64)
        .collect();
    Ok(Tensor::from_slice(&found).write_npy(shares)?)
}

fn factorise(cells: &Tensor) -> Done {
    let flat: Vec<f64> = Vec::try_from(cells.to_kind(Kind::Double).contiguous().view(-1))?;
    let cells: Vec<(usize, usize, f64)> = flat
        .chunks_exact(3)
        .map(|cell| (cell[0] as usize, cell[1] as usize, cell[2]))
        .collect();
    let size = |of: fn(&(usize, usize, f64)) -> usize| {
        cells.iter().map(of).max().map_or(0, |most| most + 1)
    };
    let sizes = [size(|cell| cell.0), size(|cell| cell.1)];
    // From the end of the first iteration on, so that preparation is not measured.
    let mut watch = None;
    let settings = als::Settings {
        iterations: ITERATIONS,
        ..RecommendationLearner::ALS
    };
    let _products = als::factorise(&cells, sizes, settings, 42, Device::Cpu, || {
        watch.get_or_insert_with(Stopwatch::start);
    })?;
    println!("{}", watch.map(|watch| watch.read()).unwrap_or_default());
    Ok(())
}

/// Compares recommendations for customers with a single order in the 60 days before the as-of time:
/// by a model trained with them, and by one trained without them that is given the order as a
/// basket.
#[expect(
    clippy::too_many_lines,
    reason = "an experiment told in order: customers are chosen, two models trained and compared"
)]
fn fold_in(file: &Path, as_of: NaiveDateTime) -> Done {
    let folder = tempfile::tempdir()?;
    let lake = Lake::create(folder.path())?;
    lake::ingest(
        &[file.to_path_buf()],
        &lake,
        &IngestOptions::default(),
        &NoProgress,
    )?;
    lake::curate(&lake, &CurateOptions::default(), &NoProgress)?;
    let is_sale = col("kind").eq(lit(LineKind::Sale.as_str()));
    let known = is_sale.and(col("customer_id").is_not_null());
    let sales = lake.transactions()?.filter(known).collect()?;
    let at = |time: NaiveDateTime| time.and_utc().timestamp_micros();
    let (from, to) = (
        at(as_of - Duration::days(60)),
        at(as_of + Duration::days(90)),
    );
    let mut shoppers: BTreeMap<&str, Shopper<'_>> = BTreeMap::new();
    for line in lake::lines(&sales)? {
        let line = line?;
        let Some(customer) = line.customer else {
            continue;
        };
        let shopper = shoppers.entry(customer).or_default();
        if line.time >= at(as_of) {
            let is_next = line.time < to;
            shopper.next.extend(is_next.then_some(line.stock_code));
        } else {
            shopper.orders.insert(line.invoice);
            shopper.basket.insert(line.stock_code);
            shopper.early |= line.time < from;
        }
    }
    shoppers.retain(|_, shopper| shopper.orders.len() == 1 && !shopper.early);
    let names: Vec<String> = shoppers.keys().map(|name| (*name).to_owned()).collect();
    let left_out = sales
        .column("customer_id")?
        .as_materialized_series()
        .clone();
    let unknown: Vec<bool> = left_out
        .str()?
        .iter()
        .map(|name| name.is_none_or(|name| !shoppers.contains_key(name)))
        .collect();
    let others = sales.filter(&polars::prelude::BooleanChunked::from_iter(
        unknown.into_iter().map(Some),
    ))?;
    let trained = |transactions| -> Result<RecommendationModel, Box<dyn std::error::Error>> {
        let training = Training {
            transactions,
            as_of,
            seed: 42,
            device: Device::Cpu,
            recipe: None,
            previous: None,
            progress: &NoProgress,
        };
        Ok(RecommendationModel::load(
            &RecommendationLearner.train(&training)?,
        )?)
    };
    let (retrained, without) = (trained(sales.clone().lazy())?, trained(others.lazy())?);
    let (mut as_customer, mut as_basket, mut measured) = (0.0, 0.0, 0);
    for name in &names {
        let shopper = &shoppers[name.as_str()];
        let next: HashSet<&str> = shopper.next.difference(&shopper.basket).copied().collect();
        if next.is_empty() {
            continue;
        }
        let basket = shopper
            .basket
            .iter()
            .filter_map(|code| without.product(code))
            .collect();
        let of = |model: &RecommendationModel, query: Query| {
            let list = model.recommend(&Query {
                limit: 10,
                new_only: true,
                ..query
            });
            ndcg(
                list.iter()
                    .map(|found| model.products()[found.product].stock_code.as_str()),
                &next,
            )
        };
        as_customer += of(
            &retrained,
            Query {
                customer: retrained.customer(name),
                ..Query::default()
            },
        );
        as_basket += of(
            &without,
            Query {
                basket,
                ..Query::default()
            },
        );
        measured += 1;
    }
    let mean = |sum: f64| sum / f64::from(measured.max(1));
    let (as_customer, as_basket) = (mean(as_customer), mean(as_basket));
    println!("{} {measured} {as_customer} {as_basket}", names.len());
    Ok(())
}

/// A customer's orders and products before and after the as-of time.
#[derive(Default)]
struct Shopper<'a> {
    orders: HashSet<&'a str>,
    basket: HashSet<&'a str>,
    next: HashSet<&'a str>,
    /// Whether the customer ordered before the window.
    early: bool,
}

fn ndcg<'a>(list: impl Iterator<Item = &'a str>, relevant: &HashSet<&str>) -> f64 {
    let gain = |rank: usize| 1.0 / (rank as f64 + 2.0).log2();
    let got: f64 = list
        .enumerate()
        .filter(|(_, code)| relevant.contains(code))
        .map(|(rank, _)| gain(rank))
        .sum();
    got / (0..relevant.len().min(10)).map(gain).sum::<f64>()
}
