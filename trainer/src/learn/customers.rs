//! Customers at an instant: features from before it, spend after it. Churn and segmentation learn
//! from them.

use std::collections::{HashMap, HashSet};

use chrono::{Datelike, NaiveDateTime};
use lake::Random;
use scoring::{
    ModelKind,
    churn::{HORIZON_DAYS, TASTES, WIDTH, logarithm},
    customer::{self, LIVE_DAYS},
};
use tch::{Device, Kind as Dtype, Tensor};
use transactions::LineKind;

use super::{
    LearnError, Training,
    lines::{DAY, Lines, seconds},
    statistics::{nearest_quantile, sorted},
};

/// Cut-offs in days before the as-of time; the 90 days after each are known.
const CUT_OFFS: [i64; 7] = [90, 105, 120, 135, 150, 165, 180];
const LAST_CUT_OFF: i64 = CUT_OFFS[CUT_OFFS.len() - 1];
/// Sales of a quarter over the year's average, without growth: e-commerce in the United States, not
/// adjusted over seasonally adjusted, second quarter of 2010 (37.2 / 39.7 billion dollars), third
/// (38.8 / 41.5), fourth (53.2 / 44.5) and first of 2011 (43.7 / 46.0); Census Bureau, Quarterly
/// Retail E-Commerce Sales, releases CB10-171 and May 2011.
const RETAIL: [f64; 4] = [0.950, 0.937, 0.935, 1.196];
/// Days with orders from which on a month counts as seen.
const LEAST_OPEN: usize = 10;
/// Days of history that a cut-off needs.
const LEAST_HISTORY: i64 = 30;
const LEAST_CUSTOMERS: u64 = 100;
/// Buyers that a product needs to be part of the taste space.
const LEAST_BUYERS: usize = 3;
/// Oversampled directions, and rounds of power iteration (Halko et al. 2011, section 4.5).
const OVERSAMPLED: i64 = 10;
const POWERS: usize = 4;

/// The lines of every customer.
pub(crate) struct Customers {
    pub(crate) lines: Lines,
    by_customer: Vec<Vec<customer::Line>>,
    /// Times at which each product was sold, ascending.
    sold: Vec<Vec<i64>>,
    first: i64,
    as_of: i64,
}

/// Customers at an instant.
pub(crate) struct Snapshot {
    pub(crate) customers: Vec<u32>,
    /// A vector of [`WIDTH`] for each customer.
    pub(crate) features: Vec<Vec<f32>>,
    /// Spend of each customer in the 90 days after the instant; 0: no purchase.
    pub(crate) spend: Vec<f64>,
}

/// Snapshots with known outcomes, the latest first, and the one of the as-of time.
pub(crate) struct Study {
    pub(crate) past: Vec<Snapshot>,
    pub(crate) now: Snapshot,
}

impl Study {
    /// Customers, features and next spend of all past snapshots.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (u32, &[f32], f64)> {
        self.past.iter().flat_map(|s| {
            s.customers
                .iter()
                .zip(&s.features)
                .zip(&s.spend)
                .map(|((customer, x), spend)| (*customer, x.as_slice(), *spend))
        })
    }
}

impl Customers {
    pub(crate) fn of(training: &Training<'_>) -> Result<Self, LearnError> {
        let lines = Lines::of(training)?;
        let mut by_customer = vec![Vec::new(); lines.customers.len()];
        let mut sold = vec![Vec::new(); lines.products.len()];
        for line in &lines.lines {
            if line.kind == LineKind::Sale {
                sold[line.product as usize].push(line.time);
            }
            let Some(customer) = line.customer else {
                continue;
            };
            // A duplicate was bought once, and adjustments are not the customer's behaviour.
            if line.is_duplicate || !(line.is_paid() || line.kind == LineKind::Cancellation) {
                continue;
            }
            by_customer[customer as usize].push(customer::Line {
                time: line.time,
                invoice: line.invoice.into(),
                product: line.product,
                quantity: line.quantity as f64,
                amount: line.total.to_f64(),
            });
        }
        sold.iter_mut().for_each(|times| times.sort_unstable());
        let first = lines
            .lines
            .iter()
            .map(|line| line.time)
            .min()
            .unwrap_or_default();
        Ok(Self {
            lines,
            by_customer,
            sold,
            first,
            as_of: seconds(training.as_of),
        })
    }

