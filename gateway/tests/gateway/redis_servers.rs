//! Redis as it is run in production: a cluster, sentinels, TLS and a user with few rights.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use gateway::{
    cache::{self, Answer, Cache, Codec, Entry, Key, Question},
    redis::{Certificates, Client},
};

use crate::shop::{Front, Model, Redis, Running, ask, free_port, until};

/// The churn service and two gateways that share a Redis by these flags.
async fn two_fronts(redis: &[(&str, String)]) -> (Model, Running, [Front; 2]) {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let flags = [&[("churn", service.url())], redis].concat();
    let fronts = [Front::start(&flags).await, Front::start(&flags).await];
    for front in &fronts {
        front.knows("v1").await;
    }
    (model, service, fronts)
}

/// Makes calls that are in no cache; each is answered, whatever the state of Redis.
async fn answers(front: &Front, what: &str) {
    let mut client = front.churn().await;
    for n in 0..50 {
        let answer = ask(&mut client, &format!("{what} {n}")).await.unwrap();
        assert_eq!(
            (answer.cache.as_str(), answer.version.as_str()),
            ("miss", "v1")
        );
    }
}

struct Node {
    redis: Redis,
    bus: u16,
}

impl Node {
    async fn start_at(port: u16, bus: u16, folder: &Path) -> Self {
        let (port_text, bus_text) = (port.to_string(), bus.to_string());
        let (folder, file) = (folder.to_str().unwrap(), format!("nodes-{port}.conf"));
        let cluster = [
            "--cluster-enabled",
            "yes",
            "--cluster-config-file",
            &file,
            "--cluster-node-timeout",
            "1000",
        ];
        let place = [
            "--port",
            &port_text,
            "--cluster-port",
            &bus_text,
            "--dir",
            folder,
        ];
        let redis = Redis::spawn(port, &[&place[..], &cluster].concat());
        until("the node answers", || async {
            redis.connection().await.is_ok()
        })
        .await;
        Self { redis, bus }
    }

    async fn is_ok(&self) -> bool {
        let info = self.redis.answer::<String>(&[b"CLUSTER", b"INFO"]).await;
        info.is_ok_and(|info| {
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        })
    }
}

async fn are_one_cluster(nodes: &[Node]) {
    for node in nodes {
        until("the cluster is one", || node.is_ok()).await;
    }
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a scenario told in order: a cluster forms, shares answers, loses a node and recovers"
)]
async fn a_cluster_shares_answers_over_all_its_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(Node::start_at(free_port().await, free_port().await, folder.path()).await);
    }
    for (n, (node, slots)) in nodes
        .iter()
        .zip([("0", "5460"), ("5461", "10922"), ("10923", "16383")])
        .enumerate()
    {
        let epoch = (n + 1).to_string();
        node.redis
            .run(&[b"CLUSTER", b"SET-CONFIG-EPOCH", epoch.as_bytes()])
            .await;
        node.redis
            .run(&[
                b"CLUSTER",
                b"ADDSLOTSRANGE",
                slots.0.as_bytes(),
                slots.1.as_bytes(),
            ])
            .await;
        if n > 0 {
            let (port, bus) = (nodes[0].redis.port.to_string(), nodes[0].bus.to_string());
            node.redis
                .run(&[
                    b"CLUSTER",
                    b"MEET",
                    b"127.0.0.1",
                    port.as_bytes(),
                    bus.as_bytes(),
                ])
                .await;
        }
    }
    are_one_cluster(&nodes).await;

    // The address of one node is enough to find the others.
    let url = format!(
        "redis+cluster://127.0.0.1:1,127.0.0.1:{}",
        nodes[1].redis.port
    );
    let (model, _service, [one, other]) = two_fronts(&[("redis", url)]).await;
    one.shares_with(&other).await;
    let (mut first, mut second) = (one.churn().await, other.churn().await);
    for n in 0..30 {
        for _ in 0..2 {
            ask(&mut first, &n.to_string()).await.unwrap();
        }
    }
    for node in &nodes {
        until("every node has some", || async {
            !node.redis.keys().await.is_empty()
        })
        .await;
    }
    let calls = model.calls();
    for n in 0..30 {
        until("it is shared", || {
            let mut second = second.clone();
            async move { ask(&mut second, &n.to_string()).await.unwrap().cache != "miss" }
        })
        .await;
    }
    assert!(model.calls() - calls < 30, "most were there at once");

    // Without one of its nodes the cluster is down; with it, it is up again.
    let Node { redis, bus } = nodes.pop().unwrap();
    let port = redis.port;
    redis.kill();
    answers(&one, "without a node").await;
    nodes.push(Node::start_at(port, bus, folder.path()).await);
    are_one_cluster(&nodes).await;
    one.shares_with(&other).await;
    assert_eq!(ask(&mut second, "29").await.unwrap().version, "v1");
}

