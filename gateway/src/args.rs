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

/// Everything about the gateway but its address.
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
    /// If no service is named, the URL of Redis cannot be used, or every caller of `listen` would
    /// be answered and no option allows that.
    pub fn build(&self, listen: SocketAddr) -> anyhow::Result<Gateway> {
        self.front.check(listen)?;
        let redis = self.redis.build()?;
        let cache = self.shared.build(&self.cache, redis.as_ref());
        self.front.build(self.backends.build()?, cache, redis)
    }
}

/// The addresses of the services.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Services")]
struct BackendArgs {
    /// Segments of customers: http://host:port or https://host:port, each address of the host being
    /// a replica; file:PATH of a file with one such URL per line; or several, separated by commas.
    /// Names are looked up and files read again every few seconds. Methods of services that are not
    /// given are UNIMPLEMENTED
    #[arg(
        long,
        env = "SHOPKEEPER_SEGMENTATION",
        value_name = "URL",
        value_delimiter = ','
    )]
    segmentation: Vec<Endpoint>,
    /// Forecasts of sales
    #[arg(
        long,
        env = "SHOPKEEPER_FORECAST",
        value_name = "URL",
        value_delimiter = ','
    )]
    forecast: Vec<Endpoint>,
    /// Recommended products
    #[arg(
        long,
        env = "SHOPKEEPER_RECOMMENDATION",
        value_name = "URL",
        value_delimiter = ','
    )]
    recommendation: Vec<Endpoint>,
    /// Customers about to stop buying
    #[arg(
        long,
        env = "SHOPKEEPER_CHURN",
        value_name = "URL",
        value_delimiter = ','
    )]
    churn: Vec<Endpoint>,
    /// Anomalous transaction lines
    #[arg(
        long,
        env = "SHOPKEEPER_ANOMALY",
        value_name = "URL",
        value_delimiter = ','
    )]
    anomaly: Vec<Endpoint>,
    /// Key figures of the shop
    #[arg(
        long,
        env = "SHOPKEEPER_INSIGHTS",
        value_name = "URL",
        value_delimiter = ','
    )]
    insights: Vec<Endpoint>,
    /// Connections to each replica of a service. Default: two per core
    #[arg(long, env = "SHOPKEEPER_CONNECTIONS", value_name = "N")]
    connections: Option<NonZeroUsize>,
    /// Shortest time after which a call without side effects that has no answer is hedged: sent to
    /// another replica as well. Longer for methods that usually take longer; 0s: never
    #[arg(
        long,
        env = "SHOPKEEPER_HEDGE_AFTER",
        value_name = "TIME",
        default_value = "10ms",
        value_parser = humantime::parse_duration
    )]
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

    /// The TLS client for services at `https://`, if there may be any.
    fn client_tls(&self, given: &[(&str, &Vec<Endpoint>)]) -> anyhow::Result<Option<ClientTls>> {
        let mut endpoints = given.iter().flat_map(|(_, endpoints)| *endpoints);
        if endpoints.clone().any(Endpoint::is_encrypted) || self.tls.is_given() {
            return Ok(Some(self.tls.build()?));
        }
        // A file may name `https://` later. If TLS cannot be set up, its connections fail then.
        Ok(endpoints
            .any(Endpoint::is_file)
            .then(|| self.tls.build().ok())
            .flatten())
    }
}

/// What callers meet, wherever the services run.
#[derive(Debug, Clone, Args)]
pub struct FrontArgs {
    #[command(flatten)]
    auth: AuthArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    web: WebArgs,
}

/// Limits of the calls in flight.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Calls in flight, and as many streams beside them. Further ones are refused with
    /// RESOURCE_EXHAUSTED, and calls of low priority above a half of it
    #[arg(
        long,
        env = "SHOPKEEPER_IN_FLIGHT",
        value_name = "N",
        default_value = "2048"
    )]
    in_flight: NonZeroUsize,
}

impl FrontArgs {
    /// Refuses an address at which every caller would be answered, if no option allows that.
    ///
    /// # Errors
    /// Says what to do.
    pub fn check(&self, listen: SocketAddr) -> anyhow::Result<()> {
        self.auth.check(listen)
    }

    /// A gateway over these services and caches, which counts calls with those that share its
    /// Redis. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the options in the .proto files or the keys of callers cannot be used.
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
