//! Messages that callers compress: opened, so that a cached answer is one answer for every caller,
//! and answered in kind.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http::{HeaderMap, HeaderName, HeaderValue};

/// How the messages of a request are compressed.
pub(crate) const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// What the caller can read.
pub(crate) const ACCEPT: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// Smaller answers are not worth it.
const WORTH: usize = 1 << 10;

/// A compression that is understood here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Encoding {
    /// How a request's messages are compressed; none where they are not, or in a way that is not
    /// understood.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        Self::named(headers.get(ENCODING)?.to_str().ok()?)
    }

    /// Whether the caller can read it.
    pub(crate) fn is_accepted(self, headers: &HeaderMap) -> bool {
        let lists = headers
            .get_all(ACCEPT)
            .into_iter()
            .filter_map(|value| value.to_str().ok());
        lists
            .flat_map(|list| list.split(','))
            .any(|name| Self::named(name.trim()) == Some(self))
    }

    /// Its name on the wire.
    pub(crate) fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            "gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The message inside; an error where it is larger than the limit or is none.
    pub(crate) fn open(self, packed: &[u8], limit: usize) -> Result<Bytes, OpenError> {
        let room = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        let mut message = Vec::new();
        match self {
            Self::Gzip => GzDecoder::new(packed)
                .take(room)
                .read_to_end(&mut message)?,
            Self::Zstd => zstd::Decoder::new(packed)?
                .take(room)
                .read_to_end(&mut message)?,
        };
        if message.len() > limit {
            Err(OpenError::TooLarge)
        } else {
            Ok(message.into())
        }
    }

    /// The message, smaller; none where that is not worth it.
    pub(crate) fn pack(self, message: &[u8]) -> Option<Vec<u8>> {
        if message.len() < WORTH {
            return None;
        }
        match self {
            Self::Gzip => {
                let mut encoder =
                    GzEncoder::new(Vec::with_capacity(message.len() / 2), Compression::fast());
                encoder.write_all(message).ok()?;
                encoder.finish().ok()
            }
            Self::Zstd => zstd::encode_all(message, 1).ok(),
        }
    }
}

/// Why a message cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// It is larger than is taken.
    #[error("the message is too large")]
    TooLarge,
    /// It is not what it says it is.
    #[error("the message cannot be decompressed")]
    Garbled(#[from] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_opens_again_within_the_limit() {
        let message = b"a shopkeeper knows the customers; ".repeat(100);
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let packed = encoding.pack(&message).unwrap();
            assert!(packed.len() < message.len() / 4);
            assert_eq!(encoding.open(&packed, message.len()).unwrap(), message);
            assert!(matches!(
                encoding.open(&packed, message.len() - 1),
                Err(OpenError::TooLarge)
            ));
            assert!(matches!(
                encoding.open(&packed[..packed.len() / 2], 1 << 20),
                Err(OpenError::Garbled(_))
            ));
            assert!(matches!(
                encoding.open(b"neither", 1 << 20),
                Err(OpenError::Garbled(_))
            ));
            assert_eq!(encoding.pack(b"short"), None);
        }
    }

    #[test]
    fn what_a_caller_accepts_is_a_list() {
        let headers =
            HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("identity, gzip,deflate"))]);
        assert!(Encoding::Gzip.is_accepted(&headers) && !Encoding::Zstd.is_accepted(&headers));
        assert_eq!(
            Encoding::of(&HeaderMap::from_iter([(ENCODING, Encoding::Zstd.header())])),
            Some(Encoding::Zstd)
        );
        assert_eq!(
            Encoding::of(&HeaderMap::from_iter([(
                ENCODING,
                HeaderValue::from_static("snappy")
            )])),
            None
        );
    }
}