#[tokio::test]
async fn sentinels_say_which_server_is_the_primary() {
    let folder = tempfile::tempdir().unwrap();
    let primary = Redis::start().await;
    let port = free_port().await;
    let (text, primary_text) = (port.to_string(), primary.port.to_string());
    let place = ["--port", &text, "--dir", folder.path().to_str().unwrap()];
    let replica = Redis::spawn(
        port,
        &[&place[..], &["--replicaof", "127.0.0.1", &primary_text]].concat(),
    );
    until("the replica has all", || async {
        let info = replica.answer::<String>(&[b"INFO", b"replication"]).await;
        info.is_ok_and(|info| info.contains("master_link_status:up"))
    })
    .await;
    let (port, file) = (free_port().await, folder.path().join("sentinel.conf"));
    let watch = format!(
        "port {port}\ndir {}\nsentinel monitor shop 127.0.0.1 {primary_text} 1\nsentinel \
         down-after-milliseconds shop 300\nsentinel failover-timeout shop 1000\n",
        folder.path().display()
    );
    std::fs::write(&file, watch).unwrap();
    let sentinel = Redis::spawn(port, &[file.to_str().unwrap(), "--sentinel"]);
    until("the sentinel knows both", || async {
        let replicas = sentinel
            .answer::<Vec<redis::Value>>(&[b"SENTINEL", b"REPLICAS", b"shop"])
            .await;
        replicas.is_ok_and(|replicas| replicas.len() == 1)
    })
    .await;

    let url = format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/shop");
    let (_model, _service, [one, other]) = two_fronts(&[("redis", url)]).await;
    one.shares_with(&other).await;
    assert!(!primary.keys().await.is_empty());

    primary.kill();
    answers(&one, "without a primary").await;
    until("there is another primary", || async {
        let info = replica.answer::<String>(&[b"INFO", b"replication"]).await;
        info.is_ok_and(|info| info.contains("role:master"))
    })
    .await;
    one.shares_with(&other).await;
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a scenario told in order: a server, clients that it refuses, a new certificate"
)]
async fn redis_is_reached_over_tls_as_a_user_with_few_rights() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let signer = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(vec![]).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.distinguished_name.push(rcgen::DnType::CommonName, name);
        let file = write(name, &ca.self_signed(&key).unwrap().pem());
        (file, rcgen::Issuer::new(ca, key))
    };
    let ((ca, issuer), (stranger, _)) = (signer("ca.pem"), signer("stranger.pem"));
    let signed = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        let certificate = certificate.signed_by(&key, &issuer).unwrap();
        (
            write(&format!("{name}.pem"), &certificate.pem()),
            write(&format!("{name}.key"), &key.serialize_pem()),
        )
    };
    let ((cert, key), (client_cert, client_key)) = (signed("server"), signed("client"));

    let port = free_port().await;
    let text = port.to_string();
    let tls = [
        "--tls-port",
        &text,
        "--port",
        "0",
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
    ];
    let trust = ["--tls-ca-cert-file", &ca, "--user", "default", "off"];
    let user = [
        "--user", "shop", "on", ">hunter2", "~sk:1:*", "+get", "+set",
    ];
    let _redis = Redis::spawn(port, &[&tls[..], &trust, &user].concat());

    let url = |user: &str| ("redis", format!("rediss://{user}@127.0.0.1:{port}"));
    let shown = [("redis-cert", client_cert), ("redis-key", client_key)];
    let with =
        |user: &str, ca: &String| [&[url(user), ("redis-ca", ca.clone())], &shown[..]].concat();
    let (model, service, [one, other]) = two_fronts(&with("shop:hunter2", &ca)).await;
    one.shares_with(&other).await;

    let let_in = with("shop:hunter2", &ca);
    for (what, flags) in [
        ("a wrong password", with("shop:hunter3", &ca)),
        ("another user", with("default:hunter2", &ca)),
        (
            "a server signed by a stranger",
            with("shop:hunter2", &stranger),
        ),
        ("no certificate", let_in[..2].to_vec()),
        (
            "no TLS",
            vec![("redis", format!("redis://shop:hunter2@127.0.0.1:{port}"))],
        ),
    ] {
        let front = Front::start(&[&[("churn", service.url())], &flags[..]].concat()).await;
        front.knows("v1").await;
        let (mut sharing, mut client) = (one.churn().await, front.churn().await);
        for n in 0..20 {
            let id = format!("{what} {n}");
            for _ in 0..2 {
                ask(&mut sharing, &id).await.unwrap();
            }
            assert_eq!(ask(&mut client, &id).await.unwrap().cache, "miss", "{what}");
        }
    }
    assert!(model.calls() > 0);

    // The gateway reads the certificates again before each attempt.
    let replaced = write("replaced.pem", &std::fs::read_to_string(&stranger).unwrap());
    let flags = [
        &[("churn", service.url())],
        &with("shop:hunter2", &replaced)[..],
    ]
    .concat();
    let front = Front::start(&flags).await;
    front.knows("v1").await;
    std::fs::copy(&ca, &replaced).unwrap();
    one.shares_with(&front).await;
}

