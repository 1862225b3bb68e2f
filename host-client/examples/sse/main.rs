//! A web application that starts runs of an agent and shows them live, with buttons to answer what the agent asks.
//!
//! ```text
//! cargo run --example sse --features local,sse -- [--listen 127.0.0.1:8080] [--sandtrace PATH] -- COMMAND...
//! cargo run --example sse --features e2b,local,sse -- --e2b TEMPLATE -- COMMAND...
//! ```
//!
//! COMMAND is an agent that keeps a session over stdin, for instance `python3 template/agent.py --interactive`; the page
//! sends its prompts as user messages. Without `--e2b` the agent is a child process of this one, for development.
//!
//! | route | does |
//! |---|---|
//! | `GET /` | the page; it follows the run that the address's fragment names |
//! | `POST /runs` `{"prompt"}` | starts a run: `{"run_id"}` |
//! | `GET /runs/{id}/events` | the run's events, from `Last-Event-ID` on |
//! | `POST /runs/{id}/approvals/{approval}` `{"decision":"approve"\|"deny","reason"}` | answers a question |
//! | `POST /runs/{id}/messages` `{"text"}` | says something as the user |
//! | `POST /runs/{id}/interrupt`, `/close`, `/cancel` | ends the turn, the session, the run |
//!
//! It has no users and no passwords: it listens on loopback, and refuses requests that another site's page makes, by
//! their `Host` and `Origin`. An application puts its own authentication in the place of [`origin`].

mod arguments;
mod origin;
mod runs;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use axum::extract::{Json, Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use sandtrace_client::sse::Last;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

use crate::arguments::Arguments;
use crate::runs::{Order, Runs};

/// The page is served from here alone, loads nothing from anywhere else, and has no script but its own.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[tokio::main]
async fn main() -> ExitCode {
    let mut stderr = io::stderr();
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(why) => {
            // Where stderr is closed there is nobody to tell.
            _ = writeln!(stderr, "sse: {why}");
            return ExitCode::from(2);
        }
    };
    match serve(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            _ = writeln!(stderr, "sse: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: Arguments) -> io::Result<()> {
    let listener = TcpListener::bind(arguments.listen).await?;
    let address = listener.local_addr()?;
    writeln!(io::stdout(), "http://{address}/")?;
    let runs = Arc::new(Runs::new(arguments));
    let application = Router::new()
        .route("/", get(page))
        .route("/page.css", get(style))
        .route("/page.js", get(script))
        .route("/runs", post(start))
        .route("/runs/{run}/events", get(events))
        .route("/runs/{run}/approvals/{approval}", post(answer))
        .route("/runs/{run}/messages", post(message))
        .route("/runs/{run}/interrupt", post(interrupt))
        .route("/runs/{run}/close", post(close))
        .route("/runs/{run}/cancel", post(cancel))
        .layer(middleware::from_fn(origin::only_our_own))
        .with_state(runs);
    axum::serve(listener, application).await
}

async fn page() -> Response {
    let headers = [
        (CONTENT_TYPE.as_str(), "text/html; charset=utf-8"),
        ("content-security-policy", POLICY),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
    ];
    (headers, include_str!("page.html")).into_response()
}

async fn style() -> Response {
    let headers = [(CONTENT_TYPE, "text/css; charset=utf-8")];
    (headers, include_str!("page.css")).into_response()
}

async fn script() -> Response {
    let headers = [(CONTENT_TYPE, "text/javascript; charset=utf-8")];
    (headers, include_str!("page.js")).into_response()
}

#[derive(Deserialize)]
struct Start {
    prompt: String,
}

async fn start(State(runs): State<Arc<Runs>>, Json(start): Json<Start>) -> Response {
    match runs.start(start.prompt).await {
        Ok(run_id) => (StatusCode::CREATED, Json(json!({ "run_id": run_id }))).into_response(),
        Err(why) => refusal(StatusCode::BAD_GATEWAY, &why),
    }
}

async fn events(
    State(runs): State<Arc<Runs>>,
    Path(run): Path<String>,
    headers: HeaderMap,
) -> Response {
    let last = headers.get("last-event-id");
    let last = last.and_then(|value| value.to_str().ok()).unwrap_or("");
    match runs.events(&run, Last::parse(last)) {
        None => refusal(StatusCode::NOT_FOUND, "there is no such run"),
        // What an EventSource is told by, that there is no use in coming back.
        Some(None) => StatusCode::NO_CONTENT.into_response(),
        Some(Some(body)) => {
            let headers = [
                (CONTENT_TYPE, "text/event-stream"),
                (CACHE_CONTROL, "no-store"),
            ];
            (headers, body).into_response()
        }
    }
}

#[derive(Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
enum Decision {
    Approve,
    Deny { reason: String },
}

async fn answer(
    State(runs): State<Arc<Runs>>,
    Path((run, id)): Path<(String, String)>,
    Json(decision): Json<Decision>,
) -> Response {
    let order = match decision {
        Decision::Approve => Order::Approve(id),
        Decision::Deny { reason } => Order::Deny(id, reason),
    };
    carry_out(&runs, &run, order).await
}

#[derive(Deserialize)]
struct Message {
    text: String,
}

async fn message(
    State(runs): State<Arc<Runs>>,
    Path(run): Path<String>,
    Json(message): Json<Message>,
) -> Response {
    carry_out(&runs, &run, Order::Message(message.text)).await
}

async fn interrupt(State(runs): State<Arc<Runs>>, Path(run): Path<String>) -> Response {
    carry_out(&runs, &run, Order::Interrupt).await
}

async fn close(State(runs): State<Arc<Runs>>, Path(run): Path<String>) -> Response {
    carry_out(&runs, &run, Order::Close).await
}

async fn cancel(State(runs): State<Arc<Runs>>, Path(run): Path<String>) -> Response {
    carry_out(&runs, &run, Order::Cancel).await
}

async fn carry_out(runs: &Runs, run: &str, order: Order) -> Response {
    match runs.order(run, order).await {
        None => refusal(StatusCode::NOT_FOUND, "there is no such run"),
        Some(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Some(Err(why)) => refusal(StatusCode::CONFLICT, &why),
    }
}

fn refusal(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}
