//! A boosted ranker: LambdaMART (Burges 2010) with histogram trees. Each pair of candidates of
//! which one was bought pulls the two apart, in proportion to the change in NDCG if they were
//! swapped.

use lake::Random;
use rayon::prelude::*;
use scoring::{
    Forest,
    recommendation::{Candidates, WIDTH},
};
use tch::{Device, Tensor};

use crate::learn::{
    LearnError,
    forest::{Binned, Growth, Nodes, grow},
};

const BINS: i64 = 64;
const ROUNDS: u32 = 150;
const RATE: f64 = 0.08;
const GROWTH: Growth = Growth {
    depth: 4,
    least: 0.1,
    ridge: 10.0,
    tried: 20,
};
/// Share of the lists from which each tree learns.
const SHARE: f64 = 0.5;
/// The higher candidate of a pair must be among so many first: further down, a swap does not change
/// what a user sees.
const PLACES: usize = 20;
/// Lists that a ranker needs; with fewer it would learn noise.
pub(super) const LEAST_LISTS: usize = 100;

/// Lists of candidates and which of them were bought.
#[derive(Default)]
pub(super) struct Lists {
    /// `[rows, WIDTH]`
    features: Vec<f32>,
    bought: Vec<bool>,
    /// End of each list, and its ideal discounted gain.
    lists: Vec<(usize, f64)>,
}

impl Lists {
    /// Adds a list, unless nothing in it was bought.
    pub(super) fn push(&mut self, candidates: &Candidates, bought: &[usize]) {
        let found: Vec<bool> = candidates
            .products
            .iter()
            .map(|product| bought.contains(product))
            .collect();
        if !found.contains(&true) {
            return;
        }
        self.features.extend_from_slice(&candidates.features);
        self.bought.extend(found);
        let ideal = (0..bought.len().min(PLACES)).map(discount).sum();
        self.lists.push((self.bought.len(), ideal));
    }

    pub(super) fn len(&self) -> usize {
        self.lists.len()
    }

    /// Start, end and ideal discounted gain of each list.
    fn ranges(&self) -> Vec<(usize, usize, f64)> {
        let starts = std::iter::once(0).chain(self.lists.iter().map(|list| list.0));
        starts
            .zip(&self.lists)
            .map(|(start, (end, ideal))| (start, *end, *ideal))
            .collect()
    }
}

fn discount(place: usize) -> f64 {
    1.0 / (place as f64 + 2.0).log2()
}

/// Gradient and curvature of the lambda loss for each candidate of a list.
fn pulls(scores: &[f64], bought: &[bool], ideal: f64) -> Vec<(f64, f64)> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    let mut pulls = vec![(0.0, 0.0); scores.len()];
    let mut sum = 0.0;
    let flat = scores[order[0]] == scores[order[order.len() - 1]];
    for (place, one) in order.iter().enumerate().take(PLACES) {
        for (below, other) in order.iter().enumerate().skip(place + 1) {
            if bought[*one] == bought[*other] {
                continue;
            }
            let (high, low) = if bought[*one] {
                (*one, *other)
            } else {
                (*other, *one)
            };
            let apart = scores[high] - scores[low];
            let mut gain = (discount(place) - discount(below)) / ideal.max(1e-9);
            if !flat {
                // As in LightGBM: pairs that are already far apart count less.
                gain /= 0.01 + apart.abs();
            }
            let chance = 1.0 / (1.0 + apart.exp());
            let (pull, curve) = (chance * gain, chance * (1.0 - chance) * gain);
            pulls[high].0 += pull;
            pulls[low].0 -= pull;
            pulls[high].1 += curve;
            pulls[low].1 += curve;
            sum += 2.0 * pull;
        }
    }
    if sum > 0.0 {
        // As in LightGBM: a customer with many purchases counts little more than one with a single
        // purchase.
        let scale = (1.0 + sum).log2() / sum;
        pulls
            .iter_mut()
            .for_each(|pull| *pull = (pull.0 * scale, pull.1 * scale));
    }
    pulls
}

