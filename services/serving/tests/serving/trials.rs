//! Canary versions, from the store through a service and a gateway with a cache to its callers.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Parser;
use fake_shop::risk_only;
use gateway::GatewayArgs;
use model_store::{Canary, ModelStore};
use proto::churn::v1::{
    ChurnRisk, GetChurnRiskRequest, GetChurnRiskResponse, churn_service_client::ChurnServiceClient,
};
use runtime::{Server, ServerArgs};
use scoring::{Artifact, ModelKind};
use serving::{Live, MODEL_CHANNEL};
use tokio::task::JoinSet;
use tonic::{Request, Status, transport::Channel};

use crate::{Number, artifact, connect, now, status, wait_for};

const KIND: ModelKind = ModelKind::Churn;

#[derive(Parser)]
struct Front {
    #[command(flatten)]
    gateway: GatewayArgs,
}

/// A service over the store and a gateway over the service; both run until they are dropped.
struct Shop {
    store: ModelStore,
    service: Channel,
    gateway: ChurnServiceClient<Channel>,
    _running: JoinSet<()>,
}

impl Shop {
    async fn start(models: &Path) -> Self {
        let store = ModelStore::open(models.to_str().unwrap()).unwrap();
        let mut running = JoinSet::new();
        let live = Live::<Number>::follow(store.clone(), Duration::from_millis(20)).await;
        // The risk of every customer is the number that the model is.
        let answering = live.clone();
        let numbers = risk_only(move |request: Request<GetChurnRiskRequest>| {
            answering.answer(request, |loaded, asked| {
                let probability = loaded.model.0 as f64;
                loaded.note([("probability", probability)]);
                let churn_risk = Some(ChurnRisk {
                    customer_id: asked.customer_id.clone(),
                    probability,
                    ..ChurnRisk::default()
                });
                Ok(GetChurnRiskResponse {
                    churn_risk,
                    model: Some(loaded.info.clone()),
                })
            })
        });
        let service = serving::service(&live, numbers);
        let service = serve(&mut running, service).await;
        let args =
            Front::try_parse_from(["gateway", "--churn", &format!("http://{service}")]).unwrap();
        let gateway = args
            .gateway
            .build(SocketAddr::from(([127, 0, 0, 1], 0)))
            .unwrap();
        let address = serve(&mut running, gateway.service()).await;
        running.spawn(async move {
            let _works_until_it_is_dropped = gateway;
            std::future::pending().await
        });
        let gateway = ChurnServiceClient::new(connect(address).await);
        Self {
            store,
            service: connect(service).await,
            gateway,
            _running: running,
        }
    }

    async fn upload(&self, artifact: &Artifact) -> String {
        self.store.upload(artifact).await.unwrap();
        artifact.manifest().version.clone()
    }

