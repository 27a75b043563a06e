//! Servers that a test starts, pauses, drains and kills.

use std::{net::SocketAddr, thread::JoinHandle, time::Duration};

use runtime::{Server, ServerArgs};
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Channel;

/// A server with a thread and a runtime of its own, as a process has: killing it ends all of its
/// tasks.
pub struct Running {
    /// The address at which it listens.
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    kill: Option<oneshot::Sender<()>>,
    pauses: mpsc::UnboundedSender<Duration>,
    life: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts a server on a free port.
    pub async fn start(service: runtime::Service) -> Self {
        Self::start_at(service, ([127, 0, 0, 1], 0).into()).await
    }

    /// Starts a server at an address, such as that of one that was killed.
    pub async fn start_at(service: runtime::Service, listen: SocketAddr) -> Self {
        let args = ServerArgs {
            listen,
            ..ServerArgs::local()
        };
        Self::start_with(service, args).await
    }

    /// Starts a server with these options.
    pub async fn start_with(service: runtime::Service, args: ServerArgs) -> Self {
        Self::start_server(service, args, |server| server).await
    }

    /// Starts a server with the limits of one that any caller reaches, as the gateway.
    pub async fn start_in_front(service: runtime::Service) -> Self {
        Self::start_server(service, ServerArgs::local(), Server::in_front).await
    }

    async fn start_server(
        service: runtime::Service,
        args: ServerArgs,
        with: impl FnOnce(Server) -> Server + Send + 'static,
    ) -> Self {
        let (bound, address) = oneshot::channel();
        let ((stop, stopped), (kill, killed)) =
            (oneshot::channel::<()>(), oneshot::channel::<()>());
        let (pauses, mut paused) = mpsc::unbounded_channel();
        let life = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let server = with(Server::bind(&args).await.unwrap());
                bound.send(server.local_addr().unwrap()).unwrap();
                let stopped = async {
                    let _ = stopped.await;
                };
                let pausing = async {
                    while let Some(time) = paused.recv().await {
                        std::thread::sleep(time);
                    }
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    served = server.serving(service).serve_until(stopped) => served.unwrap(),
                    _ = killed => {}
                    () = pausing => {}
                }
            });
        });
        Self {
            address: address.await.unwrap(),
            stop: Some(stop),
            kill: Some(kill),
            pauses,
            life: Some(life),
        }
    }

    /// Stops running for this time, as a process does that the system does not schedule.
    pub fn pause(&self, time: Duration) {
        self.pauses.send(time).unwrap();
    }

    /// Ends it at once, with its calls and connections.
    pub async fn kill(mut self) {
        drop(self.kill.take());
        self.ended().await;
    }

    /// Drains it and waits for its end.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        self.ended().await;
    }

    async fn ended(&mut self) {
        let life = self.life.take().unwrap();
        tokio::task::spawn_blocking(|| life.join().unwrap())
            .await
            .unwrap();
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A new connection to it.
    pub async fn channel(&self) -> Channel {
        Channel::from_shared(self.url())
            .unwrap()
            .connect()
            .await
            .unwrap()
    }
}
