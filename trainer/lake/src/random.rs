//! Random numbers that a seed determines.

/// SplitMix64 (Steele, Lea and Flood 2014). Model bytes depend on it: unlike a generator of a
/// crate, it is the same in every version and on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `0..1`.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// Uniform in `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }

    /// Exponentially distributed.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }

    /// An index, with probability in proportion to its weight.
    pub fn pick(&mut self, weights: &[f64]) -> usize {
        let mut left = self.unit() * weights.iter().sum::<f64>();
        weights
            .iter()
            .position(|weight| {
                left -= weight;
                left < 0.0
            })
            .unwrap_or(weights.len() - 1)
    }

    /// An index below `n`, about Zipf-distributed: index `i` is `1 / (i + 1)` times as likely as 0.
    pub fn zipf(&mut self, n: usize) -> usize {
        let rank = ((n as f64 + 1.0).powf(self.unit()) - 1.0) as usize;
        rank.min(n - 1)
    }

    /// Poisson-distributed with mean 1: the limit of how often one of `n` items is in a bootstrap
    /// sample of size `n` (Knuth's method).
    pub fn poisson1(&mut self) -> u32 {
        let (limit, mut product, mut count) = ((-1.0_f64).exp(), self.unit(), 0);
        while product > limit {
            product *= self.unit();
            count += 1;
        }
        count
    }

    /// Normally distributed (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_moments_of_their_distributions() {
        let mut random = Random::new(1);
        let mut mean = |of: &mut dyn FnMut(&mut Random) -> f64| {
            (0..20_000).map(|_| of(&mut random)).sum::<f64>() / 2e4
        };
        for (what, found, wanted) in [
            ("unit", mean(&mut |r| r.unit()), 0.5),
            ("exponential", mean(&mut |r| r.exponential(2.0)), 2.0),
            ("poisson", mean(&mut |r| f64::from(r.poisson1())), 1.0),
            ("normal", mean(&mut |r| r.normal()), 0.0),
            ("normal squared", mean(&mut |r| r.normal().powi(2)), 1.0),
        ] {
            assert!((found - wanted).abs() < 0.05, "{what}: {found}");
        }
    }
}
