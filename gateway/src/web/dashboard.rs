//! The dashboard's files, which are in the binary. Promise: a page of ours runs code and styles from here alone, and talks to
//! nobody else.

use axum::{Router, routing::get};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{
        ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
        REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
    },
};

use crate::frame::Known;

/// A built file.
#[derive(Debug)]
struct Asset {
    path: &'static str,
    tag: &'static str,
    plain: &'static [u8],
    gzip: Option<&'static [u8]>,
}

static ASSETS: &[Asset] = include!(concat!(env!("OUT_DIR"), "/dashboard.rs"));

/// Where there is no dashboard.
static MISSING: Asset = Asset {
    path: "index.html",
    tag: "missing",
    plain: b"<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Shopkeeper</title>\
        <h1>Shopkeeper</h1><p>This gateway was built without its dashboard. <code>make dashboard</code> builds it (Node 20 \
        or newer); then build the gateway again. All else works: <a href=\"/openapi.json\">the API</a>.</p></html>",
    gzip: None,
};

const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; \
             connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
    ),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (VARY, HeaderValue::from_static("accept-encoding")),
];

/// Adds the page and its files.
pub(super) fn routes(router: Router) -> Router {
    let index = ASSETS.iter().find(|asset| asset.path == "index.html").unwrap_or(&MISSING);
    let routes = ASSETS.iter().map(|asset| (format!("/{}", asset.path), asset));
    [("/".to_owned(), index)].into_iter().chain(routes).fold(router, |router, (path, asset)| {
        router.route(&path, get(async move |headers: HeaderMap| asset.answer(&headers)))
    })
}

impl Asset {
    fn answer(&self, asked: &HeaderMap) -> Response<axum::body::Body> {
        let tag = format!("\"{}\"", self.tag);
        let known = asked.get(IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == tag.as_bytes());
        let takes_gzip = asked.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
        let takes_gzip = takes_gzip.is_some_and(|value| value.split(',').any(|v| v.trim().starts_with("gzip")));
        let gzip = self.gzip.filter(|_| takes_gzip);
        let body = if known { b"" } else { gzip.unwrap_or(self.plain) };
        let mut response = Response::new(axum::body::Body::new(Known::body(Bytes::from_static(body), None)));
        if known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = response.headers_mut();
        headers.extend(HEADERS);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind()));
        // Names of assets change with what is in them; the page's does not.
        let keep = if self.path.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(keep));
        if let Ok(tag) = tag.parse() {
            headers.insert(ETAG, tag);
        }
        if gzip.is_some() && !known {
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

    const FILE: Asset = Asset { path: "assets/a.js", tag: "t", plain: b"plain", gzip: Some(b"packed") };

    fn answer(headers: &[(HeaderName, &str)]) -> Response<axum::body::Body> {
        FILE.answer(&headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect())
    }

    #[tokio::test]
    async fn a_file_comes_packed_or_plain_or_not_again() {
        for (headers, status, encoding, body) in [
            (vec![], 200, None, "plain"),
            (vec![(ACCEPT_ENCODING, "br, gzip;q=0.9")], 200, Some("gzip"), "packed"),
            (vec![(IF_NONE_MATCH, "\"t\""), (ACCEPT_ENCODING, "gzip")], 304, None, ""),
            (vec![(IF_NONE_MATCH, "\"u\"")], 200, None, "plain"),
        ] {
            let response = answer(&headers);
            assert_eq!(response.status(), status);
            assert_eq!(response.headers().get(CONTENT_ENCODING).map(|value| value.to_str().unwrap()), encoding);
            assert!(response.headers().contains_key(CONTENT_SECURITY_POLICY));
            let bytes = axum::body::to_bytes(response.into_body(), 100).await.unwrap();
            assert_eq!(bytes, body.as_bytes());
        }
    }
}
