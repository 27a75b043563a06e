//! TCP that can break and fall silent.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// A TCP proxy whose connections can be cut and silenced.
pub struct Wires {
    /// The address of the near end.
    pub address: SocketAddr,
    cut: watch::Sender<()>,
    silent: watch::Sender<bool>,
    _listening: JoinSet<()>,
}

impl Wires {
    /// A proxy in front of this address.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, silent) = (watch::Sender::new(()), watch::Sender::new(false));
        let (cuts, silence) = (cut.clone(), silent.clone());
        let mut listening = JoinSet::new();
        listening.spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut cut, mut silent) = (cuts.subscribe(), silence.subscribe());
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(target).await.unwrap();
                    let carried = copy_bidirectional(&mut near, &mut far);
                    tokio::pin!(carried);
                    loop {
                        let are_silent = *silent.borrow_and_update();
                        tokio::select! {
                            _ = &mut carried, if !are_silent => return,
                            _ = silent.changed() => {}
                            _ = cut.changed() => return,
                        }
                    }
                });
            }
        });
        Self {
            address,
            cut,
            silent,
            _listening: listening,
        }
    }

    /// While it is silent no bytes go through.
    pub fn silent(&self, are: bool) {
        self.silent.send_replace(are);
    }

    /// Closes every connection; new ones are accepted.
    pub fn cut(&self) {
        self.cut.send_replace(());
    }
}
