//! Recommendations for each known customer, found in training: the most frequent request, one
//! without a basket or conditions, costs a service only a look into a table.
//!
//! `answers.safetensors`, by row of the customer, the best product first: `product` `[n, k]` u32,
//! `score` `[n, k]` f64, `spoken_for` `[n, k]` u8. They are what
//! [`RecommendationModel::rank`](super::RecommendationModel::rank) finds with the other files of
//! the model. A model without this file finds them when they are requested.

use crate::{Artifact, Kept, ModelError, TensorFile};

/// Name of the file.
pub const FILE: &str = "answers.safetensors";

/// Products that are found for each customer, unless the shop has fewer.
pub const MOST: usize = 20;

/// A product that was found for a customer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// How well it fits.
    pub score: f64,
    /// Row of the product.
    pub product: usize,
    /// Whether anything that the customer has bought speaks for it.
    pub spoken_for: bool,
}

/// The answers, `[n, each]`.
#[derive(Debug)]
pub(super) struct Answers {
    each: usize,
    product: Kept<u32>,
    score: Kept<f64>,
    spoken_for: Kept<u8>,
}

impl Answers {
    /// Answers for `n` customers over `m` products; `None` if the artifact has none.
    pub(super) fn read(
        artifact: &Artifact,
        n: usize,
        m: usize,
    ) -> Result<Option<Self>, ModelError> {
        if !artifact.files().contains_key(FILE) {
            return Ok(None);
        }
        let tensors = artifact.tensors(FILE)?;
        let [_, each] = tensors.shape("product")?;
        let product: Kept<u32> = tensors.keep("product", &[n, each])?;
        let score: Kept<f64> = tensors.keep("score", &[n, each])?;
        let spoken_for: Kept<u8> = tensors.keep("spoken_for", &[n, each])?;
        if product.iter().any(|row| *row as usize >= m) || spoken_for.iter().any(|yes| *yes > 1) {
            return Err(ModelError::inconsistent("answers", "are not products"));
        }
        let falls = |of: &[f64]| of.is_sorted_by(|better, worse| better >= worse);
        if each == 0
            || !score.iter().all(|score| score.is_finite())
            || !score.chunks(each).all(falls)
        {
            return Err(ModelError::inconsistent(
                "answers",
                "do not fall from the best on",
            ));
        }
        Ok(Some(Self {
            each,
            product,
            score,
            spoken_for,
        }))
    }

    /// A customer's products; `None` if more are wanted than were found.
    pub(super) fn of(&self, customer: usize, limit: usize) -> Option<Vec<Found>> {
        if limit > self.each {
            return None;
        }
        let places = customer * self.each..customer * self.each + limit;
        let (product, score) = (&self.product[places.clone()], &self.score[places.clone()]);
        let found = product.iter().zip(score).zip(&self.spoken_for[places]);
        let found = found.map(|((product, score), spoken_for)| Found {
            score: *score,
            product: *product as usize,
            spoken_for: *spoken_for == 1,
        });
        Some(found.collect())
    }
}

/// The file of what was found, as many products for each customer.
pub fn write(answers: &[Vec<Found>]) -> TensorFile {
    let shape = [answers.len(), answers.first().map_or(0, Vec::len)];
    let all = || answers.iter().flatten();
    TensorFile::new()
        .with(
            "product",
            &shape,
            &all().map(|found| found.product as u32).collect::<Vec<_>>(),
        )
        .with(
            "score",
            &shape,
            &all().map(|found| found.score).collect::<Vec<_>>(),
        )
        .with(
            "spoken_for",
            &shape,
            &all()
                .map(|found| u8::from(found.spoken_for))
                .collect::<Vec<_>>(),
        )
}
