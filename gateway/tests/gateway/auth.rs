//! Authentication, quotas and TLS to the services, over real sockets with real signatures.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Parser;
use http::Method;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use runtime::ServerArgs;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tonic::{Code, Status};

use crate::{
    shop::{Front, Model, Redis, Running, ask, customer, until},
    web::http,
};

const RISK: &str = "/v1/customers/17850/churnRisk";

fn encoded(value: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(value)
}

/// An issuer of tokens, with its signing key.
struct Issuer {
    id: &'static str,
    key: Key,
}

enum Key {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Issuer {
    fn ec(id: &'static str) -> Self {
        let (kind, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self {
            id,
            key: Key::Ec(EcdsaKeyPair::from_pkcs8(kind, key.as_ref(), &random).unwrap()),
        }
    }

    fn ed(id: &'static str) -> Self {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self {
            id,
            key: Key::Ed(Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap()),
        }
    }

    fn algorithm(&self) -> &'static str {
        match self.key {
            Key::Ec(_) => "ES256",
            Key::Ed(_) => "EdDSA",
        }
    }

    fn public(&self) -> &[u8] {
        match &self.key {
            Key::Ec(key) => key.public_key().as_ref(),
            Key::Ed(key) => key.public_key().as_ref(),
        }
    }

    fn jwk(&self) -> Value {
        let public = self.public();
        match self.key {
            Key::Ec(_) => {
                let (x, y) = public[1..].split_at(32);
                let (x, y) = (encoded(x), encoded(y));
                json!({
                    "kty": "EC", "crv": "P-256", "kid": self.id, "use": "sig", "x": x, "y": y
                })
            }
            Key::Ed(_) => {
                let x = encoded(public);
                json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "alg": "EdDSA", "x": x})
            }
        }
    }

    fn sign(&self, text: &str) -> Vec<u8> {
        match &self.key {
            Key::Ec(key) => key
                .sign(&SystemRandom::new(), text.as_bytes())
                .unwrap()
                .as_ref()
                .to_vec(),
            Key::Ed(key) => key.sign(text.as_bytes()).as_ref().to_vec(),
        }
    }

    fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.algorithm(), "kid": self.id}), claims)
    }

    fn token_with(&self, header: &Value, claims: &Value) -> String {
        let text = format!(
            "{}.{}",
            encoded(header.to_string()),
            encoded(claims.to_string())
        );
        format!("{text}.{}", encoded(self.sign(&text)))
    }
}

fn key_set(issuers: &[&Issuer]) -> String {
    json!({"keys": issuers.iter().map(|issuer| issuer.jwk()).collect::<Vec<_>>()}).to_string()
}

/// Valid claims, replaced or extended by these.
fn claims(others: Value) -> Value {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let mut claims = json!({
        "iss": "https://id.shop",
        "aud": ["other", "shopkeeper"],
        "sub": "checkout",
        "exp": now + 600,
    });
    for (name, value) in others.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            Value::Number(seconds) => {
                claims[name] = json!(now.saturating_add_signed(seconds.as_i64().unwrap()))
            }
            Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                claims[name] = value.clone()
            }
        }
    }
    claims
}

fn flags(service: &Running, keys: String) -> Vec<(&'static str, String)> {
    vec![
        ("churn", service.url()),
        ("jwt-keys", keys),
        ("jwt-issuer", "https://id.shop".into()),
        ("jwt-audience", "shopkeeper".into()),
    ]
}

