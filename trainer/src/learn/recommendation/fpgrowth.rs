//! Frequent itemsets by FP-growth (Han, Pei and Yin 2000): orders share the prefixes of a tree,
//! from which the sets that end in a product are grown without candidates.

use std::collections::{BTreeMap, HashMap};

/// A tree of orders, each in order of rank; node 0 is the root.
#[derive(Default)]
struct Tree {
    /// (rank, count, parent) of each node.
    nodes: Vec<(u32, u32, usize)>,
    children: HashMap<(usize, u32), usize>,
    /// Nodes of a rank.
    places: BTreeMap<u32, Vec<usize>>,
}

impl Tree {
    fn of<'a>(paths: impl Iterator<Item = (&'a [u32], u32)>) -> Self {
        let mut tree = Self {
            nodes: vec![(u32::MAX, 0, 0)],
            ..Self::default()
        };
        for (path, count) in paths {
            let mut at = 0;
            for rank in path {
                at = match tree.children.get(&(at, *rank)) {
                    Some(child) => *child,
                    None => {
                        let child = tree.nodes.len();
                        tree.nodes.push((*rank, 0, at));
                        tree.children.insert((at, *rank), child);
                        tree.places.entry(*rank).or_default().push(child);
                        child
                    }
                };
                tree.nodes[at].1 += count;
            }
        }
        tree
    }

    /// The ranks above a node, from the root down.
    fn path(&self, mut at: usize) -> Vec<u32> {
        let mut path = Vec::new();
        loop {
            at = self.nodes[at].2;
            if at == 0 {
                break;
            }
            path.push(self.nodes[at].0);
        }
        path.reverse();
        path
    }

    /// Adds the sets with `suffix` that are in at least `least` orders and have at most `longest`
    /// items.
    fn grow(&self, suffix: &[u32], least: u32, longest: usize, found: &mut Vec<(Vec<u32>, u32)>) {
        for (rank, places) in &self.places {
            let count: u32 = places.iter().map(|at| self.nodes[*at].1).sum();
            if count < least {
                continue;
            }
            let mut set = vec![*rank];
            set.extend_from_slice(suffix);
            found.push((set.clone(), count));
            if set.len() >= longest {
                continue;
            }
            // The orders with the set, without what is too rare among them.
            let paths: Vec<(Vec<u32>, u32)> = places
                .iter()
                .map(|at| (self.path(*at), self.nodes[*at].1))
                .collect();
            let mut counts: HashMap<u32, u32> = HashMap::new();
            for (path, count) in &paths {
                path.iter()
                    .for_each(|rank| *counts.entry(*rank).or_default() += count);
            }
            let often = |path: &[u32]| {
                path.iter()
                    .copied()
                    .filter(|rank| counts[rank] >= least)
                    .collect::<Vec<_>>()
            };
            let paths: Vec<(Vec<u32>, u32)> = paths
                .iter()
                .map(|(path, count)| (often(path), *count))
                .collect();
            Self::of(paths.iter().map(|(path, count)| (path.as_slice(), *count)))
                .grow(&set, least, longest, found);
        }
    }
}

/// Sets of items, each ascending, that are in at least `least` of the orders and have at most
/// `longest` items, with the number of orders; in order. An order names each item once.
pub(super) fn frequent(orders: &[Vec<u32>], least: u32, longest: usize) -> Vec<(Vec<u32>, u32)> {
    let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
    orders
        .iter()
        .flatten()
        .for_each(|item| *counts.entry(*item).or_default() += 1);
    let mut items: Vec<(u32, u32)> = counts
        .into_iter()
        .filter(|(_, count)| *count >= least)
        .collect();
    // The most frequent come first: prefixes are then shared most.
    items.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let ranks: HashMap<u32, u32> = (0..)
        .zip(&items)
        .map(|(rank, (item, _))| (*item, rank))
        .collect();
    let paths: Vec<Vec<u32>> = orders
        .iter()
        .map(|order| {
            let mut path: Vec<u32> = order
                .iter()
                .filter_map(|item| ranks.get(item).copied())
                .collect();
            path.sort_unstable();
            path
        })
        .collect();
    let mut found = Vec::new();
    Tree::of(paths.iter().map(|path| (path.as_slice(), 1))).grow(&[], least, longest, &mut found);
    for (set, _) in &mut found {
        set.iter_mut()
            .for_each(|rank| *rank = items[*rank as usize].0);
        set.sort_unstable();
    }
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use lake::Random;

    use super::*;

    #[test]
    fn sets_are_those_that_counting_finds() {
        let mut random = Random::new(3);
        let orders: Vec<Vec<u32>> = (0..200)
            .map(|_| {
                (0..8)
                    .filter(|item| random.chance(0.7 / f64::from(item + 1)))
                    .collect()
            })
            .collect();
        let mut counted = Vec::new();
        for set in 1_u32..256 {
            let items: Vec<u32> = (0..8).filter(|item| set >> item & 1 == 1).collect();
            let count = orders
                .iter()
                .filter(|order| items.iter().all(|item| order.contains(item)))
                .count() as u32;
            if count >= 5 && items.len() <= 3 {
                counted.push((items, count));
            }
        }
        counted.sort_unstable();
        assert_eq!(frequent(&orders, 5, 3), counted);
        assert!(counted.iter().any(|(items, _)| items.len() == 3));
    }
}
