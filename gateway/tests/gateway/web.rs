//! Calls over JSON and gRPC-Web, from an HTTP/1.1 client.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use prost::Message;
use proto::churn::v1::{GetChurnRiskRequest, GetChurnRiskResponse};
use serde_json::{Value, json};
use sha2::Digest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::shop::{Front, Model, Running, ask, until};

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("an answer in JSON")
    }

    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) async fn http(
    front: &Front,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    http_at(&front.running.url(), method, path, headers, body).await
}

pub(crate) async fn http_at(
    url: &str,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(format!("{url}{path}"));
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client
        .request(
            request
                .body(Full::new(Bytes::copy_from_slice(body)))
                .unwrap(),
        )
        .await
        .unwrap();
    let (head, body) = response.into_parts();
    Answer {
        status: head.status,
        headers: head.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

async fn shop(area: &'static str) -> (Model, Running, Front) {
    let model = Model::new(area, "v1");
    let service = Running::start(model.service()).await;
    let front = Front::start(&[(area, service.url())]).await;
    (model, service, front)
}

#[tokio::test]
async fn json_asks_the_same_question_and_gets_the_same_answer() {
    let (model, _service, front) = shop("churn").await;
    front.knows("v1").await;
    let answer = http(
        &front,
        Method::GET,
        "/v1/customers/a%2Fb%20c/churnRisk",
        &[],
        b"",
    )
    .await;
    assert_eq!(
        (answer.status, answer.header("x-model-version")),
        (StatusCode::OK, "v1")
    );
    assert_eq!(answer.header("content-type"), "application/json");

    let calls = model.calls();
    let same = ask(&mut front.churn().await, "a/b c").await.unwrap();
    // JSON and gRPC share the cache.
    assert_eq!((same.cache.as_str(), model.calls()), ("hit-memory", calls));
    let risk = same.response.churn_risk.unwrap();
    let json = answer.json();
    assert_eq!(json["churnRisk"]["customerId"], risk.customer_id);
    assert_eq!(
        json["churnRisk"]["probability"].as_f64(),
        Some(risk.probability)
    );
    assert_eq!(json["model"], json!({ "name": "churn", "version": "v1" }));
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table with a case per error")]
async fn errors_of_json_say_what_errors_of_grpc_say() {
    let (_model, _service, front) = shop("churn").await;
    struct Case {
        method: Method,
        path: &'static str,
        body: &'static str,
        status: u16,
        code: &'static str,
        field: Option<&'static str>,
    }
    for Case {
        method,
        path,
        body,
        status,
        code,
        field,
    } in [
        Case {
            method: Method::GET,
            path: "/v1/customers//churnRisk",
            body: "",
            status: 400,
            code: "INVALID_ARGUMENT",
            field: Some("customer_id"),
        },
        Case {
            method: Method::GET,
            path: "/v1/atRiskCustomers?pagesize=1",
            body: "",
            status: 400,
            code: "INVALID_ARGUMENT",
            field: Some("pagesize"),
        },
        Case {
            method: Method::POST,
            path: "/v1/customers/churnRisks:batchGet",
            body: "{",
            status: 400,
            code: "INVALID_ARGUMENT",
            field: Some("body"),
        },
        Case {
            method: Method::GET,
            path: "/v1/anomalies",
            body: "",
            status: 501,
            code: "UNIMPLEMENTED",
            field: None,
        },
        Case {
            method: Method::POST,
            path: "/v1/anomalies",
            body: "",
            status: 405,
            code: "UNIMPLEMENTED",
            field: None,
        },
        Case {
            method: Method::GET,
            path: "/v1/nothing",
            body: "",
            status: 404,
            code: "NOT_FOUND",
            field: None,
        },
    ] {
        let answer = http(&front, method, path, &[], body.as_bytes()).await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status.as_u16(), &error["status"]),
            (status, &json!(code)),
            "{path}: {error}"
        );
        assert_eq!(error["code"], status);
        assert_eq!(
            error["details"][0]["@type"], "type.googleapis.com/google.rpc.ErrorInfo",
            "{error}"
        );
        if let Some(field) = field {
            let details = error["details"].as_array().unwrap();
            let bad = details
                .iter()
                .find(|detail| detail["@type"] == "type.googleapis.com/google.rpc.BadRequest");
            assert_eq!(
                bad.unwrap()["fieldViolations"][0]["field"],
                field,
                "{error}"
            );
        }
    }
    let large = vec![b' '; proto::MAX_MESSAGE + 1];
    let answer = http(
        &front,
        Method::POST,
        "/v1/customers/churnRisks:batchGet",
        &[],
        &large,
    )
    .await;
    assert_eq!(
        (answer.status, &answer.json()["error"]["status"]),
        (StatusCode::TOO_MANY_REQUESTS, &json!("RESOURCE_EXHAUSTED"))
    );
}

#[tokio::test]
async fn streams_are_lines_and_a_line_that_cannot_be_read_ends_them_by_number() {
    let (_model, _service, front) = shop("anomaly").await;
    let lines =
        "{\"sequence\":\"1\"}\n\n{\"sequence\":2}\n{\"sequence\":\"three\"}\n{\"sequence\":4}\n";
    let answer = http(
        &front,
        Method::POST,
        "/v1/transactions:scoreStream",
        &[],
        lines.as_bytes(),
    )
    .await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (StatusCode::OK, "application/x-ndjson")
    );
    let lines: Vec<Value> = answer
        .body
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(
        (
            &lines[0]["result"]["sequence"],
            &lines[1]["result"]["sequence"]
        ),
        (&json!("1"), &json!("2"))
    );
    let error = &lines[2]["error"];
    assert_eq!(error["status"], "INVALID_ARGUMENT");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .starts_with("line 4: sequence cannot be read"),
        "{error}"
    );
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a scenario told in order: preflights, a call, its trailers"
)]
async fn a_browser_asks_over_grpc_web_from_the_sites_that_may() {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let site = "https://admin.shop.example";
    let front = Front::start(&[("churn", service.url()), ("cors-origin", site.to_owned())]).await;
    let path = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";

    let asked = [
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type,x-grpc-web"),
    ];
    for (origin, allowed) in [(site, site), ("https://elsewhere.example", "")] {
        let headers = [&[("origin", origin)], &asked[..]].concat();
        let answer = http(&front, Method::OPTIONS, path, &headers, b"").await;
        assert_eq!(answer.header("access-control-allow-origin"), allowed);
    }
    let asked = [
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-model-channel"),
    ];
    let headers = [&[("origin", site)], &asked[..]].concat();
    let answer = http(
        &front,
        Method::OPTIONS,
        "/v1/models/churn/current",
        &headers,
        b"",
    )
    .await;
    assert!(
        answer
            .header("access-control-allow-methods")
            .split(',')
            .any(|verb| verb == "PUT")
    );
    assert!(
        answer
            .header("access-control-allow-headers")
            .split(',')
            .any(|name| name == "x-model-channel")
    );

    let message = GetChurnRiskRequest {
        customer_id: "17850".into(),
    }
    .encode_to_vec();
    let framed = [
        &[0][..],
        &u32::try_from(message.len()).unwrap().to_be_bytes(),
        &message,
    ]
    .concat();
    let headers = [
        ("content-type", "application/grpc-web+proto"),
        ("x-grpc-web", "1"),
        ("origin", site),
    ];
    let answer = http(&front, Method::POST, path, &headers, &framed).await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (StatusCode::OK, site)
    );
    let length = u32::from_be_bytes(answer.body[1..5].try_into().unwrap()) as usize;
    let response = GetChurnRiskResponse::decode(&answer.body[5..5 + length]).unwrap();
    assert_eq!(
        response,
        ask(&mut front.churn().await, "17850")
            .await
            .unwrap()
            .response
    );
    // In gRPC-Web the trailers are a frame of the body.
    let trailers = &answer.body[5 + length..];
    assert_eq!(trailers[0], 0x80);
    assert!(String::from_utf8_lossy(&trailers[5..]).contains("grpc-status:0"));
}