    /// Waits until a call on this channel is answered by this version.
    async fn answers(&self, channel: &'static str, version: &str) {
        for n in 0..1_000 {
            let answer = ask(&self.gateway, &format!("waiting {n}"), Some(channel))
                .await
                .unwrap();
            if answer.version == version {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        unreachable!("{version} does not answer on {channel}");
    }

    /// Asks for every customer, and returns the answers with their versions.
    async fn all(&self) -> BTreeMap<String, Answered> {
        let mut answers = BTreeMap::new();
        for id in customers() {
            let answer = ask(&self.gateway, &id, None).await.unwrap();
            answers.insert(id, answer);
        }
        answers
    }
}

async fn serve(running: &mut JoinSet<()>, service: runtime::Service) -> SocketAddr {
    let server = Server::bind(&ServerArgs::local())
        .await
        .unwrap()
        .serving(service);
    let address = server.local_addr().unwrap();
    running.spawn(async move { server.serve_until(std::future::pending()).await.unwrap() });
    address
}

fn customers() -> impl Iterator<Item = String> {
    (0..1000).map(|n| format!("customer {n}"))
}

#[derive(Debug, PartialEq)]
struct Answered {
    version: String,
    number: f64,
    cache: String,
}

async fn ask(
    client: &ChurnServiceClient<Channel>,
    customer: &str,
    channel: Option<&'static str>,
) -> Result<Answered, Status> {
    let mut request = Request::new(GetChurnRiskRequest {
        customer_id: customer.to_owned(),
    });
    channel.map(|channel| {
        request
            .metadata_mut()
            .insert(MODEL_CHANNEL, channel.parse().unwrap())
    });
    let response = client.clone().get_churn_risk(request).await?;
    let header = |name| {
        response
            .metadata()
            .get(name)
            .map(|v| v.to_str().unwrap().to_owned())
            .unwrap_or_default()
    };
    let (version, cache) = (header("x-model-version"), header("x-cache"));
    let GetChurnRiskResponse { churn_risk, model } = response.into_inner();
    let risk = churn_risk.unwrap();
    assert_eq!(
        (risk.customer_id.as_str(), &model.unwrap().version),
        (customer, &version)
    );
    Ok(Answered {
        version,
        number: risk.probability,
        cache,
    })
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "a scenario told in order: one canary grows and is promoted, another is withdrawn"
)]
async fn a_share_of_callers_gets_the_canary_and_no_call_fails_while_it_comes_grows_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::start(folder.path()).await;
    let versions: BTreeMap<String, f64> = (1..=3)
        .map(|n| (artifact(n).manifest().version.clone(), n as f64))
        .collect();
    let [one, two, three] = [1, 2, 3].map(artifact);
    let one = shop.store.publish(&one, now()).await.unwrap().version;
    wait_for("the first version answers", &shop.service, |status| {
        status.version == one
    })
    .await;
    shop.answers("stable", &one).await;

    let asking = Arc::new(AtomicBool::new(true));
    let mut callers = JoinSet::new();
    for first in 0..8 {
        let (asking, versions, gateway) = (asking.clone(), versions.clone(), shop.gateway.clone());
        callers.spawn(async move {
            let mut calls = 0;
            for customer in customers()
                .collect::<Vec<_>>()
                .into_iter()
                .cycle()
                .skip(first * 100)
            {
                if !asking.load(Ordering::Relaxed) {
                    break;
                }
                let answer = ask(&gateway, &customer, None).await.unwrap();
                assert_eq!(
                    versions.get(&answer.version),
                    Some(&answer.number),
                    "{customer} {answer:?}"
                );
                calls += 1;
            }
            calls
        });
    }

    let two = shop.upload(&two).await;
    shop.store
        .set_canary(
            KIND,
            Some(Canary {
                version: two.clone(),
                percent: 10,
            }),
        )
        .await
        .unwrap();
    shop.answers("canary", &two).await;
    let of_ten = shop.all().await;
    let chosen = |answers: &BTreeMap<String, Answered>, version: &str| -> Vec<String> {
        answers
            .iter()
            .filter(|(_, answer)| answer.version == version)
            .map(|(id, _)| id.clone())
            .collect()
    };
    let lucky = chosen(&of_ten, &two);
    assert!((70..=130).contains(&lucky.len()), "{} of 1000", lucky.len());
    let again = shop.all().await;
    assert_eq!(chosen(&again, &two), lucky, "the same callers");
    assert!(
        again
            .values()
            .filter(|answer| answer.cache == "hit-memory")
            .count()
            > 900,
        "from the cache"
    );
    assert_eq!(
        ask(&shop.gateway, &lucky[0], Some("stable"))
            .await
            .unwrap()
            .version,
        one
    );

    shop.store.promote(KIND, Some(50), now()).await.unwrap();
    wait_for("it grows", &shop.service, |status| {
        status.canary.as_ref().is_some_and(|c| c.percent == 50)
    })
    .await;
    let mut grown = Vec::new();
    while grown.len() < 300 {
        grown = chosen(&shop.all().await, &two);
    }
    assert!(
        lucky.iter().all(|id| grown.contains(id)),
        "who had it keeps it"
    );

