//! The fault matrix: one fault after another under a steady load, over two gateways, two replicas
//! of every service, a real Redis and TCP proxies. Every answer is compared with the right one.
//! Promises: no answer is ever wrong; no call fails that a healthy replica, a second attempt or the
//! cache can save; a call that cannot be saved is refused with a code that says so; the shop
//! recovers from each fault. The figures are printed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use e2e::{
    AREAS, Process, Redis, Trained, binary, free_address,
    load::{Count, Load, Question, Tally, Truth, channel},
    page,
    proxy::{Delivery, Proxy},
    runtime, trained, trained_well, wait_for,
};
use model_store::ModelStore;
use proto::{
    anomaly::v1 as anomaly,
    churn::v1 as churn,
    forecast::v1 as forecast,
    insights::v1::{self as insights, insights_service_client::InsightsServiceClient},
    model::v1::{
        GetModelStatusRequest, ModelState, ModelStatus, model_service_client::ModelServiceClient,
    },
    recommendation::v1 as recommendation,
    segmentation::v1::{
        self as segmentation, segmentation_service_client::SegmentationServiceClient,
    },
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use scoring::ModelKind;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// A row of the fault matrix.
struct Fault {
    name: &'static str,
    /// The area of which some calls cannot be saved.
    costs: Option<&'static str>,
    /// Causes the fault and removes it.
    run: fn(&mut Shop),
}

const fn fault(name: &'static str, run: fn(&mut Shop)) -> Fault {
    Fault {
        name,
        costs: None,
        run,
    }
}

const fn costly(name: &'static str, area: &'static str, run: fn(&mut Shop)) -> Fault {
    Fault {
        name,
        costs: Some(area),
        run,
    }
}

const FAULTS: &[Fault] = &[
    fault("nothing", |shop| shop.load.goes_on(60)),
    fault("kill -9 one replica, of each service", one_replica_dies),
    costly(
        "kill -9 both replicas of a service",
        "forecast",
        both_replicas_die,
    ),
    fault("kill -9 a gateway", a_gateway_dies),
    fault("kill -9 Redis", redis_dies),
    fault("SIGSTOP one replica", |shop| shop.stopped("churn", &[0])),
    costly(
        "SIGSTOP both replicas of a service",
        "recommendation",
        |shop| shop.stopped("recommendation", &[0, 1]),
    ),
    fault("SIGSTOP a gateway", a_gateway_stops),
    fault("SIGSTOP Redis", redis_stops),
    fault("Redis full", redis_is_full),
    fault("answers in Redis swapped and damaged", redis_lies),
    fault("delay, reorder: gateways to a service", |shop| {
        shop.delivery(&[Anomaly(0), Anomaly(1)], DELAYED)
    }),
    fault("cut: gateways to a service", |shop| {
        shop.cut(&[Anomaly(0), Anomaly(1)])
    }),
    fault("drop: gateways to one replica", |shop| {
        shop.delivery(&[Anomaly(0)], Delivery::Withheld)
    }),
    costly("drop: gateways to both replicas", "anomaly", |shop| {
        shop.delivery(&[Anomaly(0), Anomaly(1)], Delivery::Withheld);
    }),
    fault("delay, reorder: gateways to Redis", |shop| {
        shop.delivery(&[ToRedis], DELAYED)
    }),
    fault("cut: gateways to Redis", |shop| shop.cut(&[ToRedis])),
    fault("drop: gateways to Redis", |shop| {
        shop.delivery(&[ToRedis], Delivery::Withheld)
    }),
    fault("delay, reorder: callers to gateways", |shop| {
        shop.delivery(&[Gateway(0), Gateway(1)], DELAYED)
    }),
    fault("cut: callers to gateways", |shop| {
        shop.cut(&[Gateway(0), Gateway(1)])
    }),
    fault("drop: callers to one gateway", |shop| {
        shop.delivery(&[Gateway(0)], Delivery::Withheld)
    }),
    fault(
        "models damaged, cut short, swapped, removed",
        models_are_damaged,
    ),
    fault(
        "a replica starts over a damaged model",
        a_replica_starts_over_a_damaged_model,
    ),
    fault("publish and roll back, 100 times", versions_change),
    fault(
        "API keys and certificates rotate",
        keys_and_certificates_rotate,
    ),
    fault("everything restarts, one by one", everything_restarts),
];

/// Above the timeout of Redis and below the timeout of every method.
const DELAYED: Delivery = Delivery::Delayed(Duration::from_millis(20));

/// Codes with which a call may be refused that cannot be saved.
const REFUSALS: [&str; 3] = ["Unavailable", "DeadlineExceeded", "ResourceExhausted"];

#[test]
fn no_fault_gives_a_wrong_answer_and_none_costs_more_than_it_must() {
    let mut shop = Shop::open();
    let mut problems = Vec::new();
    println!(
        "{:44} {:>6} {:>6} {:>6} {:>5} {:>7}  refused",
        "fault", "right", "cached", "again", "wrong", "slowest"
    );
    for Fault { name, costs, run } in FAULTS {
        let began = Instant::now();
        run(&mut shop);
        shop.load.recovers();
        let tally = shop.load.tally();
        println!(
            "{}  {:.1} s",
            row(name, &tally),
            began.elapsed().as_secs_f64()
        );
        problems.extend(
            tally
                .iter()
                .flat_map(|(area, count)| judged(area, count, *costs))
                .map(|p| format!("{name}: {p}")),
        );
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

fn row(fault: &str, tally: &Tally) -> String {
    let sum = |of: fn(&Count) -> u64| tally.values().map(of).sum::<u64>();
    let mut refused = BTreeMap::<String, u64>::new();
    for (area, count) in tally {
        count
            .refused
            .iter()
            .for_each(|(code, n)| *refused.entry(format!("{area} {code}")).or_default() += n);
    }
    let slowest = tally
        .values()
        .map(|count| count.slowest)
        .max()
        .unwrap_or_default();
    let refused: Vec<_> = refused
        .iter()
        .map(|(what, n)| format!("{what} {n}"))
        .collect();
    format!(
        "{fault:44} {:6} {:6} {:6} {:5} {:4} ms  {}",
        sum(|count| count.right),
        sum(|count| count.cached),
        sum(|count| count.again),
        sum(|count| count.wrong.len() as u64),
        slowest.as_millis(),
        if refused.is_empty() {
            "none".to_owned()
        } else {
            refused.join(", ")
        },
    )
}

fn judged(area: &str, count: &Count, costs: Option<&str>) -> Vec<String> {
    let wrong = count
        .wrong
        .iter()
        .map(|wrong| format!("{area}: wrong: {wrong}"));
    let may = |code: &str| costs == Some(area) && REFUSALS.contains(&code);
    let failed = count
        .refused
        .iter()
        .filter(|(code, _)| !may(code))
        .map(|(code, n)| format!("{area}: {n} {code}"));
    wrong.chain(failed).collect()
}

/// A process and the command that starts it.
struct Part {
    process: Process,
    command: Command,
    address: SocketAddr,
    metrics: SocketAddr,
}

impl Part {
    fn start(name: &str, flags: impl IntoIterator<Item = String>) -> Self {
        let (address, metrics) = (free_address(), free_address());
        let mut command = Command::new(binary(name));
        command.args(flags).args([
            "--listen",
            &address.to_string(),
            "--metrics-listen",
            &metrics.to_string(),
        ]);
        // The log would be full of the faults that the test makes.
        command.args(["--log", "off", "--drain-timeout", "500ms"]);
        Self {
            process: Process::start(name, &mut command),
            command,
            address,
            metrics,
        }
    }

    fn start_again(&mut self, name: &str) {
        self.process.kill();
        self.process = Process::start(name, &mut self.command);
        let address = self.address;
        wait_for("it listens", || TcpStream::connect(address).is_ok());
    }

    /// Whether `gateways` gateways watch the health of this service, and so would send it calls.
    fn is_watched_by(&self, gateways: u64) -> bool {
        let page = page(self.metrics, "/metrics").unwrap_or_default();
        let watches = page.lines().filter(|line| {
            line.starts_with("rpc_server_call_duration_seconds_count")
                && line.contains("grpc.health.v1.Health/Watch")
        });
        watches
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum::<u64>()
            >= gateways
    }

    fn status(&self) -> Option<ModelStatus> {
        let mut client = ModelServiceClient::new(channel(self.address));
        let answer = runtime().block_on(client.get_model_status(GetModelStatusRequest::default()));
        answer.ok()?.into_inner().status
    }
}

/// The place of a proxy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Gateway(usize),
    Anomaly(usize),
    ToRedis,
}
use Place::{Anomaly, Gateway, ToRedis};

/// Two gateways, two replicas of every service, a Redis and callers.
struct Shop {
    load: Load,
    truth: Arc<Truth>,
    gateways: [Part; 2],
    services: BTreeMap<&'static str, [Part; 2]>,
    redis: Redis,
    proxies: BTreeMap<Place, Proxy>,
    secrets: Secrets,
    /// The current version of segmentation, and one that was published after it.
    first: String,
    second: String,
    trained: Trained,
}

impl Shop {
    #[expect(
        clippy::too_many_lines,
        reason = "the shop's parts start in order, each with the addresses of those before it"
    )]
    fn open() -> Self {
        let (trained, first, second) = trained_twice();
        let models = trained.models().display().to_string();
        let services = AREAS.map(|area| {
            let flags = || ["--models", &models, "--reload-every", "50ms"].map(str::to_owned);
            (area, [0, 1].map(|_| Part::start(area, flags())))
        });
        let services = BTreeMap::from(services);
        let serves = |part: &Part| {
            part.status()
                .is_some_and(|status| status.state() == ModelState::Serving)
        };
        wait_for("every service has its model", || {
            services.values().flatten().all(serves)
        });
        let truth = Truth::of(questions(
            services["segmentation"][0].address,
            services["insights"][0].address,
        ));
        for (area, [one, other]) in &services {
            assert_eq!(
                truth.learn(area, one.address),
                truth.learn(area, other.address)
            );
        }

        let (redis, secrets) = (Redis::start(), Secrets::new());
        let mut proxies = BTreeMap::from([
            (ToRedis, Proxy::to(redis.address)),
            (Anomaly(0), Proxy::to(services["anomaly"][0].address)),
            (Anomaly(1), Proxy::to(services["anomaly"][1].address)),
        ]);
        // One gateway has no cache but Redis.
        let gateways = ["64", "0"].map(|memory| {
            let replicas = services.iter().map(|(area, replicas)| {
                let at = |at: usize| match *area {
                    "anomaly" => proxies[&Anomaly(at)].address,
                    _ => replicas[at].address,
                };
                format!("--{area}=http://{},http://{}", at(0), at(1))
            });
            let flags = [
                format!("--redis=redis://{}", proxies[&ToRedis].address),
                format!("--cache-memory={memory}"),
                format!("--api-keys={}", secrets.file("keys.toml")),
                format!("--tls-cert={}", secrets.file("cert.pem")),
                format!("--tls-key={}", secrets.file("key.pem")),
            ];
            Part::start("gateway", replicas.chain(flags))
        });
        let doors = [0, 1].map(|at| {
            let proxy = Proxy::to(gateways[at].address);
            let door = secrets.channel(proxy.address, &[0, 1]);
            proxies.insert(Gateway(at), proxy);
            door
        });
        wait_for("the gateways listen", || {
            gateways
                .iter()
                .all(|part| TcpStream::connect(part.address).is_ok())
        });
        wait_for("the gateways watch the services", || {
            services
                .values()
                .flatten()
                .all(|part| part.is_watched_by(gateways.len() as u64))
        });
        let truth = Arc::new(truth);
        let load = Load::start(truth.clone(), doors.to_vec(), &secrets.key);
        let shop = Self {
            load,
            truth,
            gateways,
            services,
            redis,
            proxies,
            secrets,
            first,
            second,
            trained,
        };
        shop.load.recovers();
        shop.load.tally();
        shop
    }

    fn replica(&mut self, area: &'static str, at: usize) -> &mut Part {
        &mut self.services.get_mut(area).unwrap()[at]
    }

    /// Starts a replica again and waits until the gateways send it calls.
    fn starts_again(&mut self, area: &'static str, at: usize) {
        let gateways = self.gateways.len() as u64;
        let part = self.replica(area, at);
        part.start_again(area);
        wait_for("the gateways watch it again", || {
            part.is_watched_by(gateways)
        });
    }

    /// Stops the processes of these replicas for a while.
    fn stopped(&mut self, area: &'static str, replicas: &[usize]) {
        let signal = |shop: &mut Self, signal: &str| {
            for at in replicas {
                assert!(shop.replica(area, *at).process.signal(signal));
            }
        };
        signal(self, "STOP");
        self.load.goes_on(150);
        signal(self, "CONT");
    }

    fn delivery(&self, places: &[Place], delivery: Delivery) {
        places
            .iter()
            .for_each(|place| self.proxies[place].set(delivery));
        self.load.goes_on(150);
        places
            .iter()
            .for_each(|place| self.proxies[place].set(Delivery::Immediate));
    }

    /// Cuts all of these connections at once, repeatedly, while calls are in flight.
    fn cut(&self, places: &[Place]) {
        places
            .iter()
            .for_each(|place| self.proxies[place].set(DELAYED));
        for _ in 0..4 {
            places.iter().for_each(|place| self.proxies[place].cut());
            self.load.goes_on(40);
        }
        places
            .iter()
            .for_each(|place| self.proxies[place].set(Delivery::Immediate));
    }

    /// Waits until answers are written to Redis and read from it.
    fn redis_is_used(&self) {
        self.redis.ask(&["flushall"]);
        let hits = || {
            let stats = self.redis.ask(&["info", "stats"]);
            let hits = stats
                .lines()
                .find_map(|line| line.strip_prefix("keyspace_hits:"));
            hits.and_then(|hits| hits.trim().parse::<u64>().ok())
                .unwrap_or_default()
        };
        let before = hits();
        wait_for("answers come from Redis", || hits() > before);
    }

    fn store(&self) -> ModelStore {
        ModelStore::open(&self.trained.models().display().to_string()).unwrap()
    }
}

