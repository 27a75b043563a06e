//! The harness of the end-to-end tests: the release binaries as processes, a real Redis, real
//! files, and grpcio as the client.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "a harness tells its tests by panicking"
)]

pub mod hostile;

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

use tempfile::TempDir;
use tokio::runtime::Runtime;

pub mod load;
pub mod proxy;

/// The areas that have a service of their own.
pub const AREAS: [&str; 6] = [
    "segmentation",
    "forecast",
    "recommendation",
    "churn",
    "anomaly",
    "insights",
];

/// Longest that a condition is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// The real Online Retail file.
pub fn online_retail() -> PathBuf {
    root().join("../shared/data/online_retail.csv")
}

/// A binary of the workspace, built before the tests in the same profile and target folder.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let folder = test
        .ancestors()
        .nth(2)
        .unwrap_or(Path::new("target/release"));
    let binary = folder.join(name);
    assert!(
        binary.is_file(),
        "{} is not there: run `make build` first",
        binary.display()
    );
    binary
}

/// Runs the trainer and waits for its end.
pub fn trainer<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    let mut command = Command::new(binary("trainer"));
    command
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("the trainer does not start: {e}"))
}

/// The command's stderr.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The command's stdout.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs the trainer, which must exit with 0.
pub fn trained_well<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    let output = trainer(arguments);
    assert!(
        output.status.success(),
        "the trainer failed: {}",
        stderr(&output)
    );
    output
}

/// A lake and models of the real file as of 2011-09-01. They are trained once per build of the
/// trainer and shared by all test binaries; tests that write to them take a copy.
pub fn trained() -> &'static Trained {
    static TRAINED: OnceLock<Trained> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let trainer = binary("trainer");
        let made =
            fs_err::metadata(&trainer).and_then(|about| Ok((about.modified()?, about.len())));
        let (at, size) = made.unwrap_or_else(|e| panic!("{e}"));
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let kept = trainer.with_file_name("e2e");
        let folder = kept.join(format!("{at}-{size}"));
        if !folder.is_dir() {
            let _ = fs_err::remove_dir_all(&kept);
            let making = fs_err::create_dir_all(&kept).and_then(|()| TempDir::new_in(&kept));
            let trained = Trained::within(making);
            let input = online_retail();
            let output = trained_well(
                [
                    OsStr::new("run"),
                    "--as-of".as_ref(),
                    "2011-09-01".as_ref(),
                    "--input".as_ref(),
                    input.as_os_str(),
                ]
                .into_iter()
                .map(OsStr::to_owned)
                .chain(trained.flags()),
            );
            println!("{}", stdout(&output));
            fs_err::rename(&trained.folder, &folder).unwrap_or_else(|e| panic!("{e}"));
        }
        Trained {
            folder,
            _ends_with: None,
        }
    })
}

/// A lake and a model store.
pub struct Trained {
    folder: PathBuf,
    _ends_with: Option<TempDir>,
}

impl Trained {
    /// An empty lake and an empty store.
    pub fn empty() -> Self {
        Self::within(TempDir::new())
    }

    fn within(folder: std::io::Result<TempDir>) -> Self {
        let folder = folder.unwrap_or_else(|e| panic!("no temporary folder: {e}"));
        Self {
            folder: folder.path().to_owned(),
            _ends_with: Some(folder),
        }
    }

    /// A copy that a test may write to.
    pub fn copy(&self) -> Self {
        let copy = Self::empty();
        let status = Command::new("cp")
            .arg("-a")
            .args([self.lake(), self.models()])
            .arg(&copy.folder)
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "the models cannot be copied"
        );
        copy
    }

    /// The lake.
    pub fn lake(&self) -> PathBuf {
        self.folder.join("lake")
    }

    /// The model store.
    pub fn models(&self) -> PathBuf {
        self.folder.join("models")
    }

    /// `--lake` and `--models`.
    pub fn flags(&self) -> impl Iterator<Item = std::ffi::OsString> {
        [
            "--lake".into(),
            self.lake().into_os_string(),
            "--models".into(),
            self.models().into_os_string(),
        ]
        .into_iter()
    }
}

