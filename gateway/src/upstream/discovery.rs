//! Discovery of a service's replicas: at addresses, under names that are looked up again and again,
//! in files that are read again and again. Promise: a name that cannot be looked up and a file that
//! cannot be used change nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use crate::upstream::target::{Target, TargetError};

/// How replicas are looked up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DiscoveryConfig {
    /// Longest time for the lookup of a name. Default: 2 s.
    pub(crate) lookup_timeout: Duration,
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            lookup_timeout: Duration::from_secs(2),
        }
    }
}

/// Some replicas of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// At every address of a host.
    Target(Target),
    /// At every target that a file lists, one URL per line.
    File(PathBuf),
}

impl Endpoint {
    /// Whether its URL is `https://`.
    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self, Self::Target(target) if target.is_encrypted())
    }

    /// Whether a file lists them.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

impl FromStr for Endpoint {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        match text.strip_prefix("file:") {
            Some(path) => Ok(Self::File(path.into())),
            None => text.parse().map(Self::Target),
        }
    }
}

/// Looks up the addresses of a host.
pub(crate) type Lookup = Arc<
    dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync + 'static,
>;

/// Looks names up as this machine does.
pub(crate) fn system() -> Lookup {
    Arc::new(|host, port| {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    })
}

/// Addresses of replicas, and the target that each was found under.
pub(crate) type Addresses = BTreeMap<SocketAddr, Target>;

/// All endpoints of a service.
pub(crate) struct Endpoints {
    service: Arc<str>,
    config: DiscoveryConfig,
    configured: Vec<Endpoint>,
    lookup: Lookup,
    /// What each file listed when it could be used last.
    files: HashMap<PathBuf, Vec<Target>>,
    /// The addresses of each host when it could be looked up last.
    hosts: HashMap<Target, Vec<SocketAddr>>,
    /// What is wrong now, by file or host.
    problems: BTreeMap<String, String>,
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints")
            .field("service", &self.service)
            .field("configured", &self.configured)
            .finish_non_exhaustive()
    }
}

impl Endpoints {
    pub(crate) fn new(service: Arc<str>, configured: Vec<Endpoint>, lookup: Lookup) -> Self {
        let (config, files, hosts, problems) = Default::default();
        Self {
            service,
            config,
            configured,
            lookup,
            files,
            hosts,
            problems,
        }
    }

    /// Whether the replicas never change, since all endpoints are addresses.
    pub(crate) fn are_fixed(&self) -> bool {
        self.configured.iter().all(|endpoint| match endpoint {
            Endpoint::Target(target) => target.host.parse::<IpAddr>().is_ok(),
            Endpoint::File(_) => false,
        })
    }

    /// Reads every file and looks up every name.
    pub(crate) async fn look(&mut self) -> Addresses {
        let mut targets = Vec::new();
        for endpoint in self.configured.clone() {
            match endpoint {
                Endpoint::Target(target) => targets.push(target),
                Endpoint::File(path) => targets.extend(self.read(&path).await),
            }
        }
        // What is no longer listed is forgotten, and so is its problem.
        self.hosts.retain(|host, _| targets.contains(host));
        let files = self
            .configured
            .iter()
            .filter_map(|endpoint| match endpoint {
                Endpoint::File(path) => Some(path.display().to_string()),
                Endpoint::Target(_) => None,
            });
        let in_use: BTreeSet<_> = targets
            .iter()
            .map(ToString::to_string)
            .chain(files)
            .collect();
        self.problems.retain(|what, _| in_use.contains(what));
        let mut addresses = Addresses::new();
        for target in targets {
            let found = self.find(&target).await;
            addresses.extend(found.into_iter().map(|address| (address, target.clone())));
        }
        addresses
    }

