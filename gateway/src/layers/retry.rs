//! Asks again when a call was lost on its way, or when a replica says at once that it cannot
//! answer: another replica where there is one, only where asking again does no harm, only while the
//! caller's time lasts, and not when so many calls fail that asking again makes it worse. As gRFC
//! A6 has it: UNAVAILABLE before any message, RESOURCE_EXHAUSTED where the service
//! says when (`grpc-retry-pushback-ms`), never where it says not to; a failure takes a token, an
//! answer gives back a tenth, and below half of a hundred nobody asks again.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{HeaderValue, Response};
use tokio::time::Instant;
use tonic::body::Body;
use tower::{Layer, Service, ServiceExt, layer::layer_fn};

use crate::{
    attempts::{PREVIOUS_ATTEMPTS, RetryBudget},
    call::{Call, Payload},
    error::BoxError,
    metrics,
    outcome::{Answer, Outcome},
};

/// A call is made so many times at most.
const MOST: u32 = 3;
/// Long enough for a connection to be seen as broken and begun again, short enough for nobody to
/// notice. Twice as long before the attempt after that.
const PAUSE: Duration = Duration::from_millis(20);

/// Counts how an attempt ended, the `made`-th of its call. Returns the pause before the next one, if
/// there may be one.
fn pause(budget: &RetryBudget, answer: &Answer, made: u32) -> Option<Duration> {
    match Outcome::of(answer) {
        Outcome::Answered => {
            budget.answered();
            None
        }
        Outcome::Inconclusive => None,
        Outcome::NoRetry => {
            budget.failed();
            None
        }
        Outcome::Retry { after } => budget.failed().then(|| after.unwrap_or(PAUSE * made)),
    }
}

/// Asks these services again where that does no harm.
pub(crate) fn layer<S>(areas: BTreeSet<Arc<str>>) -> impl Layer<S, Service = Retrying<S>> + Clone {
    let budgets: HashMap<_, _> = areas
        .into_iter()
        .map(|area| (area, RetryBudget::default()))
        .collect();
    let budgets = Arc::new(budgets);
    layer_fn(move |inner| Retrying {
        inner,
        budgets: budgets.clone(),
    })
}

/// See [`layer`].
#[derive(Debug, Clone)]
pub(crate) struct Retrying<S> {
    inner: S,
    budgets: Arc<HashMap<Arc<str>, RetryBudget>>,
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

    fn call(&mut self, mut call: Call) -> Self::Future {
        let spare = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, spare);
        let Some(budget) = self
            .budgets
            .get(&call.area)
            .cloned()
            .filter(|_| call.method.is_repeatable())
        else {
            return Box::pin(inner.call(call));
        };
        call.budget = Some(budget.clone());
        Box::pin(async move {
            let mut made = 0;
            loop {
                made += 1;
                let next = again(&call, made).filter(|_| made < MOST);
                let answer = inner.ready().await?.call(call).await;
                match (pause(&budget, &answer, made), next) {
                    (Some(pause), Some(next)) if Instant::now() + pause < next.deadline => {
                        metrics::retried(&next.area);
                        tokio::time::sleep(pause).await;
                        call = next;
                    }
                    (Some(_) | None, _) => return answer,
                }
            }
        })
    }
}

