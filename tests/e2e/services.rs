//! Each service alone, over its own socket: every method, every refusal, health, reflection, ModelService.

use std::process::Command;

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
