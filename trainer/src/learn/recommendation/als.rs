//! Implicit-feedback ALS (Hu, Koren and Volinsky 2008) with the regularisation in proportion to a
//! row's weights (Rendle, Krichene, Zhang and Koren 2022): `Σ_observed w (1 - x·y)² + u Σ_all
//! (x·y)² + λ Σ_rows (Σw + u n) |row|²`, `n` the number of rows of the other side.
//!
//! Rows are solved in batches on the device. While both sides still move, a few steps of conjugate
//! gradients from the last solution approximate the new one (Takács, Pilászy and Tikk 2011); at the
//! end rows are solved exactly, by Cholesky. The interactions are never made dense.

use rayon::prelude::*;
use tch::{Device, Kind as Dtype, Tensor};

use crate::learn::LearnError;

/// The parameters of ALS.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Number of factors of a row.
    pub factors: i64,
    /// Iterations over both sides.
    pub iterations: u64,
    /// Weight of interactions that were not observed.
    pub unobserved: f64,
    /// Regularisation for each unit of a row's weights.
    pub lambda: f64,
}

/// Elements of a batch's largest tensor, at most: as many as fit into a processor's cache, or as
/// keep a GPU busy.
const CELLS_CPU: usize = 1 << 18;
const CELLS_CUDA: usize = 1 << 26;

/// Steps of conjugate gradients in an iteration.
const GRADIENT_STEPS: usize = 2;

/// Rows of similar length, padded to the longest.
struct Batch {
    /// `[b]`
    rows: Tensor,
    /// Rows of the other side, `[b k]`.
    others: Tensor,
    /// Weights, 0 for padding, `[b, k, 1]`.
    weights: Tensor,
    /// `λ (Σw + u n)`, `[b, 1, 1]`
    ridge: Tensor,
    longest: i64,
}

/// One side of the interactions.
pub(super) struct Side {
    rows: i64,
    batches: Vec<Batch>,
    settings: Settings,
}

impl Side {
    /// From interactions (row, row of the other side, weight) in order of row, with `n` rows on
    /// this side and `others` on the other.
    pub(super) fn of(
        cells: &[(usize, usize, f64)],
        n: usize,
        others: usize,
        settings: Settings,
        device: Device,
    ) -> Self {
        let mut rows: Vec<&[(usize, usize, f64)]> = cells.chunk_by(|a, b| a.0 == b.0).collect();
        rows.sort_by_key(|row| (row.len(), row[0].0));
        let (factors, most) = (
            settings.factors as usize,
            if device.is_cuda() {
                CELLS_CUDA
            } else {
                CELLS_CPU
            },
        );
        let mut batches = Vec::new();
        let mut rest = rows.as_slice();
        while !rest.is_empty() {
            // Little padding, and no batch across the number of factors: shorter rows are solved by
            // another formula (see `Batch::solve`).
            let (least, limit) = (
                rest[0].len(),
                if rest[0].len() < factors {
                    factors - 1
                } else {
                    usize::MAX
                },
            );
            let fits = |count: usize| {
                let longest = rest[count - 1].len();
                longest <= (least + least / 8 + 2).min(limit.max(least))
                    && count * factors * longest <= most
            };
            let count = (2..=rest.len())
                .take_while(|count| fits(*count))
                .last()
                .unwrap_or(1);
            let (batch, later) = rest.split_at(count);
            batches.push(Batch::of(batch, others, settings, device));
            rest = later;
        }
        Self {
            rows: n as i64,
            batches,
            settings,
        }
    }

    /// This side's factors given the other's, exactly.
    pub(super) fn solve(&self, other: &Tensor) -> Result<Tensor, LearnError> {
        self.step(other, None)
    }

    /// This side's factors given the other's: exactly, or closer to the exact ones than `before`.
    ///
    /// All rows share the term `u YᵀY`. Batches are solved in the basis of its eigenvectors, in
    /// which it is diagonal.
    fn step(&self, other: &Tensor, before: Option<&Tensor>) -> Result<Tensor, LearnError> {
        let (f, options) = (self.settings.factors, (Dtype::Float, other.device()));
        let gram = other.transpose(0, 1).matmul(other) * self.settings.unobserved;
        let (values, vectors) = gram.f_linalg_eigh("L")?;
        let (values, turned) = (values.clamp_min(0.0), other.matmul(&vectors));
        let before = before.map(|before| before.matmul(&vectors));
        let work: Vec<_> = self
            .batches
            .iter()
            .map(|batch| {
                let before = before
                    .as_ref()
                    .map(|before| before.index_select(0, &batch.rows));
                (
                    batch.shared(),
                    values.shallow_clone(),
                    turned.shallow_clone(),
                    before,
                )
            })
            .collect();
        let parts: Vec<_> = work
            .into_par_iter()
            .map(|(batch, values, turned, before)| match before {
                Some(before) => Ok(batch.approach(&values, &turned, before)),
                None => batch.solve(&values, &turned),
            })
            .collect::<Result<_, LearnError>>()?;
        let mut solved = Tensor::zeros([self.rows, f], options);
        for (batch, part) in self.batches.iter().zip(parts) {
            let _ = solved.index_copy_(0, &batch.rows, &part);
        }
        Ok(solved.matmul(&vectors.transpose(0, 1)))
    }
}

