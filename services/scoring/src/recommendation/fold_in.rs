//! Factors of implicit-feedback ALS (Hu, Koren and Volinsky 2008): those of products and customers
//! that training has found, and those of a customer that it has not seen.

use super::features::Held;
use crate::{
    Kept, ModelError, Tensors,
    linear_algebra::{dot, gram, solve},
};

/// What training found, `width` numbers for each product and customer.
#[derive(Debug)]
pub(super) struct Factors {
    width: usize,
    /// `[products, width]`
    products: Kept<f32>,
    /// `[customers, width]`
    customers: Kept<f32>,
    /// Length of each product's factors; 0 of a product of which nothing is known.
    norms: Vec<f32>,
    /// Sum of the products' outer products, `[width, width]`: the lower triangle.
    gram: Vec<f64>,
}

/// How strongly a fold-in is held back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Regularisation {
    /// Weight of a product that the customer has not bought.
    pub(super) unobserved: f64,
    /// For each unit of weight (Rendle et al. 2022).
    pub(super) lambda: f64,
}

impl Factors {
    pub(super) fn read(
        tensors: &Tensors<'_>,
        products: usize,
        customers: usize,
    ) -> Result<Self, ModelError> {
        let [_, width] = tensors.shape("product")?;
        let product: Kept<f32> = tensors.keep("product", &[products, width])?;
        let customer: Kept<f32> = tensors.keep("customer", &[customers, width])?;
        if product.iter().chain(&*customer).any(|x| !x.is_finite()) {
            return Err(ModelError::inconsistent(
                "product",
                "or customer has a factor that is not finite",
            ));
        }
        Ok(Self::new(width, product, customer))
    }

    pub(super) fn new(width: usize, products: Kept<f32>, customers: Kept<f32>) -> Self {
        let rows = products.chunks(width);
        Self {
            width,
            norms: rows.map(|row| dot(row, row).sqrt()).collect(),
            gram: gram(&products, width),
            products,
            customers,
        }
    }

    pub(super) fn of_product(&self, product: usize) -> &[f32] {
        &self.products[product * self.width..][..self.width]
    }

    pub(super) fn of_customer(&self, customer: usize) -> &[f32] {
        &self.customers[customer * self.width..][..self.width]
    }

    /// Factors of a customer with some purchases: one regularised least-squares solve (Hu et al.
    /// 2008, eq. 4), with the regularisation in proportion to all weights (Rendle et al. 2022).
    pub(super) fn fold_in(&self, held: &[Held], regularisation: Regularisation) -> Vec<f32> {
        let (width, Regularisation { unobserved, lambda }) = (self.width, regularisation);
        let mut a: Vec<f64> = self.gram.iter().map(|of| of * unobserved).collect();
        let mut b = vec![0.0; width];
        let mut weights = unobserved * self.norms.len() as f64;
        for held in held {
            let (row, weight) = (self.of_product(held.product), held.confidence());
            weights += weight;
            for i in 0..width {
                let weighted = weight * f64::from(row[i]);
                b[i] += weighted;
                // The solver reads the lower triangle alone.
                for (to, other) in a[i * width..=i * width + i].iter_mut().zip(row) {
                    *to += weighted * f64::from(*other);
                }
            }
        }
        for i in 0..width {
            a[i * width + i] += lambda * weights;
        }
        solve(&mut a, &mut b);
        b.into_iter().map(|x| x as f32).collect()
    }

    /// The cosine of two products' factors; 0 if nothing is known of one of them.
    pub(super) fn cosine(&self, one: usize, other: usize) -> f32 {
        let cosine = dot(self.of_product(one), self.of_product(other))
            / (self.norms[one] * self.norms[other]);
        if cosine.is_finite() { cosine } else { 0.0 }
    }
}
