//! Lets callers in by API keys and by tokens, where they are asked for. Promise: what a caller
//! shows goes no further than this, and who is not let in costs no service anything.

mod keys;
mod pattern;
mod quota;
mod signature;
mod tokens;

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, builder::BoolishValueParser};
use futures_util::future::{BoxFuture, Either};
use http::{HeaderMap, HeaderValue, Response, header::AUTHORIZATION};
use proto::policy::v1::Scope;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tonic::body::Body;
use tower::{Layer, Service, layer::layer_fn};

use self::{
    keys::Keys,
    pattern::Pattern,
    quota::{Quotas, Rate},
    tokens::{Rules, Source, Tokens},
};
use crate::{
    call::Call,
    caller::{API_KEY, Caller},
    error::BoxError,
    method::{Method, Methods},
    metrics,
    redis::{self, Client},
};
pub(crate) use tokens::TokenError;

/// Who is let in.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Callers")]
pub struct AuthArgs {
    /// File with the SHA-256 of callers' API keys; read again when it changes. docs/operations.md
    /// shows one
    #[arg(
        long,
        env = "SHOPKEEPER_API_KEYS",
        value_name = "FILE",
        conflicts_with = "allow_anonymous"
    )]
    api_keys: Option<PathBuf>,
    /// Public keys of who signs callers' tokens (JWT; RS256, ES256, EdDSA): a JSON Web Key Set, in
    /// a file that is read again when it changes, or at an http(s) address that is asked every
    /// 5 minutes and when a token names a key that is new
    #[arg(long, env = "SHOPKEEPER_JWT_KEYS", value_name = "FILE|URL", conflicts_with = "allow_anonymous",
        requires_all = ["jwt_issuer", "jwt_audience"], hide_env_values = true, value_parser = redis::secret)]
    jwt_keys: Option<SecretString>, // until it is known to have no password in it
    /// Whose tokens count: their `iss`
    #[arg(
        long,
        env = "SHOPKEEPER_JWT_ISSUER",
        value_name = "NAME",
        requires = "jwt_keys"
    )]
    jwt_issuer: Option<String>,
    /// What tokens must be for: in their `aud`
    #[arg(
        long,
        env = "SHOPKEEPER_JWT_AUDIENCE",
        value_name = "NAME",
        requires = "jwt_keys"
    )]
    jwt_audience: Option<String>,
    /// The claim of a token that names the caller
    #[arg(
        long,
        env = "SHOPKEEPER_JWT_CALLER",
        value_name = "CLAIM",
        default_value = "sub"
    )]
    jwt_caller: String,
    /// Calls a second, in the long run, of each caller whose API key says nothing else; counted by
    /// all gateways together that share a Redis. Without it as many as there are
    #[arg(long, env = "SHOPKEEPER_CALLS_PER_SECOND", value_name = "N")]
    calls_per_second: Option<NonZeroU32>,
    /// Calls at once of each such caller; without it as many as a second
    #[arg(
        long,
        env = "SHOPKEEPER_BURST",
        value_name = "N",
        requires = "calls_per_second"
    )]
    burst: Option<NonZeroU32>,
    /// Answer everybody at an address that other machines can reach
    #[arg(long, env = "SHOPKEEPER_ALLOW_ANONYMOUS", value_parser = BoolishValueParser::new())]
    allow_anonymous: bool,
}

impl AuthArgs {
    /// Reads the keys. Calls are counted in `redis`, where there is one.
    ///
    /// # Errors
    /// Where a file cannot be read or names a method that there is not.
    pub fn build(&self, methods: &Methods, redis: Option<Arc<Client>>) -> anyhow::Result<Auth> {
        let rate = self.calls_per_second.map(|rate| Rate::of(rate, self.burst));
        let keys = self
            .api_keys
            .as_deref()
            .map(|file| Keys::read(file, methods))
            .transpose()?;
        let tokens = match (&self.jwt_keys, &self.jwt_issuer, &self.jwt_audience) {
            (Some(source), Some(issuer), Some(audience)) => {
                let source = source
                    .expose_secret()
                    .parse::<Source>()
                    .context("--jwt-keys")?;
                let (issuer, audience, caller) =
                    (issuer.clone(), audience.clone(), self.jwt_caller.clone());
                Some(Tokens::new(
                    &source,
                    Rules {
                        issuer,
                        audience,
                        caller,
                    },
                )?)
            }
            _ => None,
        };
        if keys.is_none() && tokens.is_none() {
            ensure!(
                rate.is_none(),
                "--calls-per-second counts callers: give --api-keys or --jwt-keys"
            );
            return Ok(Auth::default());
        }
        let (keys, tokens) = (keys.map(Arc::new), tokens.map(Arc::new));
        Ok(Auth(Some(Arc::new(Guard {
            keys,
            tokens,
            quotas: Quotas::new(redis),
            rate,
        }))))
    }

