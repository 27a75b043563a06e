//! Tokens (JWT) that an issuer signs for callers. Promise: the claims of a token count only if the
//! issuer's key signed it, by the one algorithm that this key is for, and if issuer, audience and
//! times are right as well; keys are read again and again, and keys that cannot be read change
//! nothing.

use std::{
    fmt,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, ensure};
use arc_swap::ArcSwapOption;
use moka::future;
use runtime::Files;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use url::Url;

use super::{
    error::{AuthError, TokenError},
    identity::Identity,
    pattern::Pattern,
    signature::{Algorithm, Jwk, PublicKey, decoded},
};
use crate::caller::Caller;

/// Numbers of the check of tokens.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// How far clocks may differ.
    leeway: Duration,
    /// For how long, and for how many tokens, the result of a check is kept: a signature costs
    /// tens of microseconds.
    checked_lifetime: Duration,
    max_checked: u64,
    /// Pause between fetches of keys.
    refetch: Duration,
    /// The same after a fetch that failed; also the shortest time between fetches because tokens
    /// name unknown keys.
    min_refetch: Duration,
    /// Time for a fetch.
    fetch_timeout: Duration,
    /// How long the caller of a token with an unknown key waits for a fetch.
    max_wait: Duration,
    /// Largest answer with keys, bytes.
    max_keys_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            leeway: Duration::from_secs(30),
            checked_lifetime: Duration::from_secs(30),
            max_checked: 10_000,
            refetch: Duration::from_secs(300),
            min_refetch: Duration::from_secs(5),
            fetch_timeout: Duration::from_secs(3),
            max_wait: Duration::from_millis(500),
            max_keys_bytes: 1 << 20,
        }
    }
}

/// The place of an issuer's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// In a file.
    File(PathBuf),
    /// At a web address.
    Url(Url),
}

/// Why a source of keys cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SourceError {
    /// It begins like a URL and cannot be parsed.
    #[error("is not a URL; https://id.shop.example/jwks.json is one")]
    NotAUrl,
    /// It has a user or a password in it, which command lines and logs would show.
    #[error("has a user or a password in it; keys of tokens are public")]
    HasPassword,
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        if !text.starts_with("http://") && !text.starts_with("https://") {
            return Ok(Self::File(text.into()));
        }
        let url = Url::parse(text).map_err(|_| SourceError::NotAUrl)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(SourceError::HasPassword);
        }
        Ok(Self::Url(url))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

/// What tokens are checked against.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// The `iss` that they must have.
    pub(super) issuer: String,
    /// What must be among their `aud`.
    pub(super) audience: String,
    /// The claim that names the caller.
    pub(super) caller: String,
}

/// The header of a token.
#[derive(Debug, Deserialize)]
struct Header<A = Algorithm> {
    alg: A,
    kid: Option<String>,
    /// Extensions that the reader must understand.
    crit: Option<IgnoredAny>,
}

/// The claims of a token.
#[derive(Debug, Deserialize)]
struct Claims {
    exp: Option<f64>,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<OneOrMany>,
    scope: Option<OneOrMany>,
    scp: Option<OneOrMany>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// A token before the check of its signature.
struct Token<'a> {
    header: Header,
    signed: &'a str,
    claims: &'a str,
    signature: Vec<u8>,
}

impl<'a> Token<'a> {
    fn read(text: &'a str) -> Result<Self, TokenError> {
        let parts = text.rsplit_once('.').and_then(|(signed, signature)| {
            let (header, claims) = signed.split_once('.')?;
            let header: Header<Value> = serde_json::from_slice(&decoded(header)?).ok()?;
            Some((header, signed, claims, decoded(signature)?))
        });
        let (Header { alg, kid, crit }, signed, claims, signature) =
            parts.ok_or(TokenError::Malformed)?;
        let alg = serde_json::from_value(alg).map_err(|_| TokenError::Algorithm)?;
        match crit {
            None => Ok(Self {
                header: Header { alg, kid, crit },
                signed,
                claims,
                signature,
            }),
            Some(_) => Err(TokenError::Critical),
        }
    }

    /// Its claims, if its signature is right.
    fn claims(&self, key: &PublicKey) -> Result<Claims, TokenError> {
        if self.header.alg != key.algorithm() || !key.has_signed(self.signed, &self.signature) {
            return Err(TokenError::Signature);
        }
        let claims = decoded(self.claims).and_then(|claims| serde_json::from_slice(&claims).ok());
        claims.ok_or(TokenError::Malformed)
    }
}

