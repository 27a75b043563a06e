//! A call on its way down the stack: what the layers above have found out, and the request for the
//! layers below.

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

/// A call of a known method.
#[derive(Debug)]
pub(crate) struct Call {
    /// The method.
    pub(crate) method: Arc<Method>,
    /// The service that answers.
    pub(crate) area: Arc<str>,
    /// The caller.
    pub(crate) caller: Caller,
    /// When the caller gives up.
    pub(crate) deadline: Instant,
    /// How the gateway compresses the answer's message, if it does.
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
        /// Its message, if it is one message that can be read.
        message: Option<Bytes>,
    },
    /// Messages that are passed on as they arrive.
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
