//! The key that an answer is kept under: method, model version, caller and request, none of which
//! can pass for another.

use std::fmt;

/// Part of every key: a change of the format changes it.
const FORMAT: &[u8] = b"shopkeeper answer 1";

/// What an answer depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'a> {
    /// The method's path.
    pub method: &'a str,
    /// The version of the model that answers.
    pub version: &'a str,
    /// The caller; none if every caller gets the same answer.
    pub caller: Option<&'a [u8]>,
    /// The request's message, as it came.
    pub message: &'a [u8],
}

/// A 256-bit hash of a [`Question`]. Two questions with one key cannot be found.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// The key of a question.
    pub fn of(question: &Question<'_>) -> Self {
        let Question {
            method,
            version,
            caller,
            message,
        } = *question;
        let mut hasher = blake3::Hasher::new();
        // Every part is preceded by its length, so that no part can pass for the end of the one
        // before it.
        for part in [FORMAT, method.as_bytes(), version.as_bytes()]
            .into_iter()
            .chain(caller)
            .chain([message])
        {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.update(&[u8::from(caller.is_some())]);
        Self(*hasher.finalize().as_bytes())
    }

    /// Its bits.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Two numbers of its bits.
    pub(super) fn halves(&self) -> [u64; 2] {
        let (place, _) = self.0.as_chunks::<8>();
        [u64::from_le_bytes(place[1]), u64::from_le_bytes(place[2])]
    }

    /// A number from 0 to 1, the same for the same key.
    pub fn share(&self) -> f64 {
        f64::from(u16::from_le_bytes([self.0[0], self.0[1]])) / f64::from(u16::MAX)
    }
}

/// As Redis knows it: `sk:1:` and 64 hexadecimal digits.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sk:1:{}", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Few letters and short parts: neighbours that differ in where one part ends are likely.
    type Parts = (String, String, Option<Vec<u8>>, Vec<u8>);

    fn parts() -> impl Strategy<Value = Parts> {
        let bytes = || proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(b'a')], 0..4);
        (
            "[a/]{0,3}",
            "[a/]{0,3}",
            proptest::option::of(bytes()),
            bytes(),
        )
    }

    fn key((method, version, caller, message): &Parts) -> Key {
        Key::of(&Question {
            method,
            version,
            caller: caller.as_deref(),
            message,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]
        #[test]
        fn two_questions_are_two_keys(a in parts(), b in parts()) {
            prop_assert_eq!(a == b, key(&a) == key(&b));
        }
    }

    #[test]
    fn a_part_cannot_pass_for_its_neighbour() {
        let of = |method, version, caller, message| {
            key(&(String::from(method), String::from(version), caller, message))
        };
        let all = [
            of("ab", "c", None, vec![]),
            of("a", "bc", None, vec![]),
            of("abc", "", None, vec![]),
            of("", "abc", None, vec![]),
            of("", "", Some(vec![]), b"abc".to_vec()),
            of("", "", None, b"abc".to_vec()),
            of("", "", Some(b"abc".to_vec()), vec![]),
            of("", "", Some(b"ab".to_vec()), b"c".to_vec()),
        ];
        for (i, one) in all.iter().enumerate() {
            assert_eq!(all.iter().position(|other| other == one), Some(i));
        }
    }

    #[test]
    fn the_key_is_the_same_in_every_replica_and_release() {
        let key = Key::of(&Question {
            method: "/a",
            version: "v",
            caller: None,
            message: b"m",
        });
        assert_eq!(
            key.to_string(),
            "sk:1:957c4464ad008f103449f3757339f2f9a178b382c79ed5f30ed839230074cca1"
        );
    }
}
