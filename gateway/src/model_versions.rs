//! Which version of its model each service answers with: what the service announces, and what its
//! answers show. Promise: once an answer has named another version than the service announced, no
//! version is taken for known until the service announces one again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use http::{HeaderName, HeaderValue};
use proto::model::v1::ModelStatus;
use tokio::{sync::Notify, time::Instant};

use crate::{
    call::{Call, Payload},
    caller::Caller,
    grpc::frame,
    metrics,
};

/// Asks for one channel of a model, `canary` or `stable`.
pub(crate) const MODEL_CHANNEL: HeaderName = HeaderName::from_static("x-model-channel");

/// How answers are held against announcements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VersionConfig {
    /// For how long after a change of version the version before it may still answer: calls were
    /// in flight, and replicas follow the store one after the other. Default: 3 s.
    pub(crate) overlap: Duration,
}

impl Default for VersionConfig {
    fn default() -> Self {
        Self {
            overlap: Duration::from_secs(3),
        }
    }
}

/// The model version of each service, by area. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct ModelVersions {
    by_area: Arc<BTreeMap<Arc<str>, Versions>>,
    config: VersionConfig,
}

/// The versions of one service.
#[derive(Debug, Default)]
struct Versions {
    announced: ArcSwapOption<Announced>,
    /// Notified when an answer contradicts the announcement.
    contradicted: Notify,
}

/// What a service announced last.
#[derive(Debug, Clone)]
struct Announced {
    stable: Arc<String>,
    /// The stable version before this one, and until when its answers contradict nothing.
    previous: Option<(Arc<String>, Instant)>,
    canary: Option<Canary>,
    /// Whether the announcement is in doubt: an answer contradicts it, the service is lost, or it
    /// has no model.
    suspected: bool,
}

/// The version that a share of callers gets.
#[derive(Debug, Clone)]
struct Canary {
    version: Arc<String>,
    /// Share of callers, 0 to 100.
    percent: u32,
}

impl ModelVersions {
    /// For the services of these areas. No version is known yet.
    pub(crate) fn of<'a>(areas: impl IntoIterator<Item = &'a str>) -> Self {
        let by_area = areas
            .into_iter()
            .map(|area| (area.into(), Versions::default()))
            .collect();
        Self {
            by_area: Arc::new(by_area),
            config: VersionConfig::default(),
        }
    }

    /// Returns the version that will answer a call, if it is known. A caller in the canary's share
    /// always gets the canary, and so does a call that asks for it; the request header that is set
    /// here makes the service choose the same.
    pub(crate) fn choose(&self, call: &mut Call) -> Option<Arc<String>> {
        let channel = call.headers.remove(MODEL_CHANNEL);
        let announced = self.by_area.get(&call.area)?.announced.load_full()?;
        let gets = |canary: &&Canary| match channel.as_ref().map(HeaderValue::as_bytes) {
            Some(b"canary") => true,
            Some(b"stable") => false,
            Some(_) | None => percentile(call).is_some_and(|at| at < canary.percent),
        };
        let canary = announced.canary.as_ref().filter(gets);
        if canary.is_some() {
            call.headers
                .insert(MODEL_CHANNEL, HeaderValue::from_static("canary"));
            metrics::canary(&call.area);
        }
        (!announced.suspected)
            .then(|| Arc::clone(canary.map_or(&announced.stable, |canary| &canary.version)))
    }

    /// Returns the version that answers callers outside the canary's share, if it is known.
    pub(crate) fn stable(&self, area: &str) -> Option<Arc<String>> {
        let announced = self.by_area.get(area)?.announced.load_full()?;
        (!announced.suspected).then(|| Arc::clone(&announced.stable))
    }

    #[cfg(test)]
    pub(crate) fn set(&self, area: &str, version: Option<&str>) {
        let status = ModelStatus {
            version: version.unwrap_or_default().into(),
            ..ModelStatus::default()
        };
        self.announced(area, status);
    }

    /// A service announces its versions.
    pub(crate) fn announced(&self, area: &str, status: ModelStatus) {
        let Some(versions) = self.by_area.get(area) else {
            return;
        };
        let loaded = status.canary.filter(|canary| canary.refusal.is_empty());
        let canary = loaded.map(|canary| Canary {
            version: Arc::new(canary.version),
            percent: canary.percent,
        });
        let (suspected, stable) = (status.version.is_empty(), Arc::new(status.version));
        let last = versions.announced.load_full();
        let previous = last.and_then(|last| match last.stable == stable {
            true => last.previous.clone(),
            false => Some((last.stable.clone(), Instant::now() + self.config.overlap)),
        });
        versions.announced.store(Some(Arc::new(Announced {
            stable,
            previous,
            canary,
            suspected,
        })));
    }

    /// An answer names its version. If the service has not announced it, no version is known until
    /// the next announcement.
    pub(crate) fn observed(&self, area: &str, version: &str) {
        let Some(versions) = self.by_area.get(area) else {
            return;
        };
        let announced = versions.announced.load();
        let Some(announced) = announced.as_ref().filter(|announced| !announced.suspected) else {
            return;
        };
        let canary = announced.canary.as_ref();
        let is_canary = canary.is_some_and(|canary| *canary.version == version);
        let previous = announced.previous.as_ref();
        let is_late = || {
            previous
                .is_some_and(|(previous, until)| **previous == version && Instant::now() < *until)
        };
        if *announced.stable != version && !is_canary && !is_late() {
            versions.suspect();
            versions.contradicted.notify_one();
        }
    }

    /// The service cannot be asked for its version.
    pub(crate) fn suspect(&self, area: &str) {
        if let Some(versions) = self.by_area.get(area) {
            versions.suspect();
        }
    }

    /// Resolves when an answer has contradicted the announcement.
    pub(crate) async fn contradicted(&self, area: &str) {
        match self.by_area.get(area) {
            Some(versions) => versions.contradicted.notified().await,
            None => std::future::pending().await,
        }
    }
}

