//! envd as the edge shows it: `process.Process`, health, metrics.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::DEBUG_SANDBOX;
use super::connect::{Code, Envelopes, Error, Result, end_of_stream, message, parse};
use super::http::{Connection, Head, Next};
use super::process::{self, Process, requested};
use super::sandbox::Sandbox;
use super::stream::{Subscription, is_up};

/// The sandbox that a request is for, while it is there: by header, or by host name `49983-ID.DOMAIN`, else the one
/// that is always there.
pub(super) fn sandbox_of(connection: &Connection, head: &Head) -> Option<Arc<Sandbox>> {
    let sandbox = connection.world.sandbox(&sandbox_id(head))?;
    is_up(&sandbox).then_some(sandbox)
}

fn sandbox_id(head: &Head) -> String {
    let named = head.header("e2b-sandbox-id");
    let host = head
        .header("host")
        .and_then(|host| host.strip_prefix("49983-"));
    let host = host.and_then(|host| host.split('.').next());
    named.or(host).unwrap_or(DEBUG_SANDBOX).to_owned()
}

pub(super) async fn answer(
    connection: &mut Connection,
    head: Head,
    sandbox: Option<Arc<Sandbox>>,
) -> io::Result<Next> {
    let Some(sandbox) = sandbox else {
        connection.see(&head, &Value::Null);
        return not_found(connection, &sandbox_id(&head)).await;
    };
    if connection.world.take(|faults| &mut faults.proxy_errors) {
        connection.see(&head, &Value::Null);
        return not_found(connection, &sandbox.id).await;
    }
    if head.path == "/health" {
        connection.see(&head, &Value::Null);
        return connection.respond(204, &[], b"").await;
    }
    let token = sandbox.token.as_deref();
    if token.is_some() && head.header("x-access-token") != token {
        connection.see(&head, &Value::Null);
        // Not a Connect error: it comes from in front of the service.
        let body = json!({
            "code": 401,
            "message": "unauthorized access, please provide a valid access token or method signing if supported",
        });
        return connection.json(401, &body).await;
    }
    if head.path == "/metrics" {
        connection.see(&head, &Value::Null);
        return connection.json(200, &metrics()).await;
    }
    let Some(procedure) = head.path.strip_prefix("/process.Process/") else {
        connection.see(&head, &Value::Null);
        let body = json!({"code": 404, "message": "not a part of the fake envd"});
        return connection.json(404, &body).await;
    };
    let procedure = procedure.to_owned();
    let wanted = match procedure.as_str() {
        "Start" | "Connect" | "StreamInput" => "application/connect+json",
        "List" | "Update" | "SendInput" | "SendSignal" | "CloseStdin" => "application/json",
        _ => {
            connection.see(&head, &Value::Null);
            return connection.respond(404, &[], b"").await;
        }
    };
    if head.method != "POST" {
        return connection.respond(405, &[("allow", "POST")], b"").await;
    }
    let kind = head.header("content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind != wanted {
        let headers = [("accept-post", wanted)];
        return connection.respond(415, &headers, b"").await;
    }
    match procedure.as_str() {
        "Start" | "Connect" => {
            let opened = open(connection, &head, &sandbox, &procedure).await?;
            match opened {
                Ok(Some(subscription)) => subscription.serve(connection).await,
                Ok(None) => Ok(Next::Cut),
                Err(error) => refuse(connection, &error).await,
            }
        }
        "StreamInput" => {
            connection.see(&head, &Value::Null);
            match stream_input(connection, &head, &sandbox).await? {
                Ok(()) => {
                    let mut body = connection.begin_stream().await?;
                    let empty = message(&json!({}));
                    let bytes = [empty, end_of_stream(None)].concat();
                    if body.send(&mut connection.writer, &bytes).await.is_err() {
                        return Ok(Next::Cut);
                    }
                    body.finish(&mut connection.writer).await?;
                    Ok(Next::Request)
                }
                Err(error) => refuse(connection, &error).await,
            }
        }
        _ => {
            let body = connection.reader.whole().await?;
            let request = parse(&body);
            connection.see(&head, request.as_ref().unwrap_or(&Value::Null));
            let answer = match request {
                Ok(request) => unary(&procedure, &request, &sandbox).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(message) => connection.json(200, &message).await,
                Err(error) => connection.json(error.status(), &error.json()).await,
            }
        }
    }
}

