//! Compressed rows: rows of different lengths, one after the other in one piece of memory.

use std::ops::Range;

use crate::{Kept, ModelError, Tensors};

/// Items by row. Row `r` is `items[starts[r]..starts[r + 1]]`.
#[derive(Debug, Clone)]
pub(crate) struct Rows<T> {
    starts: Vec<u32>,
    items: Vec<T>,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self {
            starts: vec![0],
            items: Vec::new(),
        }
    }
}

impl<T: Copy + Default> Rows<T> {
    /// The items that `each` visits with their row, which is below `rows`. Items of a row keep the
    /// order of the visits. `each` runs twice, to count and to place, and must visit the same both
    /// times.
    pub(crate) fn visit(rows: usize, each: impl Fn(&mut dyn FnMut(u32, T))) -> Self {
        let mut starts = vec![0_u32; rows + 1];
        each(&mut |row, _| starts[row as usize + 1] += 1);
        for row in 0..rows {
            starts[row + 1] += starts[row];
        }
        let (mut next, mut items) = (starts.clone(), vec![T::default(); starts[rows] as usize]);
        each(&mut |row, item| {
            let place = &mut next[row as usize];
            items[*place as usize] = item;
            *place += 1;
        });
        Self { starts, items }
    }
}

impl Rows<u32> {
    /// The numbers `0..` by the row that each has; a number with row `None` is left out.
    pub(crate) fn of_numbers(
        rows: usize,
        row_of: impl Iterator<Item = Option<u32>> + Clone,
    ) -> Self {
        Self::visit(rows, |put| {
            for (number, row) in (0..).zip(row_of.clone()) {
                if let Some(row) = row {
                    put(row, number);
                }
            }
        })
    }
}

impl<T> Rows<T> {
    /// The same rows of other items.
    pub(crate) fn map<U>(self, item: impl FnMut(T) -> U) -> Rows<U> {
        Rows {
            starts: self.starts,
            items: self.items.into_iter().map(item).collect(),
        }
    }

    fn range(&self, row: usize) -> Range<usize> {
        self.starts[row] as usize..self.starts[row + 1] as usize
    }

    /// The items of a row.
    ///
    /// # Panics
    /// If there is no such row.
    pub(crate) fn row(&self, row: usize) -> &[T] {
        &self.items[self.range(row)]
    }

    /// The items of a row; none if there is no such row.
    pub(crate) fn get(&self, row: usize) -> &[T] {
        match row + 1 < self.starts.len() {
            true => self.row(row),
            false => &[],
        }
    }

    /// Sorts the items of each row by a key.
    pub(crate) fn sort_each_by_key<K: Ord>(&mut self, key: impl Fn(&T) -> K) {
        for row in 0..self.starts.len() - 1 {
            let range = self.range(row);
            self.items[range].sort_unstable_by_key(&key);
        }
    }

    /// Adds a row.
    pub(crate) fn push_row(&mut self, items: impl IntoIterator<Item = T>) {
        self.items.extend(items);
        self.starts.push(self.items.len() as u32);
    }

    /// All items, row by row.
    pub(crate) fn items(&self) -> &[T] {
        &self.items
    }

    /// Gives memory back that no item uses.
    pub(crate) fn shrink_to_fit(&mut self) {
        self.items.shrink_to_fit();
    }

    /// Memory in use, bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<u32>() * self.starts.capacity() + size_of::<T>() * self.items.capacity()
    }
}

/// A sparse square matrix of weights, read from a file and kept there.
#[derive(Debug)]
pub(crate) struct SparseMatrix {
    starts: Kept<u32>,
    columns: Kept<u32>,
    weights: Kept<f32>,
}

impl SparseMatrix {
    /// Reads the tensors `NAME.start` `[rows + 1]`, `NAME.other` and `NAME.weight`.
    pub(crate) fn read(
        tensors: &Tensors<'_>,
        name: &'static str,
        rows: usize,
    ) -> Result<Self, ModelError> {
        let starts: Kept<u32> = tensors.keep(&format!("{name}.start"), &[rows + 1])?;
        let [count] = tensors.shape(&format!("{name}.other"))?;
        let columns: Kept<u32> = tensors.keep(&format!("{name}.other"), &[count])?;
        let weights: Kept<f32> = tensors.keep(&format!("{name}.weight"), &[count])?;
        let is_rising = starts.first() == Some(&0) && starts.is_sorted();
        let is_whole = starts.last().is_some_and(|last| *last as usize == count);
        if !is_rising || !is_whole || columns.iter().any(|column| *column as usize >= rows) {
            return Err(ModelError::inconsistent(
                name,
                "does not lead from products to products",
            ));
        }
        if weights.iter().any(|weight| !weight.is_finite()) {
            return Err(ModelError::inconsistent(
                name,
                "has a weight that is not finite",
            ));
        }
        Ok(Self {
            starts,
            columns,
            weights,
        })
    }

    /// The columns of a row and their weights.
    pub(crate) fn row(&self, row: usize) -> impl Iterator<Item = (usize, f32)> {
        let range = self.starts[row] as usize..self.starts[row + 1] as usize;
        self.columns[range.clone()]
            .iter()
            .map(|column| *column as usize)
            .zip(self.weights[range].iter().copied())
    }

    #[cfg(test)]
    pub(crate) fn of(rows: &[Vec<(u32, f32)>]) -> Self {
        let mut starts = vec![0];
        for row in rows {
            starts.push(starts[starts.len() - 1] + row.len() as u32);
        }
        let all = || rows.iter().flatten();
        Self {
            starts: starts.into(),
            columns: all().map(|entry| entry.0).collect::<Vec<_>>().into(),
            weights: all().map(|entry| entry.1).collect::<Vec<_>>().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_row_in_their_order() {
        let rows = [Some(2), None, Some(0), Some(2)];
        let rows = Rows::of_numbers(3, rows.into_iter());
        assert_eq!(
            [rows.row(0), rows.row(1), rows.row(2)],
            [&[2][..], &[], &[0, 3]]
        );
        assert_eq!(rows.get(3), &[] as &[u32]);
    }

    #[test]
    fn rows_are_added_mapped_and_sorted() {
        let mut rows = Rows::default();
        rows.push_row([3, 1, 2]);
        rows.push_row([]);
        rows.push_row([5, 4]);
        rows.sort_each_by_key(|item| *item);
        let rows = rows.map(|item| item * 10);
        assert_eq!(rows.items(), [10, 20, 30, 40, 50]);
        assert_eq!((rows.row(1), rows.row(2)), (&[][..], &[40, 50][..]));
    }

    #[test]
    fn a_matrix_gives_its_rows() {
        let matrix = SparseMatrix::of(&[vec![], vec![(0, 0.5), (2, 1.5)], vec![(1, 1.0)]]);
        assert_eq!(matrix.row(0).count(), 0);
        assert_eq!(matrix.row(1).collect::<Vec<_>>(), [(0, 0.5), (2, 1.5)]);
    }
}