    /// The snapshots. Tastes are learnt from purchases before the latest past cut-off, so that no
    /// snapshot's features contain its outcome.
    pub(crate) fn study(
        &self,
        model: ModelKind,
        training: &Training<'_>,
    ) -> Result<Study, LearnError> {
        let past: Vec<i64> = CUT_OFFS
            .iter()
            .map(|days| self.as_of - days * DAY)
            .filter(|cut_off| cut_off - self.first >= LEAST_HISTORY * DAY)
            .collect();
        let latest = past.first().copied().unwrap_or(self.first);
        let found = self
            .by_customer
            .iter()
            .filter(|lines| bought_before(lines, latest))
            .count() as u64;
        if found < LEAST_CUSTOMERS {
            let (needed, as_of) = (LEAST_CUSTOMERS, training.as_of);
            return Err(LearnError::TooLittle {
                model,
                what: "customers 90 days",
                needed,
                found,
                as_of,
            });
        }
        let tastes = Tastes::of(self, latest, training)?;
        let past = past
            .into_iter()
            .map(|cut_off| self.at(cut_off, &tastes))
            .collect();
        Ok(Study {
            past,
            now: self.at(self.as_of, &tastes),
        })
    }

    fn at(&self, cut_off: i64, tastes: &Tastes) -> Snapshot {
        use rayon::prelude::*;
        let end = cut_off + HORIZON_DAYS * DAY;
        let live: Vec<bool> = self
            .sold
            .iter()
            .map(|times| {
                let before = times.partition_point(|time| *time < cut_off);
                before > 0 && times[before - 1] >= cut_off - LIVE_DAYS * DAY
            })
            .collect();
        let known = self
            .by_customer
            .par_iter()
            .enumerate()
            .filter_map(|(customer, lines)| {
                let mut features =
                    customer::features(lines, cut_off, |product| live[product as usize])?;
                features.extend(tastes.of_customer(lines, cut_off));
                Some((
                    customer as u32,
                    features,
                    spend_between(lines, cut_off, end),
                ))
            });
        let mut snapshot = Snapshot {
            customers: Vec::new(),
            features: Vec::new(),
            spend: Vec::new(),
        };
        for (customer, features, spend) in known.collect::<Vec<_>>() {
            snapshot.customers.push(customer);
            snapshot.features.push(features);
            snapshot.spend.push(spend);
        }
        snapshot
    }

    /// Spend in the 90 days after an instant of each customer with a purchase before it.
    pub(crate) fn next_spend(&self, from: NaiveDateTime) -> HashMap<&str, f64> {
        let from = seconds(from);
        let end = from + HORIZON_DAYS * DAY;
        let known = self
            .by_customer
            .iter()
            .enumerate()
            .filter(|(_, lines)| bought_before(lines, from));
        let name = |customer| self.lines.customers.name(customer as u32);
        known
            .map(|(customer, lines)| (name(customer), spend_between(lines, from, end)))
            .collect()
    }

    /// The factor by which orders per day in the 90 days after the as-of time should exceed those
    /// of the days that were learnt from, by the orders per open day of each calendar month in the
    /// last year. Months without data are those of retail at large ([`RETAIL`]) at this shop's
    /// level.
    pub(crate) fn season(&self) -> f64 {
        let month = |time: i64| {
            chrono::DateTime::from_timestamp(time, 0)
                .unwrap_or_default()
                .month0() as usize
        };
        let mut orders: [HashSet<u32>; 12] = Default::default();
        let mut open: [HashSet<i64>; 12] = Default::default();
        let year = self
            .lines
            .lines
            .iter()
            .filter(|line| line.kind == LineKind::Sale && line.time >= self.as_of - 365 * DAY);
        for line in year {
            orders[month(line.time)].insert(line.invoice);
            open[month(line.time)].insert(line.time.div_euclid(DAY));
        }
        let seen = |month: usize| {
            (open[month].len() >= LEAST_OPEN)
                .then(|| orders[month].len() as f64 / open[month].len() as f64)
        };
        let levels: Vec<f64> = (0..12)
            .filter_map(|month| Some(seen(month)? / RETAIL[month / 3]))
            .collect();
        if levels.is_empty() {
            return 1.0;
        }
        let level = levels.iter().sum::<f64>() / levels.len() as f64;
        let of = |month: usize| seen(month).unwrap_or(level * RETAIL[month / 3]);
        let mean = |from: i64, to: i64| {
            (from..to)
                .map(|day| of(month(self.as_of + day * DAY)))
                .sum::<f64>()
                / (to - from) as f64
        };
        (mean(0, HORIZON_DAYS) / mean(-LAST_CUT_OFF, 0)).clamp(0.8, 1.25)
    }
}