impl Batch {
    /// The same batch, for another thread.
    fn shared(&self) -> Self {
        Self {
            rows: self.rows.shallow_clone(),
            others: self.others.shallow_clone(),
            weights: self.weights.shallow_clone(),
            ridge: self.ridge.shallow_clone(),
            longest: self.longest,
        }
    }

    /// The rows' factors in the basis in which `u YᵀY` is diagonal with `values`, `[b, f]`;
    /// `turned`: the other side's.
    ///
    /// A row with `k` interactions, fewer than the `f` factors, is solved by the Woodbury identity:
    /// a system of `k` unknowns instead of `f`, in `k² f` operations instead of `k f²`.
    fn solve(&self, values: &Tensor, turned: &Tensor) -> Result<Tensor, LearnError> {
        let f = turned.size()[1];
        let roots = self.weights.sqrt();
        // √W Y, whose rows are 0 for padding; D = u YᵀY + ridge.
        let y = turned
            .index_select(0, &self.others)
            .view([-1, self.longest, f])
            * &roots;
        let diagonal = &self.ridge + values.view([1, 1, f]);
        if self.longest < f {
            // x = D⁻¹ Yᵀ√W (I + √W Y D⁻¹ Yᵀ√W)⁻¹ √w
            let scaled = (&y / diagonal).transpose(1, 2);
            let a = y.bmm(&scaled);
            let _ = a.diagonal(0, 1, 2).g_add_scalar_(1.0);
            let (factor, _) = a.f_linalg_cholesky_ex(false, false)?;
            return Ok(scaled
                .bmm(&roots.f_cholesky_solve(&factor, false)?)
                .squeeze_dim(2));
        }
        // x = (D + Yᵀ W Y)⁻¹ Yᵀ w
        let across = y.transpose(1, 2);
        let a = across.bmm(&y);
        let _ = a.diagonal(0, 1, 2).g_add_(&diagonal.squeeze_dim(1));
        let (factor, _) = a.f_linalg_cholesky_ex(false, false)?;
        Ok(across
            .bmm(&roots)
            .f_cholesky_solve(&factor, false)?
            .squeeze_dim(2))
    }

    /// Closer to the same solution than `x`, by [`GRADIENT_STEPS`] steps of conjugate gradients on
    /// `(D + Yᵀ W Y) x = Yᵀ w`, preconditioned by D.
    fn approach(&self, values: &Tensor, turned: &Tensor, mut x: Tensor) -> Tensor {
        let f = turned.size()[1];
        let y = turned
            .index_select(0, &self.others)
            .view([-1, self.longest, f]);
        let across = y.transpose(1, 2);
        let diagonal = self.ridge.view([-1, 1]) + values;
        let dot = |a: &Tensor, b: &Tensor| {
            (a * b).sum_dim_intlist([1_i64].as_slice(), true, None::<Dtype>)
        };
        let weights = self.weights.transpose(1, 2);
        // Row vectors times matrices are four times as fast in libtorch as matrices times columns.
        let of = |x: &Tensor| x.unsqueeze(1).bmm(&across);
        let weighed = |found: Tensor| (found * &weights).bmm(&y).squeeze_dim(1);
        let found = of(&x);
        let mut rest = weighed(found.ones_like() - found) - &diagonal * &x;
        let mut near = &rest / &diagonal;
        let mut along = near.shallow_clone();
        let mut size = dot(&rest, &near);
        for _ in 0..GRADIENT_STEPS {
            let image = &diagonal * &along + weighed(of(&along));
            let length = &size / dot(&along, &image).clamp_min(1e-30);
            x += &length * &along;
            rest -= &length * image;
            near = &rest / &diagonal;
            let smaller = dot(&rest, &near);
            along = &near + &smaller / size.clamp_min(1e-30) * along;
            size = smaller;
        }
        x
    }

