//! Retries a call that was lost on its way, or that a replica refused without side effects: at
//! another replica if there is one, only for methods without side effects, only while the caller's
//! time lasts, and not when so many calls fail that retries make it worse. As gRFC A6 has it:
//! UNAVAILABLE before any message, RESOURCE_EXHAUSTED if the service says when
//! (`grpc-retry-pushback-ms`), never if it says not to; [`RetryBudget`] bounds the retries of all
//! calls together.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use http::HeaderValue;
use tokio::time::Instant;

use crate::{
    attempts::{PREVIOUS_ATTEMPTS, RetryBudget},
    call::{Call, Payload},
    metrics,
    middleware::{Handler, Middleware, MiddlewareLayer},
    outcome::{Answer, Outcome},
};

/// Numbers of this layer.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Attempts at a call, the first one included.
    pub(crate) max_attempts: u32,
    /// Pause before the second attempt, and twice as long before the third: long enough for a
    /// connection to be seen as broken and made again, short enough not to be noticed.
    pub(crate) pause: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            pause: Duration::from_millis(20),
        }
    }
}

/// Retries calls of these services.
pub(crate) fn layer(areas: BTreeSet<Arc<str>>) -> MiddlewareLayer<Retry> {
    let budgets = areas
        .into_iter()
        .map(|area| (area, RetryBudget::default()))
        .collect();
    MiddlewareLayer::new(Retry {
        budgets,
        config: Config::default(),
    })
}

/// See [`layer`].
#[derive(Debug)]
pub(crate) struct Retry {
    budgets: HashMap<Arc<str>, RetryBudget>,
    config: Config,
}

impl Middleware<Call> for Retry {
    type Next = Call;

    async fn handle(&self, mut call: Call, next: &impl Handler<Call>) -> Answer {
        let budget = self.budgets.get(&call.area);
        let Some(budget) = budget.filter(|_| call.method.is_repeatable()) else {
            return next.call(call).await;
        };
        call.budget = Some(budget.clone());
        let mut made = 0;
        loop {
            made += 1;
            // A copy has to be made before the call is given away.
            let retry = again(&call, made).filter(|_| made < self.config.max_attempts);
            let answer = next.call(call).await;
            match (self.pause(budget, &answer, made), retry) {
                (Some(pause), Some(retry)) if Instant::now() + pause < retry.deadline => {
                    metrics::retried(&retry.area);
                    tokio::time::sleep(pause).await;
                    call = retry;
                }
                (Some(_) | None, _) => return answer,
            }
        }
    }
}

impl Retry {
    /// Counts how an attempt ended, the `made`-th of its call. Returns the pause before the next
    /// one, if there may be one.
    fn pause(&self, budget: &RetryBudget, answer: &Answer, made: u32) -> Option<Duration> {
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
            Outcome::Retry { after } => {
                let pause = after.unwrap_or(self.config.pause * made);
                budget.failed().then_some(pause)
            }
        }
    }
}

/// The same call, for another attempt after `made` of them.
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
        error::{BoxError, DeadlineError, Unreachable},
        grpc::frame,
        method::Method,
        middleware::{Layered, tests::Bottom},
        outcome::PUSHBACK,
    };
    use http::Response;
    use tonic::{Code, Status, body::Body};
    use tower::Layer;
    use tower_test::mock::{Handle, Mock, pair};

    const RISK: &str = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";

    fn lost() -> BoxError {
        Unreachable::new("churn", "the connection closed").into()
    }

    type Mocked = (
        Layered<Retry, Bottom<Mock<Call, Response<Body>>>>,
        Handle<Call, Response<Body>>,
    );

    fn mocked() -> Mocked {
        let (mock, mut handle) = pair();
        handle.allow(1000);
        (layer(["churn".into()].into()).layer(Bottom(mock)), handle)
    }

    fn says(code: Code, pushback: Option<&'static str>) -> Answer {
        let mut response = Status::new(code, "").into_http();
        let pushback = pushback.map(|pushback| (PUSHBACK, HeaderValue::from_static(pushback)));
        response.headers_mut().extend(pushback);
        Ok(response)
    }

    fn answered() -> Answer {
        Ok(Response::default())
    }

    /// Answers attempts in turn; returns their number, how the call ended, and how long it took.
    async fn attempts(
        (service, handle): &mut Mocked,
        call: Call,
        answers: Vec<Answer>,
    ) -> (usize, Result<Option<Code>, BoxError>, Duration) {
        let start = Instant::now();
        let Payload::Whole { body: sent, .. } = &call.payload else {
            panic!("a stream")
        };
        let (sent, attempted) = (sent.clone(), call.attempted.clone());
        let answer = service.call(call);
        tokio::pin!(answer);
        let mut made = 0;
        let mut answers = answers.into_iter();
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => {
                    let code = answer.map(|response| frame::code(response.headers()));
                    return (made, code, start.elapsed());
                }
                request = handle.next_request() => {
                    let (call, send) = request.unwrap();
                    let previous = call.headers.get(PREVIOUS_ATTEMPTS);
                    let previous = previous.map(|previous| previous.to_str().unwrap());
                    assert_eq!(previous, (made > 0).then(|| made.to_string()).as_deref());
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
    async fn a_lost_call_is_retried() {
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
    async fn a_services_status_and_pushback_decide_about_a_retry() {
        use Code::{Internal, InvalidArgument, ResourceExhausted, Unavailable};
        struct Case {
            code: Code,
            pushback: Option<&'static str>,
            made: usize,
            pause_ms: u128,
        }
        let case = |code, pushback, made, pause_ms| Case {
            code,
            pushback,
            made,
            pause_ms,
        };
        for Case {
            code,
            pushback,
            made,
            pause_ms: pause,
        } in [
            case(Unavailable, None, 2, 20),
            case(Unavailable, Some("5"), 2, 5),
            case(Unavailable, Some("0"), 2, 0),
            case(Unavailable, Some("-1"), 1, 0),
            case(Unavailable, Some("soon"), 1, 0),
            case(Unavailable, Some("250"), 1, 0), // the caller's time is over by then
            case(ResourceExhausted, None, 1, 0),
            case(ResourceExhausted, Some("7"), 2, 7),
            case(ResourceExhausted, Some("-1"), 1, 0),
            case(Internal, None, 1, 0),
            case(Internal, Some("5"), 1, 0),
            case(InvalidArgument, None, 1, 0),
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
    async fn a_call_with_side_effects_or_another_error_is_not_retried() {
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
    async fn when_many_calls_fail_none_is_retried() {
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