#[tokio::test]
async fn there_is_a_page_a_document_and_nothing_else() {
    let (_model, _service, front) = shop("churn").await;
    let page = http(&front, Method::GET, "/", &[], b"").await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (StatusCode::OK, "text/html; charset=utf-8")
    );
    assert!(
        page.header("content-security-policy")
            .starts_with("default-src 'none'")
    );
    let document = http(&front, Method::GET, "/openapi.json", &[], b"")
        .await
        .json();
    assert_eq!(document["openapi"], "3.1.0");
    for path in [
        "/nothing",
        "/assets/nothing.js",
        "/shopkeeper.churn.v1.ChurnService/GetChurnRisk",
    ] {
        assert_eq!(
            http(&front, Method::GET, path, &[], b"").await.status,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a scenario told in order: keys are checked, then rotated while the gateway runs"
)]
async fn a_caller_without_a_key_is_told_so_and_keys_are_rotated_at_work() {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    let entry = |key: &str| {
        let hash = sha2::Sha256::digest(key)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        format!(
            "[[keys]]\nname = \"checkout\"\nsha256 = \"{hash}\"\nmethods = \
             [\"shopkeeper.churn.v1.ChurnService/GetChurnRisk\"]\n"
        )
    };
    std::fs::write(&file, entry("old")).unwrap();
    let flags = [
        ("churn", service.url()),
        ("api-keys", file.display().to_string()),
    ];
    let front = Front::start(&flags).await;
    let ask = async |path: &str, headers: &[(&str, &str)]| {
        http(&front, Method::GET, path, headers, b"").await
    };

    let risk = "/v1/customers/17850/churnRisk";
    struct Case {
        path: &'static str,
        headers: [(&'static str, &'static str); 1],
        status: u16,
        reason: Option<&'static str>,
    }
    for Case {
        path,
        headers,
        status,
        reason,
    } in [
        Case {
            path: risk,
            headers: [("x-api-key", "old")],
            status: 200,
            reason: None,
        },
        Case {
            path: risk,
            headers: [("authorization", "Bearer old")],
            status: 200,
            reason: None,
        },
        Case {
            path: risk,
            headers: [("x-api-key", "new")],
            status: 401,
            reason: Some("API_KEY_UNKNOWN"),
        },
        Case {
            path: risk,
            headers: [("x-other", "old")],
            status: 401,
            reason: Some("API_KEY_MISSING"),
        },
        Case {
            path: "/v1/atRiskCustomers",
            headers: [("x-api-key", "old")],
            status: 403,
            reason: Some("METHOD_NOT_ALLOWED"),
        },
        Case {
            path: "/metrics",
            headers: [("x-other", "old")],
            status: 401,
            reason: Some("API_KEY_MISSING"),
        },
    ] {
        let answer = ask(path, &headers).await;
        let error = &answer.json()["error"]["details"][0]["reason"];
        assert_eq!(
            (answer.status.as_u16(), error.as_str()),
            (status, reason),
            "{path} {headers:?}"
        );
        let asks_for_one = answer
            .headers
            .get("www-authenticate")
            .is_some_and(|scheme| scheme == "Bearer");
        assert_eq!(asks_for_one, status == 401, "{path} {headers:?}");
    }
    assert_eq!(
        ask("/metrics", &[("x-api-key", "old")]).await.status,
        StatusCode::OK
    );
    // Both keys for a while, so that callers can change over.
    std::fs::write(&file, format!("{}{}", entry("old"), entry("new"))).unwrap();
    until("the new key counts", async || {
        ask(risk, &[("x-api-key", "new")]).await.status == StatusCode::OK
    })
    .await;
    assert_eq!(
        ask(risk, &[("x-api-key", "old")]).await.status,
        StatusCode::OK
    );
    std::fs::write(&file, "keys = nonsense").unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(
        ask(risk, &[("x-api-key", "new")]).await.status,
        StatusCode::OK,
        "a broken file changes nothing"
    );
    std::fs::write(&file, entry("new")).unwrap();
    until("the old key counts no more", async || {
        ask(risk, &[("x-api-key", "old")]).await.status == StatusCode::UNAUTHORIZED
    })
    .await;
}

