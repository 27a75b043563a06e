//! Signatures of tokens (RFC 7518, 8037), checked by ring, as those of TLS are. Promise: a key
//! checks signatures of the one algorithm that it is for.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde::Deserialize;

/// A key as an issuer publishes it (RFC 7517).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Jwk {
    kty: String,
    crv: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    /// Its name.
    pub(super) kid: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Algorithm {
    /// RSA of 2048 bits and more, PKCS #1 v1.5, SHA-256.
    RS256,
    /// ECDSA on P-256, SHA-256.
    ES256,
    /// Ed25519.
    EdDSA,
}

/// A public key.
#[derive(Debug)]
pub(super) enum PublicKey {
    /// For RS256.
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    /// For ES256: the point, not compressed.
    P256(Vec<u8>),
    /// For EdDSA.
    Ed25519(Vec<u8>),
}

impl PublicKey {
    /// None if the key is for another purpose, or is not valid.
    pub(super) fn of(jwk: &Jwk) -> Option<Self> {
        let number = |text: &Option<String>| decoded(text.as_deref()?);
        let coordinate = |text| number(text).filter(|number| number.len() == 32);
        let key = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => Self::Rsa(RsaPublicKeyComponents {
                n: number(&jwk.n)?,
                e: number(&jwk.e)?,
            }),
            ("EC", Some("P-256")) => {
                Self::P256([vec![4], coordinate(&jwk.x)?, coordinate(&jwk.y)?].concat())
            }
            ("OKP", Some("Ed25519")) => Self::Ed25519(coordinate(&jwk.x)?),
            _ => return None,
        };
        let is_for_this = jwk
            .alg
            .as_ref()
            .is_none_or(|alg| *alg == format!("{:?}", key.algorithm()))
            && jwk.purpose.as_ref().is_none_or(|purpose| purpose == "sig");
        is_for_this.then_some(key)
    }

    /// The algorithm that it is for.
    pub(super) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa(_) => Algorithm::RS256,
            Self::P256(_) => Algorithm::ES256,
            Self::Ed25519(_) => Algorithm::EdDSA,
        }
    }

    /// Whether this is its owner's signature of the text.
    pub(super) fn has_signed(&self, text: &str, signature: &[u8]) -> bool {
        let text = text.as_bytes();
        let verified = match self {
            Self::Rsa(key) => key.verify(&RSA_PKCS1_2048_8192_SHA256, text, signature),
            Self::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(text, signature)
            }
            Self::Ed25519(point) => UnparsedPublicKey::new(&ED25519, point).verify(text, signature),
        };
        verified.is_ok()
    }
}

/// The bytes of base64url, which all parts of a token are written in.
pub(super) fn decoded(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}
