//! Compression of messages. Requests are decompressed, so that one cached answer serves every
//! caller, and answers are compressed as their requests were.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Names the compression of a request's messages.
pub(crate) const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// Names the compressions that the caller can read.
pub(crate) const ACCEPT: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// Answers below this many bytes are not compressed: the time costs more than the bytes.
const MIN_BYTES: usize = 1 << 10;

/// A compression that the gateway knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Encoding {
    /// The compression of a request's messages; none if there is none, or an unknown one.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        Self::named(headers.get(ENCODING)?.to_str().ok()?)
    }

    /// Whether the caller can read this compression.
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

    /// Decompresses a message of at most `limit` bytes.
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

    /// Compresses a message; none if it is too small for that.
    pub(crate) fn pack(self, message: &[u8]) -> Option<Vec<u8>> {
        if message.len() < MIN_BYTES {
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

/// Why a message cannot be decompressed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The message is larger than the limit.
    #[error("the message is too large")]
    TooLarge,
    /// The bytes are not of this compression.
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