/// The HTTP status and the error reason of an answer to a caller with this token or key.
async fn shows(front: &Front, path: &str, shown: &str) -> (u16, Option<String>) {
    let answer = http(
        front,
        Method::GET,
        path,
        &[("authorization", &format!("Bearer {shown}"))],
        b"",
    )
    .await;
    let json = answer.json();
    let details = json["error"]["details"].as_array().into_iter().flatten();
    let reason = details
        .filter_map(|detail| detail["reason"].as_str())
        .next()
        .map(str::to_owned);
    (answer.status.as_u16(), reason)
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a table with a case per way in which a token is right or wrong"
)]
async fn a_token_lets_in_where_everything_about_it_is_right() {
    let (model, folder) = (Model::new("churn", "v1"), tempfile::tempdir().unwrap());
    let service = Running::start(model.service()).await;
    let (ec, ed, stranger) = (Issuer::ec("one"), Issuer::ed("two"), Issuer::ed("two"));
    let file = folder.path().join("keys.json");
    let mut set: Value = serde_json::from_str(&key_set(&[&ec, &ed])).unwrap();
    // Keys of unknown kinds are ignored.
    set["keys"].as_array_mut().unwrap().extend([
        json!({"kty": "oct", "kid": "hmac", "k": "c2VjcmV0"}),
        json!({"kty": "?"}),
    ]);
    std::fs::write(&file, set.to_string()).unwrap();
    let mut flags = flags(&service, file.display().to_string());
    let keys = folder.path().join("keys.toml");
    let hash = Sha256::digest("a key")
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    std::fs::write(
        &keys,
        format!("[[keys]]\nname = \"till\"\nsha256 = \"{hash}\""),
    )
    .unwrap();
    flags.push(("api-keys", keys.display().to_string()));
    let front = Front::start(&flags).await;
    let good = ec.token(&claims(json!({})));
    until("the service is reached", async || {
        shows(&front, RISK, &good).await.0 == 200
    })
    .await;

    let hmac_with_public_key = {
        let text = format!(
            "{}.{}",
            encoded(json!({"alg": "HS256", "kid": "two"}).to_string()),
            encoded(claims(json!({})).to_string())
        );
        let tag = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, ed.public()),
            text.as_bytes(),
        );
        format!("{text}.{}", encoded(tag))
    };
    let [head, body, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("three parts")
    };
    let other_body = encoded(claims(json!({"sub": "owner"})).to_string());
    let none = encoded(json!({"alg": "none", "kid": "one"}).to_string());
    let scope = |words: &str| ed.token(&claims(json!({"scope": words})));
    let at_risk = "/v1/atRiskCustomers";
    let only_risk = "shopkeeper.churn.v1.ChurnService/GetChurnRisk";
    struct Case {
        what: &'static str,
        token: String,
        path: &'static str,
        status: u16,
        reason: Option<&'static str>,
    }
    for Case {
        what,
        token,
        path,
        status,
        reason,
    } in [
        Case {
            what: "ES256",
            token: good.clone(),
            path: RISK,
            status: 200,
            reason: None,
        },
        Case {
            what: "EdDSA",
            token: ed.token(&claims(json!({}))),
            path: RISK,
            status: 200,
            reason: None,
        },
        Case {
            what: "an API key beside it",
            token: "a key".into(),
            path: RISK,
            status: 200,
            reason: None,
        },
        Case {
            what: "an audience alone",
            token: ed.token(&claims(json!({"aud": "shopkeeper"}))),
            path: RISK,
            status: 200,
            reason: None,
        },
        Case {
            what: "a clock that is a little off",
            token: ed.token(&claims(json!({"exp": -5, "nbf": 5}))),
            path: RISK,
            status: 200,
            reason: None,
        },
        Case {
            what: "a scope of everything",
            token: scope("openid shopkeeper.*"),
            path: at_risk,
            status: 200,
            reason: None,
        },
        Case {
            what: "a scope of a method",
            token: scope(&format!("openid {only_risk}")),
            path: RISK,
            status: 200,
            reason: None,
        },
        Case {
            what: "a scope of another",
            token: scope(&format!("openid {only_risk}")),
            path: at_risk,
            status: 403,
            reason: Some("METHOD_NOT_ALLOWED"),
        },
        Case {
            what: "a list of scopes",
            token: ed.token(&claims(json!({"scp": [only_risk]}))),
            path: at_risk,
            status: 403,
            reason: Some("METHOD_NOT_ALLOWED"),
        },
        Case {
            what: "a scope of nothing here",
            token: scope("openid"),
            path: RISK,
            status: 403,
            reason: Some("METHOD_NOT_ALLOWED"),
        },
        Case {
            what: "too late",
            token: ed.token(&claims(json!({"exp": -60}))),
            path: RISK,
            status: 401,
            reason: Some("TOKEN_EXPIRED"),
        },
        Case {
            what: "for ever",
            token: ed.token(&claims(json!({"exp": null}))),
            path: RISK,
            status: 401,
            reason: Some("TOKEN_INVALID"),
        },
        Case {
            what: "too early",
            token: ed.token(&claims(json!({"nbf": 60}))),
            path: RISK,
            status: 401,
            reason: Some("TOKEN_INVALID"),
        },
        Case {
            what: "nbf that is no time",
            token: ed.token(&claims(json!({"nbf": "x"}))),
            path: RISK,
            status: 401,
            reason: Some("TOKEN_INVALID"),
        },
        Case {
            what: "another issuer",
            token: ed.token(&claims(json!({"iss": "https://id.shop.evil"}))),
            path: RISK,
            status: 401,
            reason: Some("TOKEN_INVALID"),
        },
        Case {
            what: "no issuer",
            token: ed.token(&claims(json!({"iss": null}))),
            path: RISK,
            status: 401,
            reason: Some("TOKEN_INVALID"),
        },
        Case {
            what: "another audience",
            token: ed.token(&claims(json!({"aud": "other"}))),
            path: RISK,
            status: 401,
            reason: Some("TOKEN_INVALID"),
        },
        Case {
            what: "no audience",
            token: ed.token(&claims(json!({"aud": null}))),
            path: RISK,
            status: 401,
            reason: Some("TOKEN_INVALID"),
        },
        Case {
            what: "nobody",
            token: ed.token(&claims(json!({"sub": null}))),
            path: RISK,
            status: 401,
            reason: Some("TOKEN_INVALID"),
        },
        Case {
            what: "a name that is taken",
            token: stranger.token(&claims(json!({}))),
            path: RISK,
            status: 401,
            reason: Some("TOKEN_INVALID"),
        },
        Case {
            what: "a key that is not known",
            token: Issuer::ec("three").token(&claims(json!({}))),
            path: RISK,
            status: 401,
            reason: Some("TOKEN_INVALID"),
        },
        Case {
            what: "no name of a key",
            token: ed.token_with(&json!({"alg": "EdDSA"}), &claims(json!({}))),
            path: RISK,
            status: 401,
            reason: Some("TOKEN_INVALID"),
        },
        Case {
            what: "another algorithm",
            token: ed.token_with(&json!({"alg": "ES256", "kid": "two"}), &claims(json!({}))),
            path: RISK,
            status: 401,
            reason: Some("TOKEN_INVALID"),
        },
        Case {
            what: "the public key as a secret",
            token: hmac_with_public_key,
            path: RISK,
            status: 401,
            reason: Some("TOKEN_INVALID"),
        },
        Case {
            what: "no signature",
            token: format!("{none}.{body}."),
            path: RISK,
            status: 401,
            reason: Some("TOKEN_INVALID"),
        },
        Case {
            what: "no signature and an algorithm",
            token: format!("{head}.{body}."),
            path: RISK,
            status: 401,
            reason: Some("TOKEN_INVALID"),
        },
        Case {
            what: "another body",
            token: format!("{head}.{other_body}.{signature}"),
            path: RISK,
            status: 401,
            reason: Some("TOKEN_INVALID"),
        },
        Case {
            what: "no token",
            token: "a.b.c".into(),
            path: RISK,
            status: 401,
            reason: Some("TOKEN_INVALID"),
        },
        Case {
            what: "no token and no key",
            token: "a.b".into(),
            path: RISK,
            status: 401,
            reason: Some("API_KEY_UNKNOWN"),
        },
    ] {
        // Twice: the second time the verdict may come from the cache of tokens.
        for _ in 0..2 {
            assert_eq!(
                shows(&front, path, &token).await,
                (status, reason.map(str::to_owned)),
                "{what}"
            );
        }
    }
    let answer = http(&front, Method::GET, RISK, &[("x-api-key", &good)], b"").await;
    assert_eq!(
        answer.status.as_u16(),
        200,
        "the dashboard sends either in this header"
    );
    let status = front
        .churn()
        .await
        .get_churn_risk(customer("17850"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn keys_of_tokens_are_replaced_at_work() {
    let (model, folder) = (Model::new("churn", "v1"), tempfile::tempdir().unwrap());
    let service = Running::start(model.service()).await;
    let (old, new) = (Issuer::ed("old"), Issuer::ec("new"));
    let file = folder.path().join("keys.json");
    std::fs::write(&file, key_set(&[&old])).unwrap();
    let front = Front::start(&flags(&service, file.display().to_string())).await;
    let (of_old, of_new) = (old.token(&claims(json!({}))), new.token(&claims(json!({}))));
    until("the service is reached", async || {
        shows(&front, RISK, &of_old).await.0 == 200
    })
    .await;
    // If there is a single key, tokens need no `kid`.
    let unnamed = old.token_with(&json!({"alg": "EdDSA"}), &claims(json!({})));
    assert_eq!(
        (
            shows(&front, RISK, &unnamed).await.0,
            shows(&front, RISK, &of_new).await.0
        ),
        (200, 401)
    );

    std::fs::write(&file, "{\"keys\": []}").unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(
        shows(&front, RISK, &old.token(&claims(json!({"sub": "other"}))))
            .await
            .0,
        200,
        "nonsense changes nothing"
    );
    std::fs::write(&file, key_set(&[&new])).unwrap();
    until("the new key counts", async || {
        shows(&front, RISK, &of_new).await.0 == 200
    })
    .await;
    let fresh = old.token(&claims(json!({"sub": "a third"})));
    assert_eq!(
        shows(&front, RISK, &fresh).await,
        (401, Some("TOKEN_INVALID".into()))
    );
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a scenario told in order: no keys yet, the first keys, others, no key server"
)]
async fn keys_at_a_web_address_may_come_late_change_and_go() {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let (first, second) = (Issuer::ed("first"), Issuer::ed("second"));
    // Bound and dropped: nothing listens at this address yet.
    let address = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let front = Front::start(&flags(&service, format!("http://{address}/keys"))).await;
    let token = first.token(&claims(json!({})));
    assert_eq!(
        shows(&front, RISK, &token).await,
        (503, Some("TOKEN_KEYS_UNREACHABLE".into()))
    );
    assert_eq!(
        shows(&front, RISK, "no token").await.1.as_deref(),
        Some("API_KEY_UNKNOWN")
    );

    let (asked, keys) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(Mutex::new(key_set(&[&first]))),
    );
    let answer = {
        let (asked, keys) = (asked.clone(), keys.clone());
        move || async move {
            asked.fetch_add(1, Ordering::Relaxed);
            keys.lock().unwrap().clone()
        }
    };
    let router = axum::Router::new().route("/keys", axum::routing::get(answer));
    let there =
        tokio::spawn(axum::serve(TcpListener::bind(address).await.unwrap(), router).into_future());
    until("keys have come", async || {
        shows(&front, RISK, &token).await.0 == 200
    })
    .await;

    *keys.lock().unwrap() = key_set(&[&second]);
    let token = second.token(&claims(json!({})));
    until("the new key counts", async || {
        shows(&front, RISK, &token).await.0 == 200
    })
    .await;
    let before = asked.load(Ordering::Relaxed);
    for n in 0..200 {
        assert_eq!(
            shows(
                &front,
                RISK,
                &Issuer::ed("unknown").token(&claims(json!({"sub": n.to_string()})))
            )
            .await
            .0,
            401
        );
    }
    let more = asked.load(Ordering::Relaxed) - before;
    assert!(
        more < 20,
        "a key that is not known was asked for {more} times"
    );

    there.abort();
    let fresh = second.token(&claims(json!({"sub": "later"})));
    assert_eq!(
        shows(&front, RISK, &fresh).await.0,
        200,
        "the last keys are kept"
    );
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a scenario told in order: callers are counted with Redis, then without it"
)]
async fn replicas_count_together_while_they_share_a_redis() {
    let (model, redis, folder) = (
        Model::new("churn", "v1"),
        Redis::start().await,
        tempfile::tempdir().unwrap(),
    );
    let service = Running::start(model.service()).await;
    let (issuer, file) = (Issuer::ed("only"), folder.path().join("keys.json"));
    std::fs::write(&file, key_set(&[&issuer])).unwrap();
    let mut flags = flags(&service, file.display().to_string());
    // The gateway's Redis user has only the rights that it needs.
    redis
        .run(&[
            &b"ACL"[..],
            b"SETUSER",
            b"shop",
            b"on",
            b">hunter2",
            b"~sk:1:*",
            b"+get",
            b"+set",
            b"+eval",
            b"+time",
        ])
        .await;
    let url = redis.url().replace("://", "://shop:hunter2@");
    flags.extend([
        ("redis", url),
        ("calls-per-second", "1".into()),
        ("burst", "20".into()),
    ]);
    let fronts = [Front::start(&flags).await, Front::start(&flags).await];
    let token = |name: &str| issuer.token(&claims(json!({"sub": name})));
    for (n, front) in fronts.iter().enumerate() {
        let mut attempt = 0;
        until("calls are counted in Redis", || {
            attempt += 1;
            let (token, redis) = (token(&format!("{n} {attempt}")), &redis);
            async move {
                let mut connection = redis.connection().await.unwrap();
                redis::cmd("FLUSHALL")
                    .exec_async(&mut connection)
                    .await
                    .unwrap();
                let status = shows(front, RISK, &token).await.0;
                let keys: Vec<String> = redis::cmd("KEYS")
                    .arg("sk:1:quota:*")
                    .query_async(&mut connection)
                    .await
                    .unwrap();
                status == 200 && keys.len() == 1
            }
        })
        .await;
    }
    let answered = async |name: &str| {
        let (token, mut answered) = (token(name), 0);
        for n in 0..60 {
            let answer = shows(&fronts[n % 2], RISK, &token).await;
            match answer.0 {
                200 => answered += 1,
                429 => assert_eq!(answer.1.as_deref(), Some("QUOTA_EXCEEDED")),
                other => panic!("{other}"),
            }
        }
        answered
    };
    let together = answered("together").await;
    assert!((20..30).contains(&together), "{together}");
    redis.kill();
    let alone = answered("alone").await;
    assert!((40..50).contains(&alone), "{alone}");
}