impl Rules {
    /// The caller, and until when that holds.
    fn check(
        &self,
        claims: &Claims,
        now: SystemTime,
        leeway: Duration,
    ) -> Result<(Identity, SystemTime), TokenError> {
        let time = |seconds| {
            SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
        };
        let until = time(claims.exp.ok_or(TokenError::Endless)?)
            .and_then(|exp| exp.checked_add(leeway))
            .ok_or(TokenError::Malformed)?;
        if until <= now {
            return Err(TokenError::Expired);
        }
        if let Some(from) = claims.nbf
            && time(from).ok_or(TokenError::Malformed)? > now + leeway
        {
            return Err(TokenError::Early);
        }
        if claims.iss.as_ref() != Some(&self.issuer) {
            return Err(TokenError::Issuer);
        }
        if !claims
            .aud
            .as_ref()
            .is_some_and(|audiences| audiences.all().contains(&self.audience))
        {
            return Err(TokenError::Audience);
        }
        let name = claims
            .others
            .get(&self.caller)
            .and_then(Value::as_str)
            .filter(|name| !name.is_empty());
        let scopes = [&claims.scope, &claims.scp];
        let words = || {
            scopes
                .into_iter()
                .flatten()
                .flat_map(OneOrMany::all)
                .flat_map(|words| words.split_whitespace())
        };
        let identity = Identity {
            caller: Caller::subject(name.ok_or(TokenError::NoCaller)?),
            methods: scopes
                .iter()
                .any(|scope| scope.is_some())
                .then(|| words().map(Pattern::of).collect()),
            rate: None,
        };
        Ok((identity, until))
    }
}

/// A key of the issuer.
#[derive(Debug)]
struct Signer {
    id: Option<String>,
    key: PublicKey,
}

/// The keys that can be used here. Keys of other kinds are skipped.
fn signers(text: &[u8]) -> anyhow::Result<Vec<Signer>> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(text).context("it is not a JSON Web Key Set")?;
    let keys = set
        .keys
        .into_iter()
        .filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
    let signers: Vec<_> = keys
        .filter_map(|jwk| {
            Some(Signer {
                key: PublicKey::of(&jwk)?,
                id: jwk.kid,
            })
        })
        .collect();
    ensure!(
        !signers.is_empty(),
        "it has no key for RS256, ES256 or EdDSA"
    );
    Ok(signers)
}

/// The key that a token names. A single key need not be named.
fn signer<'a>(signers: &'a [Signer], id: Option<&str>) -> Option<&'a Signer> {
    match (signers, id) {
        ([only], None) => Some(only),
        ([only], Some(_)) if only.id.is_none() => Some(only),
        (_, None) => None,
        (several, Some(_)) => several.iter().find(|signer| signer.id.as_deref() == id),
    }
}

/// The tokens of an issuer.
#[derive(Debug)]
pub(super) struct Tokens {
    source: Source,
    client: reqwest::Client,
    rules: Rules,
    config: Config,
    /// None until keys were fetched.
    signers: ArcSwapOption<Vec<Signer>>,
    /// When keys were last fetched, and whether there were any.
    last: Mutex<Option<(Instant, bool)>>,
    /// Tokens that were valid, by their SHA-256, and until when they are.
    checked: future::Cache<[u8; 32], (Arc<Identity>, SystemTime)>,
}

impl Tokens {
    /// Reads the keys if they are in a file; keys at a web address are fetched later.
    ///
    /// # Errors
    /// If a file cannot be read or has no key that can be used.
    pub(super) fn new(source: &Source, rules: Rules) -> anyhow::Result<Self> {
        let encrypted = matches!(source, Source::Url(url) if url.scheme() == "https");
        // reqwest uses the TLS provider of the process; one that was installed earlier will do.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let config = Config::default();
        let client = reqwest::Client::builder()
            .timeout(config.fetch_timeout)
            .https_only(encrypted);
        let client = client.build().context("keys cannot be fetched")?;
        let tokens = Self {
            source: source.clone(),
            client,
            rules,
            signers: ArcSwapOption::empty(),
            last: Mutex::new(None),
            checked: future::Cache::builder()
                .max_capacity(config.max_checked)
                .time_to_live(config.checked_lifetime)
                .build(),
            config,
        };
        if let Source::File(file) = source {
            let text = std::fs::read(file).with_context(|| format!("cannot read {source}"))?;
            tokens
                .take(&text)
                .with_context(|| format!("{source} cannot be used"))?;
        }
        Ok(tokens)
    }

