//! Columns of tables.

use polars::prelude::{Column, NamedFrom, Series};

/// A column of values of any type that polars has: texts, numbers, or options of them.
pub(crate) fn column<T>(name: &str, values: impl IntoIterator<Item = T>) -> Column
where
    Series: NamedFrom<Vec<T>, [T]>,
{
    Column::new(name.into(), values.into_iter().collect::<Vec<T>>())
}
