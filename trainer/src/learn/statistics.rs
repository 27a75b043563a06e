//! Quantiles, deviations and measures of rankings that several learners use.

use std::collections::BTreeMap;

/// The quantile by the nearest rank: element `round(q * (n - 1))` of `n` ascending values; 0
/// without values.
pub(super) fn nearest_quantile(sorted: &[f64], q: f64) -> f64 {
    let at = (q * (sorted.len().saturating_sub(1)) as f64).round() as usize;
    sorted.get(at).copied().unwrap_or_default()
}

/// The quantile with a share `q` of the values below it: element `floor(q * n)` of `n` ascending
/// values, the last for `q = 1`; 0 without values.
pub(super) fn lower_quantile(sorted: &[f64], q: f64) -> f64 {
    let at = (q * sorted.len() as f64) as usize;
    let last = sorted.len().saturating_sub(1);
    sorted.get(at.min(last)).copied().unwrap_or_default()
}

/// [`lower_quantile`] for the share `part / of`, without rounding; `None` without values.
pub(super) fn lower_part<T: Copy>(sorted: &[T], part: usize, of: usize) -> Option<T> {
    sorted.get(part * sorted.len() / of).copied()
}

/// The values in ascending order.
pub(super) fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The mean; 0 without values.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
    if n > 0.0 { sum / n } else { 0.0 }
}

/// The population standard deviation.
pub(super) fn deviation(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let n = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / n;
    (values.map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt()
}

/// Share of the variance of a value that lies between groups.
pub(super) fn eta_squared(values: impl Iterator<Item = (usize, f64)>) -> f64 {
    let values: Vec<_> = values.collect();
    let n = values.len() as f64;
    let mean = values.iter().map(|(_, value)| value).sum::<f64>() / n.max(1.0);
    let mut groups: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for (group, value) in &values {
        let (sum, count) = groups.entry(*group).or_default();
        *sum += value;
        *count += 1.0;
    }
    let between: f64 = groups
        .values()
        .map(|(sum, count)| count * (sum / count - mean).powi(2))
        .sum();
    let total: f64 = values.iter().map(|(_, value)| (value - mean).powi(2)).sum();
    if total > 0.0 { between / total } else { 0.0 }
}

/// Area under the ROC curve: the probability that a positive scores above a negative, ties counted
/// half. 0.5 if one of the classes is empty.
pub(super) fn auc(scores: &[f64], is_positive: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let (mut ranks, mut at) = (0.0, 0);
    while at < order.len() {
        let end = end_of_ties(scores, &order, at);
        // The mean rank of scores that are equal.
        let rank = (at + end + 1) as f64 / 2.0;
        ranks += rank * count_positive(&order[at..end], is_positive);
        at = end;
    }
    let positives = is_positive.iter().filter(|positive| **positive).count() as f64;
    let negatives = is_positive.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        0.5
    } else {
        (ranks - positives * (positives + 1.0) / 2.0) / (positives * negatives)
    }
}

/// Area under the precision-recall curve as average precision.
pub(super) fn average_precision(scores: &[f64], is_positive: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let positives = is_positive.iter().filter(|positive| **positive).count() as f64;
    let (mut hits, mut sum, mut at) = (0.0, 0.0, 0);
    while at < order.len() {
        let end = end_of_ties(scores, &order, at);
        let new = count_positive(&order[at..end], is_positive);
        hits += new;
        sum += new * hits / end as f64;
        at = end;
    }
    if positives > 0.0 {
        sum / positives
    } else {
        0.0
    }
}

/// The end of the run of equal scores that begins at `at`.
fn end_of_ties(scores: &[f64], order: &[usize], at: usize) -> usize {
    let differs = |i: &usize| scores[*i] != scores[order[at]];
    order[at..]
        .iter()
        .position(differs)
        .map_or(order.len(), |n| at + n)
}

fn count_positive(places: &[usize], is_positive: &[bool]) -> f64 {
    places.iter().filter(|at| is_positive[**at]).count() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_elements_of_the_values() {
        let values = sorted([3.0, 1.0, 2.0, 5.0, 4.0]);
        let of = |q| (nearest_quantile(&values, q), lower_quantile(&values, q));
        assert_eq!(of(0.0), (1.0, 1.0));
        assert_eq!(of(0.5), (3.0, 3.0));
        assert_eq!(of(0.9), (5.0, 5.0));
        assert_eq!(of(1.0), (5.0, 5.0));
        assert_eq!(lower_part(&values, 2, 5), Some(3.0));
        assert_eq!(nearest_quantile(&[], 0.5), 0.0);
        assert_eq!(lower_quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn eta_squared_is_the_share_between_groups() {
        assert_eq!(
            eta_squared([(0, 1.0), (0, 1.0), (1, 3.0), (1, 3.0)].into_iter()),
            1.0
        );
        assert_eq!(
            eta_squared([(0, 1.0), (0, 3.0), (1, 1.0), (1, 3.0)].into_iter()),
            0.0
        );
    }

    #[test]
    fn auc_counts_pairs_in_the_right_order() {
        let auc = |scores: [f64; 4]| auc(&scores, &[false, false, true, true]);
        assert_eq!(auc([0.1, 0.4, 0.35, 0.8]), 0.75);
        assert_eq!(auc([0.5, 0.5, 0.5, 0.5]), 0.5);
        assert_eq!(auc([0.1, 0.2, 0.3, 0.4]), 1.0);
    }

    #[test]
    fn average_precision_of_ties_is_the_share_of_positives() {
        let ordered = average_precision(&[0.9, 0.8, 0.1], &[true, true, false]);
        assert_eq!(ordered, 1.0);
        let tied = average_precision(&[0.5; 4], &[true, false, false, false]);
        assert!((tied - 0.25).abs() < 1e-12);
    }
}
