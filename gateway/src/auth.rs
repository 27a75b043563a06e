//! Lets callers in by their API keys, where keys are asked for. Promise: a key is known here by its SHA-256 alone, and goes no
//! further than this; keys that are added or taken away count within seconds, and a file that cannot be read changes nothing.

use std::{
    collections::HashMap,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use arc_swap::ArcSwap;
use clap::Args;
use futures_util::future::{Either, Ready, ready};
use governor::{
    DefaultDirectRateLimiter, NotUntil, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use http::{HeaderMap, HeaderName, Response, header::AUTHORIZATION};
use proto::policy::v1::Scope;
use runtime::Files;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tonic::body::Body;
use tower::{Layer, Service, layer::layer_fn};

use crate::{
    call::Call,
    caller::Caller,
    meter,
    method::{Method, Methods},
    stack::BoxError,
};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Who is let in.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Callers")]
pub struct AuthArgs {
    /// File with the SHA-256 of callers' API keys; read again when it changes. docs/operations.md
    /// shows one
    #[arg(long, env = "SHOPKEEPER_API_KEYS", value_name = "FILE", conflicts_with = "allow_anonymous")]
    api_keys: Option<PathBuf>,
    /// Answer everybody at an address that other machines can reach
    #[arg(long, env = "SHOPKEEPER_ALLOW_ANONYMOUS")]
    allow_anonymous: bool,
}

impl AuthArgs {
    /// Reads the keys.
    ///
    /// # Errors
    /// Where the file cannot be read or names a method that there is not.
    pub fn build(&self, methods: &Methods) -> anyhow::Result<Auth> {
        let Some(file) = &self.api_keys else { return Ok(Auth::default()) };
        let keys = read(file, methods)?;
        tracing::info!(keys = keys.0.len(), file = %file.display(), "callers need a key");
        Ok(Auth(Some(Guarded { file: file.clone(), keys: Arc::new(ArcSwap::from_pointee(keys)) })))
    }

    /// Refuses an address that other machines can reach, where everybody would be answered and nobody has said so.
    ///
    /// # Errors
    /// What to do.
    pub fn check(&self, listen: SocketAddr) -> anyhow::Result<()> {
        if listen.ip().is_loopback() || self.api_keys.is_some() || self.allow_anonymous {
            return Ok(());
        }
        bail!(
            "other machines can reach {listen}, and every caller would be answered: give --api-keys FILE, listen on \
             127.0.0.1, or say --allow-anonymous"
        );
    }
}

/// Whether keys are asked for, and which there are.
#[derive(Debug, Clone, Default)]
pub struct Auth(Option<Guarded>);

#[derive(Debug, Clone)]
struct Guarded {
    file: PathBuf,
    keys: Arc<ArcSwap<Keys>>,
}

impl Auth {
    /// Reads the file again when it changes, for ever.
    pub(crate) async fn watch(self, methods: Methods) {
        let Some(Guarded { file, keys }) = self.0 else { return };
        let mut files = Files::new([file.clone()]);
        loop {
            files.changed().await;
            match read(&file, &methods) {
                Ok(read) => {
                    tracing::info!(keys = read.0.len(), "API keys were read again");
                    keys.store(Arc::new(read));
                }
                Err(error) => tracing::error!("API keys stay as they were: {error:#}"),
            }
        }
    }
}

impl Guarded {
    fn with_key<T>(
        &self,
        headers: &HeaderMap,
        then: impl FnOnce(&Key) -> Result<T, AuthError>,
    ) -> Result<T, AuthError> {
        let shown = shown(headers).ok_or(AuthError::NoKey)?;
        then(self.keys.load().0.get(&digest(shown)).ok_or(AuthError::UnknownKey)?)
    }
}

/// The keys, by SHA-256.
#[derive(Debug, Default)]
struct Keys(HashMap<[u8; 32], Key>);

#[derive(Debug)]
struct Key {
    caller: Caller,
    methods: Vec<Pattern>,
    /// Calls of this caller, where they are limited.
    quota: Option<DefaultDirectRateLimiter>,
}

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    keys: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    sha256: String,
    /// Methods by full name; `*` at the end stands for the rest.
    #[serde(default = "everything")]
    methods: Vec<String>,
    /// Calls a second in the long run.
    calls_per_second: Option<NonZeroU32>,
    /// Calls at once; without it as many as a second.
    burst: Option<NonZeroU32>,
}

fn everything() -> Vec<String> {
    vec!["*".to_owned()]
}

/// Methods by the beginning of their full names.
#[derive(Debug)]
struct Pattern {
    beginning: String,
    whole: bool,
}

impl Pattern {
    fn of(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(beginning) => Self { beginning: beginning.to_owned(), whole: false },
            None => Self { beginning: text.to_owned(), whole: true },
        }
    }

    fn takes(&self, method: &Method) -> bool {
        let name = method.name();
        if self.whole { name == self.beginning } else { name.starts_with(&self.beginning) }
    }
}

