//! An answer as it is kept: one string, whole and unchanged, or nothing.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tonic::Code;

use super::Key;

/// Another format has another first line.
const MAGIC: &[u8] = b"SKC1";
/// Length of the tag at the end.
const TAG: usize = 32;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Version of the model that gave it.
    pub version: String,
    /// How long it may be served, from when it was given.
    pub ttl: Duration,
    /// What was answered.
    pub answer: Answer,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// OK: the message as it is on the wire, not compressed.
    Found(Bytes),
    /// NOT_FOUND.
    NotFound {
        /// `grpc-message`, as it was.
        message: Bytes,
        /// `grpc-status-details-bin`, as it was.
        details: Bytes,
    },
}

impl Entry {
    /// Bytes that it takes, about.
    pub fn weight(&self) -> usize {
        let answer = match &self.answer {
            Answer::Found(body) => body.len(),
            Answer::NotFound { message, details } => message.len() + details.len(),
        };
        answer + self.version.len()
    }
}

/// Makes and checks the tags of entries. Whoever shares a Redis shares the secret.
#[derive(Clone)]
pub struct Codec {
    secret: [u8; 32],
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codec").finish_non_exhaustive()
    }
}

impl Codec {
    /// Entries made with another secret are none.
    pub fn new(secret: &str) -> Self {
        Self { secret: blake3::derive_key("shopkeeper gateway cache entry tag 1", secret.as_bytes()) }
    }

    /// An entry as a string that is good under this key alone.
    pub fn encode(&self, key: &Key, entry: &Entry) -> Vec<u8> {
        let mut bytes = BytesMut::with_capacity(entry.weight() + 64);
        bytes.put_slice(MAGIC);
        let (code, parts): (Code, [&[u8]; 2]) = match &entry.answer {
            Answer::Found(body) => (Code::Ok, [body, b""]),
            Answer::NotFound { message, details } => (Code::NotFound, [message, details]),
        };
        bytes.put_i32(code.into());
        bytes.put_u64(u64::try_from(entry.ttl.as_millis()).unwrap_or(u64::MAX));
        for part in [entry.version.as_bytes(), parts[0], parts[1]] {
            bytes.put_u64(part.len() as u64);
            bytes.put_slice(part);
        }
        let tag = self.tag(key, &bytes);
        bytes.put_slice(tag.as_bytes());
        bytes.into()
    }

    /// The entry that [`Self::encode`] made for this key; none where a bit is not as it was.
    pub fn decode(&self, key: &Key, bytes: Bytes) -> Option<Entry> {
        let (said, tag) = bytes.split_at_checked(bytes.len().checked_sub(TAG)?)?;
        if self.tag(key, said) != *<&[u8; TAG]>::try_from(tag).ok()? {
            return None;
        }
        let mut rest = bytes.slice(..said.len());
        if take(&mut rest, MAGIC.len())? != MAGIC {
            return None;
        }
        let code = Code::from(rest.try_get_i32().ok()?);
        let ttl = Duration::from_millis(rest.try_get_u64().ok()?);
        let version = String::from_utf8(part(&mut rest)?.into()).ok()?;
        let (first, second) = (part(&mut rest)?, part(&mut rest)?);
        let answer = match (code, rest.is_empty()) {
            (Code::Ok, true) if second.is_empty() => Answer::Found(first),
            (Code::NotFound, true) => Answer::NotFound { message: first, details: second },
            _ => return None,
        };
        Some(Entry { version, ttl, answer })
    }

    fn tag(&self, key: &Key, said: &[u8]) -> blake3::Hash {
        blake3::Hasher::new_keyed(&self.secret).update(key.as_bytes()).update(said).finalize()
    }
}

fn part(rest: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(rest.try_get_u64().ok()?).ok()?;
    take(rest, length)
}

fn take(rest: &mut Bytes, length: usize) -> Option<Bytes> {
    (rest.len() >= length).then(|| rest.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Question;
    use proptest::{collection::vec, prelude::*};

    fn entries() -> impl Strategy<Value = Entry> {
        let bytes = || vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        let answer = prop_oneof![
            bytes().prop_map(Answer::Found),
            (bytes(), bytes()).prop_map(|(message, details)| Answer::NotFound { message, details }),
        ];
        ("\\PC{0,20}", any::<u32>(), answer).prop_map(|(version, ms, answer)| Entry {
            version,
            ttl: Duration::from_millis(ms.into()),
            answer,
        })
    }

    fn key(message: &[u8]) -> Key {
        Key::of(&Question { method: "/m", version: "v", caller: None, message })
    }

    proptest! {
        #[test]
        fn an_entry_comes_back_as_it_was(entry in entries(), message in vec(any::<u8>(), 0..9)) {
            let (codec, key) = (Codec::new("s"), key(&message));
            prop_assert_eq!(codec.decode(&key, codec.encode(&key, &entry).into()), Some(entry));
        }

        #[test]
        fn an_entry_with_any_bit_flipped_is_none(entry in entries(), at in any::<prop::sample::Index>(), bit in 0u32..8) {
            let (codec, key) = (Codec::new("s"), key(b""));
            let mut bytes = codec.encode(&key, &entry);
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            prop_assert_eq!(codec.decode(&key, bytes.into()), None);
        }

        #[test]
        fn an_entry_cut_short_or_lengthened_is_none(entry in entries(), at in any::<prop::sample::Index>()) {
            let (codec, key) = (Codec::new("s"), key(b""));
            let bytes = Bytes::from(codec.encode(&key, &entry));
            prop_assert_eq!(codec.decode(&key, bytes.slice(..at.index(bytes.len()))), None);
            prop_assert_eq!(codec.decode(&key, [&bytes[..], b"\0"].concat().into()), None);
        }

        #[test]
        fn what_nobody_encoded_is_none(bytes in vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Codec::new("s").decode(&key(b""), bytes.into()), None);
        }
    }

    #[test]
    fn an_entry_is_good_under_its_key_and_secret_alone() {
        let entry = Entry { version: "v".into(), ttl: Duration::ZERO, answer: Answer::Found(Bytes::from_static(b"x")) };
        let bytes = Bytes::from(Codec::new("s").encode(&key(b"a"), &entry));
        assert_eq!(Codec::new("s").decode(&key(b"a"), bytes.clone()), Some(entry));
        assert_eq!(Codec::new("s").decode(&key(b"b"), bytes.clone()), None);
        assert_eq!(Codec::new("t").decode(&key(b"a"), bytes), None);
    }
}
