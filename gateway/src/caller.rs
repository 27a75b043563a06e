//! Who asks. It keeps answers apart that are not for everybody.

use std::fmt;

use http::{HeaderMap, HeaderName, header::AUTHORIZATION};

pub(crate) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Who asks, without what they showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Caller([u8; 32]);

impl Caller {
    /// Whoever shows the same is the same, where nobody checks what they show.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("shopkeeper gateway caller 1");
        for name in [AUTHORIZATION, API_KEY] {
            let values: Vec<_> = headers.get_all(name).into_iter().collect();
            hasher.update(&(values.len() as u64).to_le_bytes());
            for value in values {
                hasher.update(&(value.len() as u64).to_le_bytes());
                hasher.update(value.as_bytes());
            }
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// Whoever has a key of this name.
    pub(crate) fn named(name: &str) -> Self {
        Self(blake3::derive_key(
            "shopkeeper gateway named caller 1",
            name.as_bytes(),
        ))
    }

    /// Whomever a token names so.
    pub(crate) fn subject(name: &str) -> Self {
        Self(blake3::derive_key(
            "shopkeeper gateway subject of a token 1",
            name.as_bytes(),
        ))
    }

    /// Somebody who shows nothing, or whom nobody asked.
    pub(crate) fn anonymous() -> Self {
        Self([0; 32])
    }

    /// Bytes that nobody else has.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// 64 hexadecimal digits.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        blake3::Hash::from_bytes(self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_told_apart_by_what_they_show() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            Caller::of(
                &pairs
                    .iter()
                    .map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap()))
                    .collect(),
            )
        };
        let all = [
            of(&[]),
            of(&[("authorization", "a")]),
            of(&[("x-api-key", "a")]),
            of(&[("authorization", "a"), ("x-api-key", "b")]),
            of(&[("authorization", "ab")]),
            Caller::anonymous(),
            Caller::named("a"),
            Caller::subject("a"),
        ];
        for (i, one) in all.iter().enumerate() {
            assert_eq!(all.iter().position(|other| other == one), Some(i));
        }
        assert_eq!(of(&[("x-other", "a")]), of(&[]));
    }
}
