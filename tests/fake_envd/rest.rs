//! The part of E2B's REST API that makes, keeps and ends sandboxes (`reference/e2b.md` §4).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::http::{Connection, Head, Next};
use super::sandbox::{ENVD_VERSION, New, Phase, Sandbox};

/// What the API takes when a request names no timeout, in seconds (§4).
const TIMEOUT: u64 = 15;

pub(super) async fn answer(connection: &mut Connection, head: Head) -> io::Result<Next> {
    let body = connection.reader.whole().await?;
    let body = match body.as_slice() {
        [] => Ok(Value::Null),
        bytes => serde_json::from_slice::<Value>(bytes),
    };
    connection.see(&head, body.as_ref().unwrap_or(&Value::Null));
    let world = Arc::clone(&connection.world);
    if head.header("x-api-key") != Some(world.options.api_key.as_str()) {
        return error(connection, 401, "Invalid API key").await;
    }
    if world.take(|faults| &mut faults.rate_limits) {
        let after = world.faults.lock().unwrap().retry_after.as_secs();
        let body = json!({"code": 429, "message": "Rate limit exceeded, please try again later"});
        let headers = [("retry-after", after.to_string())];
        let headers = headers
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        return connection
            .respond(429, &headers, body.to_string().as_bytes())
            .await;
    }
    let Ok(body) = body else {
        return error(connection, 400, "Error when parsing request").await;
    };
    let path: Vec<&str> = head.path.trim_matches('/').split('/').collect();
    let path = match path.as_slice() {
        ["v2", rest @ ..] => rest,
        all => all,
    };
    match (head.method.as_str(), path) {
        ("POST", ["sandboxes"]) => {
            let sandbox = Sandbox::create(&world, new(&body));
            let created = created(&sandbox);
            connection.json(201, &created).await
        }
        ("GET", ["sandboxes"]) => {
            let all: Vec<_> = {
                let sandboxes = world.sandboxes.lock().unwrap();
                sandboxes.values().cloned().collect()
            };
            let there = all.iter().filter(|one| !one.is(Phase::Killed));
            let list: Vec<Value> = there
                .filter(|one| one.ends().is_some())
                .map(|one| details(one))
                .collect();
            connection.json(200, &list.into()).await
        }
        ("GET", ["events", "sandboxes", id]) => match world.sandbox(id) {
            None => connection.json(200, &json!([])).await,
            Some(sandbox) => {
                let mut events = sandbox.events();
                if head.query.split('&').any(|part| part == "orderAsc=true") {
                    events.reverse();
                }
                connection.json(200, &events.into()).await
            }
        },
        (method, ["sandboxes", id, rest @ ..]) => {
            let sandbox = world.sandbox(id).filter(|one| !one.is(Phase::Killed));
            match sandbox {
                None => {
                    let message =
                        format!("sandbox \"{id}\" doesn't exist or you don't have access to it");
                    error(connection, 404, &message).await
                }
                Some(sandbox) => one(connection, method, rest, &body, &sandbox).await,
            }
        }
        _ => error(connection, 404, "no matching operation was found").await,
    }
}

async fn one(
    connection: &mut Connection,
    method: &str,
    rest: &[&str],
    body: &Value,
    sandbox: &Arc<Sandbox>,
) -> io::Result<Next> {
    let timeout = body["timeout"].as_u64().map(Duration::from_secs);
    match (method, rest) {
        ("GET", []) => connection.json(200, &details(sandbox)).await,
        ("DELETE", []) => {
            sandbox.kill("request");
            connection.respond(204, &[], b"").await
        }
        ("POST", ["timeout"]) => {
            let Some(timeout) = timeout else {
                return error(connection, 400, "timeout is missing").await;
            };
            sandbox.end_at(Timestamp::now() + timeout);
            connection.respond(204, &[], b"").await
        }
        ("POST", ["pause"]) => {
            if sandbox.is(Phase::Paused) {
                let message = format!("sandbox {} is already paused", sandbox.id);
                return error(connection, 409, &message).await;
            }
            sandbox.pause(body["memory"].as_bool().unwrap_or(true));
            connection.respond(204, &[], b"").await
        }
        ("POST", ["connect"]) => {
            let end = Timestamp::now() + timeout.unwrap_or(Duration::from_secs(TIMEOUT));
            let was_paused = sandbox.is(Phase::Paused);
            // It only ever extends, but what was paused starts anew.
            if was_paused || sandbox.ends().is_some_and(|ends| ends < end) {
                sandbox.end_at(end);
            }
            if was_paused {
                sandbox.resume();
            }
            let status = if was_paused { 201 } else { 200 };
            connection.json(status, &created(sandbox)).await
        }
        ("GET", ["metrics"]) => {
            let now = Timestamp::now();
            let metrics = json!([{
                "timestamp": now.to_string(),
                "timestampUnix": now.as_second(),
                "cpuCount": 2,
                "cpuUsedPct": 12.5,
                "memUsed": 256 << 20,
                "memTotal": 1 << 30,
                "memCache": 64 << 20,
                "diskUsed": 1_u64 << 30,
                "diskTotal": 10_u64 << 30,
            }]);
            connection.json(200, &metrics).await
        }
        _ => error(connection, 404, "no matching operation was found").await,
    }
}

async fn error(connection: &mut Connection, status: u16, message: &str) -> io::Result<Next> {
    let body = json!({"code": status, "message": message});
    connection.json(status, &body).await
}

fn new(body: &Value) -> New {
    let envs = body["envVars"].as_object().into_iter().flatten();
    let envs: BTreeMap<String, String> = envs
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    New {
        template: body["templateID"].as_str().unwrap_or("base").to_owned(),
        timeout: Duration::from_secs(body["timeout"].as_u64().unwrap_or(TIMEOUT)),
        metadata: body["metadata"].clone(),
        envs,
        secure: body["secure"].as_bool().unwrap_or(false),
    }
}

fn created(sandbox: &Sandbox) -> Value {
    let mut created = json!({
        "sandboxID": sandbox.id,
        "templateID": sandbox.template,
        "clientID": "fake",
        "envdVersion": ENVD_VERSION,
        "domain": null,
    });
    if let Some(token) = &sandbox.token {
        created["envdAccessToken"] = token.as_str().into();
    }
    created
}

fn details(sandbox: &Sandbox) -> Value {
    let mut details = created(sandbox);
    details["state"] = match sandbox.is(Phase::Paused) {
        true => "paused".into(),
        false => "running".into(),
    };
    details["startedAt"] = sandbox.started.to_string().into();
    let ends = sandbox.ends().unwrap_or(sandbox.started);
    details["endAt"] = ends.to_string().into();
    details["cpuCount"] = 2.into();
    details["memoryMB"] = 1024.into();
    details["diskSizeMB"] = 10_240.into();
    if sandbox.metadata.is_object() {
        details["metadata"] = sandbox.metadata.clone();
    }
    details
}