fn read(file: &Path, methods: &Methods) -> anyhow::Result<Keys> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    parse(&text, methods).with_context(|| format!("{} cannot be used", file.display()))
}

fn parse(text: &str, methods: &Methods) -> anyhow::Result<Keys> {
    // The message of an error shows lines of the file: those hold hashes alone, unless somebody put a key there.
    let file: File = toml::from_str(text).map_err(|error| anyhow::anyhow!("{}", error.message()))?;
    let mut keys = HashMap::new();
    for Entry { name, sha256, methods: patterns, calls_per_second, burst } in file.keys {
        let hash = blake3::Hash::from_hex(&sha256);
        let hash = hash.ok().with_context(|| format!("keys: `{name}`: sha256 is not 64 hexadecimal digits"))?;
        for pattern in &patterns {
            let known = methods.iter().any(|method| Pattern::of(pattern).takes(method));
            ensure!(known, "keys: `{name}`: methods: `{pattern}` is no method of the API");
        }
        let methods = patterns.iter().map(|pattern| Pattern::of(pattern)).collect();
        ensure!(
            burst.is_none() || calls_per_second.is_some(),
            "keys: `{name}`: burst is nothing without calls_per_second"
        );
        let quota = calls_per_second.map(|rate| Quota::per_second(rate).allow_burst(burst.unwrap_or(rate)));
        let key = Key { caller: Caller::named(&name), methods, quota: quota.map(RateLimiter::direct) };
        let before = keys.insert(*hash.as_bytes(), key);
        ensure!(before.is_none(), "keys: `{name}`: its key is another caller's as well");
    }
    Ok(Keys(keys))
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthError {
    /// No key is shown.
    #[error("an API key is needed: x-api-key, or authorization: Bearer")]
    NoKey,
    /// The key is nobody's.
    #[error("the API key is not known")]
    UnknownKey,
    /// The key is for other methods.
    #[error("the API key is not for this method")]
    NotAllowed,
    /// The caller has made more calls than they may.
    #[error("more calls than this API key may make")]
    TooMany {
        /// When there may be another.
        retry_in: Duration,
    },
}

impl Auth {
    /// Whether somebody who shows this may look at what is no method, such as metrics: everybody who has a key.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn known(&self, headers: &HeaderMap) -> Result<(), AuthError> {
        self.0.as_ref().map_or(Ok(()), |guarded| guarded.with_key(headers, |_| Ok(())))
    }

    fn caller(&self, call: &mut Call) -> Result<(), AuthError> {
        match &self.0 {
            Some(guarded) => {
                call.caller = guarded.with_key(&call.headers, |key| {
                    if !key.methods.iter().any(|pattern| pattern.takes(&call.method)) {
                        return Err(AuthError::NotAllowed);
                    }
                    let over = key.quota.as_ref().and_then(|quota| quota.check().err());
                    let wait = |over: NotUntil<_>| over.wait_time_from(DefaultClock::default().now());
                    over.map_or(Ok(key.caller), |over| Err(AuthError::TooMany { retry_in: wait(over) }))
                })?;
                call.headers.remove(API_KEY);
                call.headers.remove(AUTHORIZATION);
            }
            // Nobody asks who it is; answers that are not for everybody are kept apart all the same.
            None if call.method.scope == Scope::Caller => call.caller = Caller::of(&call.headers),
            None => {}
        }
        Ok(())
    }
}

fn shown(headers: &HeaderMap) -> Option<&[u8]> {
    let key = headers.get(API_KEY).map(http::HeaderValue::as_bytes);
    key.or_else(|| {
        let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().as_bytes())
    })
}

/// Lets callers in.
pub(crate) fn layer<S>(auth: Auth) -> impl Layer<S, Service = Authenticated<S>> + Clone {
    layer_fn(move |inner| Authenticated { inner, auth: auth.clone() })
}

/// See [`layer`].
#[derive(Debug, Clone)]
pub(crate) struct Authenticated<S> {
    inner: S,
    auth: Auth,
}