    /// Describes all problems.
    pub(crate) fn problem(&self) -> String {
        let problems: Vec<_> = self
            .problems
            .iter()
            .map(|(what, problem)| format!("{what} {problem}"))
            .collect();
        if problems.is_empty() {
            "no address is known".to_owned()
        } else {
            problems.join("; ")
        }
    }

    async fn read(&mut self, path: &Path) -> Vec<Target> {
        let read = tokio::fs::read_to_string(path)
            .await
            .map_err(|error| format!("cannot be read: {error}"));
        let used = read.and_then(|text| targets(&text));
        let used = self.report(path.display().to_string(), used);
        self.files
            .extend(used.map(|targets| (path.to_owned(), targets)));
        self.files.get(path).cloned().unwrap_or_default()
    }

    async fn find(&mut self, target: &Target) -> Vec<SocketAddr> {
        if let Ok(address) = target.host.parse() {
            return vec![SocketAddr::new(address, target.port)];
        }
        let limit = self.config.lookup_timeout;
        let lookup = (self.lookup)(target.host.clone(), target.port);
        let found = match timeout(limit, lookup).await {
            Ok(Ok(found)) if found.is_empty() => Err("has no address".to_owned()),
            Ok(found) => found.map_err(|error| format!("cannot be looked up: {error}")),
            Err(_) => Err(format!("cannot be looked up within {limit:?}")),
        };
        let found = self.report(target.to_string(), found);
        self.hosts
            .extend(found.map(|addresses| (target.clone(), addresses)));
        self.hosts.get(target).cloned().unwrap_or_default()
    }

    /// Logs a problem of a file or host once, and remembers it as long as it lasts.
    fn report<T>(&mut self, what: String, used: Result<T, String>) -> Option<T> {
        match used {
            Ok(used) => {
                self.problems.remove(&what);
                Some(used)
            }
            Err(problem) => {
                if self.problems.get(&what) != Some(&problem) {
                    tracing::warn!(
                        service = &*self.service,
                        "{what} {problem}; its replicas stay as they were"
                    );
                    self.problems.insert(what, problem);
                }
                None
            }
        }
    }
}

