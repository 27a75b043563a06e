//! TLS of a listener. Promise: certificates that are replaced count for the next connection, ones that cannot be used change
//! nothing, and a caller that does not finish its handshake holds nobody else up.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
    server::TlsStream,
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::transport::server::TcpIncoming;

use crate::files::Files;

/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes at once.
const HANDSHAKES: usize = 256;

/// How a listener is encrypted.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "TLS")]
pub struct TlsArgs {
    /// Certificate of this server and those up to its authority, PEM; without it calls are not encrypted. Read again when it
    /// changes
    #[arg(long, env = "SHOPKEEPER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long, env = "SHOPKEEPER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Authorities, PEM, one of which must have signed the caller's own certificate; without it callers need none
    #[arg(long, env = "SHOPKEEPER_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
}

impl TlsArgs {
    /// The encryption, where there is any.
    ///
    /// # Errors
    /// Where a file cannot be read or used; the error names it.
    pub fn build(&self) -> anyhow::Result<Option<Tls>> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else { return Ok(None) };
        let paths = Paths { cert: cert.clone(), key: key.clone(), client_ca: self.tls_client_ca.clone() };
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
        let named = |path: &PathBuf| format!("{} cannot be used", path.display());
        let certificates = |path: &PathBuf| -> anyhow::Result<Vec<CertificateDer<'static>>> {
            let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).with_context(|| named(path))?.collect();
            let read = read.with_context(|| named(path))?;
            anyhow::ensure!(!read.is_empty(), "{} has no certificate", path.display());
            Ok(read)
        };
        let key = PrivateKeyDer::from_pem_file(&self.key).with_context(|| named(&self.key))?;
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let config = match &self.client_ca {
            None => config.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(path)? {
                    roots.add(authority).with_context(|| named(path))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                config.with_client_cert_verifier(verifier.with_context(|| named(path))?)
            }
        };
        let mut config = config.with_single_cert(certificates(&self.cert)?, key).with_context(|| named(&self.cert))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Encryption of a listener, with the certificates as they are now.
#[derive(Debug, Clone)]
pub struct Tls {
    paths: Paths,
    config: Arc<ArcSwap<ServerConfig>>,
}

impl Tls {
    /// Reads the files again when they change, for ever.
    pub(crate) async fn watch(self) {
        let Paths { cert, key, client_ca } = self.paths.clone();
        let mut files = Files::new([cert, key].into_iter().chain(client_ca));
        loop {
            files.changed().await;
            match self.paths.config() {
                Ok(config) => {
                    tracing::info!("certificates were read again");
                    self.config.store(config);
                }
                Err(error) => tracing::error!("certificates stay as they were: {error:#}"),
            }
        }
    }

    /// Connections whose handshake is done, in the order in which they are done.
    pub(crate) fn accept(
        self,
        mut incoming: TcpIncoming,
        tasks: &mut JoinSet<()>,
    ) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> + use<> {
        let (sender, accepted) = mpsc::channel(HANDSHAKES);
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        tasks.spawn(async move {
            let mut shaking = JoinSet::new();
            loop {
                while shaking.try_join_next().is_some() {}
                let stream = tokio::select! {
                    stream = incoming.next() => stream,
                    () = sender.closed() => return,
                };
                let stream = match stream {
                    Some(Ok(stream)) => stream,
                    Some(Err(error)) => {
                        if sender.send(Err(error)).await.is_err() {
                            return;
                        }
                        continue;
                    }
                    None => return,
                };
                let Ok(turn) = handshakes.clone().acquire_owned().await else { return };
                let (acceptor, sender) = (TlsAcceptor::from(self.config.load_full()), sender.clone());
                shaking.spawn(async move {
                    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        // Nobody takes it where the listener has ended.
                        Ok(Ok(stream)) => drop(sender.send(Ok(stream)).await),
                        Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
                        Err(_) => tracing::debug!("a handshake took too long"),
                    }
                    drop(turn);
                });
            }
        });
        ReceiverStream::new(accepted)
    }
}