    /// The caller of this token with the SHA-256 `digest`.
    ///
    /// # Errors
    /// Says why the token does not admit its caller.
    pub(super) async fn check(
        self: &Arc<Self>,
        token: &str,
        digest: [u8; 32],
    ) -> Result<Arc<Identity>, AuthError> {
        let now = SystemTime::now();
        if let Some((identity, until)) = self.checked.get(&digest).await
            && now < until
        {
            return Ok(identity);
        }
        let token = Token::read(token)?;
        let id = token.header.kid.as_deref();
        let is_known = |signers: &Vec<Signer>| signer(signers, id).is_some();
        if let Source::Url(url) = &self.source
            && !self.signers.load().as_deref().is_some_and(is_known)
        {
            // In a task of its own: other callers need the keys as well, and this one may hang up
            // or give up.
            let (tokens, url) = (self.clone(), url.clone());
            let _ = timeout(
                self.config.max_wait,
                tokio::spawn(async move { tokens.fetch(url).await }),
            )
            .await;
        }
        let signers = self.signers.load_full().ok_or(AuthError::NoTokenKeys {
            retry_in: self.config.min_refetch,
        })?;
        let signer = signer(&signers, id).ok_or(TokenError::UnknownSigner)?;
        let claims = token.claims(&signer.key)?;
        let (identity, until) = self.rules.check(&claims, now, self.config.leeway)?;
        let identity = Arc::new(identity);
        self.checked.insert(digest, (identity.clone(), until)).await;
        Ok(identity)
    }

    /// Reads the keys again and again. Does not end.
    pub(super) async fn watch(self: Arc<Self>) {
        match &self.source {
            Source::File(file) => {
                let mut files = Files::new([file.clone()]);
                loop {
                    files.changed().await;
                    let read = tokio::fs::read(file).await.map_err(anyhow::Error::from);
                    self.log(read.and_then(|text| self.take(&text)), false);
                }
            }
            Source::Url(url) => loop {
                let pause = match self.fetch(url.clone()).await {
                    true => self.config.refetch,
                    false => self.config.min_refetch,
                };
                tokio::time::sleep(pause).await;
            },
        }
    }

    /// Fetches keys, unless that was done a moment ago. Returns whether the last fetch found any.
    async fn fetch(&self, url: Url) -> bool {
        let mut last = self.last.lock().await;
        match *last {
            Some((when, found)) if when.elapsed() < self.config.min_refetch => found,
            before => {
                let has_failed = before.is_some_and(|(_, found)| !found);
                let answer = self.answer(url).await;
                let found = self.log(answer.and_then(|text| self.take(&text)), has_failed);
                *last = Some((Instant::now(), found));
                found
            }
        }
    }

    async fn answer(&self, url: Url) -> anyhow::Result<Vec<u8>> {
        let mut answer = self.client.get(url).send().await?.error_for_status()?;
        let mut text = vec![];
        while let Some(chunk) = answer.chunk().await? {
            let limit = self.config.max_keys_bytes;
            ensure!(
                text.len() + chunk.len() <= limit,
                "it is larger than {limit} bytes"
            );
            text.extend_from_slice(&chunk);
        }
        Ok(text)
    }

    /// Replaces the keys. Returns how many there are.
    fn take(&self, text: &[u8]) -> anyhow::Result<usize> {
        let signers = signers(text)?;
        let keys = signers.len();
        self.signers.store(Some(Arc::new(signers)));
        Ok(keys)
    }

