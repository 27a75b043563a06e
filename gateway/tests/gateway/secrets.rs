//! Secrets in flags, environment and calls of the real process never show in its output.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::web::http_at;

const SECRET: &str = "hunter2";

fn gateway(flags: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
    command
        .args(["--listen=127.0.0.1:0", "--churn=http://127.0.0.1:1"])
        .args(flags);
    command
        .envs(environment.iter().copied())
        .env("SHOPKEEPER_LOG", "debug")
        .env("SHOPKEEPER_LOG_FORMAT", "json");
    command
}

/// Its stdout and stderr.
fn says(command: &mut Command) -> String {
    let output = command.output().unwrap();
    [output.stdout, output.stderr]
        .map(|said| String::from_utf8(said).unwrap())
        .concat()
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "a table with a case per command line, and the environments that they share"
)]
fn secrets_are_not_in_help_nor_in_errors() {
    let url = format!("https://me:{SECRET}@id.shop/keys");
    let redis = [
        ("SHOPKEEPER_REDIS", SECRET),
        ("SHOPKEEPER_CACHE_SECRET", SECRET),
    ];
    let keys = |keys| {
        let jwt = [
            ("SHOPKEEPER_JWT_KEYS", keys),
            ("SHOPKEEPER_JWT_ISSUER", "joe"),
            ("SHOPKEEPER_JWT_AUDIENCE", "us"),
        ];
        [&redis[..], &jwt[..]].concat()
    };
    let (with_password, with_file) = (keys(&url), keys("/nowhere"));
    struct Case<'a> {
        flags: &'a [&'a str],
        environment: &'a [(&'a str, &'a str)],
        expected: &'a str,
    }
    for Case {
        flags,
        environment,
        expected,
    } in [
        Case {
            flags: &["--help"][..],
            environment: &with_password,
            expected: "SHOPKEEPER_JWT_KEYS",
        },
        Case {
            flags: &["-h"],
            environment: &with_password,
            expected: "--redis",
        },
        Case {
            flags: &["--nonsense"],
            environment: &with_password,
            expected: "unexpected argument",
        },
        Case {
            flags: &[],
            environment: &redis,
            expected: "the URL of Redis cannot be used",
        },
        Case {
            flags: &["--redis=redis://localhost:1"],
            environment: &with_password,
            expected: "--jwt-keys: has a user or a password in it",
        },
        Case {
            flags: &["--redis=redis://localhost:1"],
            environment: &with_file,
            expected: "/nowhere",
        },
    ] {
        let said = says(&mut gateway(flags, environment));
        assert!(
            said.contains(expected) && !said.contains(SECRET),
            "{flags:?}: {said}"
        );
    }
}

#[test]
fn an_authority_that_cannot_be_read_is_said_at_start() {
    let said = says(Command::new(env!("CARGO_BIN_EXE_gateway")).args([
        "--listen=127.0.0.1:0",
        "--churn=file:/nowhere/churn",
        "--backend-ca=/nowhere/ca.pem",
    ]));
    assert!(said.contains("/nowhere/ca.pem"), "{said}");
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a scenario told in order: a gateway starts, answers and ends, and its log is searched"
)]
async fn secrets_are_not_in_logs_nor_in_answers() {
    let folder = tempfile::tempdir().unwrap();
    let (keys, tokens) = (
        folder.path().join("keys.toml"),
        folder.path().join("tokens.json"),
    );
    let hash = Sha256::digest(format!("known {SECRET}"))
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    std::fs::write(
        &keys,
        format!("[[keys]]\nname = \"a\"\nsha256 = \"{hash}\""),
    )
    .unwrap();
    let public = URL_SAFE_NO_PAD.encode([7; 32]);
    std::fs::write(
        &tokens,
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": public}]}).to_string(),
    )
    .unwrap();
    let flags = [
        format!("--api-keys={}", keys.display()),
        format!("--jwt-keys={}", tokens.display()),
        "--jwt-issuer=joe".into(),
        "--jwt-audience=us".into(),
        format!("--redis=redis://:{SECRET}@127.0.0.1:1"),
        format!("--cache-secret={SECRET}"),
    ];
    let mut process = gateway(&flags.each_ref().map(String::as_str), &[])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap());
    let mut said = String::new();
    let address = loop {
        let start = said.len();
        assert_ne!(log.read_line(&mut said).unwrap(), 0, "{said}");
        let line: Value = serde_json::from_str(&said[start..]).unwrap();
        if line["fields"]["message"] == "listening" {
            break format!("http://{}", line["fields"]["address"].as_str().unwrap());
        }
    };
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({"iss": "joe", "aud": "us", "exp": 4e9, "sub": SECRET});
    let token = format!(
        "{}.{}.{}",
        part(json!({"alg": "EdDSA", "kid": SECRET})),
        part(claims),
        SECRET
    );
    struct Case {
        header: &'static str,
        shown: String,
        status: u16,
    }
    for Case {
        header,
        shown,
        status,
    } in [
        Case {
            header: "x-api-key",
            shown: format!("known {SECRET}"),
            status: 503,
        },
        Case {
            header: "x-api-key",
            shown: SECRET.into(),
            status: 401,
        },
        Case {
            header: "authorization",
            shown: format!("Bearer {SECRET}"),
            status: 401,
        },
        Case {
            header: "authorization",
            shown: format!("Basic {SECRET}"),
            status: 401,
        },
        Case {
            header: "authorization",
            shown: format!("Bearer {token}"),
            status: 401,
        },
        Case {
            header: "authorization",
            shown: format!("Bearer {SECRET}.{SECRET}.{SECRET}"),
            status: 401,
        },
    ] {
        let answer = http_at(
            &address,
            Method::GET,
            "/v1/customers/17850/churnRisk",
            &[(header, &shown)],
            b"",
        )
        .await;
        let json = answer.json().to_string();
        assert!(
            answer.status.as_u16() == status && !json.contains(SECRET),
            "{header} {}: {json}",
            answer.status
        );
    }
    process.kill().unwrap();
    process.wait().unwrap();
    log.read_to_string(&mut said).unwrap();
    assert!(
        said.contains("redis does not answer") && said.lines().count() > 5,
        "{said}"
    );
    assert!(
        !said.contains(SECRET) && !said.contains(token.split('.').nth(1).unwrap()),
        "{said}"
    );
}