/// The same call, for an attempt after so many.
fn again(call: &Call, made: u32) -> Option<Call> {
    let Payload::Whole { body, message } = &call.payload else {
        return None;
    };
    call.method.is_repeatable().then(|| {
        let mut headers = call.headers.clone();
        headers.insert(PREVIOUS_ATTEMPTS, HeaderValue::from(made));
        Call {
            method: call.method.clone(),
            area: call.area.clone(),
            caller: call.caller,
            deadline: call.deadline,
            reply: call.reply,
            attempted: call.attempted.clone(),
            budget: call.budget.clone(),
            headers,
            payload: Payload::Whole {
                body: body.clone(),
                message: message.clone(),
            },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        call::tests::call,
        error::{DeadlineError, Unreachable},
        grpc::frame,
        method::Method,
        outcome::PUSHBACK,
    };
    use tonic::{Code, Status};
    use tower_test::mock::{Handle, Mock, pair};

    const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";

    fn lost() -> BoxError {
        Unreachable::new("churn", "the connection closed").into()
    }

    type Mocked = (
        Retrying<Mock<Call, Response<Body>>>,
        Handle<Call, Response<Body>>,
    );

    fn mocked() -> Mocked {
        let (mock, mut handle) = pair();
        handle.allow(1000);
        (layer(["churn".into()].into()).layer(mock), handle)
    }

    fn says(code: Code, pushback: Option<&'static str>) -> Result<Response<Body>, BoxError> {
        let mut response = Status::new(code, "").into_http();
        let pushback = pushback.map(|pushback| (PUSHBACK, HeaderValue::from_static(pushback)));
        response.headers_mut().extend(pushback);
        Ok(response)
    }

    fn answered() -> Result<Response<Body>, BoxError> {
        Ok(Response::default())
    }

    /// Answers attempts in turn; says how many there were, how it ended, and how long it took.
    async fn attempts(
        (service, handle): &mut Mocked,
        call: Call,
        answers: Vec<Result<Response<Body>, BoxError>>,
    ) -> (usize, Result<Option<Code>, BoxError>, Duration) {
        let start = Instant::now();
        let Payload::Whole { body: sent, .. } = &call.payload else {
            panic!("a stream")
        };
        let (sent, attempted) = (sent.clone(), call.attempted.clone());
        let answer = service.ready().await.unwrap().call(call);
        tokio::pin!(answer);
        let mut made = 0;
        let mut answers = answers.into_iter();
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => {
                    return (made, answer.map(|response| frame::code(response.headers())), start.elapsed());
                }
                request = handle.next_request() => {
                    let (call, send) = request.unwrap();
                    let attempts = call.headers.get(PREVIOUS_ATTEMPTS).map(|attempts| attempts.to_str().unwrap().to_owned());
                    assert_eq!(attempts, (made > 0).then(|| made.to_string()));
                    assert!(matches!(call.payload, Payload::Whole { body, .. } if body == sent));
                    assert!(call.attempted.is_same(&attempted), "attempts share one list");
                    made += 1;
                    match answers.next().unwrap() {
                        Ok(response) => send.send_response(response),
                        Err(error) => send.send_error(error),
                    }
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_call_is_made_again() {
        let mut m = mocked();
        let (made, ended, _) =
            attempts(&mut m, call(RISK, b"1"), vec![Err(lost()), answered()]).await;
        assert_eq!((made, ended.unwrap()), (2, None));
        let (made, ended, _) = attempts(
            &mut m,
            call(RISK, b"1"),
            vec![Err(lost()), Err(lost()), Err(lost())],
        )
        .await;
        assert!(made == 3 && ended.unwrap_err().is::<Unreachable>());
        assert_eq!(
            attempts(&mut m, call(RISK, b"1"), vec![answered()]).await.0,
            1
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_service_says_decides_whether_it_is_asked_again() {
        use Code::{Internal, InvalidArgument, ResourceExhausted, Unavailable};
        for (code, pushback, made, pause) in [
            (Unavailable, None, 2, 20),
            (Unavailable, Some("5"), 2, 5),
            (Unavailable, Some("0"), 2, 0),
            (Unavailable, Some("-1"), 1, 0),
            (Unavailable, Some("soon"), 1, 0),
            (Unavailable, Some("250"), 1, 0), // the caller's time is over by then
            (ResourceExhausted, None, 1, 0),
            (ResourceExhausted, Some("7"), 2, 7),
            (ResourceExhausted, Some("-1"), 1, 0),
            (Internal, None, 1, 0),
            (Internal, Some("5"), 1, 0),
            (InvalidArgument, None, 1, 0),
        ] {
            let mut m = mocked();
            let answers = vec![says(code, pushback), answered()];
            let (tried, ended, took) = attempts(&mut m, call(RISK, b"1"), answers).await;
            let last = (made == 1).then_some(code);
            assert_eq!(
                (tried, ended.unwrap()),
                (made, last),
                "{code:?} {pushback:?}"
            );
            assert!(
                (pause..=pause + 2).contains(&took.as_millis()),
                "{code:?} {pushback:?}: {took:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_with_effects_or_another_fate_is_not() {
        let mut m = mocked();
        let mut effects = call(RISK, b"1");
        effects.method = Arc::new(Method {
            side_effect_free: false,
            ..(*effects.method).clone()
        });
        assert_eq!(attempts(&mut m, effects, vec![Err(lost())]).await.0, 1);
        assert_eq!(
            attempts(
                &mut m,
                call(RISK, b"1"),
                vec![Err(DeadlineError::Passed.into())]
            )
            .await
            .0,
            1
        );
    }

    #[tokio::test(start_paused = true)]
    async fn when_many_fail_nobody_asks_again() {
        for failure in [lost as fn() -> BoxError, || "".into()] {
            let mut m = mocked();
            let failed = || match failure() {
                error if error.is::<Unreachable>() => Err(error),
                _ => says(Code::Unavailable, None),
            };
            let mut made = 0;
            for _ in 0..100 {
                made += attempts(&mut m, call(RISK, b"1"), vec![failed(), failed(), failed()])
                    .await
                    .0;
            }
            assert_eq!(made, 100 + 33);
        }
    }
}
