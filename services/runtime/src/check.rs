//! Checks of request fields, each naming the field.

use tonic::Status;
use tonic_types::pb;

use crate::Refusal;

/// A text that is not empty.
///
/// # Errors
/// [`Refusal::InvalidField`].
pub fn required<'a>(field: &str, text: &'a str) -> Result<&'a str, Refusal> {
    if text.trim().is_empty() {
        Err(Refusal::field(field, "is empty"))
    } else {
        Ok(text)
    }
}

/// A number that is neither NaN nor infinite.
///
/// # Errors
/// [`Refusal::InvalidField`].
pub fn finite(field: &str, number: f64) -> Result<f64, Refusal> {
    if number.is_finite() {
        Ok(number)
    } else {
        Err(Refusal::field(
            field,
            format!("is {number}, not a finite number"),
        ))
    }
}

/// A finite number of 0 or more.
///
/// # Errors
/// [`Refusal::InvalidField`].
pub fn non_negative(field: &str, number: f64) -> Result<f64, Refusal> {
    match finite(field, number)? {
        number if number < 0.0 => Err(Refusal::field(
            field,
            format!("is {number}; 0 is the least"),
        )),
        number => Ok(number),
    }
}

/// A finite number above 0.
///
/// # Errors
/// [`Refusal::InvalidField`].
pub fn positive(field: &str, number: f64) -> Result<f64, Refusal> {
    match finite(field, number)? {
        number if number <= 0.0 => Err(Refusal::field(
            field,
            format!("is {number}; it must be above 0"),
        )),
        number => Ok(number),
    }
}

/// A count of at most `most`; 0 selects the default.
///
/// # Errors
/// [`Refusal::InvalidField`].
pub fn within(field: &str, count: i32, default: usize, most: usize) -> Result<usize, Refusal> {
    match usize::try_from(count) {
        Ok(0) => Ok(default),
        Ok(count) if count <= most => Ok(count),
        Ok(count) => Err(Refusal::field(
            field,
            format!("is {count}; {most} is the most"),
        )),
        Err(_) => Err(Refusal::field(
            field,
            format!("is {count}; it must not be negative"),
        )),
    }
}

/// A list of 1 to `most` items.
///
/// # Errors
/// [`Refusal::InvalidField`].
pub fn at_least_one<'a, T>(field: &str, list: &'a [T], most: usize) -> Result<&'a [T], Refusal> {
    match list.len() {
        0 => Err(Refusal::field(field, "is empty")),
        n if n > most => Err(Refusal::field(
            field,
            format!("has {n} items; {most} is the most"),
        )),
        _ => Ok(list),
    }
}

/// The status of one item of a batch: the same that a call for this item alone would get.
pub fn item_status(refusal: Refusal) -> pb::Status {
    let status = Status::from(refusal);
    // The details of a status are the encoded status, with its code and message.
    prost::Message::decode(status.details()).unwrap_or_else(|_| pb::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: vec![],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_checked_by_name() {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(
                finite("x", number).is_err()
                    && non_negative("x", number).is_err()
                    && positive("x", number).is_err()
            );
        }
        assert_eq!(non_negative("x", 0.0), Ok(0.0));
        assert_eq!(
            non_negative("x", -1.0).unwrap_err().to_string(),
            "x is -1; 0 is the least"
        );
        assert!(positive("x", 0.0).is_err());
        for (count, within_100) in [
            (0, Ok(10)),
            (1, Ok(1)),
            (100, Ok(100)),
            (101, Err(())),
            (-1, Err(())),
        ] {
            assert_eq!(
                within("limit", count, 10, 100).map_err(drop),
                within_100,
                "{count}"
            );
        }
    }

    #[test]
    fn an_item_is_refused_as_a_call_would_be() {
        let item = item_status(Refusal::not_found("customer", "1"));
        assert_eq!(
            (item.code, item.message.as_str(), item.details.len()),
            (5, "customer `1` is not in the model", 2)
        );
    }
}
