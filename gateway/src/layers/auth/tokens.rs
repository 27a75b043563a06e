//! Tokens (JWT) that somebody else signs for callers. Promise: what a token says counts only where
//! the issuer's key signed it, by the one algorithm that this key is for; issuer, audience and time
//! are looked at as well; keys are read again and again, and keys that cannot be read change
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
    AuthError, Known,
    pattern::Pattern,
    signature::{Algorithm, Jwk, PublicKey, decoded},
};
use crate::caller::Caller;

/// How far clocks may differ.
const LEEWAY: Duration = Duration::from_secs(30);
/// How long a token that was good is remembered as good, and how many are: a signature is dear.
const REMEMBERED: (Duration, u64) = (Duration::from_secs(30), 10_000);
/// How often keys are asked for.
const SELDOM: Duration = Duration::from_secs(300);
/// How soon again where there was no answer, or a token names a key that is not known.
const SOON: Duration = Duration::from_secs(5);
/// Time for an answer with keys.
const FETCH: Duration = Duration::from_secs(3);
/// How long of it a caller waits whose token names a key that is not known.
const WAIT: Duration = Duration::from_millis(500);
/// Most bytes of keys.
const LARGEST: usize = 1 << 20;

/// Where the keys of an issuer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// In a file.
    File(PathBuf),
    /// At a web address.
    Url(Url),
}

/// Why nobody can ask for keys there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SourceError {
    /// It begins like a URL and is none.
    #[error("is no URL; https://id.shop.example/jwks.json is one")]
    NotAUrl,
    /// It has a name or a password in it, which command lines and logs show.
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

/// Which tokens count.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// Who must have signed them.
    pub(super) issuer: String,
    /// Whom they must be for.
    pub(super) audience: String,
    /// The claim that names the caller.
    pub(super) caller: String,
}

/// Why a token does not let anybody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// It is no token, or not as tokens have to be.
    #[error("the token cannot be read")]
    Malformed,
    /// It is signed in a way that is not taken.
    #[error("the token is signed by another algorithm than RS256, ES256 and EdDSA")]
    Algorithm,
    /// Its head says that something must be understood that nobody here understands.
    #[error("the token needs what `crit` names, which is not known here")]
    Critical,
    /// It would be good for ever.
    #[error("the token does not say when it expires: `exp` is missing")]
    Endless,
    /// Nobody whom we know has signed it.
    #[error("the token is signed with a key that is not known")]
    UnknownSigner,
    /// It is not what was signed, or was signed by another algorithm than the key's.
    #[error("the token's signature is not right")]
    Signature,
    /// Its time has passed.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    Early,
    /// Somebody else has issued it.
    #[error("the token is another issuer's")]
    Issuer,
    /// It is meant for somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// It does not say who calls.
    #[error("the token does not name the caller")]
    Nobody,
}

/// What a token says of itself.
#[derive(Debug, Deserialize)]
struct Header<A = Algorithm> {
    alg: A,
    kid: Option<String>,
    /// What has to be understood to read it: nothing is.
    crit: Option<IgnoredAny>,
}

/// What a token says of its caller.
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

/// A token whose signature nobody has looked at yet.
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

    /// What it says, where its signature is right.
    fn claims(&self, key: &PublicKey) -> Result<Claims, TokenError> {
        if self.header.alg != key.algorithm() || !key.has_signed(self.signed, &self.signature) {
            return Err(TokenError::Signature);
        }
        let claims = decoded(self.claims).and_then(|claims| serde_json::from_slice(&claims).ok());
        claims.ok_or(TokenError::Malformed)
    }
}

impl Rules {
    /// Who calls, and until when that is so.
    fn check(&self, claims: &Claims, now: SystemTime) -> Result<(Known, SystemTime), TokenError> {
        let time = |seconds| {
            SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
        };
        let until = time(claims.exp.ok_or(TokenError::Endless)?)
            .and_then(|exp| exp.checked_add(LEEWAY))
            .ok_or(TokenError::Malformed)?;
        if until <= now {
            return Err(TokenError::Expired);
        }
        if let Some(from) = claims.nbf
            && time(from).ok_or(TokenError::Malformed)? > now + LEEWAY
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
        let known = Known {
            caller: Caller::subject(name.ok_or(TokenError::Nobody)?),
            methods: scopes
                .iter()
                .any(|scope| scope.is_some())
                .then(|| words().map(Pattern::of).collect()),
            rate: None,
        };
        Ok((known, until))
    }
}

/// A key of the issuer's.
#[derive(Debug)]
struct Signer {
    id: Option<String>,
    key: PublicKey,
}

/// Keys that can be used; those of kinds that cannot are passed over.
fn signers(text: &[u8]) -> anyhow::Result<Vec<Signer>> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(text).context("it is no JSON Web Key Set")?;
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

/// The key that a token names; where there is one key alone, that one need not have a name.
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
    /// None until there was an answer.
    signers: ArcSwapOption<Vec<Signer>>,
    /// When keys were asked for last, and whether there were any.
    last: Mutex<Option<(Instant, bool)>>,
    remembered: future::Cache<[u8; 32], (Arc<Known>, SystemTime)>,
}