fn one_replica_dies(shop: &mut Shop) {
    for area in AREAS {
        shop.replica(area, 0).process.kill();
        shop.load.goes_on(30);
        shop.starts_again(area, 0);
    }
}

fn both_replicas_die(shop: &mut Shop) {
    for at in [0, 1] {
        shop.replica("forecast", at).process.kill();
    }
    shop.load.goes_on(60);
    for at in [0, 1] {
        shop.starts_again("forecast", at);
    }
}

fn a_gateway_dies(shop: &mut Shop) {
    shop.gateways[0].process.kill();
    shop.load.goes_on(60);
    shop.gateways[0].start_again("gateway");
}

fn redis_dies(shop: &mut Shop) {
    shop.redis.kill();
    shop.load.goes_on(60);
    shop.redis.start_again();
    shop.redis_is_used();
}

fn a_gateway_stops(shop: &mut Shop) {
    assert!(shop.gateways[0].process.signal("STOP"));
    // Long enough for callers to give up on this gateway.
    shop.load.goes_on(300);
    assert!(shop.gateways[0].process.signal("CONT"));
}

fn redis_stops(shop: &mut Shop) {
    assert!(shop.redis.process.signal("STOP"));
    shop.load.goes_on(60);
    assert!(shop.redis.process.signal("CONT"));
    shop.redis_is_used();
}