    /// Refuses an address that other machines can reach, where everybody would be answered and
    /// nobody has said so.
    ///
    /// # Errors
    /// What to do.
    pub fn check(&self, listen: SocketAddr) -> anyhow::Result<()> {
        let guarded = self.api_keys.is_some() || self.jwt_keys.is_some();
        if listen.ip().is_loopback() || guarded || self.allow_anonymous {
            return Ok(());
        }
        bail!(
            "other machines can reach {listen}, and every caller would be answered: give \
             --api-keys FILE or --jwt-keys FILE|URL, listen on 127.0.0.1, or say --allow-anonymous"
        );
    }
}

/// Whether callers have to say who they are, and who is let in.
#[derive(Debug, Clone, Default)]
pub struct Auth(Option<Arc<Guard>>);

#[derive(Debug)]
struct Guard {
    keys: Option<Arc<Keys>>,
    tokens: Option<Arc<Tokens>>,
    quotas: Quotas,
    /// Calls of those who have no number of their own.
    rate: Option<Rate>,
}

/// Somebody who is let in.
#[derive(Debug)]
struct Known {
    caller: Caller,
    /// What they may call, where that is not everything.
    methods: Option<Vec<Pattern>>,
    /// How often, where that is said of them.
    rate: Option<Rate>,
}

impl Known {
    fn may_call(&self, method: &Method) -> bool {
        self.methods
            .as_ref()
            .is_none_or(|methods| methods.iter().any(|pattern| pattern.takes(method)))
    }
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthError {
    /// Nothing is shown.
    #[error("an API key or a token is needed: x-api-key, or authorization: Bearer")]
    NoKey,
    /// The key is nobody's.
    #[error("the API key is not known")]
    UnknownKey,
    /// The token lets nobody in.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Nobody can say whether the token is good.
    #[error("the keys that tokens are checked with cannot be reached")]
    NoTokenKeys {
        /// When they are asked for again.
        retry_in: Duration,
    },
    /// The key or the token is for other methods.
    #[error("the key or token is not for this method")]
    NotAllowed,
    /// The caller has made more calls than they may.
    #[error("more calls than this caller may make")]
    TooMany {
        /// When there may be another.
        retry_in: Duration,
    },
}

impl Guard {
    async fn known(&self, headers: &HeaderMap) -> Result<Arc<Known>, AuthError> {
        let shown = shown(headers).ok_or(AuthError::NoKey)?;
        let digest = Sha256::digest(shown).into();
        match (
            self.keys.as_ref().and_then(|keys| keys.get(&digest)),
            &self.tokens,
            token(shown),
        ) {
            (Some(known), ..) => Ok(known),
            (None, Some(tokens), Some(token)) => tokens.check(token, digest).await,
            (None, ..) => Err(AuthError::UnknownKey),
        }
    }

    async fn admit(&self, call: &mut Call) -> Result<(), AuthError> {
        let known = self.known(&call.headers).await?;
        if !known.may_call(&call.method) {
            return Err(AuthError::NotAllowed);
        }
        if let Some(rate) = known.rate.or(self.rate) {
            let over = self.quotas.take(known.caller, rate).await;
            over.map_err(|retry_in| AuthError::TooMany { retry_in })?;
        }
        call.caller = known.caller;
        forget(&mut call.headers);
        Ok(())
    }
}

impl Auth {
    /// Reads the keys again when they change.
    pub(crate) fn watch(&self, methods: &Methods, tasks: &mut JoinSet<()>) {
        let Some(guard) = &self.0 else { return };
        if let Some(keys) = guard.keys.clone() {
            tasks.spawn(keys.watch(methods.clone()));
        }
        if let Some(tokens) = guard.tokens.clone() {
            tasks.spawn(tokens.watch());
        }
    }

    /// Whether somebody who shows this may look at what is no method, such as metrics: everybody
    /// who is let in at all.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn known(&self, headers: &HeaderMap) -> Result<(), AuthError> {
        match &self.0 {
            Some(guard) => guard.known(headers).await.map(drop),
            None => Ok(()),
        }
    }
}

fn shown(headers: &HeaderMap) -> Option<&[u8]> {
    let key = headers.get(API_KEY).map(HeaderValue::as_bytes);
    key.or_else(|| {
        let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| token.trim().as_bytes())
    })
}

/// What was shown goes no further.
fn forget(headers: &mut HeaderMap) {
    headers.remove(API_KEY);
    headers.remove(AUTHORIZATION);
}

/// What may be a token: three parts with dots between.
fn token(shown: &[u8]) -> Option<&str> {
    std::str::from_utf8(shown)
        .ok()
        .filter(|shown| shown.bytes().filter(|byte| *byte == b'.').count() == 2)
}

/// Lets callers in.
pub(crate) fn layer<S>(auth: Auth) -> impl Layer<S, Service = Authenticated<S>> + Clone {
    layer_fn(move |inner| Authenticated {
        inner,
        auth: auth.clone(),
    })
}