    /// Logs the end of a read: of several failures in a row only the first as an error. Returns
    /// whether there were keys.
    fn log(&self, read: anyhow::Result<usize>, has_failed: bool) -> bool {
        match &read {
            Ok(keys) => tracing::info!(keys, source = %self.source, "keys of tokens were read"),
            Err(error) if has_failed => {
                tracing::debug!("keys of tokens still stay as they were: {error:#}")
            }
            Err(error) => tracing::error!(
                source = %self.source,
                "keys of tokens stay as they were: {error:#}"
            ),
        }
        read.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use serde_json::json;

    /// The key and the token of RFC 7515, A.2.
    const MODULUS: &str = "\
        ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0B\
        m4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5\
        z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7\
        aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    const SIGNED: &str = "\
        eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlL\
        mNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7\
        AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWz\
        O75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZES\
        c6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlU\
        PQGe77Rw";

    #[test]
    fn rs256_is_checked_as_its_rfc_says() {
        let key = json!({"keys": [{"kty": "RSA", "n": MODULUS, "e": "AQAB"}]}).to_string();
        let signers = signers(key.as_bytes()).unwrap();
        let check = |token: &str| Token::read(token)?.claims(&signers[0].key);
        let claims = check(SIGNED).unwrap();
        assert_eq!(
            (claims.exp, claims.iss.as_deref()),
            (Some(1_300_819_380.0), Some("joe"))
        );
        // Another signature, other claims, and a header with another algorithm or an unknown
        // extension.
        let head = |head: Value| {
            SIGNED.replace(
                "eyJhbGciOiJSUzI1NiJ9",
                &URL_SAFE_NO_PAD.encode(head.to_string()),
            )
        };
        for (token, error) in [
            (SIGNED.replace(".cC4h", ".cC4i"), TokenError::Signature),
            (
                SIGNED.replace("OiJqb2Ui", "OiJqb2Uj"),
                TokenError::Signature,
            ),
            (head(json!({"alg": "ES256"})), TokenError::Signature),
            (head(json!({"alg": "none"})), TokenError::Algorithm),
            (head(json!({"alg": "HS256"})), TokenError::Algorithm),
            (
                head(json!({"alg": "RS256", "crit": ["exp"]})),
                TokenError::Critical,
            ),
        ] {
            assert_eq!(check(&token).map(drop), Err(error), "{token}");
        }
    }

    #[test]
    fn keys_for_other_purposes_are_skipped() {
        let rsa = |more: Value| {
            let mut key = json!({"kty": "RSA", "n": MODULUS, "e": "AQAB", "kid": "a"});
            key.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            key
        };
        for (keys, usable) in [
            (
                json!([
                    rsa(json!({})),
                    rsa(json!({"alg": "RS256", "use": "sig", "kid": "b"}))
                ]),
                2,
            ),
            (
                json!([
                    rsa(json!({})),
                    rsa(json!({"use": "enc"})),
                    rsa(json!({"alg": "RS512"}))
                ]),
                1,
            ),
            (
                json!([rsa(json!({})), {"kty": "oct", "k": "c2VjcmV0"}, {"kty": "new"}, 7]),
                1,
            ),
            (
                json!([{"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}]),
                0,
            ),
            (json!([]), 0),
        ] {
            let text = json!({"keys": keys}).to_string();
            let signers = signers(text.as_bytes());
            assert_eq!(signers.map_or(0, |signers| signers.len()), usable, "{text}");
        }
        for text in ["", "[]", "{\"keys\": 1}", "null"] {
            assert!(signers(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_names_its_key_if_there_are_several() {
        let named = |names: &[Option<&str>]| {
            let keys = names
                .iter()
                .map(|name| json!({"kty": "RSA", "n": MODULUS, "e": "AQAB", "kid": name}));
            signers(
                json!({"keys": keys.collect::<Vec<_>>()})
                    .to_string()
                    .as_bytes(),
            )
            .unwrap()
        };
        struct Case {
            keys: Vec<Signer>,
            name: Option<&'static str>,
            found: bool,
        }
        for Case { keys, name, found } in [
            Case {
                keys: named(&[Some("a")]),
                name: Some("a"),
                found: true,
            },
            Case {
                keys: named(&[Some("a")]),
                name: Some("b"),
                found: false,
            },
            Case {
                keys: named(&[Some("a")]),
                name: None,
                found: true,
            },
            Case {
                keys: named(&[None]),
                name: Some("a"),
                found: true,
            },
            Case {
                keys: named(&[Some("a"), Some("b")]),
                name: Some("b"),
                found: true,
            },
            Case {
                keys: named(&[Some("a"), Some("b")]),
                name: None,
                found: false,
            },
            Case {
                keys: named(&[Some("a"), None]),
                name: None,
                found: false,
            },
        ] {
            assert_eq!(signer(&keys, name).is_some(), found, "{name:?} of {keys:?}");
        }
    }

    #[test]
    fn a_source_is_a_file_or_a_web_address_without_a_password() {
        for (text, source) in [
            ("keys.json", Ok("keys.json")),
            ("/etc/keys", Ok("/etc/keys")),
            ("https://id.shop/keys", Ok("https://id.shop/keys")),
            ("http://id:8080", Ok("http://id:8080/")),
            ("https://", Err(SourceError::NotAUrl)),
            (
                "https://me:hunter2@id.shop/keys",
                Err(SourceError::HasPassword),
            ),
            ("https://me@id.shop/keys", Err(SourceError::HasPassword)),
        ] {
            let read = text.parse::<Source>().map(|source| source.to_string());
            assert_eq!(read, source.map(str::to_owned), "{text}");
        }
    }
}