impl Tokens {
    /// Reads the keys where they are in a file; those at a web address come when they come.
    ///
    /// # Errors
    /// Where a file cannot be read or has no key that can be used.
    pub(super) fn new(source: &Source, rules: Rules) -> anyhow::Result<Self> {
        let encrypted = matches!(source, Source::Url(url) if url.scheme() == "https");
        // It takes the process's provider; an earlier one is as good.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(FETCH)
            .https_only(encrypted);
        let client = client.build().context("no keys can be asked for")?;
        let (lifetime, most) = REMEMBERED;
        let tokens = Self {
            source: source.clone(),
            client,
            rules,
            signers: ArcSwapOption::empty(),
            last: Mutex::new(None),
            remembered: future::Cache::builder()
                .max_capacity(most)
                .time_to_live(lifetime)
                .build(),
        };
        if let Source::File(file) = source {
            let text = std::fs::read(file).with_context(|| format!("cannot read {source}"))?;
            tokens
                .take(&text)
                .with_context(|| format!("{source} cannot be used"))?;
        }
        Ok(tokens)
    }

    /// Who shows this token.
    ///
    /// # Errors
    /// Why it lets nobody in.
    pub(super) async fn check(
        self: &Arc<Self>,
        token: &str,
        digest: [u8; 32],
    ) -> Result<Arc<Known>, AuthError> {
        let now = SystemTime::now();
        if let Some((known, until)) = self.remembered.get(&digest).await
            && now < until
        {
            return Ok(known);
        }
        let token = Token::read(token)?;
        let id = token.header.kid.as_deref();
        let is_known = |signers: &Vec<Signer>| signer(signers, id).is_some();
        if let Source::Url(url) = &self.source
            && !self.signers.load().as_deref().is_some_and(is_known)
        {
            // In a task of its own: the answer is not for this caller alone, who may hang up and
            // does not wait for long.
            let (tokens, url) = (self.clone(), url.clone());
            let _ = timeout(WAIT, tokio::spawn(async move { tokens.fetch(url).await })).await;
        }
        let signers = self
            .signers
            .load_full()
            .ok_or(AuthError::NoTokenKeys { retry_in: SOON })?;
        let signer = signer(&signers, id).ok_or(TokenError::UnknownSigner)?;
        let (known, until) = self.rules.check(&token.claims(&signer.key)?, now)?;
        let known = Arc::new(known);
        self.remembered.insert(digest, (known.clone(), until)).await;
        Ok(known)
    }

    /// Reads the keys again and again, for ever.
    pub(super) async fn watch(self: Arc<Self>) {
        match &self.source {
            Source::File(file) => {
                let mut files = Files::new([file.clone()]);
                loop {
                    files.changed().await;
                    let read = tokio::fs::read(file).await.map_err(anyhow::Error::from);
                    self.tell(read.and_then(|text| self.take(&text)), false);
                }
            }
            Source::Url(url) => loop {
                let good = self.fetch(url.clone()).await;
                tokio::time::sleep(if good { SELDOM } else { SOON }).await;
            },
        }
    }

    /// Asks for keys, unless somebody did a moment ago; whether there were any the last time.
    async fn fetch(&self, url: Url) -> bool {
        let mut last = self.last.lock().await;
        match *last {
            Some((when, good)) if when.elapsed() < SOON => good,
            before => {
                let was_bad = before.is_some_and(|(_, good)| !good);
                let good = self.tell(
                    self.answer(url).await.and_then(|text| self.take(&text)),
                    was_bad,
                );
                *last = Some((Instant::now(), good));
                good
            }
        }
    }

    async fn answer(&self, url: Url) -> anyhow::Result<Vec<u8>> {
        let mut answer = self.client.get(url).send().await?.error_for_status()?;
        let mut text = vec![];
        while let Some(chunk) = answer.chunk().await? {
            ensure!(
                text.len() + chunk.len() <= LARGEST,
                "it is larger than {LARGEST} bytes"
            );
            text.extend_from_slice(&chunk);
        }
        Ok(text)
    }

    fn take(&self, text: &[u8]) -> anyhow::Result<usize> {
        let signers = signers(text)?;
        let keys = signers.len();
        self.signers.store(Some(Arc::new(signers)));
        Ok(keys)
    }

    /// Whether there are keys; said once where it goes on not to be so.
    fn tell(&self, read: anyhow::Result<usize>, was_bad: bool) -> bool {
        match &read {
            Ok(keys) => tracing::info!(keys, source = %self.source, "keys of tokens were read"),
            Err(error) if was_bad => {
                tracing::debug!("keys of tokens still stay as they were: {error:#}")
            }
            Err(error) => {
                tracing::error!(source = %self.source, "keys of tokens stay as they were: {error:#}")
            }
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
    const MODULUS: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL\
                           -yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9\
                           e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAc\
                           o9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    const SIGNED: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvb\
                          S9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc\
                          _lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkS\
                          jtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9Q\
                          OYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

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
        // Another signature, another body, and a head that says ES256 or what nobody here
        // understands.
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
    fn keys_for_something_else_are_passed_over() {
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
    fn a_token_names_its_key_where_there_are_several() {
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
        for (keys, name, found) in [
            (named(&[Some("a")]), Some("a"), true),
            (named(&[Some("a")]), Some("b"), false),
            (named(&[Some("a")]), None, true),
            (named(&[None]), Some("a"), true),
            (named(&[Some("a"), Some("b")]), Some("b"), true),
            (named(&[Some("a"), Some("b")]), None, false),
            (named(&[Some("a"), None]), None, false),
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
