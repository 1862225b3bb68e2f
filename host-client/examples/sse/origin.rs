//! Who may ask: this server's own page.
//!
//! A page of any site can make a browser send requests to loopback. One that reads must have asked for a loopback name, or
//! a site could point its own name here; one that changes something must come from the same origin, by the browser's
//! own word.

use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

pub(crate) async fn only_our_own(request: Request, next: Next) -> Response {
    if allowed(request.method(), request.headers()) {
        next.run(request).await
    } else {
        (StatusCode::FORBIDDEN, "not from this server's own page\n").into_response()
    }
}

fn allowed(method: &Method, headers: &HeaderMap) -> bool {
    let header = |name| {
        let mut all = headers.get_all(name).into_iter();
        let first = all.next()?.to_str().ok()?;
        all.next().is_none().then_some(first)
    };
    let Some(host) = header(HOST) else {
        return false;
    };
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) {
            name
        } else {
            host
        }
    });
    if !matches!(name, "localhost" | "127.0.0.1" | "[::1]") {
        return false;
    }
    method == Method::GET || header(ORIGIN) == Some(&*format!("http://{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_sites_page_asks_for_is_refused() {
        type Case = (&'static str, &'static [(&'static str, &'static str)], bool);
        let cases: [Case; 13] = [
            ("GET", &[("host", "127.0.0.1:8080")], true),
            ("GET", &[("host", "localhost")], true),
            ("GET", &[("host", "[::1]:8080")], true),
            ("GET", &[("host", "evil.example:8080")], false),
            ("GET", &[("host", "127.0.0.1.evil.example")], false),
            ("GET", &[], false),
            ("POST", &[("host", "127.0.0.1:8080")], false),
            (
                "POST",
                &[
                    ("host", "127.0.0.1:8080"),
                    ("origin", "http://127.0.0.1:8080"),
                ],
                true,
            ),
            (
                "POST",
                &[
                    ("host", "127.0.0.1:8080"),
                    ("origin", "http://127.0.0.1:9999"),
                ],
                false,
            ),
            (
                "POST",
                &[
                    ("host", "127.0.0.1:8080"),
                    ("origin", "http://evil.example"),
                ],
                false,
            ),
            (
                "POST",
                &[("host", "127.0.0.1:8080"), ("origin", "null")],
                false,
            ),
            (
                "POST",
                &[("host", "evil.example"), ("origin", "http://evil.example")],
                false,
            ),
            ("DELETE", &[("host", "127.0.0.1:8080")], false),
        ];
        for (method, headers, expected) in cases {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, value.parse().unwrap());
            }
            let method = method.parse().unwrap();
            assert_eq!(allowed(&method, &map), expected, "{method} {headers:?}");
        }
    }
}
