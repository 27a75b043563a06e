//! A call leaves one trace, from the caller through the gateway to the service.

use std::process::Command;

use e2e::{Process, binary, checks, free_address, python_command, serves, trained, wait_for};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[test]
fn a_call_is_one_trace_from_caller_to_service() {
    let folder = tempfile::tempdir().unwrap();
    let spans = folder.path().join("spans");
    let [collector, service, gateway] = [(); 3].map(|()| free_address());
    let arguments = [collector.to_string(), spans.to_string_lossy().into_owned()];
    let _collector = Process::start("collector", &mut python_command("collector.py", arguments));
    wait_for("the collector listens", || {
        std::net::TcpStream::connect(collector).is_ok()
    });

    let otlp = ["--otlp".to_owned(), format!("http://{collector}")];
    let mut command = Command::new(binary("churn"));
    command
        .arg("--models")
        .arg(trained().models())
        .args(["--listen", &service.to_string()])
        .args(&otlp);
    let mut churn = Process::start("churn", &mut command);
    let mut command = Command::new(binary("gateway"));
    command
        .args([
            "--listen",
            &gateway.to_string(),
            "--churn",
            &format!("http://{service}"),
        ])
        .args(&otlp);
    let mut stands_before = Process::start("gateway", &mut command);
    wait_for("churn answers through the gateway", || {
        serves(gateway, "churn")
    });

    checks(["traced".to_owned(), gateway.to_string(), TRACE.to_owned()]);
    // A process exports its remaining spans when it ends.
    assert!(stands_before.terminate() && churn.terminate());

    let text = fs_err::read_to_string(&spans).unwrap();
    let all: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |service: &str| {
        let mut found = all
            .iter()
            .filter(|span| span["trace_id"] == TRACE && span["service"] == service);
        let first = found
            .next()
            .unwrap_or_else(|| panic!("no span of {service} in {text}"));
        assert_eq!(
            first["name"],
            "shopkeeper.churn.v1.ChurnService/GetChurnRisk"
        );
        assert_eq!(first["kind"], "SPAN_KIND_SERVER");
        first
    };
    assert_eq!(
        of("gateway")["parent_id"],
        "00f067aa0ba902b7",
        "the caller's span is the gateway's parent"
    );
    assert_eq!(
        of("churn")["parent_id"],
        of("gateway")["span_id"],
        "the gateway's span is the service's parent"
    );
}
