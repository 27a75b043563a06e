//! A steady load of requests with known answers: the services are asked first, and every answer of
//! the gateways is compared with theirs byte for byte.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    metadata::MetadataValue,
    transport::Channel,
};

use crate::{runtime, wait_for};

/// Calls per second: low, so that the machine is left to the processes under test.
const RATE: u32 = 150;
/// Most calls in flight.
const AT_ONCE: usize = 256;
/// How long a caller waits for one gateway: longer than the longest timeout of the methods.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Delay before a caller tries another gateway.
const PAUSE: Duration = Duration::from_millis(20);

/// A call with its request.
#[derive(Debug, Clone)]
pub struct Question {
    /// The area that answers.
    pub area: &'static str,
    path: PathAndQuery,
    message: Bytes,
}

impl Question {
    /// A question to a method such as `ChurnService/GetChurnRisk`.
    pub fn new(area: &'static str, method: &str, request: &impl Message) -> Self {
        let path = PathAndQuery::try_from(format!("/shopkeeper.{area}.v1.{method}"));
        let path = path.unwrap_or_else(|e| panic!("{method} is no method: {e}"));
        Self {
            area,
            path,
            message: request.encode_to_vec().into(),
        }
    }
}

/// The answer to a question: its bytes, or the name of the resource that the model does not know.
type Said = Result<Bytes, String>;

/// The right answers by question and model version.
#[derive(Debug)]
pub struct Truth {
    questions: Vec<Question>,
    right: Mutex<HashMap<(usize, String), Said>>,
}

impl Truth {
    /// No answers are known yet.
    pub fn of(questions: Vec<Question>) -> Self {
        Self {
            questions,
            right: Mutex::default(),
        }
    }

    /// Takes the answers of a service as the right ones for the version of its model, and returns
    /// that version.
    pub fn learn(&self, area: &str, service: SocketAddr) -> String {
        let channel = channel(service);
        let mut version = String::new();
        for (at, question) in self
            .questions
            .iter()
            .enumerate()
            .filter(|(_, question)| question.area == area)
        {
            let answer = runtime().block_on(ask(&channel, question, true, ""));
            let (said, heard) =
                answer.unwrap_or_else(|e| panic!("{area} does not answer {}: {e}", question.path));
            version.clone_from(&heard.version);
            locked(&self.right).insert((at, heard.version), said);
        }
        version
    }

    /// Whether a gateway accepts this API key.
    pub fn is_told(&self, gateway: &Channel, key: &str) -> bool {
        let question = self
            .questions
            .first()
            .unwrap_or_else(|| panic!("there are no questions"));
        runtime()
            .block_on(ask(gateway, question, true, key))
            .is_ok()
    }

    /// From now on any answer of this version is wrong.
    pub fn retire(&self, version: &str) {
        locked(&self.right).retain(|(_, of), _| of != version);
    }
}

/// Outcomes of the calls to an area.
#[derive(Debug, Clone, Default)]
pub struct Count {
    /// Calls with the right answer.
    pub right: u64,
    /// Of those, from a cache.
    pub cached: u64,
    /// Calls that were sent to a second gateway because the first did not answer.
    pub again: u64,
    /// Calls refused, by code.
    pub refused: BTreeMap<String, u64>,
    /// Wrong answers.
    pub wrong: Vec<String>,
    /// The longest time to an answer.
    pub slowest: Duration,
}

/// Outcomes by area.
pub type Tally = BTreeMap<&'static str, Count>;

/// Calls that go on until this is dropped.
pub struct Load {
    shared: Arc<Shared>,
    _asking: JoinSet<()>,
}

struct Shared {
    truth: Arc<Truth>,
    gateways: Vec<Channel>,
    key: Mutex<String>,
    begun: AtomicUsize,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    tally: Tally,
    /// By question, and whether the cache was bypassed: start and version of the latest call with
    /// the right answer.
    latest: HashMap<(usize, bool), (Instant, String)>,
}

impl Load {
    /// Starts to call these gateways in turn, with an API key.
    pub fn start(truth: Arc<Truth>, gateways: Vec<Channel>, key: &str) -> Self {
        let key = Mutex::new(key.to_owned());
        let shared = Arc::new(Shared {
            truth,
            gateways,
            key,
            begun: AtomicUsize::new(0),
            seen: Mutex::default(),
        });
        let mut asking = JoinSet::new();
        asking.spawn_on(steady(shared.clone()), runtime().handle());
        Self {
            shared,
            _asking: asking,
        }
    }

    /// From now on callers send this API key.
    pub fn show(&self, key: &str) {
        key.clone_into(&mut locked(&self.shared.key));
    }

    /// Waits until `calls` more calls have been started.
    pub fn goes_on(&self, calls: usize) {
        let until = self.shared.begun.load(Ordering::Relaxed) + calls;
        wait_for("calls go on", || {
            self.shared.begun.load(Ordering::Relaxed) >= until
        });
    }

    /// Waits until every question has had the right answer in a call that started after this one,
    /// both with and without the cache.
    pub fn recovers(&self) {
        self.settles("every question is answered again", |_| true, |_| true);
    }

    /// Waits until every question of an area has been answered by this version.
    pub fn follows(&self, area: &str, version: &str) {
        self.settles(
            "the version answers",
            |question| question.area == area,
            |of| of == version,
        );
    }