#[tokio::test]
async fn a_message_that_is_opened_has_another_length() {
    let (_model, _service, front) = shop("churn").await;
    let message = GetChurnRiskRequest {
        customer_id: "17850 ".repeat(500),
    }
    .encode_to_vec();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&message).unwrap();
    let packed = packed.finish().unwrap();
    let framed = [
        &[1][..],
        &u32::try_from(packed.len()).unwrap().to_be_bytes(),
        &packed,
    ]
    .concat();
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http();
    // More often than the number of failures that ejects a replica.
    for _ in 0..10 {
        let path = "/shopkeeper.churn.v1.ChurnService/GetChurnRisk";
        let request = Request::post(format!("{}{path}", front.running.url()))
            .header("content-type", "application/grpc");
        let request = request
            .header("content-length", framed.len())
            .header("grpc-encoding", "gzip");
        let request = request
            .header("cache-control", "no-cache")
            .header("te", "trailers");
        let response = client
            .request(
                request
                    .body(Full::new(Bytes::from(framed.clone())))
                    .unwrap(),
            )
            .await
            .unwrap();
        let status = response.headers().get("grpc-status").cloned();
        let trailers = response
            .into_body()
            .collect()
            .await
            .unwrap()
            .trailers()
            .cloned()
            .unwrap_or_default();
        assert_eq!(
            status
                .as_ref()
                .or_else(|| trailers.get("grpc-status"))
                .unwrap(),
            "0"
        );
    }
}

