//! What a line of an invoice is.

use std::{fmt, str::FromStr};

/// What a line of an invoice is. The order is that of [`LineKind::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LineKind {
    /// A product was sold.
    Sale,
    /// An earlier sale was taken back.
    Cancellation,
    /// Postage, fees, discounts, manual entries.
    Service,
    /// The books or the stock were corrected: nothing was paid, or units left without a sale.
    Adjustment,
}

/// A name that no kind of line has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a kind of line")]
pub struct UnknownLineKind(pub String);

impl LineKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self::Sale,
        Self::Cancellation,
        Self::Service,
        Self::Adjustment,
    ];

    /// The name in column `kind` of the curated table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sale => "sale",
            Self::Cancellation => "cancellation",
            Self::Service => "service",
            Self::Adjustment => "adjustment",
        }
    }
}

impl FromStr for LineKind {
    type Err = UnknownLineKind;

    fn from_str(name: &str) -> Result<Self, UnknownLineKind> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == name)
            .ok_or_else(|| UnknownLineKind(name.to_owned()))
    }
}

impl fmt::Display for LineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_back_from_its_name() {
        for kind in LineKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        for name in ["", "Sale", "refund", "sale "] {
            let unknown = UnknownLineKind(name.to_owned());
            assert_eq!(LineKind::from_str(name), Err(unknown));
        }
    }
}
