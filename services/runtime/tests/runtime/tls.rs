//! TLS listeners over real sockets.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, net::TcpStream};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::start;

/// An authority that signs certificates for localhost.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn sign(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (
            params.signed_by(&key, &self.0).unwrap().pem(),
            key.serialize_pem(),
        )
    }

    fn sign_into(&self, folder: &Path) {
        let (cert, key) = self.sign();
        std::fs::write(folder.join("cert.pem"), cert).unwrap();
        std::fs::write(folder.join("key.pem"), key).unwrap();
    }
}

/// Starts a server with the certificate in this folder.
async fn encrypted(folder: &TempDir, more: Option<String>) -> SocketAddr {
    let flag = |name, file| format!("--{name}={}", folder.path().join(file).display());
    start(
        [flag("tls-cert", "cert.pem"), flag("tls-key", "key.pem")]
            .into_iter()
            .chain(more),
    )
    .await
}

async fn asks(address: SocketAddr, trusts: &Authority, shows: Option<(String, String)>) -> bool {
    let mut tls = ClientTlsConfig::new()
        .domain_name("localhost")
        .ca_certificate(Certificate::from_pem(trusts.0.pem()));
    if let Some((cert, key)) = shows {
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    let endpoint = Channel::from_shared(format!("https://{address}"))
        .unwrap()
        .tls_config(tls)
        .unwrap();
    let Ok(channel) = endpoint.connect().await else {
        return false;
    };
    HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .is_ok()
}

#[tokio::test]
async fn calls_are_encrypted_and_certificates_are_replaced_at_work() {
    let (folder, first, second) = (TempDir::new().unwrap(), Authority::new(), Authority::new());
    first.sign_into(folder.path());
    let address = encrypted(&folder, None).await;
    // One caller that sends nothing, and one that does not encrypt.
    let mut silent = TcpStream::connect(address).await.unwrap();
    let plain = Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_lazy();
    assert!(
        HealthClient::new(plain)
            .check(HealthCheckRequest::default())
            .await
            .is_err()
    );
    assert!(asks(address, &first, None).await);
    assert!(!asks(address, &second, None).await);

    std::fs::write(folder.path().join("cert.pem"), "nonsense").unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(
        asks(address, &first, None).await,
        "what cannot be used changes nothing"
    );
    second.sign_into(folder.path());
    let deadline = Instant::now() + Duration::from_secs(60);
    while !asks(address, &second, None).await {
        assert!(Instant::now() < deadline, "the new certificate is not used");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!asks(address, &first, None).await);
    assert_eq!(
        silent.read(&mut [0; 1]).await.unwrap_or_default(),
        0,
        "silence ends"
    );
}

#[tokio::test]
async fn callers_show_a_certificate_where_they_must() {
    let (folder, ours, theirs) = (TempDir::new().unwrap(), Authority::new(), Authority::new());
    ours.sign_into(folder.path());
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, theirs.0.pem()).unwrap();
    let address = encrypted(&folder, Some(format!("--tls-client-ca={}", ca.display()))).await;
    assert!(asks(address, &ours, Some(theirs.sign())).await);
    assert!(
        !asks(address, &ours, Some(ours.sign())).await,
        "another authority's"
    );
    assert!(!asks(address, &ours, None).await);
}
