//! What is usual of the shop, a product, a customer: medians and robust spreads of logarithms.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::line::Observation;
use crate::{ModelError, quantile::median};

/// From the median absolute deviation to the standard deviation of a normal distribution.
pub(super) const MAD: f64 = 1.4826;
/// Least spread of a quantity's logarithm: one that never moved may yet move a little.
pub(super) const LEAST_QUANTITY: f64 = 0.3;
/// Least spread of a price's logarithm.
pub(super) const LEAST_PRICE: f64 = 0.05;
/// Median and spread of a logarithm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// The median.
    pub median: f64,
    /// Robust standard deviation.
    pub spread: f64,
}

impl Level {
    /// How many spreads above the median.
    pub fn z(self, log: f64) -> f64 {
        (log - self.median) / self.spread
    }
}

/// What is usual in the shop as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Shop {
    /// Units: the spread is that within a product.
    pub quantity: Level,
    /// Prices: the spread is that between products.
    pub price: Level,
    /// Spread of a product's prices.
    pub price_within: f64,
}

impl Shop {
    /// From lines, of which each has a product.
    pub fn of(lines: &[Observation]) -> Self {
        let mut products: HashMap<Option<u32>, Vec<usize>> = HashMap::new();
        for (at, line) in lines.iter().enumerate() {
            products.entry(line.product).or_default().push(at);
        }
        let off = |of: fn(&Observation) -> f64, least: f64| {
            let mut off = Vec::with_capacity(lines.len());
            for group in products.values() {
                let centre = median(group.iter().map(|at| of(&lines[*at])).collect());
                off.extend(group.iter().map(|at| (of(&lines[*at]) - centre).abs()));
            }
            (MAD * median(off)).max(least)
        };
        let price = median(lines.iter().map(|line| line.price).collect());
        let between = MAD
            * median(
                lines
                    .iter()
                    .map(|line| (line.price - price).abs())
                    .collect(),
            );
        Self {
            quantity: Level {
                median: median(lines.iter().map(|line| line.quantity).collect()),
                spread: off(|line| line.quantity, LEAST_QUANTITY),
            },
            price: Level {
                median: price,
                spread: between.max(LEAST_PRICE),
            },
            price_within: off(|line| line.price, LEAST_PRICE),
        }
    }

    pub(super) fn check(&self) -> Result<(), ModelError> {
        let Self {
            quantity,
            price,
            price_within,
        } = self;
        let medians = [quantity.median, price.median];
        let spreads = [quantity.spread, price.spread, *price_within];
        if medians.iter().chain(&spreads).all(|x| x.is_finite())
            && spreads.iter().all(|spread| *spread > 0.0)
        {
            return Ok(());
        }
        Err(ModelError::inconsistent(
            "shop",
            "has a level that is not finite, or a spread that is not above 0",
        ))
    }
}

/// What is usual of a product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ProductLevels {
    pub(super) quantity: Level,
    pub(super) price: Level,
    pub(super) channel: ChannelPrices,
}

/// A product's usual prices by the kind of buyer: named customers and counter sales may pay
/// different ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ChannelPrices {
    pub(super) named: f64,
    pub(super) anonymous: f64,
}

impl ChannelPrices {
    pub(super) fn of(self, line: &Observation) -> f64 {
        if line.named {
            self.named
        } else {
            self.anonymous
        }
    }
}

/// What is usual of a customer: units over the product's usual ones, as logarithms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CustomerLevels {
    pub(super) quantity: Level,
    /// The greatest of all.
    pub(super) most: f64,
}
