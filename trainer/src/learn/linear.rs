//! Linear models with a ridge, by tensor operations on any device.

use tch::{Kind as Dtype, Tensor};

use super::LearnError;

/// Weights `[F]` and intercept.
pub(crate) type Weights = (Vec<f64>, f64);

/// Ridge regression (Hoerl and Kennard 1970) of `y` `[n]` on `x` `[n, F]`; the intercept is not
/// penalised.
pub(crate) fn ridge(x: &Tensor, y: &Tensor, ridge: f64) -> Result<Weights, LearnError> {
    let (centre, level) = (
        x.mean_dim([0_i64].as_slice(), false, None::<Dtype>),
        y.mean(None::<Dtype>),
    );
    let (x, y) = (x - &centre, (y - &level).unsqueeze(1));
    let gram = x.transpose(0, 1).matmul(&x)
        + Tensor::eye(x.size()[1], (Dtype::Double, x.device())) * ridge;
    let weights =
        Tensor::f_linalg_solve(&gram, &x.transpose(0, 1).matmul(&y), true)?.squeeze_dim(1);
    let intercept = (level - (&weights * centre).sum(None::<Dtype>)).double_value(&[]);
    Ok((list(&weights)?, intercept))
}

/// Ridge regression of examples with positive weights `[n]`, on features scaled to a standard
/// deviation of 1; the ridge is relative to the sum of the weights.
pub(crate) fn standardised_ridge(
    x: &Tensor,
    y: &Tensor,
    weights: &Tensor,
    ridge: f64,
) -> Result<Weights, LearnError> {
    let share = weights / weights.sum(None::<Dtype>);
    let centre = x.transpose(0, 1).mv(&share);
    let level = share.dot(y);
    let x = x - &centre;
    let deviation = x.square().transpose(0, 1).mv(&share).sqrt() + 1e-9;
    let x = x / &deviation;
    let weighted = (&x * share.unsqueeze(1)).transpose(0, 1);
    let gram = weighted.matmul(&x) + Tensor::eye(x.size()[1], (Dtype::Double, x.device())) * ridge;
    let solved = Tensor::f_linalg_solve(&gram, &weighted.matmul(&(y - &level).unsqueeze(1)), true)?
        .squeeze_dim(1);
    let solved = solved / deviation;
    let intercept = (level - solved.dot(&centre)).double_value(&[]);
    Ok((list(&solved)?, intercept))
}

/// Logistic regression of `y` `[n]`, 0 or 1, on `x` `[n, F]` with a ridge (le Cessie and van
/// Houwelingen 1992), by Newton's method; the intercept is not penalised.
pub(crate) fn logit(x: &Tensor, y: &Tensor, ridge: f64) -> Result<Weights, LearnError> {
    let (n, width) = (x.size()[0], x.size()[1]);
    let options = (Dtype::Double, x.device());
    let x = Tensor::cat(&[x.shallow_clone(), Tensor::ones([n, 1], options)], 1);
    let mut penalty = vec![ridge; width as usize];
    // Just enough to keep the intercept finite if all outcomes are equal.
    penalty.push(1e-3);
    let penalty = Tensor::from_slice(&penalty).to_device(x.device());
    let mut w = Tensor::zeros([width + 1], options);
    for _ in 0..50 {
        let p: Tensor = x.mv(&w).sigmoid();
        let slope = x.transpose(0, 1).mv(&(y - &p)) - &penalty * &w;
        let curvature = x
            .transpose(0, 1)
            .matmul(&(&x * (&p - p.square()).unsqueeze(1)))
            + penalty.diag(0);
        let step = Tensor::f_linalg_solve(&curvature, &slope.unsqueeze(1), true)?.squeeze_dim(1);
        // Steps are limited to a length of 2: full Newton steps overshoot if outcomes are nearly
        // separated.
        let length = step.abs().max().double_value(&[]);
        w += step * (2.0 / length.max(2.0));
        if length < 1e-9 {
            break;
        }
    }
    let mut weights = list(&w)?;
    let intercept = weights.pop().unwrap_or_default();
    Ok((weights, intercept))
}

fn list(tensor: &Tensor) -> Result<Vec<f64>, LearnError> {
    Ok(Vec::try_from(
        tensor.to_device(tch::Device::Cpu).contiguous().view(-1),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plane() -> (Tensor, Vec<[f64; 2]>) {
        let points: Vec<[f64; 2]> = (0..2_000)
            .map(|i| {
                [
                    f64::from(i % 41) / 20.0 - 1.0,
                    f64::from(i % 17) / 8.0 - 1.0,
                ]
            })
            .collect();
        (
            Tensor::from_slice(points.as_flattened()).view([-1, 2]),
            points,
        )
    }

    #[test]
    fn ridge_finds_the_plane_and_the_ridge_flattens_it() {
        let (x, points) = plane();
        let y: Vec<f64> = points.iter().map(|[a, b]| 3.0 * a - b + 7.0).collect();
        let y = Tensor::from_slice(&y);
        let (w, c) = ridge(&x, &y, 1e-9).unwrap();
        assert!(
            (w[0] - 3.0).abs() < 1e-6 && (w[1] + 1.0).abs() < 1e-6 && (c - 7.0).abs() < 1e-6,
            "{w:?} {c}"
        );
        assert!(ridge(&x, &y, 1e4).unwrap().0[0] < 1.0);
    }

    #[test]
    fn logit_finds_the_odds_and_stays_finite_if_outcomes_are_separated() {
        let (x, points) = plane();
        let mut random = lake::Random::new(3);
        let y: Vec<f64> = points
            .iter()
            .map(|[a, b]| {
                f64::from(u8::from(
                    random.chance(1.0 / (1.0 + (-(2.0 * a - b + 0.5)).exp())),
                ))
            })
            .collect();
        let (w, c) = logit(&x, &Tensor::from_slice(&y), 1e-6).unwrap();
        assert!(
            (w[0] - 2.0).abs() < 0.3 && (w[1] + 1.0).abs() < 0.3 && (c - 0.5).abs() < 0.3,
            "{w:?} {c}"
        );
        let sure: Vec<f64> = points
            .iter()
            .map(|[a, _]| f64::from(u8::from(*a > 0.0)))
            .collect();
        let (w, c) = logit(&x, &Tensor::from_slice(&sure), 1.0).unwrap();
        assert!(w.iter().chain([&c]).all(|w| w.is_finite()));
    }
}
