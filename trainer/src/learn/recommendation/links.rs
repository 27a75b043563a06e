//! Item-item weights: products of the same customers (a linear autoencoder), products of the same
//! orders, products with similar descriptions.

use std::collections::HashMap;

use rayon::prelude::*;
use scoring::TensorFile;
use tch::{Device, Kind as Dtype, Tensor};

use crate::learn::LearnError;

/// Products in the autoencoder, those with most buyers: its matrix is dense, and inverting it takes
/// time with the cube of the products.
const MOST_PRODUCTS: usize = 6_000;
/// Weights kept of each product.
const MOST_TASTE: usize = 100;
const MOST_TOGETHER: usize = 50;
const MOST_WORDS: usize = 30;
/// Products of a customer or an order that are paired, at most: pairs grow with the square.
const MOST_HELD: usize = 400;
/// Ridge of the autoencoder, and its dropout: the share of a customer's products that are hidden
/// from it (Steck 2020).
const RIDGE: f32 = 200.0;
const DROP: f32 = 0.4;
/// A word in the descriptions of more products than this is ignored.
const COMMON: usize = 1_000;

/// Of each product: rows of other products and their weights.
pub(super) type Links = Vec<Vec<(u32, f32)>>;

/// Adds weights to a tensor file in the layout of the scoring crate.
pub(super) fn write(links: &Links, to: TensorFile, name: &str) -> TensorFile {
    let mut start = vec![0_u32];
    start.extend(links.iter().scan(0, |sum, of| {
        *sum += of.len() as u32;
        Some(*sum)
    }));
    let other: Vec<u32> = links.iter().flatten().map(|link| link.0).collect();
    let weight: Vec<f32> = links.iter().flatten().map(|link| link.1).collect();
    to.with(&format!("{name}.start"), &[start.len()], &start)
        .with(&format!("{name}.other"), &[other.len()], &other)
        .with(&format!("{name}.weight"), &[weight.len()], &weight)
}

/// The strongest, in order of row.
fn strongest(mut links: Vec<(u32, f32)>, most: usize) -> Vec<(u32, f32)> {
    if links.len() > most {
        links.select_nth_unstable_by(most, |a, b| {
            b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0))
        });
        links.truncate(most);
    }
    links.sort_unstable_by_key(|link| link.0);
    links
}

/// EASE (Steck 2019) with the diagonal of EDLAE (Steck 2020): the weights with which a customer's
/// products, each by how long ago it was bought, tell every other one, in closed form. `held`: each
/// customer's products and weights in 0..=1.
#[expect(
    clippy::too_many_lines,
    reason = "a closed form in order: Gram matrix, inverse, weights, strongest links"
)]
pub(super) fn taste(
    held: &[Vec<(usize, f32)>],
    products: usize,
    device: Device,
) -> Result<Links, LearnError> {
    let mut buyers = vec![0_usize; products];
    held.iter()
        .flatten()
        .for_each(|(product, _)| buyers[*product] += 1);
    let mut known: Vec<usize> = (0..products)
        .filter(|product| buyers[*product] > 0)
        .collect();
    known.sort_by(|a, b| buyers[*b].cmp(&buyers[*a]).then(a.cmp(b)));
    known.truncate(MOST_PRODUCTS);
    known.sort_unstable();
    let mut place = vec![None; products];
    known
        .iter()
        .enumerate()
        .for_each(|(at, product)| place[*product] = Some(at));
    let held: Vec<Vec<(usize, f32)>> = held
        .iter()
        .map(|of| {
            let mut of: Vec<_> = of
                .iter()
                .filter_map(|(product, weight)| Some((place[*product]?, *weight)))
                .collect();
            of.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            of.truncate(MOST_HELD);
            of
        })
        .collect();
    let mut of_product: Vec<Vec<(u32, f32)>> = vec![Vec::new(); known.len()];
    for (customer, of) in held.iter().enumerate() {
        of.iter()
            .for_each(|(product, weight)| of_product[*product].push((customer as u32, *weight)));
    }
    let m = known.len();
    let mut gram = vec![0_f32; m * m];
    gram.par_chunks_mut(m.max(1))
        .zip(&of_product)
        .for_each(|(row, of)| {
            for (customer, weight) in of {
                held[*customer as usize]
                    .iter()
                    .for_each(|(other, by)| row[*other] += weight * by);
            }
        });
    for at in 0..m {
        gram[at * m + at] += RIDGE + DROP / (1.0 - DROP) * gram[at * m + at];
    }
    let gram = Tensor::from_slice(&gram)
        .view([m as i64, m as i64])
        .to_device(device);
    let inverse = gram.f_linalg_cholesky(false)?.f_cholesky_inverse(false)?;
    let weights = &inverse / -inverse.diagonal(0, 0, 1).unsqueeze(0);
    let weights = Vec::<f32>::try_from(
        weights
            .to_kind(Dtype::Float)
            .to_device(Device::Cpu)
            .contiguous()
            .view(-1),
    )?;
    let kept: Vec<Vec<(u32, f32)>> = weights
        .par_chunks(m.max(1))
        .enumerate()
        .map(|(own, row)| {
            let links = row
                .iter()
                .enumerate()
                .filter(|(other, weight)| *other != own && weight.is_finite());
            strongest(
                links
                    .map(|(other, weight)| (known[other] as u32, *weight))
                    .collect(),
                MOST_TASTE,
            )
        })
        .collect();
    let mut links = vec![Vec::new(); products];
    for (product, of) in known.into_iter().zip(kept) {
        links[product] = of;
    }
    Ok(links)
}

