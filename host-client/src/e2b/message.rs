//! The messages of envd's `process.Process`, in protobuf's JSON (`reference/e2b.md` §3).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::live::Signal;

/// What a stream tells of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    Started(u32),
    Stdout(Bytes),
    Stderr(Bytes),
    Ended(End),
    /// A keepalive, or what a newer envd tells.
    Alive,
}

/// How a process ended. What is zero is not there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct End {
    /// −1 of one that died of a signal.
    #[serde(default, rename = "exitCode", alias = "exit_code")]
    pub(super) exit_code: i32,
    /// `exit status 1`, `signal: killed`
    #[serde(default)]
    status: String,
}

impl End {
    pub(super) fn status(&self) -> String {
        match self.status.as_str() {
            "" => format!("exit status {}", self.exit_code),
            status => status.to_owned(),
        }
    }
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    event: Event,
}

#[derive(Default, Deserialize)]
struct Event {
    start: Option<Start>,
    data: Option<Data>,
    end: Option<End>,
}

#[derive(Deserialize)]
struct Start {
    #[serde(default)]
    pid: u32,
}

#[derive(Deserialize)]
struct Data {
    stdout: Option<String>,
    stderr: Option<String>,
}

/// Reads a message of Start's or Connect's answer.
pub(super) fn told(message: &[u8]) -> Result<Told, String> {
    let read: Result<Message, _> = serde_json::from_slice(message);
    let event = read.map_err(|error| error.to_string())?.event;
    let bytes = |text: String| -> Result<Bytes, String> {
        let bytes = STANDARD.decode(text);
        Ok(bytes.map_err(|error| error.to_string())?.into())
    };
    Ok(match event {
        Event {
            start: Some(start), ..
        } => Told::Started(start.pid),
        Event { end: Some(end), .. } => Told::Ended(end),
        Event {
            data: Some(data), ..
        } => match (data.stdout, data.stderr) {
            (Some(stdout), _) => Told::Stdout(bytes(stdout)?),
            (None, Some(stderr)) => Told::Stderr(bytes(stderr)?),
            (None, None) => Told::Alive,
        },
        _ => Told::Alive,
    })
}

/// A process of `List`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Listed {
    #[serde(default)]
    pub(super) pid: u32,
    #[serde(default)]
    pub(super) tag: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct List {
    #[serde(default)]
    pub(super) processes: Vec<Listed>,
}

/// A command line as E2B's SDKs start one: by a login shell, so that it finds the environment that `commands.run` finds.
/// The shell is replaced, so that signals reach the supervisor.
pub(super) fn start(command: &str, env: &[(String, String)], tag: &str, stdin: bool) -> Value {
    let env = env
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().into()));
    json!({
        "process": {
            "cmd": "/bin/bash",
            "args": ["-l", "-c", format!("exec {command}")],
            "envs": env.collect::<serde_json::Map<String, Value>>(),
        },
        "tag": tag,
        "stdin": stdin,
    })
}

pub(super) fn by_pid(pid: u32) -> Value {
    json!({ "pid": pid })
}

pub(super) fn by_tag(tag: &str) -> Value {
    json!({ "tag": tag })
}

pub(super) fn send_input(process: &Value, bytes: &[u8]) -> Value {
    json!({"process": process, "input": {"stdin": STANDARD.encode(bytes)}})
}

pub(super) fn send_signal(process: &Value, signal: Signal) -> Value {
    let signal = match signal {
        Signal::Terminate => "SIGNAL_SIGTERM",
        Signal::Kill => "SIGNAL_SIGKILL",
    };
    json!({"process": process, "signal": signal})
}

#[cfg(test)]
mod tests {
    use super::{Told, told};

    #[test]
    fn what_is_zero_is_not_there() {
        let read = |text: &str| told(text.as_bytes()).unwrap();
        match read(r#"{"event":{"end":{"exited":true,"status":"exit status 0"}}}"#) {
            Told::Ended(end) => {
                assert_eq!((end.exit_code, end.status().as_str()), (0, "exit status 0"))
            }
            other => panic!("{other:?}"),
        }
        match read(
            r#"{"event":{"end":{"exitCode":-1,"status":"signal: killed","error":"signal: killed"}}}"#,
        ) {
            Told::Ended(end) => assert_eq!(
                (end.exit_code, end.status().as_str()),
                (-1, "signal: killed")
            ),
            other => panic!("{other:?}"),
        }
        match read(r#"{"event":{"end":{}}}"#) {
            Told::Ended(end) => assert_eq!(end.status(), "exit status 0"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_newer_envd_tells_is_a_sign_of_life() {
        for text in [
            r#"{"event":{"keepalive":{}}}"#,
            r#"{"event":{"data":{"pty":"aGk="}}}"#,
            r#"{"event":{"renamed":{"to":"x"}},"more":1}"#,
            "{}",
        ] {
            assert_eq!(told(text.as_bytes()), Ok(Told::Alive), "{text}");
        }
        assert_eq!(
            told(br#"{"event":{"data":{"stdout":"aGk="}}}"#),
            Ok(Told::Stdout(b"hi"[..].into()))
        );
        assert!(told(b"17").is_err());
        assert!(told(br#"{"event":{"data":{"stdout":"%"}}}"#).is_err());
    }
}