/// See [`layer`].
#[derive(Debug, Clone)]
pub(crate) struct Authenticated<S> {
    inner: S,
    auth: Auth,
}

impl<S> Service<Call> for Authenticated<S>
where
    S: Service<Call, Response = Response<Body>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, BoxError>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut call: Call) -> Self::Future {
        let Some(guard) = self.auth.0.clone() else {
            // Nobody asks who it is; answers that are not for everybody are kept apart all the
            // same.
            if call.method.scope == Scope::Caller {
                call.caller = Caller::of(&call.headers);
            }
            forget(&mut call.headers);
            return Either::Left(self.inner.call(call));
        };
        let spare = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, spare);
        Either::Right(Box::pin(async move {
            guard
                .admit(&mut call)
                .await
                .inspect_err(|error| metrics::refused(*error))?;
            inner.call(call).await
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::{keys::tests::keys, *};
    use crate::call::tests::call;

    const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";
    const SEGMENT: &str = "/shopkeeper.segmentation.v1.SegmentationService/GetCustomerSegment";

    fn guard(text: &str, rate: Option<Rate>) -> Guard {
        Guard {
            keys: Some(Arc::new(keys(text))),
            tokens: None,
            quotas: Quotas::new(None),
            rate,
        }
    }

    fn hash(key: &str) -> blake3::Hash {
        blake3::Hash::from_bytes(Sha256::digest(key).into())
    }

    #[tokio::test]
    async fn a_key_lets_in_to_its_methods() {
        let key = "4f1c0e".repeat(8);
        let hash = hash(&key).to_hex();
        let entry = format!(
            "name = \"checkout\"\nsha256 = \"{hash}\"\nmethods = [\"shopkeeper.churn.v1.*\"]"
        );
        let guard = guard(&format!("[[keys]]\n{entry}"), None);
        let bearer = format!("bearer {key}");
        for (path, header, shown, expected) in [
            (RISK, "x-api-key", key.as_str(), Ok(())),
            (RISK, "authorization", &bearer, Ok(())),
            (SEGMENT, "x-api-key", &key, Err(AuthError::NotAllowed)),
            (RISK, "x-api-key", &key[1..], Err(AuthError::UnknownKey)),
            (
                RISK,
                "authorization",
                "Bearer a.b.c",
                Err(AuthError::UnknownKey),
            ),
            (RISK, "authorization", &key, Err(AuthError::NoKey)),
            (RISK, "x-other", &key, Err(AuthError::NoKey)),
        ] {
            let mut call = call(path, b"");
            call.headers.insert(header, shown.parse().unwrap());
            assert_eq!(guard.admit(&mut call).await, expected, "{path} {header}");
            if expected.is_ok() {
                assert_eq!(call.caller, Caller::named("checkout"));
                assert!(call.headers.is_empty(), "the key goes no further");
            }
        }
    }

    #[tokio::test]
    async fn what_is_shown_where_nobody_asks_goes_no_further_either() {
        let inner = tower::service_fn(async |call: Call| {
            assert!(call.headers.is_empty(), "{:?}", call.headers);
            Ok::<_, BoxError>(Response::<Body>::default())
        });
        let mut call = call(RISK, b"");
        call.headers
            .insert(API_KEY, HeaderValue::from_static("secret"));
        call.headers
            .insert(AUTHORIZATION, HeaderValue::from_static("Bearer secret"));
        tower::ServiceExt::oneshot(layer(Auth::default()).layer(inner), call)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn who_calls_too_often_is_told_when_to_call_again() {
        let one = NonZeroU32::MIN;
        let entries = ["a", "b"]
            .map(|key| format!("[[keys]]\nname = \"{key}\"\nsha256 = \"{}\"\n", hash(key)));
        let text = format!(
            "{}calls_per_second = 1\nburst = 3\n{}",
            entries[0], entries[1]
        );
        let guard = guard(&text, Some(Rate::of(one, Some(one))));
        for (key, may) in [("a", 3), ("b", 1)] {
            let ask = async || {
                let mut call = call(RISK, b"");
                call.headers.insert("x-api-key", key.parse().unwrap());
                guard.admit(&mut call).await
            };
            for _ in 0..may {
                assert_eq!(ask().await, Ok(()), "{key}");
            }
            assert!(
                matches!(ask().await, Err(AuthError::TooMany { retry_in }) if retry_in <= Duration::from_secs(1))
            );
        }
    }

    #[test]
    fn everybody_is_answered_only_where_somebody_said_so() {
        let (open, said) = (
            AuthArgs::default(),
            AuthArgs {
                allow_anonymous: true,
                ..AuthArgs::default()
            },
        );
        for (listen, by_default) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("0.0.0.0:1", false),
            ("10.0.0.7:1", false),
        ] {
            let listen = listen.parse().unwrap();
            assert_eq!(
                (open.check(listen).is_ok(), said.check(listen).is_ok()),
                (by_default, true),
                "{listen}"
            );
        }
    }
}
