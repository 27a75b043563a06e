//! Options of the gateway: which services there are, and how many calls at once.

use std::{net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use anyhow::ensure;
use clap::Args;
use runtime::{ClientTls, ClientTlsArgs};

use crate::{
    Gateway,
    layers::{
        auth::AuthArgs,
        cache::{CacheArgs, SharedCacheArgs, Tiers},
    },
    method::Methods,
    redis::{Client, RedisArgs},
    stack::Parts,
    upstream::{
        backends::Backends,
        balancer, connection,
        discovery::{self, Endpoint, Endpoints},
    },
    web::WebArgs,
};

/// Everything about the gateway but where it listens.
#[derive(Debug, Clone, Args)]
pub struct GatewayArgs {
    #[command(flatten)]
    backends: BackendArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    redis: RedisArgs,
    #[command(flatten)]
    shared: SharedCacheArgs,
    #[command(flatten)]
    front: FrontArgs,
}

impl GatewayArgs {
    /// The gateway. Neither a service nor Redis need be up. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where no service is named, the URL of Redis is none, or `listen` is open to everybody
    /// unsaid.
    pub fn build(&self, listen: SocketAddr) -> anyhow::Result<Gateway> {
        self.front.check(listen)?;
        let redis = self.redis.build()?;
        let cache = self.shared.build(&self.cache, redis.as_ref());
        self.front.build(self.backends.build()?, cache, redis)
    }
}

/// Where the services are.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Services")]
struct BackendArgs {
    /// Which kind of customer somebody is: http://host:port or https://host:port, every address of the host being a replica;
    /// file:PATH for a file with such an URL a line; or several with commas between. Names are
    /// looked up and files read again every few seconds. Methods of services that are not
    /// given are UNIMPLEMENTED
    #[arg(
        long,
        env = "SHOPKEEPER_SEGMENTATION",
        value_name = "URL",
        value_delimiter = ','
    )]
    segmentation: Vec<Endpoint>,
    /// What will sell
    #[arg(
        long,
        env = "SHOPKEEPER_FORECAST",
        value_name = "URL",
        value_delimiter = ','
    )]
    forecast: Vec<Endpoint>,
    /// What to put beside the till
    #[arg(
        long,
        env = "SHOPKEEPER_RECOMMENDATION",
        value_name = "URL",
        value_delimiter = ','
    )]
    recommendation: Vec<Endpoint>,
    /// Who is about to stop buying
    #[arg(
        long,
        env = "SHOPKEEPER_CHURN",
        value_name = "URL",
        value_delimiter = ','
    )]
    churn: Vec<Endpoint>,
    /// Which transaction line looks wrong
    #[arg(
        long,
        env = "SHOPKEEPER_ANOMALY",
        value_name = "URL",
        value_delimiter = ','
    )]
    anomaly: Vec<Endpoint>,
    /// What the shop's figures are
    #[arg(
        long,
        env = "SHOPKEEPER_INSIGHTS",
        value_name = "URL",
        value_delimiter = ','
    )]
    insights: Vec<Endpoint>,
    /// Connections to each replica of a service; without it two for each core
    #[arg(long, env = "SHOPKEEPER_CONNECTIONS", value_name = "N")]
    connections: Option<NonZeroUsize>,
    /// Shortest time until a call without side effects that has no answer yet is made at another
    /// replica as well. Where calls of its method usually take longer, it is longer; 0s: never
    #[arg(long, env = "SHOPKEEPER_HEDGE_AFTER", value_name = "TIME", default_value = "10ms", value_parser = humantime::parse_duration)]
    hedge_after: Duration,
    #[command(flatten)]
    tls: ClientTlsArgs,
}

impl BackendArgs {
    fn build(&self) -> anyhow::Result<Backends> {
        let given = [
            ("segmentation", &self.segmentation),
            ("forecast", &self.forecast),
            ("recommendation", &self.recommendation),
            ("churn", &self.churn),
            ("anomaly", &self.anomaly),
            ("insights", &self.insights),
        ];
        ensure!(
            given.iter().any(|(_, endpoints)| !endpoints.is_empty()),
            "no service is given: name at least one, for example --churn http://localhost:50054"
        );
        let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let connections = self
            .connections
            .map_or_else(|| 2 * cores(), NonZeroUsize::get);
        let tls = self.client_tls(&given)?;
        let hedge_after = Some(self.hedge_after).filter(|time| !time.is_zero());
        let given = given
            .into_iter()
            .filter(|(_, endpoints)| !endpoints.is_empty());
        Ok(given.fold(
            Backends::default().over(tls.clone()),
            |backends, (area, given)| {
                let endpoints = Endpoints::new(area.into(), given.clone(), discovery::system());
                let tls = tls.clone();
                let connect = move |target, address| {
                    connection::network(area, target, address, connections, tls.clone())
                };
                backends.with(
                    area,
                    balancer::balance(area, endpoints, hedge_after, connect),
                )
            },
        ))
    }

    /// What services at `https://` are called with, where there may be some.
    fn client_tls(&self, given: &[(&str, &Vec<Endpoint>)]) -> anyhow::Result<Option<ClientTls>> {
        let mut endpoints = given.iter().flat_map(|(_, endpoints)| *endpoints);
        if endpoints.clone().any(Endpoint::is_encrypted) || self.tls.is_given() {
            return Ok(Some(self.tls.build()?));
        }
        // Whether a file will ever name one is not known: one that does without TLS is told so at
        // its connections.
        Ok(endpoints
            .any(Endpoint::is_file)
            .then(|| self.tls.build().ok())
            .flatten())
    }
}

/// What a gateway is to its callers, wherever its services are.
#[derive(Debug, Clone, Args)]
pub struct FrontArgs {
    #[command(flatten)]
    auth: AuthArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    web: WebArgs,
}

/// How much at once.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Calls in flight, and as many streams beside them; more are refused with RESOURCE_EXHAUSTED,
    /// those that can wait at a half
    #[arg(
        long,
        env = "SHOPKEEPER_IN_FLIGHT",
        value_name = "N",
        default_value = "2048"
    )]
    in_flight: NonZeroUsize,
}

impl FrontArgs {
    /// Refuses an address where everybody would be answered and nobody has said so.
    ///
    /// # Errors
    /// What to do.
    pub fn check(&self, listen: SocketAddr) -> anyhow::Result<()> {
        self.auth.check(listen)
    }

    /// A gateway over these services and caches, which counts calls with those that share its
    /// Redis. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Where the options in the .proto files or the keys of callers cannot be used.
    pub fn build(
        &self,
        backends: Backends,
        cache: Tiers,
        redis: Option<Arc<Client>>,
    ) -> anyhow::Result<Gateway> {
        let methods = Methods::read(proto::DESCRIPTORS)?;
        let in_flight = self.limits.in_flight.get();
        let auth = self.auth.build(&methods, redis)?;
        Ok(Gateway::new(
            Parts {
                methods,
                backends,
                cache,
                auth,
                in_flight,
            },
            &self.web,
        )?)
    }
}
