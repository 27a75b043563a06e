//! API keys. Promise: the gateway knows a key by its SHA-256 alone; a change of the file counts
//! within seconds, and a file that cannot be read changes nothing.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, ensure};
use arc_swap::ArcSwap;
use runtime::Files;
use serde::Deserialize;

use super::{identity::Identity, pattern::Pattern, quota::Rate};
use crate::{caller::Caller, method::Methods};

/// The keys of a file, as they are now.
#[derive(Debug)]
pub(super) struct Keys {
    file: PathBuf,
    by_digest: ArcSwap<ByDigest>,
}

type ByDigest = HashMap<[u8; 32], Arc<Identity>>;

impl Keys {
    /// Reads the file.
    ///
    /// # Errors
    /// If the file cannot be read or names a method that the API does not have.
    pub(super) fn read(file: &Path, methods: &Methods) -> anyhow::Result<Self> {
        let keys = read(file, methods)?;
        tracing::info!(keys = keys.len(), file = %file.display(), "API keys were read");
        Ok(Self {
            file: file.to_owned(),
            by_digest: ArcSwap::from_pointee(keys),
        })
    }

    /// The caller with a key of this SHA-256.
    pub(super) fn get(&self, digest: &[u8; 32]) -> Option<Arc<Identity>> {
        self.by_digest.load().get(digest).cloned()
    }

    /// Reads the file again whenever it changes. Does not end.
    pub(super) async fn watch(self: Arc<Self>, methods: Methods) {
        let mut files = Files::new([self.file.clone()]);
        loop {
            files.changed().await;
            match read(&self.file, &methods) {
                Ok(keys) => {
                    tracing::info!(keys = keys.len(), "API keys were read again");
                    self.by_digest.store(Arc::new(keys));
                }
                Err(error) => tracing::error!("API keys stay as they were: {error:#}"),
            }
        }
    }
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
    /// Methods by full name; `*` at the end stands for the rest. Default: all.
    methods: Option<Vec<String>>,
    /// Calls per second in the long run.
    calls_per_second: Option<NonZeroU32>,
    /// Calls at once. Default: as many as per second.
    burst: Option<NonZeroU32>,
}

fn read(file: &Path, methods: &Methods) -> anyhow::Result<ByDigest> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    parse(&text, methods).with_context(|| format!("{} cannot be used", file.display()))
}

fn parse(text: &str, methods: &Methods) -> anyhow::Result<ByDigest> {
    // Without the lines of the file that a whole error shows: an operator may have put a key there
    // in place of its hash.
    let file: File =
        toml::from_str(text).map_err(|error| anyhow::anyhow!("{}", error.message()))?;
    let mut keys = HashMap::new();
    for Entry {
        name,
        sha256,
        methods: patterns,
        calls_per_second,
        burst,
    } in file.keys
    {
        let hash = blake3::Hash::from_hex(&sha256);
        let hash = hash
            .ok()
            .with_context(|| format!("keys: `{name}`: sha256 is not 64 hexadecimal digits"))?;
        for pattern in patterns.iter().flatten() {
            let known = methods
                .iter()
                .any(|method| Pattern::of(pattern).matches(method));
            ensure!(
                known,
                "keys: `{name}`: methods: `{pattern}` is no method of the API"
            );
        }
        ensure!(
            burst.is_none() || calls_per_second.is_some(),
            "keys: `{name}`: burst is nothing without calls_per_second"
        );
        let identity = Identity {
            caller: Caller::named(&name),
            methods: patterns.map(|patterns| {
                patterns
                    .iter()
                    .map(|pattern| Pattern::of(pattern))
                    .collect()
            }),
            rate: calls_per_second.map(|rate| Rate::of(rate, burst)),
        };
        let before = keys.insert(*hash.as_bytes(), Arc::new(identity));
        ensure!(
            before.is_none(),
            "keys: `{name}`: its key is another caller's as well"
        );
    }
    Ok(keys)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn methods() -> Methods {
        Methods::read(proto::DESCRIPTORS).unwrap()
    }

    pub(in crate::layers::auth) fn keys(text: &str) -> Keys {
        Keys {
            file: PathBuf::new(),
            by_digest: ArcSwap::from_pointee(parse(text, &methods()).unwrap()),
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_says_why_and_shows_no_key() {
        let hash = "a".repeat(64);
        for (text, problem) in [
            ("keys = 1", "invalid type"),
            (
                "[[keys]]\nname = \"a\"\nsha256 = \"abc\"",
                "`a`: sha256 is not 64 hexadecimal digits",
            ),
            (
                &format!("[[keys]]\nname = \"a\"\nsha256 = \"{hash}\"\nmethods = [\"nothing\"]"),
                "`nothing` is no method",
            ),
            (
                &format!("[[keys]]\nname = \"a\"\nsha256 = \"{hash}\"\n").repeat(2),
                "another caller's as well",
            ),
            (
                &format!("[[keys]]\nname = \"a\"\nsha256 = \"{hash}\"\nburst = 1"),
                "burst is nothing without",
            ),
            (
                &format!("[[keys]]\nname = \"a\"\nsha256 = \"{hash}\"\ncalls_per_second = 0"),
                "expected a nonzero",
            ),
            (
                "[[keys]]\nname = \"a\"\nkey = \"shk_secret\"",
                "unknown field",
            ),
        ] {
            let error = format!("{:#}", parse(text, &methods()).unwrap_err());
            assert!(
                error.contains(problem) && !error.contains("secret"),
                "{error}"
            );
        }
        assert!(parse("", &methods()).unwrap().is_empty());
    }
}
