//! Ids of customers, products and invoices, in the one spelling that everything else compares.

use std::{borrow::Borrow, fmt, str::FromStr};

/// An id of nothing but white space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is empty")]
pub struct EmptyId;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// The canonical spelling.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The canonical spelling of `written` without allocating an id; empty if `written`
            /// holds only white space.
            pub fn canonical(written: &str) -> &str {
                canonical(written)
            }
        }

        impl FromStr for $name {
            type Err = EmptyId;

            fn from_str(written: &str) -> Result<Self, EmptyId> {
                match canonical(written) {
                    "" => Err(EmptyId),
                    id => Ok(Self(id.into())),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        // Lets a map by id be searched with a borrowed, canonical `&str`.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

id! {
    /// A customer.
    CustomerId
}

id! {
    /// A product.
    StockCode
}

id! {
    /// An invoice.
    InvoiceNumber
}

impl StockCode {
    /// The form in which codes that differ only in case are equal: `84030e` and `84030E`.
    pub fn folded(written: &str) -> String {
        Self::canonical(written).to_uppercase()
    }
}

/// Spreadsheets write the number `17850` as `17850.0`; both are the same id. Any other text is an
/// id as it stands, without the white space around it.
fn canonical(written: &str) -> &str {
    let id = written.trim();
    match id.strip_suffix(".0") {
        Some(whole) if !whole.is_empty() && whole.bytes().all(|b| b.is_ascii_digit()) => whole,
        Some(_) | None => id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        written: &'static str,
        id: Result<&'static str, EmptyId>,
    }

    const CASES: [Case; 11] = {
        const fn case(written: &'static str, id: Result<&'static str, EmptyId>) -> Case {
            Case { written, id }
        }
        [
            case("17850", Ok("17850")),
            case("17850.0", Ok("17850")),
            case(" 17850 ", Ok("17850")),
            case(" 17850.0\t", Ok("17850")),
            case(" ad1cb06f ", Ok("ad1cb06f")),
            case("12.50", Ok("12.50")),
            case("85123A.0", Ok("85123A.0")),
            case("1.0.0", Ok("1.0.0")),
            case(".0", Ok(".0")),
            case("", Err(EmptyId)),
            case(" \t", Err(EmptyId)),
        ]
    };

    #[test]
    fn customers_products_and_invoices_have_one_spelling_by_one_rule() {
        for Case { written, id } in CASES {
            let customer = written.parse::<CustomerId>();
            let product = written.parse::<StockCode>();
            let invoice = written.parse::<InvoiceNumber>();
            assert_eq!(
                customer.as_ref().map(|id| id.as_str()),
                id.as_ref().copied()
            );
            assert_eq!(product.as_ref().map(|id| id.as_str()), id.as_ref().copied());
            assert_eq!(invoice.as_ref().map(|id| id.as_str()), id.as_ref().copied());
        }
    }

    #[test]
    fn a_canonical_spelling_stays_as_it_is() {
        for Case { written, .. } in CASES {
            let once = StockCode::canonical(written);
            assert_eq!(StockCode::canonical(once), once);
        }
    }

    #[test]
    fn codes_that_differ_in_case_fold_to_one() {
        assert_eq!(StockCode::folded(" 84030e "), "84030E");
        assert_eq!(StockCode::folded("22423.0"), "22423");
    }
}