/// Trees whose sum orders candidates; `each` is called after every tree.
pub(super) fn rank(
    lists: &Lists,
    seed: u64,
    device: Device,
    mut each: impl FnMut(),
) -> Result<Forest, LearnError> {
    let rows: Vec<&[f32]> = lists.features.chunks_exact(WIDTH).collect();
    let binned = Binned::of(&rows, BINS, device);
    let ranges = lists.ranges();
    let mut random = Random::new(seed);
    let mut scores = vec![0.0; rows.len()];
    let mut all = Nodes::default();
    for _ in 0..ROUNDS {
        let drawn: Vec<(usize, usize, f64)> = ranges
            .iter()
            .copied()
            .filter(|_| random.chance(SHARE))
            .collect();
        let pulls: Vec<Vec<(f64, f64)>> = drawn
            .par_iter()
            .map(|(start, end, ideal)| {
                pulls(&scores[*start..*end], &lists.bought[*start..*end], *ideal)
            })
            .collect();
        let places: Vec<i64> = drawn
            .iter()
            .flat_map(|(start, end, _)| *start as i64..*end as i64)
            .collect();
        if places.is_empty() {
            continue;
        }
        let column = |of: fn(&(f64, f64)) -> f64| {
            let values: Vec<f64> = pulls.iter().flatten().map(of).collect();
            Tensor::from_slice(&values).unsqueeze(0).to_device(device)
        };
        let (slopes, curves) = (column(|pull| pull.0), column(|pull| pull.1));
        let part = binned.of_rows(&Tensor::from_slice(&places).to_device(device));
        let mut nodes = Nodes::default();
        let _ends = grow(&part, &curves, &slopes, GROWTH, &mut random, &mut nodes)?;
        let tree = nodes.forest(WIDTH, GROWTH.depth, RATE)?;
        scores
            .par_iter_mut()
            .zip(&rows)
            .for_each(|(score, row)| *score += tree.sum(row));
        all.feature.extend(nodes.feature);
        all.threshold.extend(nodes.threshold);
        all.value.extend(nodes.value);
        each();
    }
    Ok(all.forest(WIDTH, GROWTH.depth, RATE)?)
}

/// Number of trees that [`rank`] grows.
pub(super) const fn rounds() -> u64 {
    ROUNDS as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bought_candidate_is_pulled_above_the_others() {
        let pulls = pulls(&[0.0, 1.0, 0.5], &[true, false, false], 1.0);
        assert!(
            pulls[0].0 > 0.0 && pulls[1].0 < pulls[2].0 && pulls[2].0 < 0.0,
            "{pulls:?}"
        );
        assert!((pulls.iter().map(|pull| pull.0).sum::<f64>()).abs() < 1e-9);
    }

    #[test]
    fn a_ranker_learns_which_candidates_are_bought() {
        let (mut lists, mut random) = (Lists::default(), Random::new(1));
        for _ in 0..200 {
            let features: Vec<f32> = (0..30 * WIDTH).map(|_| random.unit() as f32).collect();
            let candidates = Candidates {
                products: (0..30).collect(),
                features,
                ..Candidates::default()
            };
            let best = candidates
                .rows()
                .enumerate()
                .max_by(|a, b| a.1[3].total_cmp(&b.1[3]))
                .map(|(at, _)| at);
            lists.push(&candidates, &[best.unwrap()]);
        }
        let forest = rank(&lists, 1, Device::Cpu, || {}).unwrap();
        let found = |at: usize| {
            let score = |row: &[f32]| forest.sum(row);
            let rows = &lists.features[at * 30 * WIDTH..(at + 1) * 30 * WIDTH];
            rows.chunks_exact(WIDTH)
                .enumerate()
                .max_by(|a, b| score(a.1).total_cmp(&score(b.1)))
                .map(|(at, _)| at)
        };
        let right = (0..200)
            .filter(|at| found(*at).is_some_and(|best| lists.bought[at * 30 + best]))
            .count();
        assert!(right > 180, "{right}");
    }
}