    /// Waits until one question of an area has been answered by this version.
    pub fn reaches(&self, area: &str, version: &str) {
        let from = Instant::now();
        let questions = &self.shared.truth.questions;
        wait_for("the version answers", || {
            let seen = locked(&self.shared.seen);
            seen.latest.iter().any(|((at, _), (began, of))| {
                questions[*at].area == area && *began > from && of == version
            })
        });
    }

    /// The outcomes of all calls since the last tally.
    pub fn tally(&self) -> Tally {
        std::mem::take(&mut locked(&self.shared.seen).tally)
    }

    fn settles(&self, what: &str, which: impl Fn(&Question) -> bool, with: impl Fn(&str) -> bool) {
        let from = Instant::now();
        let questions = self
            .shared
            .truth
            .questions
            .iter()
            .enumerate()
            .filter(|(_, question)| which(question));
        let wanted: Vec<_> = questions
            .flat_map(|(at, _)| [(at, true), (at, false)])
            .collect();
        wait_for(what, || {
            let seen = locked(&self.shared.seen);
            wanted.iter().all(|at| {
                seen.latest
                    .get(at)
                    .is_some_and(|(began, of)| *began > from && with(of))
            })
        });
    }
}

async fn steady(shared: Arc<Shared>) {
    let mut ticks = interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut calls = JoinSet::new();
    loop {
        ticks.tick().await;
        let Ok(place) = room.clone().acquire_owned().await else {
            return;
        };
        let shared = shared.clone();
        calls.spawn(async move {
            shared.ask().await;
            drop(place);
        });
        while calls.try_join_next().is_some() {}
    }
}

impl Shared {
    /// Asks the next question, and asks another gateway if the first does not answer.
    async fn ask(&self) {
        let turn = self.begun.fetch_add(1, Ordering::Relaxed);
        let questions = &self.truth.questions;
        let (at, round) = (turn % questions.len(), turn / questions.len());
        let (question, new) = (&questions[at], round % 2 == 1);
        let gateway = |nth: usize| &self.gateways[(at + round / 2 + nth) % self.gateways.len()];
        let key = locked(&self.key).clone();
        let began = Instant::now();
        let mut again = 0;
        let mut answer = ask(gateway(0), question, new, &key).await;
        if answer.as_ref().is_err_and(is_lost) {
            again = 1;
            tokio::time::sleep(PAUSE).await;
            answer = ask(gateway(1), question, new, &key).await;
        }
        let took = began.elapsed();

        let mut seen = locked(&self.seen);
        let count = seen.tally.entry(question.area).or_default();
        count.again += again;
        match answer {
            Err(status) if is_lost(&status) => {
                *count.refused.entry("LOST".to_owned()).or_default() += 1
            }
            Err(status) => {
                *count
                    .refused
                    .entry(format!("{:?}", status.code()))
                    .or_default() += 1
            }
            Ok((said, heard)) => {
                count.slowest = count.slowest.max(took);
                let right = locked(&self.truth.right)
                    .get(&(at, heard.version.clone()))
                    .cloned();
                if right.as_ref() == Some(&said) {
                    count.right += 1;
                    count.cached += u64::from(heard.cached);
                    seen.latest.insert((at, new), (began, heard.version));
                } else {
                    let known = if right.is_some() {
                        "not what its service says"
                    } else {
                        "of a version that is none"
                    };
                    count.wrong.push(format!(
                        "{} of {}: {known}: {said:?}",
                        question.path, heard.version
                    ));
                }
            }
        }
    }
}

/// What the headers of an answer say.
struct Heard {
    version: String,
    cached: bool,
}

async fn ask(
    channel: &Channel,
    question: &Question,
    new: bool,
    key: &str,
) -> Result<(Said, Heard), Status> {
    let mut request = Request::new(question.message.clone());
    if new {
        request
            .metadata_mut()
            .insert("cache-control", MetadataValue::from_static("no-cache"));
    }
    if let Ok(key) = MetadataValue::try_from(key) {
        request.metadata_mut().insert("x-api-key", key);
    }
    let mut client = Grpc::new(channel.clone());
    let call = async {
        client
            .ready()
            .await
            .map_err(|error| lost(error.to_string(), error))?;
        client.unary(request, question.path.clone(), Raw).await
    };
    let answered = timeout(PATIENCE, call)
        .await
        .unwrap_or_else(|late| Err(lost("no answer".to_owned(), late)));
    let (metadata, said) = match answered {
        Ok(response) => {
            let (metadata, body, _) = response.into_parts();
            (metadata, Ok(body))
        }
        Err(status) if status.code() == Code::NotFound => {
            (status.metadata().clone(), Err(status.message().to_owned()))
        }
        Err(status) => return Err(status),
    };
    let field = |name| {
        metadata
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let cached = field("x-cache").starts_with("hit");
    Ok((
        said,
        Heard {
            version: field("x-model-version").to_owned(),
            cached,
        },
    ))
}

/// The status of a call that was not answered.
fn lost(message: String, error: impl Error + Send + Sync + 'static) -> Status {
    let mut status = Status::unavailable(message);
    status.set_source(Arc::new(error));
    status
}

/// Only a status that was made here has an error as its source.
fn is_lost(status: &Status) -> bool {
    status.source().is_some()
}

/// A channel without TLS that connects with its first call.
pub fn channel(address: SocketAddr) -> Channel {
    let _inside = runtime().enter();
    let endpoint = Channel::from_shared(format!("http://{address}"));
    endpoint
        .unwrap_or_else(|e| panic!("{address} is no address: {e}"))
        .connect_lazy()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A codec that leaves messages as bytes.
#[derive(Debug, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
