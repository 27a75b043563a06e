//! What customers bought after an as-of time, and how well lists of products foresee it.

use std::collections::{BTreeMap, HashSet};

use rayon::prelude::*;
use scoring::recommendation::RecommendationModel;

use super::matrix::spelling;
use crate::learn::lines::Lines;

/// What a model's customers bought in a window after its as-of time.
pub(super) struct Outcome {
    /// Row of each customer, with the rows of the products bought and whether each is new to the
    /// customer.
    pub(super) customers: Vec<(usize, Vec<(usize, bool)>)>,
    products: usize,
}

impl Outcome {
    pub(super) fn of(model: &RecommendationModel, lines: &Lines, from: i64, to: i64) -> Self {
        let spelling = spelling(lines);
        let mut before: HashSet<(u32, u32)> = HashSet::new();
        let mut bought: BTreeMap<usize, BTreeMap<usize, bool>> = BTreeMap::new();
        for line in lines.before(from).filter(|line| line.is_purchase()) {
            before.insert((
                line.customer.unwrap_or_default(),
                spelling[line.product as usize],
            ));
        }
        for line in lines
            .before(to)
            .filter(|line| line.time >= from && line.is_purchase())
        {
            let Some(number) = line.customer else {
                continue;
            };
            let (Some(customer), Some(product)) = (
                model.customer(lines.customers.name(number)),
                model.product(lines.products.name(line.product)),
            ) else {
                continue;
            };
            bought.entry(customer).or_default().insert(
                product,
                !before.contains(&(number, spelling[line.product as usize])),
            );
        }
        let customers = bought
            .into_iter()
            .map(|(customer, products)| (customer, products.into_iter().collect()))
            .collect();
        Self {
            customers,
            products: model.products().len(),
        }
    }

    /// Number of customers with a purchase, and with a purchase of a new product.
    pub(super) fn measured(&self) -> [usize; 2] {
        let new = self
            .customers
            .iter()
            .filter(|(_, bought)| bought.iter().any(|(_, new)| *new));
        [self.customers.len(), new.count()]
    }

    /// NDCG@10 of next purchases and of new products, and the share of products in any list. `list`
    /// recommends products to a customer, or only new products.
    pub(super) fn measure(
        &self,
        list: impl Fn(usize, bool) -> Vec<usize> + Sync,
    ) -> (f64, f64, f64) {
        let ndcg = |found: &[usize], relevant: &[usize]| {
            let gain = |rank: usize| 1.0 / (rank as f64 + 2.0).log2();
            let got: f64 = found
                .iter()
                .enumerate()
                .filter(|(_, product)| relevant.contains(product))
                .map(|(rank, _)| gain(rank))
                .sum();
            got / (0..relevant.len().min(10)).map(gain).sum::<f64>()
        };
        let one = |(customer, bought): &(usize, Vec<(usize, bool)>)| {
            let all: Vec<usize> = bought.iter().map(|(product, _)| *product).collect();
            let new: Vec<usize> = bought
                .iter()
                .filter(|(_, new)| *new)
                .map(|(product, _)| *product)
                .collect();
            let next = list(*customer, false);
            let of_new = (!new.is_empty()).then(|| ndcg(&list(*customer, true), &new));
            (ndcg(&next, &all), of_new, next)
        };
        let measured: Vec<_> = self.customers.par_iter().map(one).collect();
        let n = measured.len().max(1) as f64;
        let new: Vec<f64> = measured.iter().filter_map(|m| m.1).collect();
        let mut listed = vec![false; self.products];
        measured
            .iter()
            .flat_map(|m| &m.2)
            .for_each(|product| listed[*product] = true);
        let coverage =
            listed.iter().filter(|listed| **listed).count() as f64 / self.products.max(1) as f64;
        (
            measured.iter().map(|m| m.0).sum::<f64>() / n,
            new.iter().sum::<f64>() / new.len().max(1) as f64,
            coverage,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn customers_without_new_products_do_not_count_for_them() {
        let outcome = |customers| Outcome {
            customers,
            products: 9,
        };
        assert_eq!(outcome(vec![]).measured(), [0, 0]);
        let customers = vec![(0, vec![(1, false)]), (1, vec![(1, false), (2, true)])];
        assert_eq!(outcome(customers).measured(), [2, 1]);
    }
}
