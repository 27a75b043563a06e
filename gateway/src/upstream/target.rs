//! The URL of a service.

use std::{fmt, str::FromStr};

use http::{
    Uri,
    uri::{Authority, Scheme},
};

/// The URL that a service listens at: `http://host:port` or `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    /// A name or an IP address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

/// Why a text is not the URL of a service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    /// It is no URL.
    #[error("is no URL; http://localhost:50051 is one")]
    NotAUrl,
    /// Its scheme is neither http nor https.
    #[error("is neither http:// nor https://")]
    NotHttp,
    /// It has a path.
    #[error("has a path; services have none")]
    HasPath,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let uri = Uri::from_str(text).map_err(|_| TargetError::NotAUrl)?;
        let authority = uri.authority().ok_or(TargetError::NotAUrl)?.clone();
        let scheme = uri.scheme().ok_or(TargetError::NotAUrl)?.clone();
        let default_port = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return Err(TargetError::NotHttp),
        };
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(TargetError::NotAUrl);
        }
        if uri.path() != "/" || uri.query().is_some() {
            return Err(TargetError::HasPath);
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        Ok(Self {
            scheme,
            host,
            port: authority.port_u16().unwrap_or(default_port),
            authority,
        })
    }
}

impl Target {
    /// Whether it is called over TLS.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_the_url_of_a_service() {
        for (text, host) in [
            ("http://localhost:50051", Ok(("localhost", 50051))),
            ("http://churn/", Ok(("churn", 80))),
            ("http://[::1]:7", Ok(("::1", 7))),
            ("https://churn", Ok(("churn", 443))),
            ("ftp://churn:1", Err(TargetError::NotHttp)),
            ("churn:1", Err(TargetError::NotAUrl)),
            ("churn", Err(TargetError::NotAUrl)),
            ("http://", Err(TargetError::NotAUrl)),
            ("http://me@churn:1", Err(TargetError::NotAUrl)),
            ("http://churn:1/api", Err(TargetError::HasPath)),
            ("", Err(TargetError::NotAUrl)),
        ] {
            let target = text.parse::<Target>();
            let parsed = target.as_ref().map(|t| (t.host.as_str(), t.port));
            assert_eq!(parsed.map_err(Clone::clone), host, "{text}");
        }
    }
}