fn redis_is_full(shop: &mut Shop) {
    shop.redis.ask(&["config", "set", "maxmemory", "1"]);
    shop.redis.ask(&["flushall"]);
    shop.load.goes_on(60);
    assert_eq!(shop.redis.keys(), 0, "nothing can be kept");
    shop.redis.ask(&["config", "set", "maxmemory", "0"]);
    shop.redis_is_used();
}

fn redis_lies(shop: &mut Shop) {
    const SWAP: &str = "local keys = redis.call('KEYS', '*') for i = 1, #keys do \
                        redis.call('SET', keys[i], redis.call('GET', keys[i % #keys + 1]), \
                        'KEEPTTL') end return #keys";
    const DAMAGE: &str = "local keys = redis.call('KEYS', '*') for i = 1, #keys do \
                          redis.call('SETRANGE', keys[i], redis.call('STRLEN', keys[i]) / 2, 'x') \
                          end return #keys";
    for lie in [SWAP, DAMAGE] {
        shop.redis_is_used();
        wait_for("there is something to lie about", || shop.redis.keys() > 4);
        assert_ne!(shop.redis.ask(&["eval", lie, "0"]).trim(), "0");
        shop.load.goes_on(60);
    }
}

/// Publishes a version whose files are then damaged.
fn models_are_damaged(shop: &mut Shop) {
    let model = shop.trained.models().join("segmentation");
    let (version, other) = (model.join(&shop.second), model.join(&shop.first));
    let kept = TempDir::new().unwrap();
    copy(&version, kept.path());
    let pointer = fs_err::read(model.join("current.json")).unwrap();
    let another = String::from_utf8(pointer.clone())
        .unwrap()
        .replace(&shop.first, &shop.second);

    let tensors = "model.safetensors";
    let half = |path: &Path| {
        let bytes = fs_err::read(path).unwrap();
        fs_err::write(path, &bytes[..bytes.len() / 2]).unwrap();
    };
    let flip = |path: &Path| {
        let mut bytes = fs_err::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs_err::write(path, bytes).unwrap();
    };
    let damages: [&dyn Fn(); 7] = [
        &|| flip(&version.join(tensors)),
        &|| half(&version.join(tensors)),
        &|| flip(&version.join("customers.parquet")),
        &|| half(&version.join("manifest.json")),
        &|| assert!(fs_err::copy(other.join(tensors), version.join(tensors)).unwrap() > 0),
        &|| fs_err::remove_file(version.join(tensors)).unwrap(),
        &|| fs_err::remove_dir_all(&version).unwrap(),
    ];
    let told = |part: &Part, holds: &dyn Fn(&ModelStatus) -> bool| {
        part.status().is_some_and(|status| holds(&status))
    };
    for damage in damages {
        damage();
        put(&model, another.as_bytes());
        wait_for("it is refused", || {
            let refused =
                |s: &ModelStatus| s.state() == ModelState::Degraded && s.version == shop.first;
            shop.services["segmentation"]
                .iter()
                .all(|part| told(part, &refused))
        });
        shop.load.goes_on(20);
        put(&model, &pointer);
        wait_for("the one before it is wanted again", || {
            let serves = |s: &ModelStatus| s.state() == ModelState::Serving && s.refusal.is_empty();
            shop.services["segmentation"]
                .iter()
                .all(|part| told(part, &serves))
        });
        copy(kept.path(), &version);
    }
    for nonsense in [&b"{"[..], b"{\"version\": \"../churn\"}", b""] {
        put(&model, nonsense);
        shop.load.goes_on(20);
    }
    put(&model, &pointer);
}

