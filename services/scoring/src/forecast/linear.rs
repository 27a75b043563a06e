//! A linear rule, which training finds by ridge regression.

/// A linear rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// One a feature.
    pub weights: Vec<f64>,
    /// What all 0 give.
    pub intercept: f64,
}

impl Linear {
    /// The rule's value.
    pub fn of(&self, x: &[f64]) -> f64 {
        self.intercept + self.weights.iter().zip(x).map(|(w, x)| w * x).sum::<f64>()
    }
}
