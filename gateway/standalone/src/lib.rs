//! Every service and the gateway in one process: the same services, the same gateway, no sockets
//! between them, answers kept in memory.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use gateway::{Backends, FrontArgs, Gateway, cache::CacheArgs, in_process};
use runtime::Service;
use serving::StoreArgs;
use tokio::task::JoinSet;

/// All options but those of the listener.
#[derive(Debug, Clone, Args)]
pub struct StandaloneArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Folder of the trainer's lake. It is not read: insights comes from the model store as well
    #[arg(
        long,
        env = "SHOPKEEPER_LAKE",
        value_name = "DIR",
        help_heading = "Model store"
    )]
    lake: Option<PathBuf>,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    front: FrontArgs,
}

/// The services and the gateway over them. Dropping it ends their tasks.
#[derive(Debug)]
pub struct Standalone {
    /// The gateway over the services.
    pub gateway: Gateway,
    _tasks: JoinSet<()>,
}

impl StandaloneArgs {
    /// Starts the services, each with the model that is current, or without one until one is
    /// published.
    ///
    /// # Errors
    /// If the model store's address cannot be used, or if other machines can reach `listen` and
    /// neither keys nor `--allow-anonymous` are given.
    pub async fn build(&self, listen: SocketAddr) -> anyhow::Result<Standalone> {
        self.front.check(listen)?;
        let store = &self.store;
        // Two services use the segments: one model in memory serves both.
        let segments = serving::watch(store).await?;
        let services: [Service; 6] = tokio::try_join!(
            async { anyhow::Ok(segmentation::service(segments.clone())) },
            async { anyhow::Ok(forecast::service(serving::watch(store).await?)) },
            async { anyhow::Ok(recommendation::service(serving::watch(store).await?)) },
            async { anyhow::Ok(churn::service(serving::watch(store).await?)) },
            async { anyhow::Ok(anomaly::service(serving::watch(store).await?)) },
            async {
                anyhow::Ok(insights::service(
                    serving::watch(store).await?,
                    segments.clone(),
                ))
            },
        )?
        .into();
        let mut tasks = JoinSet::new();
        let backends = services
            .iter()
            .try_fold(Backends::default(), |backends, service| {
                let (routes, _) = runtime::health_and_reflection(service, &mut tasks)?;
                anyhow::Ok(backends.with(service.name, in_process(routes)))
            })?;
        let gateway = self.front.build(backends, self.cache.build(), None)?;
        let mut draining = gateway.draining();
        tasks.spawn(async move {
            if draining.wait_for(|draining| *draining).await.is_ok() {
                for service in &services {
                    service.draining.send_replace(true);
                }
            }
        });
        Ok(Standalone {
            gateway,
            _tasks: tasks,
        })
    }
}