fn a_replica_starts_over_a_damaged_model(shop: &mut Shop) {
    let file = shop
        .trained
        .models()
        .join("segmentation")
        .join(&shop.first)
        .join("model.safetensors");
    let whole = fs_err::read(&file).unwrap();
    fs_err::write(&file, &whole[1..]).unwrap();
    shop.replica("segmentation", 0).process.kill();
    shop.replica("segmentation", 0).start_again("segmentation");
    wait_for("it refuses its model", || {
        shop.replica("segmentation", 0)
            .status()
            .is_some_and(|status| !status.refusal.is_empty())
    });
    shop.load.goes_on(60);
    fs_err::write(&file, whole).unwrap();
    wait_for("it has its model", || {
        shop.replica("segmentation", 0)
            .status()
            .is_some_and(|status| status.state() == ModelState::Serving)
    });
}

fn versions_change(shop: &mut Shop) {
    let now = || SystemTime::now().into();
    let (kind, store) = (ModelKind::Segmentation, shop.store());
    let artifact = runtime().block_on(store.fetch(kind, &shop.second)).unwrap();

    // A service of its own gives the right answers of the second version.
    let apart = shop.trained.copy();
    let models = apart.models().display().to_string();
    runtime()
        .block_on(ModelStore::open(&models).unwrap().publish(&artifact, now()))
        .unwrap();
    let service = Part::start("segmentation", ["--models".to_owned(), models]);
    wait_for("it has the second version", || {
        service
            .status()
            .is_some_and(|status| status.version == shop.second)
    });
    assert_eq!(
        shop.truth.learn("segmentation", service.address),
        shop.second
    );

    for _ in 0..100 {
        runtime().block_on(store.publish(&artifact, now())).unwrap();
        shop.load.reaches("segmentation", &shop.second);
        runtime()
            .block_on(store.rollback(kind, None, now()))
            .unwrap();
        shop.load.reaches("segmentation", &shop.first);
    }
    // Once all replicas have followed, no answer may come from the second version.
    shop.load.follows("segmentation", &shop.first);
    shop.truth.retire(&shop.second);
    shop.load.goes_on(150);
}

