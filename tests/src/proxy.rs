//! A TCP proxy between two processes that can delay, withhold or cut.

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

/// When a proxy forwards what it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// At once.
    Immediate,
    /// After a random delay below this one, for each piece, so that bytes on two connections arrive
    /// in any order.
    Delayed(Duration),
    /// Not at all; the connections stay open.
    Withheld,
}

/// A proxy in front of a process.
pub struct Proxy {
    /// The address at which it listens.
    pub address: SocketAddr,
    delivery: watch::Sender<Delivery>,
    cuts: watch::Sender<()>,
    _carrying: JoinSet<()>,
}

impl Proxy {
    /// A proxy that forwards at once.
    pub fn to(target: SocketAddr) -> Self {
        runtime().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0")
                .await
                .unwrap_or_else(|e| panic!("no free port: {e}"));
            let address = listener
                .local_addr()
                .unwrap_or_else(|e| panic!("no address: {e}"));
            let (delivery, cuts) = (
                watch::Sender::new(Delivery::Immediate),
                watch::Sender::new(()),
            );
            let (now, cut) = (delivery.subscribe(), cuts.subscribe());
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
                delivery,
                cuts,
                _carrying: carrying,
            }
        })
    }

    /// Sets when bytes are forwarded; those that are withheld are forwarded later.
    pub fn set(&self, delivery: Delivery) {
        self.delivery.send_replace(delivery);
    }

    /// Resets every connection; new ones are accepted.
    pub fn cut(&self) {
        self.cuts.send_replace(());
    }
}

async fn carry(
    mut near: TcpStream,
    target: SocketAddr,
    delivery: watch::Receiver<Delivery>,
    mut cut: watch::Receiver<()>,
) {
    cut.mark_unchanged();
    let far = TcpStream::connect(target).await;
    // An error means that one end has closed; the other is closed below.
    let _ = near.set_nodelay(true);
    let Ok(mut far) = far else {
        let _ = near.set_zero_linger();
        return;
    };
    let _ = far.set_nodelay(true);
    let is_cut = {
        let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
        let sent = pass(near_in, far_out, delivery.clone());
        let answered = pass(far_in, near_out, delivery);
        let carried = async { tokio::try_join!(sent, answered) };
        tokio::select! {
            _ = carried => false,
            _ = cut.changed() => true,
        }
    };
    if is_cut {
        // With zero linger, dropping the sockets sends RST in place of FIN.
        let _ = near.set_zero_linger();
        let _ = far.set_zero_linger();
    }
}

async fn pass(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut delivery: watch::Receiver<Delivery>,
) -> io::Result<()> {
    let mut piece = vec![0; 16 << 10];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        let now = *delivery.borrow_and_update();
        match now {
            Delivery::Immediate => {}
            Delivery::Delayed(most) => tokio::time::sleep(most.mul_f64(share())).await,
            Delivery::Withheld => {
                // An error means that the proxy is dropped, and this task with it.
                let _ = delivery
                    .wait_for(|delivery| *delivery != Delivery::Withheld)
                    .await;
            }
        }
        to.write_all(&piece[..length]).await?;
    }
}

/// The next number of an evenly spread sequence in 0..1: multiples of the golden ratio.
fn share() -> f64 {
    static DRAWN: AtomicU32 = AtomicU32::new(0);
    f64::from(DRAWN.fetch_add(0x9e37_79b9, Ordering::Relaxed)) / f64::from(u32::MAX)
}
