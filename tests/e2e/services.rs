//! Each service on its own socket: every method, every refusal, health, reflection, ModelService.

use std::{net::TcpListener, process::Command};

use e2e::{Process, binary, checks, free_address, page, serves, trained, wait_for};

fn answers_alone(area: &str) {
    let address = free_address();
    let mut command = Command::new(binary(area));
    command
        .arg("--models")
        .arg(trained().models())
        .args(["--listen", &address.to_string()]);
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

#[test]
fn a_service_whose_store_is_silent_says_that_it_is_not_ready() {
    // It accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let store = format!("http://{}", silent.local_addr().unwrap());
    let [address, metrics] = [free_address(), free_address()];
    let mut command = Command::new(binary("insights"));
    command.args(["--models", "s3://models", "--listen", &address.to_string()]);
    command.args(["--metrics-listen", &metrics.to_string()]);
    command.envs([
        ("AWS_ENDPOINT_URL", store.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "here"),
    ]);
    command.envs([
        ("AWS_ACCESS_KEY_ID", "us"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ]);
    let mut process = Process::start("insights", &mut command);
    let says = |path| {
        page(metrics, path)
            .unwrap_or_default()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    wait_for("it says so", || {
        says("/readyz") == "HTTP/1.0 503 Service Unavailable"
    });
    assert_eq!(says("/healthz"), "HTTP/1.0 200 OK");
    assert!(process.terminate(), "it ends when it is told to");
}
