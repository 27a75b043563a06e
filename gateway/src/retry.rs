//! Asks a second time when a call was lost on its way: only where a second time does no harm, only once, and not when so
//! many are lost that asking again makes it worse (gRFC A6's bucket: a loss takes a token, an answer gives back a tenth,
//! and below half of ten nobody asks again).

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Response};
use tonic::body::Body;
use tower::{Layer, Service, ServiceExt, layer::layer_fn};

use crate::{
    backend::Unreachable,
    call::{Call, Payload},
    meter,
    stack::BoxError,
};

const ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
/// Long enough for a connection to be seen as broken and begun again, short enough for nobody to notice.
const PAUSE: Duration = Duration::from_millis(20);

/// Tokens, in tenths.
const MOST: u32 = 100;
const LOSS: u32 = 10;
const ANSWER: u32 = 1;

/// How many second attempts a service may be asked for.
#[derive(Debug, Clone)]
struct Budget(Arc<AtomicU32>);

impl Budget {
    fn new() -> Self {
        Self(Arc::new(AtomicU32::new(MOST)))
    }

    fn answered(&self) {
        if self.0.load(Ordering::Relaxed) < MOST {
            self.change(|tokens| (tokens + ANSWER).min(MOST));
        }
    }

    /// Whether there may be another attempt after this loss.
    fn lost(&self) -> bool {
        self.change(|tokens| tokens.saturating_sub(LOSS)) > MOST / 2
    }

    fn change(&self, change: impl Fn(u32) -> u32) -> u32 {
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| Some(change(tokens)));
        before.map_or(0, change)
    }
}

/// Asks these services a second time where that does no harm.
pub(crate) fn layer<S>(areas: BTreeSet<Arc<str>>) -> impl Layer<S, Service = Retrying<S>> + Clone {
    let budgets: HashMap<_, _> = areas.into_iter().map(|area| (area, Budget::new())).collect();
    let budgets = Arc::new(budgets);
    layer_fn(move |inner| Retrying { inner, budgets: budgets.clone() })
}

/// See [`layer`].
#[derive(Debug, Clone)]
pub(crate) struct Retrying<S> {
    inner: S,
    budgets: Arc<HashMap<Arc<str>, Budget>>,
}

impl<S> Service<Call> for Retrying<S>
where
    S: Service<Call, Response = Response<Body>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let spare = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, spare);
        let (Some(budget), Some(second)) = (self.budgets.get(&call.area).cloned(), again(&call)) else {
            return Box::pin(inner.call(call));
        };
        Box::pin(async move {
            match inner.call(call).await {
                Err(error) if error.is::<Unreachable>() && budget.lost() => {
                    meter::retried(&second.area);
                    tokio::time::sleep(PAUSE).await;
                    let answer = inner.ready().await?.call(second).await;
                    if answer.is_ok() {
                        budget.answered();
                    }
                    answer
                }
                Err(error) => Err(error),
                Ok(response) => {
                    budget.answered();
                    Ok(response)
                }
            }
        })
    }
}

/// The same call, for a second attempt.
fn again(call: &Call) -> Option<Call> {
    let Payload::Whole { body, message } = &call.payload else { return None };
    call.method.is_repeatable().then(|| {
        let mut headers = call.headers.clone();
        headers.insert(ATTEMPTS, HeaderValue::from_static("1"));
        Call {
            method: call.method.clone(),
            area: call.area.clone(),
            caller: call.caller,
            deadline: call.deadline,
            reply: call.reply,
            headers,
            payload: Payload::Whole { body: body.clone(), message: message.clone() },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{call::tests::call, deadline::DeadlineError, method::Method};
    use tower_test::mock::{Handle, Mock, pair};

    const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";

    fn lost() -> BoxError {
        Unreachable::new("churn", "the connection closed").into()
    }

    type Mocked = (Retrying<Mock<Call, Response<Body>>>, Handle<Call, Response<Body>>);

    fn mocked() -> Mocked {
        let (mock, mut handle) = pair();
        handle.allow(100);
        (layer(["churn".into()].into()).layer(mock), handle)
    }

    /// Answers attempts in turn; says how many there were, and how it ended.
    async fn attempts((service, handle): &mut Mocked, call: Call, answers: Vec<Result<(), BoxError>>) -> (usize, bool) {
        let answer = service.ready().await.unwrap().call(call);
        tokio::pin!(answer);
        let mut made = 0;
        let mut answers = answers.into_iter();
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return (made, answer.is_ok()),
                request = handle.next_request() => {
                    let (call, send) = request.unwrap();
                    assert_eq!(call.headers.get(ATTEMPTS).is_some(), made > 0);
                    assert!(matches!(call.payload, Payload::Whole { .. }));
                    made += 1;
                    match answers.next().unwrap() {
                        Ok(()) => send.send_response(Response::default()),
                        Err(error) => send.send_error(error),
                    }
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_call_is_made_once_more() {
        let mut m = mocked();
        assert_eq!(attempts(&mut m, call(RISK, b"1"), vec![Err(lost()), Ok(())]).await, (2, true));
        assert_eq!(attempts(&mut m, call(RISK, b"1"), vec![Err(lost()), Err(lost())]).await, (2, false));
        assert_eq!(attempts(&mut m, call(RISK, b"1"), vec![Ok(())]).await, (1, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_with_effects_or_another_fate_is_not() {
        let mut m = mocked();
        let mut effects = call(RISK, b"1");
        effects.method = Arc::new(Method { side_effect_free: false, ..(*effects.method).clone() });
        assert_eq!(attempts(&mut m, effects, vec![Err(lost())]).await, (1, false));
        assert_eq!(attempts(&mut m, call(RISK, b"1"), vec![Err(DeadlineError::Passed.into())]).await, (1, false));
    }

    #[tokio::test(start_paused = true)]
    async fn when_many_are_lost_nobody_asks_again() {
        let mut m = mocked();
        let mut made = 0;
        for _ in 0..20 {
            made += attempts(&mut m, call(RISK, b"1"), vec![Err(lost()), Err(lost())]).await.0;
        }
        assert_eq!(made, 20 + 4);
    }
}
