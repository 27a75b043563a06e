//! Admits callers by API key or token, if the gateway was given either. Promise: credentials go no
//! further than this layer, and a call that is not admitted costs no service anything.

mod error;
mod identity;
mod keys;
mod pattern;
mod quota;
mod signature;
mod tokens;

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, sync::Arc};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, builder::BoolishValueParser};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use proto::policy::v1::Scope;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

pub(crate) use self::error::{AuthError, TokenError};
use self::{
    identity::Identity,
    keys::Keys,
    quota::{Quotas, Rate},
    tokens::{Rules, Source, Tokens},
};
use crate::{
    call::Call,
    caller::{API_KEY, Caller},
    method::Methods,
    metrics,
    middleware::{Handler, Middleware, MiddlewareLayer},
    outcome::Answer,
    redis::{self, Client},
};

/// Which callers are admitted.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Callers")]
pub struct AuthArgs {
    /// File with the SHA-256 of callers' API keys; read again when it changes. docs/operations.md
    /// shows an example
    #[arg(
        long,
        env = "SHOPKEEPER_API_KEYS",
        value_name = "FILE",
        conflicts_with = "allow_anonymous"
    )]
    api_keys: Option<PathBuf>,
    /// Public keys of the issuer of callers' tokens (JWT; RS256, ES256, EdDSA): a JSON Web Key Set,
    /// in a file that is read again when it changes, or at an http(s) address that is fetched every
    /// 5 minutes and when a token names a new key
    #[arg(
        long,
        env = "SHOPKEEPER_JWT_KEYS",
        value_name = "FILE|URL",
        conflicts_with = "allow_anonymous",
        requires_all = ["jwt_issuer", "jwt_audience"],
        hide_env_values = true,
        value_parser = redis::secret
    )]
    jwt_keys: Option<SecretString>, // a URL may hold a password, which is refused later
    /// The issuer that tokens must have: their `iss`
    #[arg(
        long,
        env = "SHOPKEEPER_JWT_ISSUER",
        value_name = "NAME",
        requires = "jwt_keys"
    )]
    jwt_issuer: Option<String>,
    /// The audience that tokens must have: in their `aud`
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
    /// Calls per second, in the long run, of each caller whose API key sets no other rate; counted
    /// together by all gateways that share a Redis. Default: unlimited
    #[arg(long, env = "SHOPKEEPER_CALLS_PER_SECOND", value_name = "N")]
    calls_per_second: Option<NonZeroU32>,
    /// Calls at once of each such caller. Default: as many as per second
    #[arg(
        long,
        env = "SHOPKEEPER_BURST",
        value_name = "N",
        requires = "calls_per_second"
    )]
    burst: Option<NonZeroU32>,
    /// Answer every caller at an address that other machines can reach
    #[arg(long, env = "SHOPKEEPER_ALLOW_ANONYMOUS", value_parser = BoolishValueParser::new())]
    allow_anonymous: bool,
}

impl AuthArgs {
    /// Reads the keys. Calls are counted in `redis`, if there is one.
    ///
    /// # Errors
    /// If a file cannot be read or names a method that the API does not have.
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

    /// Refuses an address that other machines can reach, if every caller would be answered and no
    /// option allows that.
    ///
    /// # Errors
    /// Says what to do.
    pub fn check(&self, listen: SocketAddr) -> anyhow::Result<()> {
        let guarded = self.api_keys.is_some() || self.jwt_keys.is_some();
        if listen.ip().is_loopback() || guarded || self.allow_anonymous {
            return Ok(());
        }
        bail!(
            "other machines can reach {listen}, and every caller would be answered: give \
             --api-keys FILE or --jwt-keys FILE|URL, listen on 127.0.0.1, or pass --allow-anonymous"
        );
    }
}

/// Whether callers need credentials, and which ones are admitted.
#[derive(Debug, Clone, Default)]
pub struct Auth(Option<Arc<Guard>>);

#[derive(Debug)]
struct Guard {
    keys: Option<Arc<Keys>>,
    tokens: Option<Arc<Tokens>>,
    quotas: Quotas,
    /// Rate of callers that have none of their own.
    rate: Option<Rate>,
}

impl Guard {
    async fn identify(&self, headers: &HeaderMap) -> Result<Arc<Identity>, AuthError> {
        let credential = credential(headers).ok_or(AuthError::NoKey)?;
        let digest = Sha256::digest(credential).into();
        if let Some(identity) = self.keys.as_ref().and_then(|keys| keys.get(&digest)) {
            return Ok(identity);
        }
        match (&self.tokens, token(credential)) {
            (Some(tokens), Some(token)) => tokens.check(token, digest).await,
            _ => Err(AuthError::UnknownKey),
        }
    }