fn keys_and_certificates_rotate(shop: &mut Shop) {
    let (old, new) = (shop.secrets.key.clone(), "the second key".to_owned());
    let doors = [0, 1].map(|at| shop.secrets.channel(shop.gateways[at].address, &[0]));
    shop.secrets.write_keys(&[&old, &new]);
    wait_for("the new key is known", || {
        doors.iter().all(|door| shop.truth.is_told(door, &new))
    });
    shop.load.show(&new);
    shop.load.recovers();
    shop.secrets.write_keys(&[&new]);
    wait_for("the old key is not", || {
        !doors.iter().any(|door| shop.truth.is_told(door, &old))
    });
    shop.secrets.key = new;

    shop.secrets.write_certificate(1);
    for part in &shop.gateways {
        let trusts_the_new = shop.secrets.endpoint(part.address, &[1]);
        wait_for("the new certificate is shown", || {
            runtime().block_on(trusts_the_new.connect()).is_ok()
        });
    }
    [Gateway(0), Gateway(1)]
        .iter()
        .for_each(|place| shop.proxies[place].cut());
}

fn everything_restarts(shop: &mut Shop) {
    for area in AREAS {
        for at in [0, 1] {
            assert!(shop.replica(area, at).process.terminate(), "{area} drains");
            shop.starts_again(area, at);
        }
    }
    for at in [0, 1] {
        assert!(shop.gateways[at].process.terminate(), "the gateway drains");
        shop.gateways[at].start_again("gateway");
        shop.load.recovers();
    }
    assert!(shop.redis.process.terminate());
    shop.redis.start_again();
    shop.redis_is_used();
}

