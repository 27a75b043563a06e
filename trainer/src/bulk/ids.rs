//! Scoring only the ids in a file.

use std::{collections::HashSet, path::Path};

use transactions::CustomerId;

use crate::Failure;

/// Items with their ids.
pub(super) type WithIds<T> = Vec<(String, T)>;

/// The items with an id in column `column` of the input (without an input all), in order of id, and
/// a text for each id of the input that no item has.
pub(super) fn requested<T>(
    input: Option<&Path>,
    column: &str,
    mut items: WithIds<T>,
) -> Result<(WithIds<T>, Vec<String>), Failure> {
    items.sort_by(|a, b| a.0.cmp(&b.0));
    let Some(input) = input else {
        return Ok((items, Vec::new()));
    };
    let requested = ids(input, column)?;
    let set: HashSet<&str> = requested.iter().map(String::as_str).collect();
    items.retain(|(id, _)| set.contains(id.as_str()));
    let found: HashSet<&str> = items.iter().map(|(id, _)| id.as_str()).collect();
    let unknown = requested.iter().filter(|id| !found.contains(id.as_str()));
    let unknown = unknown.map(|id| format!("{column} {id} is unknown"));
    let unknown = unknown.collect();
    Ok((items, unknown))
}

/// The ids in a column of a CSV file in order, each once.
fn ids(input: &Path, column: &str) -> Result<Vec<String>, Failure> {
    let bad = |problem: String| Failure::Input {
        path: input.to_owned(),
        problem,
    };
    let unreadable = |error: csv::Error| bad(error.to_string());
    let mut reader = csv::Reader::from_path(input).map_err(unreadable)?;
    let header = reader.headers().map_err(unreadable)?;
    let header: Vec<String> = header.iter().map(str::to_owned).collect();
    let place = lake::place_of(&header, column)
        .ok_or_else(|| bad(format!("it has no column `{column}`")))?;
    let mut ids = Vec::new();
    for record in reader.records() {
        let record = record.map_err(unreadable)?;
        let id = CustomerId::canonical(record.get(place).unwrap_or_default());
        if !id.is_empty() {
            ids.push(id.to_owned());
        }
    }
    ids.sort();
    ids.dedup();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_from_a_column_in_any_usual_spelling() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ids.csv");
        for header in ["customer_id", "CustomerID", "Customer ID"] {
            fs_err::write(&file, format!("x,{header}\n1,17850.0\n2,14911\n3,17850\n")).unwrap();
            let ids = ids(&file, "customer_id").unwrap();
            assert_eq!(ids, ["14911", "17850"], "{header}");
        }
        fs_err::write(&file, "x\n1\n").unwrap();
        let refused = ids(&file, "customer_id").unwrap_err().to_string();
        assert!(refused.contains("no column `customer_id`"), "{refused}");
    }
}
