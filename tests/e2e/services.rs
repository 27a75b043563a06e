//! Each service alone, over its own socket: every method, every refusal, health, reflection, ModelService.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use e2e::{Process, binary, checks, free_address, serves, trained, wait_for};

fn answers_alone(area: &str) {
    let address = free_address();
    let mut command = Command::new(binary(area));
    command.arg("--models").arg(trained().models()).args(["--listen", &address.to_string()]);
    let mut process = Process::start(area, &mut command);
    wait_for("the service answers", || serves(address, area));
    checks(["every-method", &address.to_string(), area].map(str::to_owned));
    checks(["refusals", &address.to_string(), area].map(str::to_owned));
    assert!(process.terminate(), "{area} drains");
}

#[test]
fn segmentation_answers_alone() {
    answers_alone("segmentation");
}

#[test]
fn forecast_answers_alone() {
    answers_alone("forecast");
}

#[test]
fn recommendation_answers_alone() {
    answers_alone("recommendation");
}

#[test]
fn churn_answers_alone() {
    answers_alone("churn");
}

#[test]
fn anomaly_answers_alone() {
    answers_alone("anomaly");
}

#[test]
fn insights_answers_alone() {
    answers_alone("insights");
}

/// The first line of an answer over HTTP; nothing where there is none.
fn says(address: SocketAddr, path: &str) -> String {
    let mut said = String::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let _ = write!(stream, "GET {path} HTTP/1.0\r\n\r\n");
        let _ = stream.read_to_string(&mut said);
    }
    said.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_service_whose_store_is_silent_says_that_it_is_not_ready() {
    // It takes connections, and answers nobody.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let store = format!("http://{}", silent.local_addr().unwrap());
    let [address, metrics] = [free_address(), free_address()];
    let mut command = Command::new(binary("insights"));
    command.args(["--models", "s3://models", "--listen", &address.to_string()]);
    command.args(["--metrics-listen", &metrics.to_string()]);
    command.envs([("AWS_ENDPOINT_URL", store.as_str()), ("AWS_ALLOW_HTTP", "true"), ("AWS_REGION", "here")]);
    command.envs([("AWS_ACCESS_KEY_ID", "us"), ("AWS_SECRET_ACCESS_KEY", "secret")]);
    let mut process = Process::start("insights", &mut command);
    wait_for("it says so", || says(metrics, "/readyz") == "HTTP/1.0 503 Service Unavailable");
    assert_eq!(says(metrics, "/healthz"), "HTTP/1.0 200 OK");
    assert!(process.terminate(), "it ends when it is told to");
}
