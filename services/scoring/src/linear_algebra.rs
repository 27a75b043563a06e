//! Dot products, Gram matrices and the solution of linear systems, on slices.

/// The dot product of two vectors of the same length.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Eight sums side by side, which the compiler turns into vector instructions. Their order is
    // part of the result: another one rounds differently.
    let (mut sums, split) = ([0.0_f32; 8], a.len() / 8 * 8);
    for (a, b) in a[..split].chunks_exact(8).zip(b.chunks_exact(8)) {
        for at in 0..8 {
            sums[at] += a[at] * b[at];
        }
    }
    let rest = a[split..].iter().zip(&b[split..]);
    sums.iter().sum::<f32>() + rest.map(|(a, b)| a * b).sum::<f32>()
}

/// The sum of the outer products of rows of `width`, `[width, width]`: the lower triangle alone,
/// which is all that [`solve`] reads.
pub(crate) fn gram(rows: &[f32], width: usize) -> Vec<f64> {
    let mut gram = vec![0.0; width * width];
    for row in rows.chunks(width) {
        let row: Vec<f64> = row.iter().copied().map(f64::from).collect();
        for i in 0..width {
            gram[i * width..=i * width + i]
                .iter_mut()
                .zip(&row)
                .for_each(|(sum, other)| *sum += row[i] * other);
        }
    }
    gram
}

/// Solves `a x = b` for a symmetric positive definite `a` by Cholesky decomposition. Reads the
/// lower triangle of `a` and overwrites it with the factor, and `b` with `x`.
pub(crate) fn solve(a: &mut [f64], b: &mut [f64]) {
    let n = b.len();
    for i in 0..n {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| a[i * n + k] * a[j * n + k]).sum();
            let rest = a[i * n + j] - known;
            a[i * n + j] = if i == j {
                // Rounding may leave a pivot of a nearly singular matrix at or below 0.
                rest.max(1e-12).sqrt()
            } else {
                rest / a[j * n + j]
            };
        }
    }
    for i in 0..n {
        b[i] = (b[i] - (0..i).map(|k| a[i * n + k] * b[k]).sum::<f64>()) / a[i * n + i];
    }
    for i in (0..n).rev() {
        b[i] = (b[i] - (i + 1..n).map(|k| a[k * n + i] * b[k]).sum::<f64>()) / a[i * n + i];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_solution_solves(
            values in prop::collection::vec(-3.0..3.0_f64, 9),
            b in prop::collection::vec(-3.0..3.0_f64, 3),
        ) {
            // m mᵀ + I is positive definite.
            let entry = |i: usize, j: usize| {
                let product: f64 = (0..3).map(|k| values[i * 3 + k] * values[j * 3 + k]).sum();
                product + f64::from(u8::from(i == j))
            };
            let a: Vec<f64> = (0..9).map(|at| entry(at / 3, at % 3)).collect();
            let mut x = b.clone();
            solve(&mut a.clone(), &mut x);
            for i in 0..3 {
                let back: f64 = (0..3).map(|j| a[i * 3 + j] * x[j]).sum();
                prop_assert!((back - b[i]).abs() < 1e-6, "{back} {}", b[i]);
            }
        }
    }
}