impl Versions {
    /// Marks the announcement as doubtful. The canary's share stays: a short doubt must not move
    /// callers between versions.
    fn suspect(&self) {
        self.announced.rcu(|announced| {
            announced.as_ref().map(|announced| {
                Arc::new(Announced {
                    suspected: true,
                    ..Announced::clone(announced)
                })
            })
        });
    }
}

/// A caller's percentile, 0 to 99, the same for every call: a hash of the caller's name, for an
/// anonymous caller of the customer that the call is about, or else of the whole message. Anonymous
/// streams and paged lists have none: their messages change from page to page.
fn percentile(call: &Call) -> Option<u32> {
    let whole = match &call.payload {
        Payload::Whole { message, .. } => message.as_deref(),
        Payload::Stream(_) => None,
    };
    let customer =
        || frame::string_field(whole?, call.method.customer_field?).filter(|id| !id.is_empty());
    let identity = match call.caller {
        caller if caller != Caller::anonymous() => caller.as_bytes().to_vec(),
        _ => customer()
            .map(str::as_bytes)
            .or(whole.filter(|_| !call.method.paged))?
            .to_vec(),
    };
    let mut hasher = blake3::Hasher::new_derive_key("shopkeeper gateway canary 1");
    hasher
        .update(&(call.area.len() as u64).to_le_bytes())
        .update(call.area.as_bytes())
        .update(&identity);
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    Some(u32::from_le_bytes([a, b, c, d]) % 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::tests::call;
    use proto::model::v1 as pb;
    use tonic::body::Body;

    const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";

    fn status(version: &str, canary: Option<(&str, u32)>) -> ModelStatus {
        let canary = canary.map(|(version, percent)| pb::Canary {
            version: version.into(),
            percent,
            ..Default::default()
        });
        ModelStatus {
            version: version.into(),
            canary,
            ..ModelStatus::default()
        }
    }

    fn chosen(versions: &ModelVersions, call: &mut Call) -> Option<String> {
        versions.choose(call).map(|version| (*version).clone())
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_of_the_previous_version_contradicts_nothing() {
        let versions = ModelVersions::of(["churn"]);
        for version in ["v1", "v2", "v2"] {
            versions.set("churn", Some(version));
        }
        versions.observed("churn", "v1");
        assert_eq!(
            chosen(&versions, &mut call(RISK, b"")).as_deref(),
            Some("v2")
        );
        tokio::time::advance(VersionConfig::default().overlap).await;
        versions.observed("churn", "v1");
        assert_eq!(
            chosen(&versions, &mut call(RISK, b"")),
            None,
            "the overlap has passed"
        );
    }

    #[tokio::test]
    async fn a_version_that_an_answer_contradicts_is_not_known() {
        let versions = ModelVersions::of(["churn"]);
        assert_eq!(versions.stable("churn"), None);
        versions.observed("churn", "v1");
        versions.set("churn", Some("v1"));
        versions.observed("churn", "v1");
        assert_eq!(
            versions.stable("churn").as_deref().map(String::as_str),
            Some("v1")
        );
        versions.observed("churn", "v2");
        assert_eq!(
            (
                versions.stable("churn"),
                chosen(&versions, &mut call(RISK, b""))
            ),
            (None, None)
        );
        versions.contradicted("churn").await;
        versions.set("churn", Some(""));
        assert_eq!(versions.stable("churn"), None);
        assert_eq!(versions.stable("unknown"), None);
    }

    #[test]
    fn the_same_callers_get_the_canary_whatever_they_call() {
        let versions = ModelVersions::of(["churn"]);
        versions.announced("churn", status("v1", Some(("v2", 10))));
        let mut calls = [call(RISK, b""), call(RISK, b"\x0a\x01a")];
        let mut of = |name: &str, which: usize| {
            let call = &mut calls[which];
            call.caller = Caller::named(name);
            call.headers.clear();
            let version = chosen(&versions, call).unwrap();
            assert_eq!(
                call.headers.contains_key(MODEL_CHANNEL),
                version == "v2",
                "the service is told"
            );
            version
        };
        let names: Vec<String> = (0..1000).map(|n| format!("caller {n}")).collect();
        let in_share: Vec<_> = names.iter().filter(|name| of(name, 0) == "v2").collect();
        assert!(
            (70..=130).contains(&in_share.len()),
            "{} of 1000",
            in_share.len()
        );
        assert!(names.iter().all(|name| of(name, 1) == of(name, 0)));

        versions.announced("churn", status("v1", Some(("v2", 20))));
        assert!(
            in_share.iter().all(|name| of(name, 0) == "v2"),
            "a larger share keeps its callers"
        );
        versions.announced("churn", status("v1", None));
        assert!(names.iter().all(|name| of(name, 0) == "v1"));
    }

    #[test]
    fn an_anonymous_caller_counts_as_the_customer_of_the_call() {
        let versions = ModelVersions::of(["churn"]);
        versions.announced("churn", status("v1", Some(("v2", 50))));
        let customers: [&'static [u8]; 8] = [
            b"\x0a\x01a",
            b"\x0a\x01b",
            b"\x0a\x01c",
            b"\x0a\x01d",
            b"\x0a\x01e",
            b"\x0a\x01f",
            b"\x0a\x01g",
            b"\x0a\x01h",
        ];
        let all = customers.map(|message| {
            // The same customer, followed by a field that this gateway does not know.
            let other = [message, b"\x78\x01"].concat().leak();
            let version = chosen(&versions, &mut call(RISK, message));
            assert_eq!(version, chosen(&versions, &mut call(RISK, other)));
            version.unwrap()
        });
        assert!(
            all.contains(&"v1".to_owned()) && all.contains(&"v2".to_owned()),
            "{all:?}"
        );
        let stream = Call {
            payload: Payload::Stream(Body::empty()),
            ..call(RISK, b"")
        };
        let list = |message| {
            call(
                "/shopkeeper.churn.v1.ChurnService/ListAtRiskCustomers",
                message,
            )
        };
        assert_eq!(
            (
                percentile(&stream),
                percentile(&list(b"")),
                percentile(&list(b"\x12\x01a"))
            ),
            (None, None, None)
        );
    }

    #[test]
    fn a_caller_may_ask_for_either_channel_and_a_doubt_moves_no_caller() {
        let versions = ModelVersions::of(["churn"]);
        versions.announced("churn", status("v1", Some(("v2", 0))));
        let asking = |channel: &'static str| {
            let mut call = call(RISK, b"\x0a\x01a");
            call.headers
                .insert(MODEL_CHANNEL, HeaderValue::from_static(channel));
            let version = chosen(&versions, &mut call);
            (version, call.headers.contains_key(MODEL_CHANNEL))
        };
        assert_eq!(asking("canary"), (Some("v2".to_owned()), true));
        assert_eq!(asking("stable"), (Some("v1".to_owned()), false));
        assert_eq!(asking("another"), (Some("v1".to_owned()), false));
        versions.observed("churn", "v2");
        assert_eq!(
            asking("canary").0.as_deref(),
            Some("v2"),
            "the canary is announced"
        );
        versions.observed("churn", "v3");
        assert_eq!(asking("canary"), (None, true));
    }
}
