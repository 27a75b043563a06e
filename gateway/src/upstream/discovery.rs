//! Where the replicas of a service are: at addresses, at names that are looked up again and again,
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

/// Time for a name to be looked up.
const LOOKUP: Duration = Duration::from_secs(2);

/// Where some replicas of a service are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// At every address of a host.
    Target(Target),
    /// At every host that a file names, an URL a line.
    File(PathBuf),
}

impl Endpoint {
    /// Whether it is at `https://`.
    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self, Self::Target(target) if target.is_encrypted())
    }

    /// Whether a file names them.
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

/// Says which addresses a host has.
pub(crate) type Lookup = Arc<
    dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync + 'static,
>;

/// As this machine looks names up.
pub(crate) fn system() -> Lookup {
    Arc::new(|host, port| {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    })
}

/// Addresses of replicas, and by which name each was found.
pub(crate) type Addresses = BTreeMap<SocketAddr, Target>;

/// Where all replicas of a service are.
pub(crate) struct Endpoints {
    service: Arc<str>,
    given: Vec<Endpoint>,
    lookup: Lookup,
    /// What the files named when they could be used last.
    files: HashMap<PathBuf, Vec<Target>>,
    /// Which addresses the hosts had when they could be looked up last.
    hosts: HashMap<Target, Vec<SocketAddr>>,
    /// What is wrong with a file or a host now.
    problems: BTreeMap<String, String>,
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints")
            .field("service", &self.service)
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}

impl Endpoints {
    /// Those that are given.
    pub(crate) fn new(service: Arc<str>, given: Vec<Endpoint>, lookup: Lookup) -> Self {
        let (files, hosts, problems) = Default::default();
        Self {
            service,
            given,
            lookup,
            files,
            hosts,
            problems,
        }
    }

    /// Whether they are the same for ever: addresses alone.
    pub(crate) fn are_fixed(&self) -> bool {
        self.given.iter().all(|endpoint| match endpoint {
            Endpoint::Target(target) => target.host.parse::<IpAddr>().is_ok(),
            Endpoint::File(_) => false,
        })
    }

    /// Reads every file and looks every name up.
    pub(crate) async fn look(&mut self) -> Addresses {
        let mut targets = Vec::new();
        for endpoint in self.given.clone() {
            match endpoint {
                Endpoint::Target(target) => targets.push(target),
                Endpoint::File(path) => targets.extend(self.read(&path).await),
            }
        }
        self.hosts.retain(|host, _| targets.contains(host));
        let files = self.given.iter().filter_map(|endpoint| match endpoint {
            Endpoint::File(path) => Some(path.display().to_string()),
            Endpoint::Target(_) => None,
        });
        let asked: BTreeSet<_> = targets
            .iter()
            .map(ToString::to_string)
            .chain(files)
            .collect();
        self.problems.retain(|what, _| asked.contains(what));
        let mut addresses = Addresses::new();
        for target in targets {
            let found = self.find(&target).await;
            addresses.extend(found.into_iter().map(|address| (address, target.clone())));
        }
        addresses
    }

    /// What is wrong, where something is.
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
        let used = self.tell(path.display().to_string(), used);
        self.files
            .extend(used.map(|targets| (path.to_owned(), targets)));
        self.files.get(path).cloned().unwrap_or_default()
    }

    async fn find(&mut self, target: &Target) -> Vec<SocketAddr> {
        if let Ok(address) = target.host.parse() {
            return vec![SocketAddr::new(address, target.port)];
        }
        let found = match timeout(LOOKUP, (self.lookup)(target.host.clone(), target.port)).await {
            Ok(Ok(found)) if found.is_empty() => Err("has no address".to_owned()),
            Ok(found) => found.map_err(|error| format!("cannot be looked up: {error}")),
            Err(_) => Err(format!("cannot be looked up within {LOOKUP:?}")),
        };
        let found = self.tell(target.to_string(), found);
        self.hosts
            .extend(found.map(|addresses| (target.clone(), addresses)));
        self.hosts.get(target).cloned().unwrap_or_default()
    }

    /// Says once what is wrong with it.
    fn tell<T>(&mut self, what: String, used: Result<T, String>) -> Option<T> {
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

/// The lines of a file; `#` begins a comment.
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
        Err("names nobody".to_owned())
    } else {
        Ok(targets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Names, and what they stand for now.
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

        fn endpoints(&self, given: &[&str]) -> Endpoints {
            let given = given
                .iter()
                .map(|endpoint| endpoint.parse().unwrap())
                .collect();
            Endpoints::new("churn".into(), given, self.lookup())
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
    async fn a_name_is_all_its_addresses_and_the_last_ones_while_it_has_none() {
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
    async fn a_name_that_is_looked_up_for_ever_holds_nobody_up() {
        let silent: Lookup = Arc::new(|_, _| Box::pin(std::future::pending()));
        let given = vec![
            "http://churn:7".parse().unwrap(),
            "http://10.0.0.1:1".parse().unwrap(),
        ];
        let mut endpoints = Endpoints::new("churn".into(), given, silent);
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
        for (text, addresses, problem) in [
            (
                "http://10.0.0.1:1\n\n# another\n  http://10.0.0.2:1 # here\n",
                &["10.0.0.1:1", "10.0.0.2:1"][..],
                None,
            ),
            ("", &["10.0.0.1:1", "10.0.0.2:1"], Some("names nobody")),
            (
                "http://10.0.0.3:1\n10.0.0.4:1",
                &["10.0.0.1:1", "10.0.0.2:1"],
                Some("line 2 is no URL"),
            ),
            (
                "http://nowhere:1\nhttp://10.0.0.3:1",
                &["10.0.0.3:1"],
                Some("http://nowhere:1 cannot be looked up"),
            ),
            ("http://10.0.0.3:1", &["10.0.0.3:1"], None),
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