fn bought_before(lines: &[customer::Line], cut_off: i64) -> bool {
    lines
        .iter()
        .any(|line| line.quantity > 0.0 && line.time < cut_off)
}

fn spend_between(lines: &[customer::Line], from: i64, to: i64) -> f64 {
    let bought = lines
        .iter()
        .filter(|line| line.quantity > 0.0 && (from..to).contains(&line.time));
    bought.map(|line| line.amount).sum()
}

/// The products that customers buy, in few coordinates: the leading right singular vectors of the
/// matrix of customers by products. Its entries are log counts weighted by the rarity of the
/// product, its rows have length 1 (latent semantic analysis, Deerwester et al. 1990).
struct Tastes {
    /// Rarity and coordinates of each product with at least [`LEAST_BUYERS`].
    products: HashMap<u32, (f64, [f64; TASTES])>,
}

impl Tastes {
    fn of(
        customers: &Customers,
        cut_off: i64,
        training: &Training<'_>,
    ) -> Result<Self, LearnError> {
        let counts: Vec<Vec<(u32, f64)>> = customers
            .by_customer
            .iter()
            .map(|lines| counts(lines, cut_off))
            .filter(|counts| !counts.is_empty())
            .collect();
        let mut buyers = vec![0_usize; customers.lines.products.len()];
        counts
            .iter()
            .flatten()
            .for_each(|(product, _)| buyers[*product as usize] += 1);
        let frequent: Vec<u32> = (0..buyers.len() as u32)
            .filter(|p| buyers[*p as usize] >= LEAST_BUYERS)
            .collect();
        let rank = (TASTES as i64)
            .min(frequent.len() as i64)
            .min(counts.len() as i64);
        let place: HashMap<u32, i64> = frequent
            .iter()
            .enumerate()
            .map(|(at, product)| (*product, at as i64))
            .collect();
        let rarity = |product: u32| {
            ((counts.len() as f64 + 1.0) / (buyers[product as usize] as f64 + 1.0)).ln()
        };

        let (mut rows, mut columns, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (row, counts) in counts.iter().enumerate() {
            let known = counts
                .iter()
                .filter(|(product, _)| place.contains_key(product));
            let cells: Vec<(i64, f64)> = known
                .map(|(product, count)| (place[product], count * rarity(*product)))
                .collect();
            let length = length(&cells);
            for (column, value) in cells {
                rows.push(row as i64);
                columns.push(column);
                values.push(value / length);
            }
        }
        let vectors = singular_vectors(
            &rows,
            &columns,
            &values,
            [counts.len() as i64, frequent.len() as i64],
            rank,
            training,
        )?;
        let mut products = HashMap::with_capacity(frequent.len());
        for (at, product) in frequent.iter().enumerate() {
            let mut coordinates = [0.0; TASTES];
            coordinates[..rank as usize]
                .copy_from_slice(&vectors[at * rank as usize..][..rank as usize]);
            products.insert(*product, (rarity(*product), coordinates));
        }
        Ok(Self { products })
    }

    fn of_customer(&self, lines: &[customer::Line], cut_off: i64) -> [f32; TASTES] {
        let (mut sum, mut square) = ([0.0; TASTES], 0.0);
        for (product, count) in counts(lines, cut_off) {
            let Some((rarity, coordinates)) = self.products.get(&product) else {
                continue;
            };
            let value = count * rarity;
            square += value * value;
            sum.iter_mut()
                .zip(coordinates)
                .for_each(|(sum, coordinate)| *sum += value * coordinate);
        }
        let length = f64::sqrt(square).max(1e-12);
        sum.map(|sum| (sum / length) as f32)
    }
}

/// The Euclidean norm of a row's values, above 0.
fn length(cells: &[(i64, f64)]) -> f64 {
    let squares = cells.iter().map(|(_, value)| value * value);
    squares.sum::<f64>().sqrt().max(1e-12)
}

/// `ln(1 + n)` for each product that a customer has bought `n` times, in order of product.
fn counts(lines: &[customer::Line], cut_off: i64) -> Vec<(u32, f64)> {
    let mut bought: Vec<u32> = lines
        .iter()
        .filter(|line| line.quantity > 0.0 && line.time < cut_off)
        .map(|line| line.product)
        .collect();
    bought.sort_unstable();
    bought
        .chunk_by(|a, b| a == b)
        .map(|same| (same[0], (same.len() as f64).ln_1p()))
        .collect()
}

/// The leading right singular vectors `[columns, rank]` of a sparse matrix, by a randomised range
/// finder with power iteration (Halko et al. 2011, algorithms 4.4 and 5.1). No dense matrix is
/// larger than rows or columns by rank.
fn singular_vectors(
    rows: &[i64],
    columns: &[i64],
    values: &[f64],
    [n, m]: [i64; 2],
    rank: i64,
    training: &Training<'_>,
) -> Result<Vec<f64>, LearnError> {
    let (device, options) = (training.device, (Dtype::Double, training.device));
    let sparse = |rows: &[i64], columns: &[i64], size: [i64; 2]| -> Result<Tensor, LearnError> {
        let at = Tensor::from_slice(&[rows, columns].concat())
            .view([2, -1])
            .to_device(device);
        let values = Tensor::from_slice(values).to_device(device);
        Ok(
            Tensor::f_sparse_coo_tensor_indices_size(&at, &values, size, options, false)?
                .f_coalesce()?,
        )
    };
    let (matrix, transposed) = (
        sparse(rows, columns, [n, m])?,
        sparse(columns, rows, [m, n])?,
    );
    let wide = (rank + OVERSAMPLED).min(n).min(m);
    let mut random = Random::new(training.seed);
    let start: Vec<f64> = (0..m * wide).map(|_| random.normal()).collect();
    let basis =
        |of: Tensor| -> Result<Tensor, LearnError> { Ok(Tensor::f_linalg_qr(&of, "reduced")?.0) };
    let mut range =
        basis(matrix.f_mm(&Tensor::from_slice(&start).view([m, wide]).to_device(device))?)?;
    for _ in 0..POWERS {
        let back = basis(transposed.f_mm(&range)?)?;
        range = basis(matrix.f_mm(&back)?)?;
    }
    // A = Q Qᵀ A; the right singular vectors of the small QᵀA are those of A.
    let small = transposed.f_mm(&range)?;
    let (vectors, _, _) = small.f_svd(true, true)?;
    let leading = vectors
        .narrow(1, 0, rank)
        .to_device(Device::Cpu)
        .contiguous();
    Ok(Vec::try_from(leading.view(-1))?)
}

/// How features are clipped and standardised for linear models; see [`scoring::churn::Term`].
pub(crate) fn terms(study: &Study) -> Vec<scoring::churn::Term> {
    (0..WIDTH)
        .map(|at| {
            let values = sorted(study.rows().map(|(_, x, _)| logarithm(x[at])));
            let [low, high] = [0.005, 0.995].map(|q| nearest_quantile(&values, q));
            let n = values.len() as f64;
            let clipped = || values.iter().map(|x| x.clamp(low, high));
            let mean = clipped().sum::<f64>() / n;
            let deviation = (clipped().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
            // A feature that hardly varied is ignored, however far it may move later.
            let scale = if deviation > 1e-6 {
                deviation
            } else {
                f64::INFINITY
            };
            scoring::churn::Term {
                mean,
                scale: scale.min(1e12),
                low,
                high,
                weight: 0.0,
            }
        })
        .collect()
}

/// Standardised features, `[n, F]`.
pub(crate) fn standardised<'a>(
    rows: impl Iterator<Item = &'a [f32]>,
    terms: &[scoring::churn::Term],
    device: Device,
) -> Tensor {
    let values: Vec<f64> = rows
        .flat_map(|x| terms.iter().zip(x).map(|(term, x)| term.standard(*x)))
        .collect();
    Tensor::from_slice(&values)
        .view([-1, terms.len() as i64])
        .to_device(device)
}