/// Reads the targets in a file, one per line; `#` begins a comment.
fn targets(text: &str) -> Result<Vec<Target>, String> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    let lines = lines.enumerate().filter(|(_, line)| !line.is_empty());
    let target = |(n, line): (usize, &str)| {
        line.parse()
            .map_err(|error: TargetError| format!("line {} {error}", n + 1))
    };
    let targets = lines.map(target).collect::<Result<Vec<_>, _>>()?;
    if targets.is_empty() {
        Err("lists no target".to_owned())
    } else {
        Ok(targets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Names and their addresses, which a test changes.
    #[derive(Clone, Default)]
    struct Names(Arc<Mutex<HashMap<String, Vec<IpAddr>>>>);

    impl Names {
        fn set(&self, name: &str, addresses: &[&str]) {
            let addresses = addresses
                .iter()
                .map(|address| address.parse().unwrap())
                .collect();
            self.0.lock().unwrap().insert(name.to_owned(), addresses);
        }

        fn lookup(&self) -> Lookup {
            let names = self.clone();
            Arc::new(move |host, port| {
                let found = names.0.lock().unwrap().get(&host).cloned();
                let found = found.ok_or_else(|| io::Error::other("no such name"));
                let found = found.map(|found| {
                    found
                        .into_iter()
                        .map(|address| SocketAddr::new(address, port))
                        .collect()
                });
                Box::pin(std::future::ready(found))
            })
        }

        fn endpoints(&self, configured: &[&str]) -> Endpoints {
            let configured = configured
                .iter()
                .map(|endpoint| endpoint.parse().unwrap())
                .collect();
            Endpoints::new("churn".into(), configured, self.lookup())
        }
    }

    async fn look(endpoints: &mut Endpoints) -> Vec<String> {
        endpoints
            .look()
            .await
            .keys()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn an_endpoint_is_a_host_or_a_file() {
        assert_eq!(
            "file:/etc/churn".parse(),
            Ok(Endpoint::File("/etc/churn".into()))
        );
        assert_eq!(
            "file:churn.txt".parse(),
            Ok(Endpoint::File("churn.txt".into()))
        );
        assert!(matches!("http://churn:1".parse(), Ok(Endpoint::Target(_))));
        assert_eq!("churn:1".parse::<Endpoint>(), Err(TargetError::NotAUrl));
    }

    #[tokio::test]
    async fn a_name_stands_for_all_its_addresses_and_keeps_them_while_lookups_fail() {
        let names = Names::default();
        let mut endpoints = names.endpoints(&["http://churn:7", "http://[::1]:8"]);
        assert!(
            !endpoints.are_fixed()
                && names
                    .endpoints(&["http://[::1]:8", "http://127.0.0.1:1"])
                    .are_fixed()
        );
        assert_eq!(look(&mut endpoints).await, ["[::1]:8"]);
        assert_eq!(
            endpoints.problem(),
            "http://churn:7 cannot be looked up: no such name"
        );
        names.set("churn", &["10.0.0.1", "10.0.0.2"]);
        assert_eq!(
            look(&mut endpoints).await,
            ["10.0.0.1:7", "10.0.0.2:7", "[::1]:8"]
        );
        assert_eq!(endpoints.problem(), "no address is known");
        names.set("churn", &["10.0.0.2", "10.0.0.3"]);
        assert_eq!(
            look(&mut endpoints).await,
            ["10.0.0.2:7", "10.0.0.3:7", "[::1]:8"]
        );
        names.set("churn", &[]);
        assert_eq!(
            look(&mut endpoints).await,
            ["10.0.0.2:7", "10.0.0.3:7", "[::1]:8"]
        );
        assert_eq!(endpoints.problem(), "http://churn:7 has no address");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_without_an_answer_holds_no_other_endpoint_up() {
        let silent: Lookup = Arc::new(|_, _| Box::pin(std::future::pending()));
        let configured = vec![
            "http://churn:7".parse().unwrap(),
            "http://10.0.0.1:1".parse().unwrap(),
        ];
        let mut endpoints = Endpoints::new("churn".into(), configured, silent);
        assert_eq!(look(&mut endpoints).await, ["10.0.0.1:1"]);
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_used_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("churn");
        let mut endpoints = Names::default().endpoints(&[&format!("file:{}", path.display())]);
        assert!(look(&mut endpoints).await.is_empty());
        assert!(
            endpoints.problem().contains("cannot be read"),
            "{}",
            endpoints.problem()
        );
        struct Case {
            text: &'static str,
            addresses: &'static [&'static str],
            problem: Option<&'static str>,
        }
        let before = &["10.0.0.1:1", "10.0.0.2:1"];
        for Case {
            text,
            addresses,
            problem,
        } in [
            Case {
                text: "http://10.0.0.1:1\n\n# another\n  http://10.0.0.2:1 # here\n",
                addresses: before,
                problem: None,
            },
            Case {
                text: "",
                addresses: before,
                problem: Some("lists no target"),
            },
            Case {
                text: "http://10.0.0.3:1\n10.0.0.4:1",
                addresses: before,
                problem: Some("line 2 is no URL"),
            },
            Case {
                text: "http://nowhere:1\nhttp://10.0.0.3:1",
                addresses: &["10.0.0.3:1"],
                problem: Some("http://nowhere:1 cannot be looked up"),
            },
            Case {
                text: "http://10.0.0.3:1",
                addresses: &["10.0.0.3:1"],
                problem: None,
            },
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(look(&mut endpoints).await, addresses, "{text}");
            let said = endpoints.problem();
            assert!(
                said.contains(problem.unwrap_or("no address is known")),
                "{text}: {said}"
            );
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(look(&mut endpoints).await, ["10.0.0.3:1"]);
    }
}
