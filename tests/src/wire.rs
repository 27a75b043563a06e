//! A wire between two processes: TCP that can be slow, silent or cut.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

use crate::runtime;

/// How a wire carries what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// At once.
    Fair,
    /// Every piece later, each by a time of its own up to this one: what was sent on two
    /// connections arrives in any order.
    Slow(Duration),
    /// Not at all, and nobody is told.
    Silent,
}

/// A wire to a process; whoever connects to its address is connected with that process.
pub struct Wire {
    /// The near end.
    pub address: SocketAddr,
    weather: watch::Sender<Weather>,
    cuts: watch::Sender<()>,
    _carrying: JoinSet<()>,
}

impl Wire {
    /// A wire in fair weather.
    pub fn to(target: SocketAddr) -> Self {
        runtime().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0")
                .await
                .unwrap_or_else(|e| panic!("no free port: {e}"));
            let address = listener
                .local_addr()
                .unwrap_or_else(|e| panic!("no address: {e}"));
            let (weather, cuts) = (watch::Sender::new(Weather::Fair), watch::Sender::new(()));
            let (now, cut) = (weather.subscribe(), cuts.subscribe());
            let mut carrying = JoinSet::new();
            carrying.spawn(async move {
                let mut connections = JoinSet::new();
                while let Ok((near, _)) = listener.accept().await {
                    connections.spawn(carry(near, target, now.clone(), cut.clone()));
                    while connections.try_join_next().is_some() {}
                }
            });
            Self {
                address,
                weather,
                cuts,
                _carrying: carrying,
            }
        })
    }

    /// From now on it is so; what is on its way meanwhile arrives when the weather lets it.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Every connection is reset; new ones are taken.
    pub fn cut(&self) {
        self.cuts.send_replace(());
    }
}

async fn carry(
    mut near: TcpStream,
    target: SocketAddr,
    weather: watch::Receiver<Weather>,
    mut cut: watch::Receiver<()>,
) {
    cut.mark_unchanged();
    let far = TcpStream::connect(target).await;
    // Errors here mean that an end has gone, which the other one is told below.
    let _ = near.set_nodelay(true);
    let Ok(mut far) = far else {
        let _ = near.set_zero_linger();
        return;
    };
    let _ = far.set_nodelay(true);
    let is_cut = {
        let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
        tokio::select! {
            _ = async { tokio::try_join!(pass(near_in, far_out, weather.clone()), pass(far_in, near_out, weather)) } => false,
            _ = cut.changed() => true,
        }
    };
    if is_cut {
        // A reset rather than an end.
        let _ = near.set_zero_linger();
        let _ = far.set_zero_linger();
    }
}

async fn pass(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    let mut piece = vec![0; 16 << 10];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        let now = *weather.borrow_and_update();
        match now {
            Weather::Fair => {}
            Weather::Slow(most) => tokio::time::sleep(most.mul_f64(share())).await,
            Weather::Silent => {
                // An error means that the wire is gone, and this with it.
                let _ = weather
                    .wait_for(|weather| *weather != Weather::Silent)
                    .await;
            }
        }
        to.write_all(&piece[..length]).await?;
    }
}

/// Another number below 1 every time, evenly spread: multiples of the golden ratio.
fn share() -> f64 {
    static DRAWN: AtomicU32 = AtomicU32::new(0);
    f64::from(DRAWN.fetch_add(0x9e37_79b9, Ordering::Relaxed)) / f64::from(u32::MAX)
}