/// Cosines of products over orders; an order with `n` products has weight `1 / n`.
pub(super) fn together(orders: &[Vec<u32>], products: usize) -> Links {
    let counted = |order: &&Vec<u32>| order.len() > 1 && order.len() <= MOST_HELD;
    let orders: Vec<(f32, &[u32])> = orders
        .iter()
        .filter(counted)
        .map(|order| (1.0 / order.len() as f32, order.as_slice()))
        .collect();
    cosines(&orders, products, MOST_TOGETHER)
}

/// Cosines of products over the words of their descriptions; rare words have a higher weight.
pub(super) fn words(descriptions: &[Option<&str>]) -> Links {
    let mut of_word: HashMap<String, Vec<u32>> = HashMap::new();
    for (product, description) in descriptions.iter().enumerate() {
        let upper = description.unwrap_or_default().to_uppercase();
        let mut words: Vec<&str> = upper
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| word.chars().count() > 2)
            .collect();
        words.sort_unstable();
        words.dedup();
        words.into_iter().for_each(|word| {
            of_word
                .entry(word.to_owned())
                .or_default()
                .push(product as u32)
        });
    }
    let mut of_word: Vec<(String, Vec<u32>)> = of_word
        .into_iter()
        .filter(|(_, products)| products.len() <= COMMON)
        .collect();
    of_word.sort_unstable();
    let weight = |of: usize| (descriptions.len() as f32 / of as f32).ln().powi(2);
    let groups: Vec<(f32, &[u32])> = of_word
        .iter()
        .map(|(_, products)| (weight(products.len()), products.as_slice()))
        .collect();
    cosines(&groups, descriptions.len(), MOST_WORDS)
}

/// Cosines of products over weighted groups of products, the highest of each product.
fn cosines(groups: &[(f32, &[u32])], products: usize, most: usize) -> Links {
    let (mut of_product, mut norm) = (vec![Vec::new(); products], vec![0_f32; products]);
    for (group, (weight, members)) in groups.iter().enumerate() {
        for product in *members {
            of_product[*product as usize].push(group);
            norm[*product as usize] += weight;
        }
    }
    let norm: Vec<f32> = norm.into_iter().map(|sum| sum.sqrt().max(1e-6)).collect();
    let scratch = || (vec![0_f32; products], Vec::<u32>::new());
    of_product
        .par_iter()
        .enumerate()
        .map_init(scratch, |(sums, touched), (own, of)| {
            for group in of {
                let (weight, members) = groups[*group];
                for other in members {
                    if sums[*other as usize] == 0.0 {
                        touched.push(*other);
                    }
                    sums[*other as usize] += weight;
                }
            }
            let links = touched.iter().filter(|other| **other as usize != own);
            let cosine = |other: &u32| {
                (
                    *other,
                    sums[*other as usize] / (norm[own] * norm[*other as usize]),
                )
            };
            let links = strongest(links.map(cosine).collect(), most);
            touched
                .drain(..)
                .for_each(|other| sums[other as usize] = 0.0);
            links
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_products_that_go_together() {
        let held: Vec<Vec<(usize, f32)>> = (0..300)
            .map(|c| (0..3).map(|p| (c % 2 * 3 + p, 1.0)).collect())
            .collect();
        let taste = taste(&held, 7, Device::Cpu).unwrap();
        let weight = |from: usize, to: u32| {
            taste[from]
                .iter()
                .find(|link| link.0 == to)
                .map_or(0.0, |link| link.1)
        };
        assert!(weight(0, 1) > 0.1 && weight(0, 4).abs() < 0.01, "{taste:?}");
        assert!(taste[6].is_empty());

        let together = together(&[vec![0, 1], vec![0, 1], vec![0, 1, 2]], 3);
        assert!(together[0][0].1 > together[0][1].1, "{together:?}");

        let words = words(&[
            Some("RED MUG"),
            Some("Blue mug, large"),
            Some("CANDLE"),
            None,
        ]);
        assert_eq!(words.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 0, 0]);
    }
}
