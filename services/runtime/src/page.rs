//! Pages of a list, by an opaque token that is good for one request and one version of the model.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
};

use crate::Refusal;

/// Most items of a page.
const MOST: usize = 1000;
/// Items of a page when the caller does not say.
const DEFAULT: usize = 100;

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    start: usize,
    size: usize,
    filter: u64,
    version: u64,
}

impl Page {
    /// Reads `page_size` and `page_token` of a list. `filter` is all that selects it, `version` the
    /// model's.
    ///
    /// # Errors
    /// [`Refusal::InvalidField`] if the size is negative or the token is not one of this list's;
    /// [`Refusal::ModelChanged`] if the token is of another version.
    pub fn of(
        list: &'static str,
        size: i32,
        token: &str,
        filter: impl Hash,
        version: &str,
    ) -> Result<Self, Refusal> {
        let size = match usize::try_from(size) {
            Ok(0) => DEFAULT,
            Ok(size) => size.min(MOST),
            Err(_) => {
                return Err(Refusal::field(
                    "page_size",
                    format!("is {size}; it must not be negative"),
                ));
            }
        };
        let (filter, version) = (hash((list, filter)), hash(version));
        if token.is_empty() {
            return Ok(Self {
                start: 0,
                size,
                filter,
                version,
            });
        }
        let foreign = || Refusal::field("page_token", "is not one that this list gave out");
        let mut parts = token.split('-').map(|part| u64::from_str_radix(part, 16));
        let (Some(Ok(start)), Some(Ok(of)), Some(Ok(was)), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(foreign());
        };
        if of != filter {
            return Err(foreign());
        }
        if was != version {
            return Err(Refusal::ModelChanged);
        }
        Ok(Self {
            start: usize::try_from(start).map_err(|_| foreign())?,
            size,
            filter,
            version,
        })
    }

    /// The items of this page, and the token of the next one; empty after the last.
    pub fn cut<'a, T>(&self, all: &'a [T]) -> (&'a [T], String) {
        let (places, next) = self.places(all.len());
        (all.get(places).unwrap_or_default(), next)
    }

    /// The places of this page's items among `count`, and the token of the next page: for items
    /// that are made when they are shown.
    pub fn places(&self, count: usize) -> (Range<usize>, String) {
        let start = self.start.min(count);
        let end = start.saturating_add(self.size).min(count);
        let next = if end < count {
            format!("{end:x}-{:x}-{:x}", self.filter, self.version)
        } else {
            String::new()
        };
        (start..end, next)
    }
}

fn hash(value: impl Hash) -> u64 {
    // The hasher's keys are fixed, so that every replica can read the tokens of every other.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_one_another_to_the_end() {
        let all: Vec<u32> = (0..25).collect();
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let (part, next) = Page::of("numbers", 10, &token, "all", "v1")
                .unwrap()
                .cut(&all);
            seen.extend_from_slice(part);
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn a_token_is_good_for_its_list_and_version_alone() {
        let (_, token) = Page::of("numbers", 10, "", "all", "v1")
            .unwrap()
            .cut(&[0; 25]);
        assert!(Page::of("numbers", 10, &token, "all", "v1").is_ok());
        assert!(matches!(
            Page::of("others", 10, &token, "all", "v2"),
            Err(Refusal::InvalidField { .. })
        ));
        assert_eq!(
            Page::of("numbers", 10, &token, "all", "v2"),
            Err(Refusal::ModelChanged)
        );
        for token in [token.as_str(), "nonsense", "1-2", "ffffffffffffffffff-0-0"] {
            assert!(
                matches!(
                    Page::of("numbers", 10, token, "some", "v1"),
                    Err(Refusal::InvalidField { .. })
                ),
                "{token}"
            );
        }
        assert!(Page::of("numbers", -1, "", "all", "v1").is_err());
    }
}
