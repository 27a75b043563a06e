//! An answer as it is kept: one string, which is read whole and unchanged or not at all.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tonic::Code;

use super::Key;

/// Begins an entry. Another format has another one.
const MAGIC: &[u8] = b"SKC2";
/// An answer is never refreshed earlier than this many times its own duration: a random number of
/// 32 bits has no larger logarithm.
const MAX_NEGATIVE_LN: f64 = 23.0;
/// Length of the tag at the end.
const TAG: usize = 32;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Version of the model that gave it.
    pub version: String,
    /// When the service gave it.
    pub made: SystemTime,
    /// How long that took.
    pub took: Duration,
    /// How long it may be served, from `made`.
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
    /// Its size in memory, about, in bytes.
    pub fn weight(&self) -> usize {
        let answer = match &self.answer {
            Answer::Found(body) => body.len(),
            Answer::NotFound { message, details } => message.len() + details.len(),
        };
        answer + self.version.len()
    }

    /// How long it may still be served; zero if its time is over.
    pub fn left(&self, now: SystemTime) -> Duration {
        let end = self.made.checked_add(self.ttl);
        end.and_then(|end| end.duration_since(now).ok())
            .unwrap_or_default()
            .min(self.ttl)
    }

    /// Whether to refresh it while it still serves. The likelier, the less time is left, the longer
    /// it took to make, and the nearer to 0 `random` is, a number between 0 and 1. Callers of a hot
    /// answer then rarely find that it has ended, and rarely refresh it together (XFetch: Vattani,
    /// Chierichetti, Lowenstein, VLDB 2015).
    pub fn is_due(&self, now: SystemTime, random: impl FnOnce() -> f64) -> bool {
        let (took, left) = (self.took.as_secs_f64(), self.left(now).as_secs_f64());
        took * MAX_NEGATIVE_LN >= left && took * -random().ln() >= left
    }
}