/// The edge's word for a sandbox that is not there: `code` is a number, the HTTP status (§6).
async fn not_found(connection: &mut Connection, id: &str) -> io::Result<Next> {
    let body = json!({"sandboxId": id, "message": "The sandbox was not found", "code": 502});
    connection.json(502, &body).await
}

/// A stream that is nothing but an error, with HTTP 200.
async fn refuse(connection: &mut Connection, error: &Error) -> io::Result<Next> {
    let mut body = connection.begin_stream().await?;
    let bytes = end_of_stream(Some(error));
    if body.send(&mut connection.writer, &bytes).await.is_err() {
        return Ok(Next::Cut);
    }
    body.finish(&mut connection.writer).await?;
    // What is left of the request may be anything.
    Ok(Next::Cut)
}

/// The one message of a request for a stream.
async fn only_message(connection: &mut Connection) -> io::Result<Result<Value>> {
    let mut envelopes = Envelopes::default();
    let mut messages = Vec::new();
    while let Some(piece) = connection.reader.piece().await? {
        envelopes.feed(&piece);
        loop {
            match envelopes.next() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return Ok(Err(error)),
            }
        }
    }
    if let Err(error) = envelopes.finish() {
        return Ok(Err(error));
    }
    let mut messages = messages.into_iter();
    let (first, second) = (messages.next(), messages.next());
    Ok(match (first, second) {
        (Some(message), None) => Ok(message),
        (None, _) => Err(Error::new(
            Code::Unimplemented,
            "unary request has zero messages",
        )),
        (Some(_), Some(_)) => Err(Error::new(
            Code::Unimplemented,
            "unary request has multiple messages",
        )),
    })
}

/// None: the process runs, and the client is not to learn of it.
async fn open(
    connection: &mut Connection,
    head: &Head,
    sandbox: &Arc<Sandbox>,
    procedure: &str,
) -> io::Result<Result<Option<Subscription>>> {
    let request = only_message(connection).await?;
    connection.see(head, request.as_ref().unwrap_or(&Value::Null));
    let opened = request.and_then(|request| {
        refuse_compression(head)?;
        let timeout = milliseconds(head, "connect-timeout-ms")?;
        let (process, chunks) = if procedure == "Start" {
            let request = start_request(&request, timeout)?;
            let started = Process::start(&connection.world, sandbox, request)?;
            if connection.world.take(|faults| &mut faults.lose_starts) {
                connection.reset();
                return Ok(None);
            }
            started
        } else {
            let process = select(sandbox, &request)?;
            let chunks = process.subscribe();
            (process, chunks)
        };
        let seconds = head.header("keepalive-ping-interval");
        let seconds = seconds.and_then(|seconds| seconds.parse().ok());
        Ok(Some(Subscription {
            process,
            sandbox: Arc::clone(sandbox),
            chunks,
            deadline: timeout.map(|timeout| Instant::now() + timeout),
            keepalive: seconds.map(Duration::from_secs),
        }))
    });
    Ok(opened)
}

fn refuse_compression(head: &Head) -> Result<()> {
    match head.header("connect-content-encoding") {
        None | Some("identity") => Ok(()),
        Some(other) => Err(Error::new(
            Code::Unimplemented,
            format!("unknown compression \"{other}\": supported encodings are identity"),
        )),
    }
}

/// None without the header, and for 0.
fn milliseconds(head: &Head, name: &str) -> Result<Option<Duration>> {
    let Some(text) = head.header(name) else {
        return Ok(None);
    };
    let milliseconds: u64 = text
        .parse()
        .map_err(|_| Error::invalid(format!("protocol error: invalid {name}: {text:?}")))?;
    Ok((milliseconds > 0).then(|| Duration::from_millis(milliseconds)))
}