/// Replaces the pointer to the current version atomically, as publishing does.
fn put(model: &Path, pointer: &[u8]) {
    let beside = model.join("next.json");
    fs_err::write(&beside, pointer).unwrap();
    fs_err::rename(beside, model.join("current.json")).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs_err::create_dir_all(to).unwrap();
    for entry in fs_err::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs_err::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Models, and the two versions of segmentation; the first is current.
fn trained_twice() -> (Trained, String, String) {
    let trained = trained().copy();
    let flags = || trained.flags().collect::<Vec<_>>();
    let step = |words: &[&str], flags: &[std::ffi::OsString]| {
        trained_well(words.iter().map(Into::into).chain(flags.iter().cloned()));
    };
    let store = ModelStore::open(&trained.models().display().to_string()).unwrap();
    let current = || {
        runtime()
            .block_on(store.current(ModelKind::Segmentation))
            .unwrap()
            .unwrap()
            .version
    };
    let first = current();
    step(
        &["train", "segmentation", "--recipe", "segmentation=value4"],
        &flags()[..2],
    );
    step(&["evaluate", "segmentation"], &flags()[..2]);
    step(&["publish", "segmentation"], &flags());
    let second = current();
    assert_ne!(first, second);
    runtime()
        .block_on(store.rollback(ModelKind::Segmentation, None, SystemTime::now().into()))
        .unwrap();
    (trained, first, second)
}

/// Questions about customers and products that the models know, and about unknown ones.
#[expect(
    clippy::too_many_lines,
    reason = "a list of questions, service by service"
)]
fn questions(segments: SocketAddr, figures: SocketAddr) -> Vec<Question> {
    let all = segmentation::ListCustomerSegmentsRequest {
        page_size: 4,
        ..Default::default()
    };
    let listed = runtime()
        .block_on(SegmentationServiceClient::new(channel(segments)).list_customer_segments(all));
    let customers: Vec<_> = listed
        .unwrap()
        .into_inner()
        .customer_segments
        .into_iter()
        .map(|customer| customer.customer_id)
        .collect();
    let top = insights::ListTopProductsRequest {
        page_size: 3,
        ..Default::default()
    };
    let listed = runtime()
        .block_on(InsightsServiceClient::new(channel(figures)).list_top_products(top.clone()));
    let products: Vec<_> = listed
        .unwrap()
        .into_inner()
        .products
        .into_iter()
        .map(|sales| sales.stock_code)
        .collect();

    let mut asked = Vec::new();
    for customer_id in customers.iter().cloned().chain(["nobody".to_owned()]) {
        let request = segmentation::GetCustomerSegmentRequest {
            customer_id: customer_id.clone(),
        };
        asked.push(Question::new(
            "segmentation",
            "SegmentationService/GetCustomerSegment",
            &request,
        ));
        let request = churn::GetChurnRiskRequest { customer_id };
        asked.push(Question::new(
            "churn",
            "ChurnService/GetChurnRisk",
            &request,
        ));
    }
    let request = segmentation::ListSegmentsRequest {};
    asked.push(Question::new(
        "segmentation",
        "SegmentationService/ListSegments",
        &request,
    ));
    let request = churn::BatchGetChurnRisksRequest {
        customer_ids: customers.clone(),
    };
    asked.push(Question::new(
        "churn",
        "ChurnService/BatchGetChurnRisks",
        &request,
    ));
    for (customer_id, stock_code) in customers.iter().zip(&products) {
        let request = recommendation::RecommendProductsRequest {
            customer_id: customer_id.clone(),
            ..Default::default()
        };
        asked.push(Question::new(
            "recommendation",
            "RecommendationService/RecommendProducts",
            &request,
        ));
        let transaction = anomaly::Transaction {
            stock_code: stock_code.clone(),
            quantity: 6,
            unit_price: 2.55,
            customer_id: customer_id.clone(),
            ..Default::default()
        };
        let request = anomaly::ScoreTransactionRequest {
            transaction: Some(transaction),
        };
        asked.push(Question::new(
            "anomaly",
            "AnomalyService/ScoreTransaction",
            &request,
        ));
    }
    for frequency in [
        forecast::Frequency::Daily,
        forecast::Frequency::Weekly,
        forecast::Frequency::Monthly,
    ] {
        let request = forecast::ForecastSalesRequest {
            frequency: frequency.into(),
            horizon: 3,
            ..Default::default()
        };
        asked.push(Question::new(
            "forecast",
            "ForecastService/ForecastSales",
            &request,
        ));
    }
    asked.push(Question::new(
        "insights",
        "InsightsService/GetSummary",
        &insights::GetSummaryRequest::default(),
    ));
    asked.push(Question::new(
        "insights",
        "InsightsService/ListTopProducts",
        &top,
    ));
    asked
}