/// The runtime of the harness's own calls and proxies.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap_or_else(|e| panic!("no runtime: {e}")))
}

/// A process that is killed when this is dropped.
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts a command.
    pub fn start(name: &str, command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        Self {
            name: name.to_owned(),
            child,
        }
    }

    /// Sends SIGTERM, as an orchestrator does. Returns whether the process exited with 0.
    pub fn terminate(&mut self) -> bool {
        let told = self.signal("TERM");
        let deadline = Instant::now() + PATIENCE;
        while told && Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.success();
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Sends a signal, such as `STOP`. Returns whether the process was running.
    pub fn signal(&self, signal: &str) -> bool {
        let pid = self.child.id().to_string();
        Command::new("kill")
            .args([&format!("-{signal}"), &pid])
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn assert_running(&mut self) {
        let ended = self.child.try_wait().ok().flatten();
        assert!(ended.is_none(), "{} has ended: {ended:?}", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An address at which no process listens.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.unwrap_or_else(|e| panic!("no free port: {e}"))
}

/// Waits for a condition, and panics if it does not hold within a minute.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Head and body of the answer to a GET request.
///
/// # Errors
/// If there is no answer within a second, or it breaks off.
pub fn page(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// A real Redis.
pub struct Redis {
    /// The process.
    pub process: Process,
    /// The address at which it listens.
    pub address: SocketAddr,
}

impl Redis {
    /// Starts a Redis without persistence.
    pub fn start() -> Self {
        Self::start_at(free_address())
    }

    /// Starts an empty Redis at the same address.
    pub fn start_again(&mut self) {
        self.kill();
        *self = Self::start_at(self.address);
    }

    fn start_at(address: SocketAddr) -> Self {
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &address.port().to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        let mut process = Process::start("redis-server", command.stdout(Stdio::null()));
        wait_for("Redis listens", || {
            process.assert_running();
            TcpStream::connect(address).is_ok()
        });
        Self { process, address }
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// The answer to a command.
    pub fn ask(&self, command: &[&str]) -> String {
        let port = self.address.port().to_string();
        let output = Command::new("redis-cli")
            .args(["-p", &port])
            .args(command)
            .output();
        output.map(|output| stdout(&output)).unwrap_or_default()
    }

    /// The number of its keys.
    pub fn keys(&self) -> u64 {
        self.ask(&["dbsize"])
            .trim()
            .rsplit(' ')
            .next()
            .and_then(|count| count.parse().ok())
            .unwrap_or_default()
    }
}

/// A shop as it is deployed: a process for each service and the gateway, and a Redis.
pub struct Shop {
    /// The gateway's address.
    pub gateway: SocketAddr,
    /// The gateway's Redis.
    pub redis: Redis,
    /// Each area's process and address, in the order of [`AREAS`].
    pub services: Vec<(Process, SocketAddr)>,
    /// The gateway.
    pub gateway_process: Process,
}

impl Shop {
    /// Starts the seven processes over a model store and waits until all of them serve.
    pub fn start(models: &Path) -> Self {
        let services: Vec<_> = AREAS
            .iter()
            .map(|area| {
                let address = free_address();
                let mut command = Command::new(binary(area));
                command.arg("--models").arg(models).args([
                    "--listen",
                    &address.to_string(),
                    "--reload-every",
                    "200ms",
                ]);
                (Process::start(area, &mut command), address)
            })
            .collect();
        let redis = Redis::start();
        let gateway = free_address();
        let mut command = Command::new(binary("gateway"));
        command.args([
            "--listen",
            &gateway.to_string(),
            "--redis",
            &format!("redis://{}", redis.address),
        ]);
        for (area, (_, address)) in AREAS.iter().zip(&services) {
            command.args([format!("--{area}"), format!("http://{address}")]);
        }
        let gateway_process = Process::start("gateway", &mut command);
        let mut shop = Self {
            gateway,
            redis,
            services,
            gateway_process,
        };
        wait_for("every service answers through the gateway", || {
            shop.services
                .iter_mut()
                .for_each(|(process, _)| process.assert_running());
            shop.gateway_process.assert_running();
            AREAS.iter().all(|area| serves(shop.gateway, area))
        });
        shop
    }
}

/// Every service and the gateway in one process.
pub struct Standalone {
    /// The address at which it listens.
    pub address: SocketAddr,
    /// The process.
    pub process: Process,
}

impl Standalone {
    /// Starts the process and waits until it serves.
    pub fn start(trained: &Trained) -> Self {
        Self::start_with(trained, &[])
    }

    /// Starts the process with more flags.
    pub fn start_with(trained: &Trained, more: &[&str]) -> Self {
        let address = free_address();
        let mut command = Command::new(binary("standalone"));
        command
            .args(trained.flags())
            .args(["--listen", &address.to_string()])
            .args(more);
        let mut process = Process::start("standalone", &mut command);
        wait_for("standalone answers", || {
            process.assert_running();
            AREAS.iter().all(|area| serves(address, area))
        });
        Self { address, process }
    }
}

/// Whether the health of an area's service at this address, or behind it, is SERVING.
pub fn serves(address: SocketAddr, area: &str) -> bool {
    let mut service = area.to_owned();
    service[..1].make_ascii_uppercase();
    let request = format!(r#"{{"service": "shopkeeper.{area}.v1.{service}Service"}}"#);
    let answer = python(
        "client.py",
        [
            address.to_string(),
            "grpc.health.v1.Health/Check".to_owned(),
            request,
        ],
    );
    stdout(&answer).contains("\"SERVING\"")
}

/// Runs a script of `tests/python` and waits for its end.
pub fn python(script: &str, arguments: impl IntoIterator<Item = String>) -> Output {
    let mut command = python_command(script, arguments);
    command
        .output()
        .unwrap_or_else(|e| panic!("python3 does not start: {e}"))
}

/// Runs checks.py, which must exit with 0, and returns its stdout.
pub fn checks(arguments: impl IntoIterator<Item = String>) -> String {
    let output = python("checks.py", arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

/// Runs triton.py, which must exit with 0, and returns its stdout.
pub fn triton(arguments: impl IntoIterator<Item = String>) -> String {
    let mut command = python_command("triton.py", arguments);
    let output = command
        .env("PYTHONPATH", root().join(".tools/triton"))
        .output();
    let output = output.unwrap_or_else(|e| panic!("python3 does not start: {e}"));
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

/// The command that runs a script of `tests/python`.
pub fn python_command(script: &str, arguments: impl IntoIterator<Item = String>) -> Command {
    let mut command = Command::new("python3");
    command
        .env("PYTHONPATH", root().join(".tools/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
        .arg(root().join("tests/python").join(script))
        .args(arguments);
    command
}

/// A Node command in `tests/dashboard`. If the machine's Node is too old, `.tools` has a newer one.
pub fn node(command: &str) -> Command {
    let folder = root().join("tests/dashboard");
    let paths = [
        folder.join("node_modules/.bin"),
        root().join(".tools/node/run"),
    ];
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(paths.into_iter().chain(std::env::split_paths(&others)))
        .unwrap_or(others);
    // `env` searches the PATH that is set here; `Command::new` would search ours.
    let mut node = Command::new("env");
    node.arg(command).env("PATH", path).current_dir(folder);
    node
}

/// Continuous calls until [`Steady::stop`].
pub struct Steady {
    child: Child,
}

impl Steady {
    /// Starts the calls and returns when every one of them has been answered once.
    pub fn start(address: SocketAddr) -> Self {
        let mut command = python_command("checks.py", ["steady".to_owned(), address.to_string()]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|e| panic!("python3 does not start: {e}"));
        let mut asking = [0; 7];
        let read = child.stdout.as_mut().map(|out| out.read_exact(&mut asking));
        assert!(matches!(read, Some(Ok(()))), "the steady calls have ended");
        Self { child }
    }

    /// Stops the calls and returns their statistics: `calls`, `failures`, `versions` by model,
    /// `slowest_s`.
    pub fn stop(mut self) -> serde_json::Value {
        drop(self.child.stdin.take());
        let output = self
            .child
            .wait_with_output()
            .unwrap_or_else(|e| panic!("the steady calls are lost: {e}"));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", stdout(&output)))
    }
}
