//! A steady load of questions whose right answers are known: asked of the services themselves
//! beforehand, and compared byte for byte with every answer that the gateways give.

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

/// Calls a second: a load that is always there, and leaves the machine to what is tested.
const RATE: u32 = 150;
/// Most calls at once.
const AT_ONCE: usize = 256;
/// How long a caller waits at one gateway: longer than the longest deadline among the questions'
/// methods.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Before a caller asks another gateway.
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
    /// A method is written `ChurnService/GetChurnRisk`.
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

/// What there is to say to a question: the answer's bytes, or whom or what the model does not know.
type Said = Result<Bytes, String>;

/// The right answers, by question and version of the model.
#[derive(Debug)]
pub struct Truth {
    questions: Vec<Question>,
    right: Mutex<HashMap<(usize, String), Said>>,
}

impl Truth {
    /// Nothing is right yet.
    pub fn of(questions: Vec<Question>) -> Self {
        Self {
            questions,
            right: Mutex::default(),
        }
    }

    /// What a service says itself is right for the model it has; says which version that is.
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

    /// Whether a gateway answers somebody who shows this key.
    pub fn is_told(&self, gateway: &Channel, key: &str) -> bool {
        let question = self
            .questions
            .first()
            .unwrap_or_else(|| panic!("there are no questions"));
        runtime()
            .block_on(ask(gateway, question, true, key))
            .is_ok()
    }

    /// From now on an answer of this version is wrong.
    pub fn retire(&self, version: &str) {
        locked(&self.right).retain(|(_, of), _| of != version);
    }
}

/// What came of the calls of an area.
#[derive(Debug, Clone, Default)]
pub struct Count {
    /// Calls answered rightly.
    pub right: u64,
    /// Of those, from a cache.
    pub cached: u64,
    /// Calls that the caller sent to another gateway, because the first did not answer.
    pub again: u64,
    /// Calls refused, by code.
    pub refused: BTreeMap<String, u64>,
    /// Answers that are not the right ones.
    pub wrong: Vec<String>,
    /// The longest that an answer took.
    pub slowest: Duration,
}

/// What came of calls, by area.
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
    /// When the latest call was made that was answered rightly, and by which version; by question,
    /// and whether the answer had to be new.
    latest: HashMap<(usize, bool), (Instant, String)>,
}

impl Load {
    /// Begins to ask these gateways in turn, with an API key.
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

    /// From now on callers show this key.
    pub fn show(&self, key: &str) {
        key.clone_into(&mut locked(&self.shared.key));
    }

    /// Goes on for so many calls.
    pub fn goes_on(&self, calls: usize) {
        let until = self.shared.begun.load(Ordering::Relaxed) + calls;
        wait_for("calls go on", || {
            self.shared.begun.load(Ordering::Relaxed) >= until
        });
    }

    /// Waits until every question, from now on, has had its right answer, both from wherever is
    /// quickest and new.
    pub fn recovers(&self) {
        self.settles("every question is answered again", |_| true, |_| true);
    }

    /// Waits until every question of an area has had an answer of this version.
    pub fn follows(&self, area: &str, version: &str) {
        self.settles(
            "the version answers",
            |question| question.area == area,
            |of| of == version,
        );
    }

    /// Waits until a question of an area has had an answer of this version.
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

    /// What came of all calls since this was asked last.
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
    /// Asks the next question, at another gateway where the first does not answer.
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

/// What an answer says of itself.
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

/// A call that nobody has answered.
fn lost(message: String, error: impl Error + Send + Sync + 'static) -> Status {
    let mut status = Status::unavailable(message);
    status.set_source(Arc::new(error));
    status
}

/// A status that came from nobody has the error that it was made of.
fn is_lost(status: &Status) -> bool {
    status.source().is_some()
}

/// Calls to a process that does not encrypt, over a connection that is made when it is needed.
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

/// Messages as their bytes.
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
