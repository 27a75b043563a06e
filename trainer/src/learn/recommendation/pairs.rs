//! Counts of pairs of products in orders.

use rayon::prelude::*;

/// How often products are ordered alone and in pairs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Counts {
    /// Orders with each product.
    pub(super) orders: Vec<u32>,
    /// In order of `one` and `other`.
    pub(super) pairs: Vec<Pair>,
}

/// Two products that are ordered together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) one: u32,
    /// Greater than `one`.
    pub(super) other: u32,
    /// Orders with both.
    pub(super) orders: u32,
}

/// Counts products and pairs of products that are in at least `least` orders. Each order lists
/// products below `products` in ascending order, each once.
///
/// The pairs of one product at a time are counted, in an array over all products: a map of all
/// pairs would take memory with the square of the products.
pub(super) fn count(orders: &[Vec<u32>], products: usize, least: u32) -> Counts {
    let mut of_product: Vec<Vec<u32>> = vec![Vec::new(); products];
    for (at, order) in (0_u32..).zip(orders) {
        for product in order {
            of_product[*product as usize].push(at);
        }
    }
    let pairs_of = |counts: &mut Vec<u32>, one: u32| {
        for at in &of_product[one as usize] {
            let order = &orders[*at as usize];
            let later = order.partition_point(|product| *product <= one);
            for other in &order[later..] {
                counts[*other as usize] += 1;
            }
        }
        let mut pairs = Vec::new();
        for (other, count) in (0..).zip(counts.iter_mut()).skip(one as usize + 1) {
            let orders = std::mem::take(count);
            if orders >= least {
                pairs.push(Pair { one, other, orders });
            }
        }
        pairs
    };
    let pairs: Vec<Vec<Pair>> = (0..products as u32)
        .into_par_iter()
        .map_init(|| vec![0; products], pairs_of)
        .collect();
    Counts {
        orders: of_product
            .iter()
            .map(|orders| orders.len() as u32)
            .collect(),
        pairs: pairs.concat(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lake::Random;

    use super::*;

    fn orders(random: &mut Random) -> Vec<Vec<u32>> {
        let order = |random: &mut Random| -> Vec<u32> {
            (0..12)
                .filter(|product| random.chance(0.9 / f64::from(product + 1)))
                .collect()
        };
        (0..150).map(|_| order(random)).collect()
    }

    #[test]
    fn pairs_are_those_that_looking_at_every_order_finds() {
        for seed in 0..20 {
            let orders = orders(&mut Random::new(seed));
            let mut found: BTreeMap<(u32, u32), u32> = BTreeMap::new();
            for order in &orders {
                for one in order {
                    for other in order.iter().filter(|other| *other > one) {
                        *found.entry((*one, *other)).or_default() += 1;
                    }
                }
            }
            found.retain(|_, orders| *orders >= 5);
            let found: Vec<Pair> = found
                .into_iter()
                .map(|((one, other), orders)| Pair { one, other, orders })
                .collect();
            let counts = count(&orders, 12, 5);
            assert_eq!(counts.pairs, found);
            assert!(!found.is_empty());
            let with_0 = orders.iter().filter(|order| order.contains(&0)).count();
            assert_eq!(counts.orders[0] as usize, with_0);
        }
    }
}
