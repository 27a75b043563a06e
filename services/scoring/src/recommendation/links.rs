//! Item-item weights: which products go with which.

use super::{
    features::{Held, PurchaseWeights},
    slate::Slate,
};
use crate::{ModelError, Tensors, csr::SparseMatrix};

/// Weights from each product to those that go with it, by how they were found.
#[derive(Debug)]
pub(super) struct Links {
    /// A linear autoencoder over what customers buy.
    pub(super) taste: SparseMatrix,
    /// Bought in one order.
    pub(super) together: SparseMatrix,
    /// Described alike.
    pub(super) words: SparseMatrix,
}

impl Links {
    pub(super) fn read(tensors: &Tensors<'_>, products: usize) -> Result<Self, ModelError> {
        let matrix = |name| SparseMatrix::read(tensors, name, products);
        Ok(Self {
            taste: matrix("taste")?,
            together: matrix("together")?,
            words: matrix("words")?,
        })
    }

    /// Adds what a purchase says of other products to their signals.
    pub(super) fn add_signals(&self, held: &Held, slate: &mut Slate) {
        let PurchaseWeights {
            usual,
            undecayed,
            fresh,
        } = held.weights();
        for (other, weight) in self.taste.row(held.product) {
            let signals = &mut slate.touch(other).signals;
            signals.taste += usual * weight;
            signals.taste_undecayed += undecayed * weight;
            signals.taste_fresh += fresh * weight;
        }
        for (other, weight) in self.together.row(held.product) {
            let signals = &mut slate.touch(other).signals;
            signals.together += usual * weight;
            signals.together_fresh += fresh * weight;
        }
        for (other, weight) in self.words.row(held.product) {
            slate.touch(other).signals.words += usual * weight;
        }
    }

    /// How strongly a product of the basket speaks for another one.
    pub(super) fn weight(&self, basket: usize, product: usize) -> f32 {
        let weight = |matrix: &SparseMatrix| {
            let found = matrix.row(basket).find(|(other, _)| *other == product);
            found.map_or(0.0, |(_, weight)| weight)
        };
        weight(&self.taste).max(0.0) + weight(&self.together)
    }
}
