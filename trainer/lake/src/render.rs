//! Values of tables as text and as JSON.

use polars::prelude::*;

use crate::error::LakeError;

/// The rows of a table as JSON objects. Money keeps its four decimal places.
///
/// # Errors
/// [`LakeError::Table`].
pub fn rows(
    table: &DataFrame,
) -> Result<Vec<serde_json::Map<String, serde_json::Value>>, LakeError> {
    let columns: Vec<_> = table
        .columns()
        .iter()
        .map(|column| (column.name().to_string(), column))
        .collect();
    let object = |row: usize| {
        columns
            .iter()
            .map(|(name, column)| Ok((name.clone(), json(column.get(row)?))))
            .collect()
    };
    (0..table.height()).map(object).collect()
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a value that is neither number nor text is written as polars prints it"
)]
fn json(value: AnyValue<'_>) -> serde_json::Value {
    match value {
        AnyValue::Null => serde_json::Value::Null,
        AnyValue::Boolean(value) => value.into(),
        AnyValue::String(value) => value.into(),
        AnyValue::StringOwned(value) => value.as_str().into(),
        AnyValue::Float32(value) => value.into(),
        AnyValue::Float64(value) => value.into(),
        AnyValue::UInt8(_) | AnyValue::UInt16(_) | AnyValue::UInt32(_) | AnyValue::UInt64(_) => {
            value.extract::<u64>().into()
        }
        AnyValue::Int8(_) | AnyValue::Int16(_) | AnyValue::Int32(_) | AnyValue::Int64(_) => {
            value.extract::<i64>().into()
        }
        AnyValue::Decimal(..) => value.extract::<f64>().into(),
        AnyValue::List(values) => values.iter().map(json).collect(),
        other => other.to_string().into(),
    }
}

/// A value as text, in full: null is empty, money has four decimal places, a list is JSON.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "all other values are written as polars prints them"
)]
pub fn text(value: &AnyValue<'_>) -> String {
    match value {
        AnyValue::Null => String::new(),
        AnyValue::String(text) => (*text).to_owned(),
        AnyValue::StringOwned(text) => text.to_string(),
        // The shortest text that reads back as the same number; polars rounds.
        AnyValue::Float64(number) => number.to_string(),
        AnyValue::List(_) => json(value.clone()).to_string(),
        other => other.to_string(),
    }
}