#[tokio::test]
async fn what_is_asked_at_once_goes_out_together() {
    let redis = Redis::start().await;
    let (codec, timeout) = (Codec::new("secret"), Duration::from_secs(1));
    let client = Client::new(redis.url().into(), Certificates::default(), timeout).unwrap();
    let cache = cache::Redis::new(Arc::new(client), codec);
    let key = |n: u32| {
        Key::of(&Question {
            method: "",
            version: "",
            caller: None,
            message: &n.to_le_bytes(),
        })
    };
    let answer = Answer::Found("answer".into());
    let entry = Entry {
        version: "v1".into(),
        made: SystemTime::now(),
        took: timeout,
        ttl: 60 * timeout,
        answer,
    };
    let entry = Arc::new(entry);
    until("redis is connected", async || {
        cache.put(key(0), entry.clone(), entry.ttl).await;
        cache.get(&key(0)).await.is_some()
    })
    .await;
    let stats = async || {
        let info = redis.answer::<String>(&[b"INFO", b"stats"]).await.unwrap();
        let number = |name: &str| -> u64 {
            let line = info
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap();
            line.trim_start_matches(':').trim().parse().unwrap()
        };
        (
            number("total_commands_processed"),
            number("total_reads_processed"),
        )
    };
    let before = stats().await;
    let keys: Vec<_> = (1..=512).map(key).collect();
    let found = futures_util::future::join_all(keys.iter().map(|key| cache.get(key))).await;
    assert!(found.iter().all(Option::is_none));
    let after = stats().await;
    let (commands, reads) = (after.0 - before.0, after.1 - before.1);
    assert!(
        commands >= 512 && reads < commands / 8,
        "{commands} commands in {reads} reads"
    );
}