/// Sends the head of an HTTP/1.1 request and a part of its body, and returns the status line.
async fn status_of_a_part(front: &Front, key: &str) -> String {
    let mut stream = TcpStream::connect(front.running.address).await.unwrap();
    let head = format!(
        "POST /v1/customers/churnRisks:batchGet HTTP/1.1\r\nhost: shop\r\nx-api-key: \
         {key}\r\ncontent-length: 1000\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    let answered = tokio::time::timeout(
        std::time::Duration::from_secs(20),
        stream.read_exact(&mut status),
    )
    .await;
    answered.expect("it is not waited for for ever").unwrap();
    String::from_utf8_lossy(&status[9..]).into_owned()
}

#[tokio::test]
async fn a_body_is_read_from_those_who_may_send_it_and_not_for_ever() {
    let model = Model::new("churn", "v1");
    let service = Running::start(model.service()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    let hash = sha2::Sha256::digest("known")
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    std::fs::write(
        &file,
        format!("[[keys]]\nname = \"till\"\nsha256 = \"{hash}\"\n"),
    )
    .unwrap();
    let flags = [
        ("churn", service.url()),
        ("api-keys", file.display().to_string()),
        ("in-flight", "1".into()),
    ];
    let front = Front::start(&flags).await;
    assert_eq!(status_of_a_part(&front, "unknown").await, "401");
    assert_eq!(status_of_a_part(&front, "known").await, "504");
    // A call whose body is being read holds a permit.
    let (one, other) = tokio::join!(
        status_of_a_part(&front, "known"),
        status_of_a_part(&front, "known")
    );
    let mut both = [one, other];
    both.sort();
    assert_eq!(both, ["429", "504"]);
}

#[tokio::test]
async fn a_large_answer_is_packed_for_whom_that_is_no_trouble() {
    let (_model, _service, front) = shop("churn").await;
    let plain = http(
        &front,
        Method::GET,
        "/v1/atRiskCustomers?pageSize=100",
        &[],
        b"",
    )
    .await;
    for (accepts, encoding) in [
        ("gzip, deflate, br", "gzip"),
        ("br;q=1.0, gzip;q=0.5", "gzip"),
        ("gzip;q=0", ""),
        ("br", ""),
        ("identity", ""),
    ] {
        let headers = [("accept-encoding", accepts)];
        let answer = http(
            &front,
            Method::GET,
            "/v1/atRiskCustomers?pageSize=100",
            &headers,
            b"",
        )
        .await;
        assert_eq!(
            (answer.header("content-encoding"), answer.header("vary")),
            (encoding, "accept-encoding"),
            "{accepts}"
        );
        let mut text = Vec::new();
        match encoding {
            "gzip" => drop(
                flate2::read::GzDecoder::new(&answer.body[..])
                    .read_to_end(&mut text)
                    .unwrap(),
            ),
            _ => text.extend_from_slice(&answer.body),
        }
        assert_eq!(text, plain.body);
    }
    let small = http(
        &front,
        Method::GET,
        "/v1/customers/17850/churnRisk",
        &[("accept-encoding", "gzip")],
        b"",
    )
    .await;
    assert_eq!(small.header("content-encoding"), "");
}