/// An authority that signs certificates for localhost.
struct Authority(CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes its own certificate, and a certificate with key that it signed.
    fn write(&self, folder: &Path, name: &str) -> [String; 3] {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap().pem();
        [
            ("ca", self.0.pem()),
            ("cert", cert),
            ("key", key.serialize_pem()),
        ]
        .map(|(kind, pem)| {
            let file = folder.join(format!("{name}-{kind}.pem"));
            std::fs::write(&file, pem).unwrap();
            file.display().to_string()
        })
    }
}

#[derive(Parser)]
struct Listening {
    #[command(flatten)]
    server: ServerArgs,
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a table with a case per failure of TLS, and the certificates that all cases share"
)]
async fn services_are_called_over_tls_and_both_sides_know_each_other() {
    let (model, folder) = (Model::new("churn", "v1"), tempfile::tempdir().unwrap());
    let (services, gateways) = (Authority::new(), Authority::new());
    let [ca, cert, key] = services.write(folder.path(), "service");
    let [client_ca, client_cert, client_key] = gateways.write(folder.path(), "gateway");
    let args = [
        "service".to_owned(),
        "--listen=127.0.0.1:0".to_owned(),
        format!("--tls-cert={cert}"),
        format!("--tls-key={key}"),
        format!("--tls-client-ca={client_ca}"),
    ];
    let service = Running::start_with(model.service(), Listening::parse_from(args).server).await;
    let (by_name, by_number) = (
        format!("https://localhost:{}", service.address.port()),
        format!("https://{}", service.address),
    );
    let shown = [
        ("backend-cert", client_cert.clone()),
        ("backend-key", client_key.clone()),
    ];
    let start = async |url: &str, ca: &str, shown: &[(&'static str, String)]| {
        let flags = [("churn", url.to_owned()), ("backend-ca", ca.to_owned())];
        Front::start(&[&flags[..], shown].concat()).await
    };

    let front = start(&by_name, &ca, &shown).await;
    front.knows("v1").await;
    let refusal = async |front: &Front| -> Status {
        let client = front.churn().await;
        until("it is known that it cannot be reached", || {
            let mut client = client.clone();
            async move {
                ask(&mut client, "17850")
                    .await
                    .is_err_and(|status| status.code() == Code::Unavailable)
            }
        })
        .await;
        ask(&mut client.clone(), "17850").await.unwrap_err()
    };
    let theirs = [("backend-cert", cert), ("backend-key", key)];
    struct Case<'a> {
        what: &'static str,
        url: &'a str,
        ca: &'a str,
        shown: &'a [(&'static str, String)],
        problem: &'static str,
    }
    for Case {
        what,
        url,
        ca,
        shown,
        problem,
    } in [
        Case {
            what: "another authority",
            url: &by_name,
            ca: &client_ca,
            shown: &shown[..],
            problem: "invalid peer certificate",
        },
        Case {
            what: "another name",
            url: &by_number,
            ca: &ca,
            shown: &shown[..],
            problem: "invalid peer certificate",
        },
        Case {
            what: "no certificate of its own",
            url: &by_name,
            ca: &ca,
            shown: &[],
            problem: "churn cannot be reached",
        },
        Case {
            what: "another's certificate",
            url: &by_name,
            ca: &ca,
            shown: &theirs[..],
            problem: "churn cannot be reached",
        },
        Case {
            what: "no encryption",
            url: &format!("http://{}", service.address),
            ca: &ca,
            shown: &shown[..],
            problem: "churn cannot be reached",
        },
    ] {
        let status = refusal(&start(url, ca, shown).await).await;
        assert!(
            status.message().contains(problem),
            "{what}: {}",
            status.message()
        );
    }

    // The file of the authority is read again: first it has the wrong one, then the right one.
    let file = folder.path().join("replaced.pem");
    std::fs::copy(&client_ca, &file).unwrap();
    let front = start(&by_name, &file.display().to_string(), &shown).await;
    refusal(&front).await;
    std::fs::copy(&ca, &file).unwrap();
    front.knows("v1").await;
}
