//! Quantiles of samples. Each definition that the models use has a function of its own, because
//! another definition would change what they have learnt.

/// Linear between the order statistics (Hyndman and Fan 1996, definition 7); 0 of no values.
pub fn linear(values: &[f64], level: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    linear_of_sorted(&sorted, level)
}

/// [`linear`] of values in ascending order.
pub fn linear_of_sorted(sorted: &[f64], level: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let place = level.clamp(0.0, 1.0) * last as f64;
    let (low, part) = (place.floor() as usize, place.fract());
    sorted[low] + part * (sorted[(low + 1).min(last)] - sorted[low])
}

/// The middle value, or the mean of the middle two; 0 of no values.
pub fn median(mut values: Vec<f64>) -> f64 {
    let (count, middle) = (values.len(), values.len() / 2);
    if values.is_empty() {
        return 0.0;
    }
    let (below, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if count % 2 == 1 {
        return *upper;
    }
    // The greatest of those below the middle is the other middle value.
    let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    f64::midpoint(lower, *upper)
}

/// The middle value, or the greater of the middle two, by an order; `None` of no values.
pub fn upper_median_by<T: Copy>(
    values: &mut [T],
    compare: impl FnMut(&T, &T) -> std::cmp::Ordering,
) -> Option<T> {
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, compare).1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn linear_quantiles_lie_between_their_neighbours() {
        let values = [4.0, 1.0, 3.0, 2.0];
        for (level, expected) in [(0.0, 1.0), (0.5, 2.5), (0.9, 3.7), (1.0, 4.0)] {
            assert!((linear(&values, level) - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn the_upper_median_is_a_value_of_the_sample() {
        let upper = upper_median_by(&mut [4, 1, 3, 2], Ord::cmp);
        assert_eq!(upper, Some(3));
    }

    #[test]
    fn quantiles_of_no_values_are_0() {
        assert_eq!(linear(&[], 0.5), 0.0);
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(upper_median_by(&mut [0.0; 0], f64::total_cmp), None);
    }

    proptest! {
        #[test]
        fn a_median_is_the_middle_of_the_sorted_values(
            values in prop::collection::vec(-9.0..9.0_f64, 1..20),
        ) {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let middle = sorted.len() / 2;
            let wanted = match sorted.len() % 2 {
                1 => sorted[middle],
                _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
            };
            prop_assert_eq!(median(values), wanted);
        }
    }
}
