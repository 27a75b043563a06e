//! The caller of a method. It keeps answers apart that belong to one caller.

use std::fmt;

use http::{HeaderMap, HeaderName, header::AUTHORIZATION};

pub(crate) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A caller, without its credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Caller([u8; 32]);

impl Caller {
    /// The caller with these credentials, which are not checked.
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

    /// The caller with an API key of this name.
    pub(crate) fn named(name: &str) -> Self {
        Self(blake3::derive_key(
            "shopkeeper gateway named caller 1",
            name.as_bytes(),
        ))
    }

    /// The caller that a token names.
    pub(crate) fn subject(name: &str) -> Self {
        Self(blake3::derive_key(
            "shopkeeper gateway subject of a token 1",
            name.as_bytes(),
        ))
    }

    /// A caller without credentials, or of which none are asked.
    pub(crate) fn anonymous() -> Self {
        Self([0; 32])
    }

    /// Bytes that are this caller's alone.
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
    fn callers_are_told_apart_by_their_credentials() {
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
