//! TLS of a listener, and of connections to services. Promise: a replaced certificate is used from
//! the next connection on, and one that cannot be used changes nothing.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, ensure};
use arc_swap::ArcSwap;
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

use crate::files::Files;

/// TLS of a listener.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "TLS")]
pub struct TlsArgs {
    /// Certificate chain of this server, PEM; read again when it changes. Default: no encryption
    #[arg(
        long,
        env = "SHOPKEEPER_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(
        long,
        env = "SHOPKEEPER_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
    /// Authorities for callers' certificates, PEM; callers must present one. Default: callers need
    /// no certificate
    #[arg(
        long,
        env = "SHOPKEEPER_TLS_CLIENT_CA",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_client_ca: Option<PathBuf>,
}

impl TlsArgs {
    /// Reads the files; `None` without a certificate.
    ///
    /// # Errors
    /// If a file cannot be read or used; the error names it.
    pub fn build(&self) -> anyhow::Result<Option<Tls>> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else {
            return Ok(None);
        };
        let paths = Paths {
            cert: cert.clone(),
            key: key.clone(),
            client_ca: self.tls_client_ca.clone(),
        };
        let config = Arc::new(ArcSwap::from(paths.config()?));
        Ok(Some(Tls { paths, config }))
    }
}

#[derive(Debug, Clone)]
struct Paths {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl Paths {
    fn config(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?;
        let config = match &self.client_ca {
            None => config.with_no_client_auth(),
            Some(path) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(
                    Arc::new(authorities(path)?),
                    provider(),
                );
                config.with_client_cert_verifier(verifier.build().with_context(|| unusable(path))?)
            }
        };
        let config = config.with_single_cert(certificates(&self.cert)?, key(&self.key)?);
        let mut config = config.with_context(|| unusable(&self.cert))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// TLS of a listener, with the present certificates.
#[derive(Debug, Clone)]
pub struct Tls {
    paths: Paths,
    config: Arc<ArcSwap<ServerConfig>>,
}

impl Tls {
    /// Reads the files again whenever they change. Never returns.
    pub(crate) async fn watch(self) {
        let Paths {
            cert,
            key,
            client_ca,
        } = self.paths.clone();
        follow([Some(cert), Some(key), client_ca], &self.config, || {
            self.paths.config()
        })
        .await;
    }

    /// The acceptor for the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }
}

/// TLS of connections to services at `https://`.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "TLS")]
pub struct ClientTlsArgs {
    /// Authorities for the certificates of services at https://, PEM; read again when it changes,
    /// as the next two are. Default: the authorities that the system trusts
    #[arg(long, env = "SHOPKEEPER_BACKEND_CA", value_name = "FILE")]
    backend_ca: Option<PathBuf>,
    /// Certificate chain that is presented to services at https://, PEM
    #[arg(
        long,
        env = "SHOPKEEPER_BACKEND_CERT",
        value_name = "FILE",
        requires = "backend_key"
    )]
    backend_cert: Option<PathBuf>,
    /// Private key of that certificate, PEM
    #[arg(
        long,
        env = "SHOPKEEPER_BACKEND_KEY",
        value_name = "FILE",
        requires = "backend_cert"
    )]
    backend_key: Option<PathBuf>,
}

impl ClientTlsArgs {
    /// Whether any option is given.
    pub fn is_given(&self) -> bool {
        self.backend_ca.is_some() || self.backend_cert.is_some()
    }

    /// Reads the files.
    ///
    /// # Errors
    /// If a file cannot be read or used; the error names it.
    pub fn build(&self) -> anyhow::Result<ClientTls> {
        Ok(ClientTls {
            args: self.clone(),
            config: Arc::new(ArcSwap::from(self.config()?)),
        })
    }

    fn config(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let roots = match &self.backend_ca {
            Some(path) => authorities(path)?,
            None => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                ensure!(
                    !roots.is_empty(),
                    "the system trusts no authority: give --backend-ca FILE"
                );
                roots
            }
        };
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots);
        let mut config = match (&self.backend_cert, &self.backend_key) {
            (Some(path), Some(private)) => {
                let config = config.with_client_auth_cert(certificates(path)?, key(private)?);
                config.with_context(|| unusable(path))?
            }
            (None, _) | (_, None) => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

/// TLS of connections to services, with the present certificates.
#[derive(Debug, Clone)]
pub struct ClientTls {
    args: ClientTlsArgs,
    config: Arc<ArcSwap<ClientConfig>>,
}

impl ClientTls {
    /// Reads the files again whenever they change. Never returns.
    pub async fn watch(self) {
        let ClientTlsArgs {
            backend_ca,
            backend_cert,
            backend_key,
        } = self.args.clone();
        follow(
            [backend_ca, backend_cert, backend_key],
            &self.config,
            || self.args.config(),
        )
        .await;
    }

    /// The connector for the next connection.
    pub fn connector(&self) -> TlsConnector {
        TlsConnector::from(self.config.load_full())
    }
}

async fn follow<C>(
    files: [Option<PathBuf>; 3],
    config: &ArcSwap<C>,
    read: impl Fn() -> anyhow::Result<Arc<C>>,
) {
    let mut files = Files::new(files.into_iter().flatten());
    loop {
        files.changed().await;
        match read() {
            Ok(read) => {
                tracing::info!("certificates were read again");
                config.store(read);
            }
            Err(error) => tracing::error!("certificates stay as they were: {error:#}"),
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn authorities(path: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(path)? {
        roots.add(authority).with_context(|| unusable(path))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .with_context(|| unusable(path))?
        .collect();
    let read = read.with_context(|| unusable(path))?;
    ensure!(!read.is_empty(), "{} has no certificate", path.display());
    Ok(read)
}

fn key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).with_context(|| unusable(path))
}

fn unusable(path: &Path) -> String {
    format!("{} cannot be used", path.display())
}
