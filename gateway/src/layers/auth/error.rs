//! Why calls are not admitted.

use std::time::Duration;

/// Why a call is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthError {
    /// The call has no credentials.
    #[error("an API key or a token is needed: x-api-key, or authorization: Bearer")]
    NoKey,
    /// The key is no caller's.
    #[error("the API key is not known")]
    UnknownKey,
    /// The token is not valid.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The token cannot be checked.
    #[error("the keys that tokens are checked with cannot be reached")]
    NoTokenKeys {
        /// When the keys are fetched again.
        retry_in: Duration,
    },
    /// The key or the token is for other methods.
    #[error("the key or token is not for this method")]
    NotAllowed,
    /// The caller has used up its rate.
    #[error("more calls than this caller may make")]
    TooMany {
        /// When the caller may call again.
        retry_in: Duration,
    },
}

impl AuthError {
    /// The reason that metrics count.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::NoKey => "no key",
            Self::UnknownKey => "unknown key",
            Self::Token(_) => "bad token",
            Self::NoTokenKeys { .. } => "no keys of tokens",
            Self::NotAllowed => "not allowed",
            Self::TooMany { .. } => "too many calls",
        }
    }
}

/// Why a token is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// It does not have the form of a token.
    #[error("the token cannot be read")]
    Malformed,
    /// It is signed by an algorithm that is not accepted.
    #[error("the token is signed by another algorithm than RS256, ES256 and EdDSA")]
    Algorithm,
    /// Its header names extensions that the reader must understand, of which the gateway has none.
    #[error("the token needs what `crit` names, which is not known here")]
    Critical,
    /// It would be valid for ever.
    #[error("the token does not say when it expires: `exp` is missing")]
    Endless,
    /// The issuer has no key of the name that it carries.
    #[error("the token is signed with a key that is not known")]
    UnknownSigner,
    /// It is not what was signed, or the key is for another algorithm.
    #[error("the token's signature is not right")]
    Signature,
    /// It is not valid any more.
    #[error("the token has expired")]
    Expired,
    /// It is not valid yet.
    #[error("the token is not valid yet")]
    Early,
    /// Another issuer has issued it.
    #[error("the token is another issuer's")]
    Issuer,
    /// It is meant for another audience.
    #[error("the token is for another audience")]
    Audience,
    /// It does not have the claim that names the caller.
    #[error("the token does not name the caller")]
    NoCaller,
}
