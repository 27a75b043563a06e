//! The files that connections to Redis over TLS need.

use std::path::PathBuf;

use redis::{ClientTlsConfig, TlsCertificates};

use super::servers::RedisError;

/// Files with the certificates for connections to Redis.
#[derive(Debug, Clone, Default)]
pub struct Certificates {
    /// The authority of Redis' certificate.
    authority: Option<PathBuf>,
    /// The client's certificate, and its key.
    client: Option<(PathBuf, PathBuf)>,
}

impl Certificates {
    pub(super) fn new(authority: Option<PathBuf>, client: Option<(PathBuf, PathBuf)>) -> Self {
        Self { authority, client }
    }

    /// Reads the files; none if no file is given.
    pub(super) fn read(&self) -> Result<Option<TlsCertificates>, RedisError> {
        let root_cert = self.authority.as_ref().map(fs_err::read).transpose()?;
        let client = self.client.as_ref().map(|(cert, key)| {
            std::io::Result::Ok(ClientTlsConfig {
                client_cert: fs_err::read(cert)?,
                client_key: fs_err::read(key)?,
            })
        });
        let client_tls = client.transpose()?;
        let given = root_cert.is_some() || client_tls.is_some();
        Ok(given.then_some(TlsCertificates {
            client_tls,
            root_cert,
        }))
    }
}
