//! The gateway's drain: calls in flight end, streams that would last for ever are ended.

use tokio::sync::watch;

/// Resolves once the gateway drains; never, if the sender is gone before that.
pub(crate) async fn begun(mut draining: watch::Receiver<bool>) {
    if draining.wait_for(|draining| *draining).await.is_err() {
        std::future::pending().await
    }
}
