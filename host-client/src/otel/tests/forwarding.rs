use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::otel::{Forwarded, Forwarder, Full, NotForwardable, OtlpRequest};

const PATIENCE: Duration = Duration::from_secs(30);

/// Status, Retry-After, body.
type Answer = (u16, &'static str, &'static str);

/// A request as it came: path, authorization, content type, body.
type Received = [String; 4];

#[derive(Clone)]
struct Receiver {
    answers: &'static [Answer],
    count: Arc<AtomicUsize>,
    received: mpsc::UnboundedSender<Received>,
}

async fn take(
    State(receiver): State<Receiver>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, [(&'static str, &'static str); 1], &'static str) {
    let header = |name| {
        headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
            .to_owned()
    };
    let told = [
        uri.path().to_owned(),
        header("authorization"),
        header("content-type"),
        String::from_utf8(body.to_vec()).unwrap(),
    ];
    receiver.received.send(told).unwrap();
    let number = receiver.count.fetch_add(1, Ordering::Relaxed);
    let answers = receiver.answers;
    let (status, after, body) = answers[number.min(answers.len() - 1)];
    if status == 0 {
        std::future::pending::<()>().await;
    }
    (
        StatusCode::from_u16(status).unwrap(),
        [("retry-after", after)],
        body,
    )
}

/// A receiver that gives these answers, the last one for ever; 0 stands for none.
async fn receiver(answers: &'static [Answer]) -> (String, mpsc::UnboundedReceiver<Received>) {
    let (sender, received) = mpsc::unbounded_channel();
    let state = Receiver {
        answers,
        count: Arc::default(),
        received: sender,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let application = Router::new().fallback(take).with_state(state);
    tokio::spawn(async move { axum::serve(listener, application).await });
    (endpoint, received)
}

fn traces(body: &str) -> OtlpRequest {
    OtlpRequest {
        signal: "traces".to_owned(),
        body: body.to_owned(),
    }
}

#[tokio::test]
async fn each_request_is_posted_once_to_its_signals_path_with_the_headers() {
    let (endpoint, mut received) = receiver(&[(200, "", "{}")]).await;
    let endpoint = format!("{endpoint}/base/");
    let forwarder = Forwarder::start(&endpoint, [("authorization", "Bearer x")]).unwrap();
    forwarder.forward(traces("{\"a\":1}")).unwrap();
    forwarder
        .forward(OtlpRequest {
            signal: "logs".to_owned(),
            body: "{}".to_owned(),
        })
        .unwrap();
    forwarder
        .forward(OtlpRequest {
            signal: "../x".to_owned(),
            body: "{}".to_owned(),
        })
        .unwrap();
    let counts = forwarder.shutdown(PATIENCE).await;
    assert_eq!((counts.forwarded, counts.dropped), (2, 1));
    assert_eq!(
        counts.last_error.as_deref(),
        Some("unknown signal \"../x\"")
    );
    for expected in [["/base/v1/traces", "{\"a\":1}"], ["/base/v1/logs", "{}"]] {
        let told = received.recv().await.unwrap();
        assert_eq!(
            told,
            [expected[0], "Bearer x", "application/json", expected[1]]
        );
    }
    assert!(received.try_recv().is_err());
}

#[tokio::test]
async fn what_may_be_sent_again_is_and_in_order() {
    let (endpoint, mut received) = receiver(&[
        (503, "0", ""),
        (429, "0", ""),
        (502, "0", ""),
        (200, "", "OK"),
    ])
    .await;
    let forwarder = Forwarder::start(&endpoint, []).unwrap();
    forwarder.forward(traces("1")).unwrap();
    forwarder.forward(traces("2")).unwrap();
    let counts = forwarder.shutdown(PATIENCE).await;
    assert_eq!((counts.forwarded, counts.dropped), (2, 0));
    for expected in ["1", "1", "1", "1", "2"] {
        assert_eq!(received.recv().await.unwrap()[3], expected);
    }
}

#[tokio::test]
async fn what_is_refused_is_counted_and_not_sent_again() {
    let partial = r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too old"}}"#;
    for (status, body, expected) in [
        (
            400,
            "",
            (0, 1, 0, Some("the receiver answered 400 Bad Request")),
        ),
        (
            500,
            "",
            (
                0,
                1,
                0,
                Some("the receiver answered 500 Internal Server Error"),
            ),
        ),
        (200, partial, (1, 0, 3, Some("too old"))),
    ] {
        let answers: &'static [Answer] = vec![(status, "", body)].leak();
        let (endpoint, mut received) = receiver(answers).await;
        let forwarder = Forwarder::start(&endpoint, []).unwrap();
        forwarder.forward(traces("1")).unwrap();
        let counts = forwarder.shutdown(PATIENCE).await;
        let Forwarded {
            forwarded,
            dropped,
            rejected_items,
            last_error,
        } = counts;
        assert_eq!(
            (forwarded, dropped, rejected_items, last_error.as_deref()),
            expected
        );
        received.recv().await.unwrap();
        assert!(received.try_recv().is_err());
    }
}

#[tokio::test]
async fn what_there_is_no_room_or_no_time_for_is_counted() {
    let (endpoint, mut received) = receiver(&[(0, "", "")]).await;
    let forwarder = Forwarder::start(&endpoint, []).unwrap();
    let large = "x".repeat(10 << 20);
    forwarder.forward(traces(&large)).unwrap();
    assert_eq!(
        forwarder.forward(traces(&large)),
        Err(Full { bytes: 10 << 20 })
    );
    forwarder.forward(traces("small")).unwrap();
    assert_eq!(forwarder.counts().dropped, 1);
    received.recv().await.unwrap();
    let counts = forwarder.shutdown(Duration::from_millis(50)).await;
    assert_eq!((counts.forwarded, counts.dropped), (0, 3));
}

#[tokio::test]
async fn a_receiver_that_is_not_there_holds_nobody_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let forwarder = Forwarder::start(&endpoint, []).unwrap();
    forwarder.forward(traces("1")).unwrap();
    while forwarder.counts().last_error.is_none() {
        tokio::task::yield_now().await;
    }
    let counts = forwarder.shutdown(Duration::ZERO).await;
    assert_eq!((counts.forwarded, counts.dropped), (0, 1));
    let error = counts.last_error.unwrap();
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn an_endpoint_or_a_header_that_cannot_be_is_refused_at_once() {
    for endpoint in [
        "",
        "localhost:4318",
        "ftp://host",
        "http://",
        "http://host/?x=1",
        "unix:/run/x",
    ] {
        let refused = Forwarder::start(endpoint, []).unwrap_err();
        assert!(matches!(refused, NotForwardable::Endpoint(_)), "{endpoint}");
    }
    for header in [("a b", "x"), ("key", "a\nb")] {
        let refused = Forwarder::start("http://host:4318", [header]).unwrap_err();
        assert!(matches!(&refused, NotForwardable::Header(name) if name == header.0));
        assert!(!refused.to_string().contains("a\nb"), "{refused}");
    }
}

#[test]
fn without_a_runtime_there_is_no_forwarder() {
    let refused = Forwarder::start("http://127.0.0.1:1", []).unwrap_err();
    assert!(matches!(refused, NotForwardable::NoRuntime));
}