/// Writes and reads entries, with a tag that shows that a replica wrote them: replicas that share a
/// Redis share the secret.
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
    /// Entries that were written with another secret cannot be read.
    pub fn new(secret: &str) -> Self {
        Self {
            secret: blake3::derive_key("shopkeeper gateway cache entry tag 1", secret.as_bytes()),
        }
    }

    /// An entry as a string that can be read under this key alone.
    pub fn encode(&self, key: &Key, entry: &Entry) -> Vec<u8> {
        let mut bytes = BytesMut::with_capacity(entry.weight() + 64);
        bytes.put_slice(MAGIC);
        let (code, parts): (Code, [&[u8]; 2]) = match &entry.answer {
            Answer::Found(body) => (Code::Ok, [body, b""]),
            Answer::NotFound { message, details } => (Code::NotFound, [message, details]),
        };
        bytes.put_i32(code.into());
        let made = entry.made.duration_since(UNIX_EPOCH).unwrap_or_default();
        for time in [
            made.as_millis(),
            entry.took.as_micros(),
            entry.ttl.as_millis(),
        ] {
            bytes.put_u64(u64::try_from(time).unwrap_or(u64::MAX));
        }
        for part in [entry.version.as_bytes(), parts[0], parts[1]] {
            bytes.put_u64(part.len() as u64);
            bytes.put_slice(part);
        }
        let tag = self.tag(key, &bytes);
        bytes.put_slice(tag.as_bytes());
        bytes.into()
    }

    /// The entry that [`Self::encode`] wrote for this key; none if any bit is another.
    pub fn decode(&self, key: &Key, bytes: Bytes) -> Option<Entry> {
        let (text, tag) = bytes.split_at_checked(bytes.len().checked_sub(TAG)?)?;
        if self.tag(key, text) != *<&[u8; TAG]>::try_from(tag).ok()? {
            return None;
        }
        let mut rest = bytes.slice(..text.len());
        if take(&mut rest, MAGIC.len())? != MAGIC {
            return None;
        }
        let code = Code::from(rest.try_get_i32().ok()?);
        let made = UNIX_EPOCH.checked_add(Duration::from_millis(rest.try_get_u64().ok()?))?;
        let took = Duration::from_micros(rest.try_get_u64().ok()?);
        let ttl = Duration::from_millis(rest.try_get_u64().ok()?);
        let version = String::from_utf8(part(&mut rest)?.into()).ok()?;
        let (first, second) = (part(&mut rest)?, part(&mut rest)?);
        let answer = match (code, rest.is_empty()) {
            (Code::Ok, true) if second.is_empty() => Answer::Found(first),
            (Code::NotFound, true) => Answer::NotFound {
                message: first,
                details: second,
            },
            _ => return None,
        };
        Some(Entry {
            version,
            made,
            took,
            ttl,
            answer,
        })
    }

    fn tag(&self, key: &Key, text: &[u8]) -> blake3::Hash {
        blake3::Hasher::new_keyed(&self.secret)
            .update(key.as_bytes())
            .update(text)
            .finalize()
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
    use crate::layers::cache::Question;
    use proptest::{collection::vec, prelude::*};

    fn entries() -> impl Strategy<Value = Entry> {
        let bytes = || vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        let answer = prop_oneof![
            bytes().prop_map(Answer::Found),
            (bytes(), bytes()).prop_map(|(message, details)| Answer::NotFound { message, details }),
        ];
        ("\\PC{0,20}", any::<[u32; 3]>(), answer).prop_map(
            |(version, [made, took, ttl], answer)| Entry {
                version,
                made: UNIX_EPOCH + Duration::from_millis(made.into()),
                took: Duration::from_micros(took.into()),
                ttl: Duration::from_millis(ttl.into()),
                answer,
            },
        )
    }

    fn entry(took: Duration, ttl: Duration) -> Entry {
        Entry {
            version: "v".into(),
            made: UNIX_EPOCH,
            took,
            ttl,
            answer: Answer::Found(Bytes::from_static(b"x")),
        }
    }

    fn key(message: &[u8]) -> Key {
        Key::of(&Question {
            method: "/m",
            version: "v",
            caller: None,
            message,
        })
    }

    proptest! {
        #[test]
        fn an_entry_comes_back_as_it_was(entry in entries(), message in vec(any::<u8>(), 0..9)) {
            let (codec, key) = (Codec::new("s"), key(&message));
            prop_assert_eq!(codec.decode(&key, codec.encode(&key, &entry).into()), Some(entry));
        }

        #[test]
        fn an_entry_with_any_bit_flipped_is_none(
            entry in entries(),
            at in any::<prop::sample::Index>(),
            bit in 0u32..8,
        ) {
            let (codec, key) = (Codec::new("s"), key(b""));
            let mut bytes = codec.encode(&key, &entry);
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            prop_assert_eq!(codec.decode(&key, bytes.into()), None);
        }

        #[test]
        fn an_entry_cut_short_or_lengthened_is_none(
            entry in entries(),
            at in any::<prop::sample::Index>(),
        ) {
            let (codec, key) = (Codec::new("s"), key(b""));
            let bytes = Bytes::from(codec.encode(&key, &entry));
            prop_assert_eq!(codec.decode(&key, bytes.slice(..at.index(bytes.len()))), None);
            prop_assert_eq!(codec.decode(&key, [&bytes[..], b"\0"].concat().into()), None);
        }

        #[test]
        fn what_was_not_encoded_is_none(bytes in vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Codec::new("s").decode(&key(b""), bytes.into()), None);
        }
    }

    #[test]
    fn an_entry_can_be_read_under_its_key_and_secret_alone() {
        let entry = entry(Duration::ZERO, Duration::ZERO);
        let bytes = Bytes::from(Codec::new("s").encode(&key(b"a"), &entry));
        assert_eq!(
            Codec::new("s").decode(&key(b"a"), bytes.clone()),
            Some(entry)
        );
        assert_eq!(Codec::new("s").decode(&key(b"b"), bytes.clone()), None);
        assert_eq!(Codec::new("t").decode(&key(b"a"), bytes), None);
    }

    #[test]
    fn an_entry_serves_until_its_end_whatever_the_clock_says() {
        let entry = entry(Duration::ZERO, Duration::from_secs(60));
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        for (now, left) in [(at(0), 60), (at(59), 1), (at(60), 0), (at(1_000), 0)] {
            assert_eq!(entry.left(now), Duration::from_secs(left), "{now:?}");
        }
        assert_eq!(
            entry.left(UNIX_EPOCH - Duration::from_secs(1_000)),
            entry.ttl,
            "made by a clock that is ahead"
        );
        let for_ever = Entry {
            ttl: Duration::MAX,
            ..entry
        };
        assert_eq!(
            for_ever.left(at(0)),
            Duration::ZERO,
            "a time beyond the clock has passed"
        );
    }

    #[test]
    fn an_entry_is_due_as_the_paper_says() {
        let entry = entry(Duration::from_secs(1), Duration::from_secs(60));
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        // It takes 1 s to make: with t s left the chance is e^-t.
        for (left, due_below) in [(0, 1.0), (1, 0.367), (2, 0.135), (5, 0.0067), (60, 0.0)] {
            for step in 1..1_000 {
                let chance = f64::from(step) / 1_000.0;
                let close = (chance - due_below).abs() < 0.002;
                assert!(
                    close || entry.is_due(at(60 - left), || chance) == (chance < due_below),
                    "{left} s, {chance}"
                );
            }
        }
        assert!(
            entry.is_due(at(40), || 1e-9) && !entry.is_due(at(0), || 0.0),
            "not earlier than any chance says"
        );
        let free = Entry {
            took: Duration::ZERO,
            ..entry
        };
        assert!(!free.is_due(at(59), || 0.5) && free.is_due(at(60), || 0.5));
    }
}
