//! The pointer of a model: which version is current, which were before it, and which are on trial.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Versions that a pointer remembers as current before the previous one.
const MAX_EARLIER: usize = 32;

/// Longest name of a version, bytes.
const MAX_VERSION_BYTES: usize = 64;

/// Which version of a model is the current one, and which are on trial beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// The current version.
    pub version: String,
    /// The version that was current before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Those that were current before that, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<String>,
    /// When it became the current one.
    pub moved_at: DateTime<Utc>,
    /// The version that answers a share of callers in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// The version on trial as a shadow: its answers are compared with the current one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<String>,
}

/// A version on trial that answers a share of callers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// The version.
    pub version: String,
    /// Share of callers that it answers, percent.
    pub percent: u8,
}

/// What a version is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// The current version: it answers.
    Stable,
    /// On trial: it answers a share of callers.
    Canary,
    /// On trial: its answers are compared with the current version's.
    Shadow,
}

impl Channel {
    /// Its name in commands and headers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Canary => "canary",
            Self::Shadow => "shadow",
        }
    }
}

impl Pointer {
    /// The channel of a version; none for most.
    pub fn channel(&self, version: &str) -> Option<Channel> {
        let canary = self.canary.as_ref().map(|canary| canary.version.as_str());
        if self.version == version {
            Some(Channel::Stable)
        } else if canary == Some(version) {
            Some(Channel::Canary)
        } else {
            (self.shadow.as_deref() == Some(version)).then_some(Channel::Shadow)
        }
    }

    /// The version of a channel.
    pub fn version_of(&self, channel: Channel) -> Option<&str> {
        match channel {
            Channel::Stable => Some(&self.version),
            Channel::Canary => self.canary.as_ref().map(|canary| canary.version.as_str()),
            Channel::Shadow => self.shadow.as_deref(),
        }
    }

    /// The versions that were current before, the latest first.
    pub fn past(&self) -> impl Iterator<Item = &str> {
        self.previous
            .iter()
            .chain(self.earlier.iter().rev())
            .map(String::as_str)
    }

    /// All versions that it names.
    pub(crate) fn versions(&self) -> impl Iterator<Item = &str> {
        let canary = self.canary.as_ref().map(|canary| &canary.version);
        let now = [Some(&self.version), canary, self.shadow.as_ref()];
        now.into_iter()
            .flatten()
            .map(String::as_str)
            .chain(self.past())
    }
}

/// The pointer after a version has become the current one, which ends a trial of it. A version that
/// is current already leaves the pointer as it is.
pub(crate) fn moved(before: Option<Pointer>, version: &str, now: DateTime<Utc>) -> Pointer {
    let version = version.to_owned();
    let before = before.map(|before| Pointer {
        canary: before.canary.filter(|canary| canary.version != version),
        shadow: before.shadow.filter(|shadow| *shadow != version),
        ..before
    });
    match before {
        Some(before) if before.version == version => before,
        None => Pointer {
            version,
            previous: None,
            earlier: Vec::new(),
            moved_at: now,
            canary: None,
            shadow: None,
        },
        Some(before) => {
            let past = before
                .past()
                .filter(|past| *past != version)
                .take(MAX_EARLIER);
            let mut earlier: Vec<String> = past.map(str::to_owned).collect();
            earlier.reverse();
            Pointer {
                version,
                previous: Some(before.version),
                earlier,
                moved_at: now,
                ..before
            }
        }
    }
}

/// Whether a name can be a version's: it becomes a folder's name, so `/` and `..` must not pass.
pub(crate) fn is_version(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_VERSION_BYTES
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