fn start_request(request: &Value, timeout: Option<Duration>) -> Result<process::Request> {
    if request.get("pty").is_some_and(|pty| !pty.is_null()) {
        return Err(Error::new(Code::Unimplemented, "the fake envd has no PTYs"));
    }
    let process = &request["process"];
    let strings = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items
            .filter_map(|item| Some(item.as_str()?.to_owned()))
            .collect()
    };
    let envs: BTreeMap<String, String> = process["envs"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    let text = |value: &Value| {
        value
            .as_str()
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    Ok(process::Request {
        cmd: text(&process["cmd"]).ok_or_else(|| Error::invalid("no command"))?,
        args: strings(&process["args"]),
        envs,
        cwd: text(&process["cwd"]),
        tag: text(&request["tag"]),
        // Unset means on, as before stdin could be switched off (§3).
        stdin: request["stdin"].as_bool().unwrap_or(true),
        timeout,
    })
}

/// The process that a selector means.
fn select(sandbox: &Sandbox, request: &Value) -> Result<Arc<Process>> {
    let selector = &request["process"];
    let mut processes = sandbox.processes().into_iter();
    if let Some(pid) = selector.get("pid").and_then(Value::as_i64) {
        let found = processes.find(|process| i64::from(process.pid) == pid);
        return found.ok_or_else(|| {
            Error::new(Code::NotFound, format!("process with pid {pid} not found"))
        });
    }
    if let Some(tag) = selector.get("tag").and_then(Value::as_str) {
        let found = processes.find(|process| process.is_tagged(tag));
        return found.ok_or_else(|| {
            Error::new(Code::NotFound, format!("process with tag {tag} not found"))
        });
    }
    Err(Error::new(Code::Unimplemented, "invalid input type <nil>"))
}

async fn unary(procedure: &str, request: &Value, sandbox: &Sandbox) -> Result<Value> {
    let empty = Value::Object(Map::new());
    match procedure {
        "List" => {
            let processes = sandbox.processes();
            let alive = processes.iter().filter(|process| !process.is_over());
            let list: Vec<Value> = alive.map(|process| process.info()).collect();
            Ok(match list.is_empty() {
                true => empty,
                false => json!({ "processes": list }),
            })
        }
        "SendInput" => {
            let process = select(sandbox, request)?;
            write(&process, &request["input"]).await?;
            Ok(empty)
        }
        "SendSignal" => {
            let process = select(sandbox, request)?;
            process.signal(requested(&request["signal"])?)?;
            Ok(empty)
        }
        "CloseStdin" => {
            select(sandbox, request)?.close_stdin().await;
            Ok(empty)
        }
        // Update: only a terminal has a size.
        _ => {
            select(sandbox, request)?;
            Err(Error::internal(
                "error resizing tty: tty not assigned to process",
            ))
        }
    }
}

async fn write(process: &Process, input: &Value) -> Result<()> {
    if input.get("pty").is_some() {
        return Err(Error::internal(
            "error writing to tty: tty not assigned to process",
        ));
    }
    let Some(text) = input.get("stdin").and_then(Value::as_str) else {
        return Err(Error::new(Code::Unimplemented, "invalid input type <nil>"));
    };
    let bytes = STANDARD.decode(text);
    let bytes = bytes.map_err(|error| Error::invalid(format!("unmarshal message: {error}")))?;
    process.write(&bytes).await
}

/// A stream of input: each message is carried out as it arrives, so their order is kept.
async fn stream_input(
    connection: &mut Connection,
    head: &Head,
    sandbox: &Sandbox,
) -> io::Result<Result<()>> {
    if let Err(error) = refuse_compression(head) {
        return Ok(Err(error));
    }
    let mut envelopes = Envelopes::default();
    let mut process = None;
    while let Some(piece) = connection.reader.piece().await? {
        envelopes.feed(&piece);
        loop {
            let message = match envelopes.next() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(error) => return Ok(Err(error)),
            };
            if let Err(error) = input_message(&message, &mut process, sandbox).await {
                return Ok(Err(error));
            }
        }
    }
    Ok(envelopes.finish())
}

async fn input_message(
    message: &Value,
    process: &mut Option<Arc<Process>>,
    sandbox: &Sandbox,
) -> Result<()> {
    if let Some(start) = message.get("start") {
        *process = Some(select(sandbox, start)?);
        return Ok(());
    }
    if message.get("keepalive").is_some() {
        return Ok(());
    }
    match (message.get("data"), process) {
        (Some(data), Some(process)) => write(process, &data["input"]).await,
        (Some(_), None) => Err(Error::invalid("data before start")),
        (None, _) => Err(Error::new(Code::Unimplemented, "invalid event type <nil>")),
    }
}

/// Numbers of the right kind, not of this machine.
fn metrics() -> Value {
    json!({
        "ts": Timestamp::now().as_second(),
        "cpu_count": 2,
        "cpu_used_pct": 12.5,
        "mem_total": 1 << 30,
        "mem_used": 256 << 20,
        "mem_cache": 64 << 20,
        "disk_used": 1_u64 << 30,
        "disk_total": 10_u64 << 30,
    })
}
