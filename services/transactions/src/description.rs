//! What a product is usually called.

use std::{cmp::Reverse, collections::HashMap};

use crate::LineKind;

/// How often each product was called what.
///
/// The usual description of a product is the one that most of its sales have; of several, the first
/// by spelling. Other kinds of lines count only for a product that was never sold, because clerks
/// write on adjustments what became of the stock ("damaged", "lost").
#[derive(Debug, Clone, Default)]
pub struct DescriptionCounts {
    /// By number of the product and of the description.
    counts: HashMap<(u32, u32), Count>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    sales: u32,
    lines: u32,
}

impl DescriptionCounts {
    /// Counts a line of a product that has a description, both by number.
    pub fn add(&mut self, product: u32, description: u32, kind: LineKind) {
        let count = self.counts.entry((product, description)).or_default();
        count.sales += u32::from(kind == LineKind::Sale);
        count.lines += 1;
    }

    /// The number of each product's usual description, for products `0..products`; `spelling`
    /// orders descriptions, and may be the number itself if numbers are in that order.
    pub fn usual<S: Ord>(&self, products: usize, spelling: impl Fn(u32) -> S) -> Vec<Option<u32>> {
        let mut best: Vec<_> = (0..products).map(|_| None).collect();
        for (&(product, description), count) in &self.counts {
            let lines = if count.sales == 0 { count.lines } else { 0 };
            let rank = (count.sales, lines, Reverse(spelling(description)));
            let best = &mut best[product as usize];
            if best.as_ref().is_none_or(|(least, _)| *least < rank) {
                *best = Some((rank, description));
            }
        }
        best.into_iter()
            .map(|best| best.map(|(_, description)| description))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Interner;

    #[test]
    fn a_product_is_called_what_it_is_sold_as() {
        let (mut counts, mut texts) = (DescriptionCounts::default(), Interner::default());
        let mut add = |product: u32, text: &str, kind: LineKind, lines: usize| {
            let description = texts.intern(text).unwrap();
            (0..lines).for_each(|_| counts.add(product, description, kind));
        };
        add(0, "RED MUG NEW", LineKind::Sale, 1);
        add(0, "RED MUG", LineKind::Sale, 2);
        add(0, "damaged", LineKind::Adjustment, 3);
        add(1, "TEAPOT", LineKind::Sale, 1);
        add(1, "A TEAPOT", LineKind::Sale, 1);
        add(2, "??", LineKind::Adjustment, 1);
        let usual = counts.usual(4, |text| texts.name(text));
        let usual: Vec<_> = usual
            .into_iter()
            .map(|text| text.map(|text| texts.name(text)))
            .collect();
        assert_eq!(usual, [Some("RED MUG"), Some("A TEAPOT"), Some("??"), None]);
    }
}