    async fn admit(&self, call: &mut Call) -> Result<(), AuthError> {
        let identity = self.identify(&call.headers).await?;
        if !identity.may_call(&call.method) {
            return Err(AuthError::NotAllowed);
        }
        if let Some(rate) = identity.rate.or(self.rate) {
            let counted = self.quotas.take(identity.caller, rate).await;
            counted.map_err(|retry_in| AuthError::TooMany { retry_in })?;
        }
        call.caller = identity.caller;
        remove_credentials(&mut call.headers);
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

    /// Whether these headers have valid credentials, which is all that pages beside the API, such
    /// as metrics, ask for.
    ///
    /// # Errors
    /// Says why not.
    pub(crate) async fn check(&self, headers: &HeaderMap) -> Result<(), AuthError> {
        match &self.0 {
            Some(guard) => guard.identify(headers).await.map(drop),
            None => Ok(()),
        }
    }
}

/// The API key, or the key or token after `Bearer`.
fn credential(headers: &HeaderMap) -> Option<&[u8]> {
    let key = headers.get(API_KEY).map(HeaderValue::as_bytes);
    key.or_else(|| {
        let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| token.trim().as_bytes())
    })
}

fn remove_credentials(headers: &mut HeaderMap) {
    headers.remove(API_KEY);
    headers.remove(AUTHORIZATION);
}

/// A credential that may be a token: three parts with dots between.
fn token(credential: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(credential).ok()?;
    let dots = text.bytes().filter(|byte| *byte == b'.').count();
    (dots == 2).then_some(text)
}

/// Admits callers.
pub(crate) fn layer(auth: Auth) -> MiddlewareLayer<Authenticate> {
    MiddlewareLayer::new(Authenticate { auth })
}

/// See [`layer`].
#[derive(Debug)]
pub(crate) struct Authenticate {
    auth: Auth,
}

impl Middleware<Call> for Authenticate {
    type Next = Call;

    async fn handle(&self, mut call: Call, next: &impl Handler<Call>) -> Answer {
        match &self.auth.0 {
            Some(guard) => guard
                .admit(&mut call)
                .await
                .inspect_err(|error| metrics::refused(error.reason()))?,
            // Nothing is checked; answers that belong to one caller are kept apart all the same.
            None => {
                if call.method.scope == Scope::Caller {
                    call.caller = Caller::of(&call.headers);
                }
                remove_credentials(&mut call.headers);
            }
        }
        next.call(call).await
    }
}

#[cfg(test)]
mod tests {
    use super::{keys::tests::keys, *};
    use crate::{call::tests::call, error::BoxError, middleware::tests::Bottom};
    use http::Response;
    use std::time::Duration;
    use tonic::body::Body;
    use tower::Layer;

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
    async fn a_key_admits_to_its_methods() {
        let key = "4f1c0e".repeat(8);
        let hash = hash(&key).to_hex();
        let entry = format!(
            "name = \"checkout\"\nsha256 = \"{hash}\"\nmethods = [\"shopkeeper.churn.v1.*\"]"
        );
        let guard = guard(&format!("[[keys]]\n{entry}"), None);
        let bearer = format!("bearer {key}");
        struct Case<'a> {
            path: &'static str,
            header: &'static str,
            credential: &'a str,
            expected: Result<(), AuthError>,
        }
        let case = |path, header, credential, expected| Case {
            path,
            header,
            credential,
            expected,
        };
        for Case {
            path,
            header,
            credential,
            expected,
        } in [
            case(RISK, "x-api-key", key.as_str(), Ok(())),
            case(RISK, "authorization", &bearer, Ok(())),
            case(SEGMENT, "x-api-key", &key, Err(AuthError::NotAllowed)),
            case(RISK, "x-api-key", &key[1..], Err(AuthError::UnknownKey)),
            case(
                RISK,
                "authorization",
                "Bearer a.b.c",
                Err(AuthError::UnknownKey),
            ),
            case(RISK, "authorization", &key, Err(AuthError::NoKey)),
            case(RISK, "x-other", &key, Err(AuthError::NoKey)),
        ] {
            let mut call = call(path, b"");
            call.headers.insert(header, credential.parse().unwrap());
            assert_eq!(guard.admit(&mut call).await, expected, "{path} {header}");
            if expected.is_ok() {
                assert_eq!(call.caller, Caller::named("checkout"));
                assert!(call.headers.is_empty(), "the key goes no further");
            }
        }
    }

    #[tokio::test]
    async fn credentials_that_are_not_checked_go_no_further_either() {
        let inner = tower::service_fn(async |call: Call| {
            assert!(call.headers.is_empty(), "{:?}", call.headers);
            Ok::<_, BoxError>(Response::<Body>::default())
        });
        let mut call = call(RISK, b"");
        call.headers
            .insert(API_KEY, HeaderValue::from_static("secret"));
        call.headers
            .insert(AUTHORIZATION, HeaderValue::from_static("Bearer secret"));
        let service = layer(Auth::default()).layer(Bottom(inner));
        service.call(call).await.unwrap();
    }

    #[tokio::test]
    async fn a_caller_above_its_rate_is_told_when_to_call_again() {
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
            let Err(AuthError::TooMany { retry_in }) = ask().await else {
                panic!("{key} may call once more")
            };
            assert!(retry_in <= Duration::from_secs(1), "{retry_in:?}");
        }
    }

    #[test]
    fn every_caller_is_answered_only_if_an_option_says_so() {
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
