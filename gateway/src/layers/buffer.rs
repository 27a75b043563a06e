//! Takes a request into memory if a layer below needs the whole of it: the cache its bytes, a retry
//! the same bytes again, routing one field. All other requests stream through, as fast as the
//! service reads them.

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_LENGTH};
use proto::MAX_MESSAGE;

use crate::{
    call::{Call, Payload},
    grpc::{
        compression::{self, Encoding, OpenError},
        frame::{self, BufferError},
    },
    method::Method,
    middleware::{Handler, Middleware, MiddlewareLayer},
    outcome::Answer,
};

/// Takes requests into memory if that is needed.
pub(crate) fn layer() -> MiddlewareLayer<Buffer> {
    MiddlewareLayer::new(Buffer)
}

/// See [`layer`].
#[derive(Debug)]
pub(crate) struct Buffer;

impl Middleware<Call> for Buffer {
    type Next = Call;

    async fn handle(&self, mut call: Call, next: &impl Handler<Call>) -> Answer {
        call.payload = match call.payload {
            Payload::Stream(body) if is_needed_whole(&call.method) => {
                let body = frame::whole(body, MAX_MESSAGE).await?;
                open(body, &call.method, &mut call.headers, &mut call.reply)?
            }
            payload @ (Payload::Stream(_) | Payload::Whole { .. }) => payload,
        };
        next.call(call).await
    }
}

fn is_needed_whole(method: &Method) -> bool {
    !method.client_streaming && (method.is_repeatable() || method.route_field.is_some())
}

/// The message inside. A request that is no message, or cannot be decompressed, goes on as it is:
/// it is the service that refuses it.
fn open(
    body: Bytes,
    method: &Method,
    headers: &mut HeaderMap,
    reply: &mut Option<Encoding>,
) -> Result<Payload, BufferError> {
    let message = match frame::only(&body) {
        None => None,
        Some((false, message)) => Some(message),
        Some((true, packed)) if method.is_cacheable() || method.route_field.is_some() => {
            match Encoding::of(headers)
                .map(|encoding| (encoding, encoding.open(&packed, MAX_MESSAGE)))
            {
                Some((encoding, Ok(message))) => {
                    *reply = Some(encoding).filter(|encoding| encoding.is_accepted(headers));
                    headers.remove(compression::ENCODING);
                    headers.remove(CONTENT_LENGTH); // of the compressed message
                    let body = frame::framed(false, &message).unwrap_or_default();
                    return Ok(Payload::Whole {
                        body,
                        message: Some(message),
                    });
                }
                Some((_, Err(OpenError::TooLarge))) => {
                    return Err(BufferError::TooLarge { limit: MAX_MESSAGE });
                }
                Some((_, Err(OpenError::Garbled(_)))) | None => None,
            }
        }
        Some((true, _)) => None,
    };
    Ok(Payload::Whole { body, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        call::tests::call,
        grpc::frame::{Known, framed},
    };
    use crate::{error::BoxError, middleware::tests::Bottom};
    use http::{HeaderValue, Response};
    use tonic::body::Body;
    use tower::{Layer, service_fn};

    const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";
    const BATCH: &str = "/shopkeeper.churn.v1.ChurnService/BatchGetChurnRisks";
    const STREAM: &str = "/shopkeeper.anomaly.v1.AnomalyService/ScoreTransactions";

    /// The call as the layer hands it on.
    async fn handed_on(
        path: &str,
        body: Bytes,
        encoding: Option<&'static str>,
    ) -> Result<Call, BoxError> {
        let (sent, mut received) = tokio::sync::mpsc::channel(1);
        let inner = service_fn(move |call: Call| {
            let sent = sent.clone();
            async move {
                sent.send(call).await.unwrap();
                Ok::<_, BoxError>(Response::<Body>::default())
            }
        });
        let mut call = Call {
            payload: Payload::Stream(Known::body(body, None)),
            ..call(path, b"")
        };
        if let Some(encoding) = encoding {
            call.headers
                .insert(compression::ENCODING, HeaderValue::from_static(encoding));
            call.headers
                .insert(compression::ACCEPT, HeaderValue::from_static("gzip"));
        }
        layer().layer(Bottom(inner)).call(call).await?;
        Ok(received.recv().await.unwrap())
    }

    #[tokio::test]
    async fn a_message_is_opened_once_for_all_callers() {
        let message = b"who is this customer, and this one, and that one ".repeat(50);
        let plain = framed(false, &message).unwrap();
        for (encoding, header, reply) in [
            (Encoding::Gzip, "gzip", Some(Encoding::Gzip)),
            (Encoding::Zstd, "zstd", None),
        ] {
            let packed = framed(true, &encoding.pack(&message).unwrap()).unwrap();
            let call = handed_on(RISK, packed, Some(header)).await.unwrap();
            assert_eq!(
                (call.reply, call.headers.get(compression::ENCODING)),
                (reply, None)
            );
            let Payload::Whole {
                body,
                message: Some(opened),
            } = call.payload
            else {
                panic!("{:?}", call.payload)
            };
            assert_eq!(
                (body, opened),
                (plain.clone(), Bytes::from(message.clone()))
            );
        }
    }

    #[tokio::test]
    async fn what_cannot_be_opened_goes_on_as_it_came() {
        let packed = framed(true, b"snap").unwrap();
        for encoding in [Some("snappy"), Some("gzip"), None] {
            let call = handed_on(RISK, packed.clone(), encoding).await.unwrap();
            assert_eq!(
                call.headers
                    .get(compression::ENCODING)
                    .map(|v| v.to_str().unwrap()),
                encoding
            );
            assert!(
                matches!(call.payload, Payload::Whole { body, message: None } if body == packed)
            );
        }
        // Neither the cache nor routing looks into this one.
        let call = handed_on(BATCH, packed.clone(), Some("gzip"))
            .await
            .unwrap();
        assert!(matches!(call.payload, Payload::Whole { body, message: None } if body == packed));
        assert!(matches!(
            handed_on(STREAM, packed, None).await.unwrap().payload,
            Payload::Stream(_)
        ));
    }

    #[tokio::test]
    async fn a_message_above_the_limit_is_refused_packed_or_not() {
        let large = vec![b'a'; MAX_MESSAGE + 1];
        let plain = framed(false, &large).unwrap();
        let packed = framed(true, &Encoding::Gzip.pack(&large).unwrap()).unwrap();
        for (body, encoding) in [(plain, None), (packed, Some("gzip"))] {
            let refused = handed_on(RISK, body, encoding).await.unwrap_err();
            assert!(matches!(
                refused.downcast_ref(),
                Some(BufferError::TooLarge { limit: MAX_MESSAGE })
            ));
        }
        let just = framed(false, &large[1..]).unwrap();
        assert!(handed_on(RISK, just, None).await.is_ok());
    }
}
