//! A call on its way down the stack: what the layers above have found out, and the request that
//! goes on.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use tokio::time::Instant;
use tonic::body::Body;

use crate::{
    attempts::{AttemptedReplicas, RetryBudget},
    caller::Caller,
    grpc::compression::Encoding,
    method::Method,
};

/// A call whose method is known.
#[derive(Debug)]
pub(crate) struct Call {
    /// What is called.
    pub(crate) method: Arc<Method>,
    /// Which service is asked.
    pub(crate) area: Arc<str>,
    /// Who asks.
    pub(crate) caller: Caller,
    /// When an answer is too late.
    pub(crate) deadline: Instant,
    /// How the answer's message is compressed, where that is done here.
    pub(crate) reply: Option<Encoding>,
    /// The replicas that were tried.
    pub(crate) attempted: AttemptedReplicas,
    /// What retries and hedges are paid from; none if the call may not be repeated.
    pub(crate) budget: Option<RetryBudget>,
    /// The request's headers.
    pub(crate) headers: HeaderMap,
    /// The request's messages.
    pub(crate) payload: Payload,
}

/// A request's messages.
#[derive(Debug)]
pub(crate) enum Payload {
    /// All of them, as on the wire.
    Whole {
        /// The body.
        body: Bytes,
        /// Its message, where it is one message that can be read.
        message: Option<Bytes>,
    },
    /// They come as they come.
    Stream(Body),
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{grpc::frame, method::Methods};
    use std::sync::LazyLock;

    static METHODS: LazyLock<Methods> =
        LazyLock::new(|| Methods::read(proto::DESCRIPTORS).unwrap());

    /// A call of a method of the API, for tests of layers.
    pub(crate) fn call(path: &str, message: &'static [u8]) -> Call {
        let method = METHODS.get(path).unwrap().clone();
        Call {
            area: method.area.clone(),
            caller: Caller::anonymous(),
            deadline: Instant::now() + method.timeout,
            method,
            reply: None,
            attempted: AttemptedReplicas::default(),
            budget: None,
            headers: HeaderMap::new(),
            payload: Payload::Whole {
                body: frame::framed(false, message).unwrap(),
                message: Some(Bytes::from_static(message)),
            },
        }
    }
}