impl<S> Service<Call> for Authenticated<S>
where
    S: Service<Call, Response = Response<Body>, Error = BoxError>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<Response<Body>, BoxError>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        match self.auth.caller(&mut call) {
            Ok(()) => Either::Left(self.inner.call(call)),
            Err(error) => {
                meter::refused(error);
                Either::Right(ready(Err(error.into())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::tests::call;

    const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";
    const SEGMENT: &str = "/shopkeeper.segmentation.v1.SegmentationService/GetCustomerSegment";

    fn methods() -> Methods {
        Methods::read(proto::DESCRIPTORS).unwrap()
    }

    fn guarded(text: &str) -> Auth {
        let keys = Arc::new(ArcSwap::from_pointee(parse(text, &methods()).unwrap()));
        Auth(Some(Guarded { file: PathBuf::new(), keys }))
    }

    #[test]
    fn a_key_lets_in_to_its_methods() {
        let key = "4f1c0e".repeat(8);
        let hash = blake3::Hash::from_bytes(digest(key.as_bytes())).to_hex();
        let entry = format!("name = \"checkout\"\nsha256 = \"{hash}\"\nmethods = [\"shopkeeper.churn.v1.*\"]");
        let auth = guarded(&format!("[[keys]]\n{entry}"));
        let bearer = format!("bearer {key}");
        for (path, header, shown, expected) in [
            (RISK, "x-api-key", key.as_str(), Ok(())),
            (RISK, "authorization", &bearer, Ok(())),
            (SEGMENT, "x-api-key", &key, Err(AuthError::NotAllowed)),
            (RISK, "x-api-key", &key[1..], Err(AuthError::UnknownKey)),
            (RISK, "authorization", &key, Err(AuthError::NoKey)),
            (RISK, "x-other", &key, Err(AuthError::NoKey)),
        ] {
            let mut call = call(path, b"");
            call.headers.insert(header, shown.parse().unwrap());
            assert_eq!(auth.caller(&mut call), expected, "{path} {header}");
            if expected.is_ok() {
                assert_eq!(call.caller, Caller::named("checkout"));
                assert!(call.headers.is_empty(), "the key goes no further");
            }
        }
    }

    #[test]
    fn who_calls_too_often_is_told_when_to_call_again() {
        let hash = blake3::Hash::from_bytes(digest(b"key")).to_hex();
        let auth = guarded(&format!("[[keys]]\nname = \"a\"\nsha256 = \"{hash}\"\ncalls_per_second = 1\nburst = 3"));
        let ask = || {
            let mut call = call(RISK, b"");
            call.headers.insert("x-api-key", "key".parse().unwrap());
            auth.caller(&mut call)
        };
        let answers = [ask(), ask(), ask(), ask()];
        assert_eq!(answers[..3], [Ok(()), Ok(()), Ok(())]);
        assert!(matches!(answers[3], Err(AuthError::TooMany { retry_in }) if retry_in <= Duration::from_secs(1)));
    }

    #[test]
    fn a_file_that_cannot_be_used_says_why_and_shows_no_key() {
        let hash = "a".repeat(64);
        for (text, problem) in [
            ("keys = 1", "invalid type"),
            ("[[keys]]\nname = \"a\"\nsha256 = \"abc\"", "`a`: sha256 is not 64 hexadecimal digits"),
            (
                &format!("[[keys]]\nname = \"a\"\nsha256 = \"{hash}\"\nmethods = [\"nothing\"]"),
                "`nothing` is no method",
            ),
            (&format!("[[keys]]\nname = \"a\"\nsha256 = \"{hash}\"\n").repeat(2), "another caller's as well"),
            (&format!("[[keys]]\nname = \"a\"\nsha256 = \"{hash}\"\nburst = 1"), "burst is nothing without"),
            (&format!("[[keys]]\nname = \"a\"\nsha256 = \"{hash}\"\ncalls_per_second = 0"), "expected a nonzero"),
            ("[[keys]]\nname = \"a\"\nkey = \"shk_secret\"", "unknown field"),
        ] {
            let error = format!("{:#}", parse(text, &methods()).unwrap_err());
            assert!(error.contains(problem) && !error.contains("secret"), "{error}");
        }
        assert!(parse("", &methods()).unwrap().0.is_empty());
    }

    #[test]
    fn everybody_is_answered_only_where_somebody_said_so() {
        let (open, said) = (AuthArgs::default(), AuthArgs { allow_anonymous: true, ..AuthArgs::default() });
        for (listen, by_default) in
            [("127.0.0.1:1", true), ("[::1]:1", true), ("0.0.0.0:1", false), ("10.0.0.7:1", false)]
        {
            let listen = listen.parse().unwrap();
            assert_eq!((open.check(listen).is_ok(), said.check(listen).is_ok()), (by_default, true), "{listen}");
        }
    }
}