/// The files with the gateways' API keys and certificates.
struct Secrets {
    folder: TempDir,
    authorities: [CertifiedIssuer<'static, KeyPair>; 2],
    /// The API key that callers send.
    key: String,
}

impl Secrets {
    fn new() -> Self {
        let authorities = [(); 2].map(|()| {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
        });
        let secrets = Self {
            folder: TempDir::new().unwrap(),
            authorities,
            key: "the first key".to_owned(),
        };
        secrets.write_keys(&[&secrets.key]);
        secrets.write_certificate(0);
        secrets
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn write_keys(&self, keys: &[&str]) {
        let keys = keys.iter().map(|key| {
            let hash: String = Sha256::digest(key)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            format!("[[keys]]\nname = \"shop\"\nsha256 = \"{hash}\"\n")
        });
        fs_err::write(self.file("next.toml"), keys.collect::<String>()).unwrap();
        fs_err::rename(self.file("next.toml"), self.file("keys.toml")).unwrap();
    }

    fn write_certificate(&self, authority: usize) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params
            .signed_by(&key, &self.authorities[authority])
            .unwrap();
        fs_err::write(self.file("cert.pem"), certificate.pem()).unwrap();
        fs_err::write(self.file("key.pem"), key.serialize_pem()).unwrap();
    }

    /// The endpoint of a gateway for a caller that trusts these authorities.
    fn endpoint(&self, address: SocketAddr, trusts: &[usize]) -> Endpoint {
        let trusted = trusts
            .iter()
            .map(|at| Certificate::from_pem(self.authorities[*at].pem()));
        let tls = ClientTlsConfig::new()
            .domain_name("localhost")
            .ca_certificates(trusted);
        Channel::from_shared(format!("https://{address}"))
            .unwrap()
            .tls_config(tls)
            .unwrap()
    }

    fn channel(&self, address: SocketAddr, trusts: &[usize]) -> Channel {
        let _inside = runtime().enter();
        self.endpoint(address, trusts).connect_lazy()
    }
}
