//! The dashboard's files, which are in the binary. Promise: its pages load code and styles from
//! this gateway alone, and send requests to no other server.

use axum::{Router, routing::get};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{
        ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
        ETAG, IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
    },
};

use crate::grpc::frame::Known;

/// A built file.
#[derive(Debug, Clone)]
struct Asset {
    path: &'static str,
    tag: HeaderValue,
    plain: Bytes,
    gzip: Option<Bytes>,
}

/// The page.
const INDEX: &str = "index.html";

/// The attribute of the page that holds the shop's currency.
const NO_CURRENCY: &str = "data-currency=\"\"";

fn assets() -> Vec<Asset> {
    include!(concat!(env!("OUT_DIR"), "/dashboard.rs"))
}

/// The page of a gateway without a dashboard.
static MISSING: Asset = Asset {
    path: INDEX,
    tag: HeaderValue::from_static("\"missing\""),
    plain: Bytes::from_static(
        b"<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Shopkeeper</title>\
        <h1>Shopkeeper</h1><p>This gateway was built without its dashboard. \
        <code>make dashboard</code> builds it (Node 20 or newer); then build the gateway again. \
        All else works: <a href=\"/openapi.json\">the API</a>.</p></html>",
    ),
    gzip: None,
};

const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
             font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
        ),
    ),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (VARY, HeaderValue::from_static("accept-encoding")),
];

/// Adds the page and its files. The page writes amounts in the currency, if there is one.
pub(super) fn routes(router: Router, currency: Option<&str>) -> Router {
    let (index, others): (Vec<_>, Vec<_>) =
        assets().into_iter().partition(|asset| asset.path == INDEX);
    let index = index.into_iter().next().unwrap_or_else(|| MISSING.clone());
    let index = currency.map_or_else(|| index.clone(), |currency| index.with_currency(currency));
    let others = others
        .into_iter()
        .map(|asset| (format!("/{}", asset.path), asset));
    [
        ("/".to_owned(), index.clone()),
        (format!("/{INDEX}"), index),
    ]
    .into_iter()
    .chain(others)
    .fold(router, |router, (path, asset)| {
        router.route(
            &path,
            get(async move |headers: HeaderMap| asset.answer(&headers)),
        )
    })
}

impl Asset {
    /// The page with the currency in it.
    fn with_currency(&self, currency: &str) -> Self {
        let page = String::from_utf8_lossy(&self.plain)
            .replace(NO_CURRENCY, &format!("data-currency=\"{currency}\""));
        let tag = format!("\"{}\"", &blake3::hash(page.as_bytes()).to_hex()[..16]);
        let tag = HeaderValue::try_from(tag).unwrap_or_else(|_| self.tag.clone());
        Self {
            path: self.path,
            tag,
            plain: page.into(),
            gzip: None,
        }
    }

    fn answer(&self, asked: &HeaderMap) -> Response<axum::body::Body> {
        let known = asked.get(IF_NONE_MATCH) == Some(&self.tag);
        let takes_gzip = asked
            .get(ACCEPT_ENCODING)
            .and_then(|value| value.to_str().ok());
        let takes_gzip =
            takes_gzip.is_some_and(|value| value.split(',').any(|v| v.trim().starts_with("gzip")));
        let gzip = self.gzip.as_ref().filter(|_| takes_gzip && !known);
        let body = if known {
            Bytes::new()
        } else {
            gzip.unwrap_or(&self.plain).clone()
        };
        let mut response = Response::new(axum::body::Body::new(Known::body(body, None)));
        if known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = response.headers_mut();
        headers.extend(HEADERS);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind()));
        // Names of assets change with what is in them; the page's does not.
        let keep = if self.path.starts_with("assets/") {
            "public, max-age=31536000, immutable"
        } else {
            "no-cache"
        };
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(keep));
        headers.insert(ETAG, self.tag.clone());
        if gzip.is_some() {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }

    fn kind(&self) -> &'static str {
        match self.path.rsplit('.').next() {
            Some("html") => "text/html; charset=utf-8",
            Some("js") => "text/javascript",
            Some("css") => "text/css",
            Some("svg") => "image/svg+xml",
            Some("png") => "image/png",
            Some("ico") => "image/x-icon",
            Some("json" | "webmanifest" | "map") => "application/json",
            Some("woff2") => "font/woff2",
            Some("txt") => "text/plain; charset=utf-8",
            _ => "application/octet-stream",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static FILE: Asset = Asset {
        path: "assets/a.js",
        tag: HeaderValue::from_static("\"t\""),
        plain: Bytes::from_static(b"plain"),
        gzip: Some(Bytes::from_static(b"packed")),
    };

    fn answer(headers: &[(HeaderName, &str)]) -> Response<axum::body::Body> {
        FILE.answer(
            &headers
                .iter()
                .map(|(name, value)| (name.clone(), value.parse().unwrap()))
                .collect(),
        )
    }

    #[tokio::test]
    async fn a_file_comes_packed_or_plain_or_not_again() {
        struct Case {
            headers: Vec<(HeaderName, &'static str)>,
            status: u16,
            encoding: Option<&'static str>,
            body: &'static str,
        }
        for Case {
            headers,
            status,
            encoding,
            body,
        } in [
            Case {
                headers: vec![],
                status: 200,
                encoding: None,
                body: "plain",
            },
            Case {
                headers: vec![(ACCEPT_ENCODING, "br, gzip;q=0.9")],
                status: 200,
                encoding: Some("gzip"),
                body: "packed",
            },
            Case {
                headers: vec![(IF_NONE_MATCH, "\"t\""), (ACCEPT_ENCODING, "gzip")],
                status: 304,
                encoding: None,
                body: "",
            },
            Case {
                headers: vec![(IF_NONE_MATCH, "\"u\"")],
                status: 200,
                encoding: None,
                body: "plain",
            },
        ] {
            let response = answer(&headers);
            assert_eq!(response.status(), status);
            assert_eq!(
                response
                    .headers()
                    .get(CONTENT_ENCODING)
                    .map(|value| value.to_str().unwrap()),
                encoding
            );
            assert!(response.headers().contains_key(CONTENT_SECURITY_POLICY));
            let bytes = axum::body::to_bytes(response.into_body(), 100)
                .await
                .unwrap();
            assert_eq!(bytes, body.as_bytes());
        }
    }

    #[test]
    fn the_page_is_told_the_currency_and_is_another_page_then() {
        let plain = Bytes::from_static(b"<html data-currency=\"\">");
        let page = Asset {
            path: INDEX,
            plain,
            ..FILE.clone()
        };
        let told = page.with_currency("GBP");
        assert_eq!(
            (told.plain.as_ref(), told.gzip.is_none()),
            (b"<html data-currency=\"GBP\">".as_slice(), true)
        );
        assert_ne!(told.tag, page.tag);
    }
}
