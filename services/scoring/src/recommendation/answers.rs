//! What each customer is recommended who wishes nothing but a number of products, found beforehand:
//! the answer that is asked for most costs a service a look into a table.
//!
//! `answers.safetensors`, by row of the customer, the best product first: `product` `[n, k]` u32,
//! `score` `[n, k]` f64, `spoken_for` `[n, k]` u8. They are what
//! [`Recommendations::rank`](super::Recommendations::rank) finds with the files beside this one. A
//! model without the file finds them when it is asked.

use super::Found;
use crate::{Artifact, Kept, ModelError, TensorFile};

/// Name of the file.
pub const FILE: &str = "answers.safetensors";

/// Products that are found beforehand for each customer, unless there are fewer.
pub const MOST: usize = 20;

/// The answers, `[n, each]`.
#[derive(Debug)]
pub(super) struct Answers {
    each: usize,
    product: Kept<u32>,
    score: Kept<f64>,
    spoken_for: Kept<u8>,
}

impl Answers {
    /// Those of `n` customers over `m` products, where there are any.
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

    /// A customer's, unless more are wanted than there are.
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

/// The file: what was found for each customer, for all as much.
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
