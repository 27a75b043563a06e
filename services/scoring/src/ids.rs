//! Names of customers and products, in the one spelling that everything else compares.

use std::{borrow::Borrow, fmt, str::FromStr};

/// An id of nothing but white space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is empty")]
pub struct EmptyId;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $canonical:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// The canonical spelling.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The canonical spelling of `written`, without making an id of it; empty when there is none.
            pub fn canonical(written: &str) -> &str {
                $canonical(written)
            }
        }

        impl FromStr for $name {
            type Err = EmptyId;

            fn from_str(written: &str) -> Result<Self, EmptyId> {
                match $canonical(written) {
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

        // So that a map by id is searched with a borrowed, canonical `&str`.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

id! {
    /// A customer. Opaque, but spreadsheets turn `17850` into `17850.0`, and both are one customer.
    CustomerId, customer
}

id! {
    /// A product. Opaque; white space around it does not count.
    StockCode, str::trim
}

impl StockCode {
    /// What two spellings of a code have in common: `84030e` is `84030E`.
    pub fn folded(written: &str) -> String {
        Self::canonical(written).to_uppercase()
    }
}

fn customer(written: &str) -> &str {
    let id = written.trim();
    match id.strip_suffix(".0") {
        Some(whole) if !whole.is_empty() && whole.bytes().all(|b| b.is_ascii_digit()) => whole,
        Some(_) | None => id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customer_has_one_spelling() {
        for (written, id) in [
            ("17850", Ok("17850")),
            ("17850.0", Ok("17850")),
            (" 17850 ", Ok("17850")),
            (" ad1cb06f ", Ok("ad1cb06f")),
            ("12.50", Ok("12.50")),
            ("x.0", Ok("x.0")),
            (".0", Ok(".0")),
            ("", Err(EmptyId)),
            (" \t", Err(EmptyId)),
        ] {
            let parsed = CustomerId::from_str(written);
            assert_eq!(
                parsed.as_ref().map(CustomerId::as_str),
                id.as_ref().copied(),
                "{written:?}"
            );
        }
    }
}