    shop.store.promote(KIND, None, now()).await.unwrap();
    shop.answers("stable", &two).await;
    assert_eq!(chosen(&shop.all().await, &two).len(), 1000);

    let three = shop.upload(&three).await;
    shop.store
        .set_canary(
            KIND,
            Some(Canary {
                version: three.clone(),
                percent: 50,
            }),
        )
        .await
        .unwrap();
    shop.answers("canary", &three).await;
    shop.store.set_canary(KIND, None).await.unwrap();
    shop.answers("canary", &two).await;
    assert_eq!(chosen(&shop.all().await, &two).len(), 1000, "withdrawn");

    asking.store(false, Ordering::Relaxed);
    let calls: usize = callers.join_all().await.into_iter().sum();
    assert!(calls > 1000, "{calls} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_or_shadow_that_is_damaged_is_refused_by_name_and_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::start(folder.path()).await;
    let one = shop
        .store
        .publish(&artifact(1), now())
        .await
        .unwrap()
        .version;
    let two = shop.upload(&artifact(2)).await;
    let manifest = folder.path().join("churn").join(&two).join("manifest.json");
    let whole = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, whole.replace("\"seed\": 42", "\"seed\": 43")).unwrap();
    shop.store
        .set_canary(
            KIND,
            Some(Canary {
                version: two.clone(),
                percent: 100,
            }),
        )
        .await
        .unwrap();
    shop.store
        .set_shadow(KIND, Some(two.clone()))
        .await
        .unwrap();

    let refused = wait_for("both are refused", &shop.service, |status| {
        let canary = status
            .canary
            .as_ref()
            .is_some_and(|canary| !canary.refusal.is_empty());
        canary
            && status
                .shadow
                .as_ref()
                .is_some_and(|shadow| !shadow.refusal.is_empty())
    })
    .await;
    let canary = refused.canary.unwrap();
    assert_eq!((canary.version, canary.percent), (two, 100));
    assert_eq!(
        canary.refusal,
        "manifest.json is damaged: its checksum is another"
    );
    assert_eq!(
        (refused.version.as_str(), refused.refusal.as_str()),
        (one.as_str(), "")
    );
    shop.answers("stable", &one).await;
    for channel in [None, Some("canary")] {
        assert_eq!(ask(&shop.gateway, "1", channel).await.unwrap().version, one);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_is_asked_beside_and_its_differences_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let shop = Shop::start(folder.path()).await;
    shop.store.publish(&artifact(1), now()).await.unwrap();
    let as_of = chrono::NaiveDate::from_ymd_opt(2011, 9, 2).unwrap().into();
    let same = Artifact::builder(KIND, "number", as_of, 42)
        .parameters(&1)
        .unwrap()
        .finish();
    let client = ChurnServiceClient::new(shop.service.clone());
    for (shadow, different, largest) in [(same, false, 0.0), (artifact(4), true, 3.0)] {
        let version = shop.upload(&shadow).await;
        shop.store
            .set_shadow(KIND, Some(version.clone()))
            .await
            .unwrap();
        let is_loaded = |status: &proto::model::v1::ModelStatus| {
            status
                .shadow
                .as_ref()
                .is_some_and(|shadow| shadow.version == version && shadow.refusal.is_empty())
        };
        wait_for("the shadow is loaded", &shop.service, is_loaded).await;
        let mut told = proto::model::v1::Shadow::default();
        while told.compared < 20 {
            assert_eq!(
                ask(&client, "1", None).await.unwrap().number,
                1.0,
                "nobody is answered by it"
            );
            told = status(&shop.service).await.shadow.unwrap();
        }
        assert_eq!(
            (told.different, told.largest_difference),
            (if different { told.compared } else { 0 }, largest)
        );
    }
    shop.store.set_shadow(KIND, None).await.unwrap();
    wait_for("it is gone", &shop.service, |status| {
        status.shadow.is_none()
    })
    .await;
}