    fn of(
        rows: &[&[(usize, usize, f64)]],
        others: usize,
        settings: Settings,
        device: Device,
    ) -> Self {
        let longest = rows.iter().map(|row| row.len()).max().unwrap_or(1);
        let (mut other, mut weights) = (
            vec![0_i64; rows.len() * longest],
            vec![0_f32; rows.len() * longest],
        );
        for (at, row) in rows.iter().enumerate() {
            for (place, cell) in row.iter().enumerate() {
                other[at * longest + place] = cell.1 as i64;
                weights[at * longest + place] = cell.2 as f32;
            }
        }
        let all = settings.unobserved * others as f64;
        let ridge = rows
            .iter()
            .map(|row| settings.lambda * (row.iter().map(|cell| cell.2).sum::<f64>() + all));
        let ridge: Vec<f32> = ridge.map(|ridge| ridge as f32).collect();
        let own: Vec<i64> = rows.iter().map(|row| row[0].0 as i64).collect();
        Self {
            rows: Tensor::from_slice(&own).to_device(device),
            others: Tensor::from_slice(&other).to_device(device),
            weights: Tensor::from_slice(&weights)
                .view([rows.len() as i64, longest as i64, 1])
                .to_device(device),
            ridge: Tensor::from_slice(&ridge)
                .view([-1, 1, 1])
                .to_device(device),
            longest: longest as i64,
        }
    }
}

/// Factors of products, learnt from interactions (customer, product, weight) in order of customer
/// and product; `each` is called after every iteration.
///
/// # Errors
/// [`LearnError::Tensor`].
pub fn factorise(
    cells: &[(usize, usize, f64)],
    [customers, products]: [usize; 2],
    settings: Settings,
    seed: u64,
    device: Device,
    mut each: impl FnMut(),
) -> Result<Tensor, LearnError> {
    tch::manual_seed(seed.cast_signed());
    let by_customer = Side::of(cells, customers, products, settings, device);
    let mut turned: Vec<_> = cells
        .iter()
        .map(|(customer, product, weight)| (*product, *customer, *weight))
        .collect();
    turned.sort_by_key(|cell| (cell.0, cell.1));
    let by_product = Side::of(&turned, products, customers, settings, device);
    let scale = 0.1 / (settings.factors as f64).sqrt();
    let options = (Dtype::Float, Device::Cpu);
    let mut of_products =
        (Tensor::randn([products as i64, settings.factors], options) * scale).to_device(device);
    let mut of_customers =
        Tensor::zeros([customers as i64, settings.factors], (Dtype::Float, device));
    for _ in 0..settings.iterations {
        of_customers = by_customer.step(&of_products, Some(&of_customers))?;
        of_products = by_product.step(&of_customers, Some(&of_products))?;
        each();
    }
    Ok(of_products)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_gets_products_of_customers_with_similar_purchases() {
        // Two kinds of customers with eight products each; every customer misses one of them.
        let cells: Vec<_> = (0..40_usize)
            .flat_map(|c| {
                (0..8)
                    .filter(move |p| *p != c / 2 % 8)
                    .map(move |p| (c, c % 2 * 8 + p, 1.0))
            })
            .collect();
        let settings = Settings {
            factors: 4,
            iterations: 10,
            unobserved: 0.1,
            lambda: 0.01,
        };
        let products = factorise(&cells, [40, 16], settings, 1, Device::Cpu, || {}).unwrap();
        let customers = Side::of(&cells, 40, 16, settings, Device::Cpu)
            .solve(&products)
            .unwrap();
        let scores = customers.matmul(&products.transpose(0, 1));
        for c in 0..40_i64 {
            let (missing, foreign) = (c % 2 * 8 + c / 2 % 8, (c + 1) % 2 * 8);
            assert!(
                scores.double_value(&[c, missing]) > scores.double_value(&[c, foreign]) + 0.3,
                "{c}"
            );
        }
    }

    #[test]
    fn conjugate_gradients_converge_to_the_exact_solution() {
        // Rows with fewer interactions than factors, and with more.
        let cells: Vec<_> = (0..60)
            .flat_map(|c| (0..=c % 12).map(move |p| (c, (5 * c + p) % 40, 1.0 + p as f64)))
            .collect();
        let settings = Settings {
            factors: 6,
            iterations: 1,
            unobserved: 0.5,
            lambda: 0.02,
        };
        let side = Side::of(&cells, 60, 40, settings, Device::Cpu);
        let products = Tensor::from_slice(
            &(0..240)
                .map(|at| (at as f32 * 1.7).sin())
                .collect::<Vec<_>>(),
        )
        .view([40, 6]);
        let exact = side.solve(&products).unwrap();
        let apart = |of: &Tensor| (of - &exact).abs().max().double_value(&[]);
        let once = side.step(&products, Some(&exact.zeros_like())).unwrap();
        let again = side.step(&products, Some(&once)).unwrap();
        assert!(
            apart(&once) < 0.2 * apart(&exact.zeros_like()),
            "{}",
            apart(&once)
        );
        assert!(
            apart(&again) < 0.2 * apart(&once),
            "{} {}",
            apart(&once),
            apart(&again)
        );
    }
}
