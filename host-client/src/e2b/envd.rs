//! envd, the daemon in a sandbox: its process service.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;

use super::config::ENVD_PORT;
use super::envelope::enclosed;
use super::error::Error;
use super::events::{Events, Patience};
use super::http::{Answer, Call, Failed, retry_after};
use super::message::{self, List};
use super::refusal::{Code, Refusal};
use super::sandbox::Inner;
use crate::live::Signal;

/// What Connect calls a stream of JSON.
const STREAM: &str = "application/connect+json";

/// The longest refusal that is read, bytes.
const REFUSAL_BYTES: usize = 64 << 10;

/// Why envd did not do what it was asked.
#[derive(Debug)]
pub(super) enum Unheard {
    /// There was no answer.
    Failed(Failed),
    /// It, or somebody in between, said no.
    Refused {
        status: u16,
        refusal: Refusal,
        retry_after: Option<Duration>,
    },
}

impl Unheard {
    /// Whether it may have been done for all that.
    pub(super) fn is_uncertain(&self) -> bool {
        match self {
            Self::Failed(Failed::Connect(_)) => false,
            Self::Failed(_) => true,
            // Somebody between here and envd gave up on an answer.
            Self::Refused {
                status, refusal, ..
            } => {
                !self.is_missing_sandbox()
                    && (matches!(status, 502..=504) || is_broken(&refusal.code))
            }
        }
    }

    /// Whether the edge said that there is no such sandbox: 502 with that number for a code (`reference/e2b.md` §6).
    pub(super) fn is_missing_sandbox(&self) -> bool {
        match self {
            Self::Failed(_) => false,
            Self::Refused { refusal, .. } => {
                matches!(refusal.code, Code::Status(404 | 502))
                    && refusal.message.contains("not found")
            }
        }
    }

    pub(super) fn into_error(self, what: &str, url: &str) -> Error {
        match self {
            Self::Failed(failed) => failed.into_error(what, url),
            Self::Refused {
                status,
                refusal,
                retry_after,
            } => super::http::refused(what, status, refusal, retry_after),
        }
    }

    pub(super) fn why(&self) -> String {
        match self {
            Self::Failed(Failed::Connect(error)) => format!("no connection: {error}"),
            Self::Failed(Failed::Lost(error)) => format!("the connection broke: {error}"),
            Self::Failed(Failed::Timeout(after)) => format!("no answer for {} s", after.as_secs()),
            Self::Refused { refusal, .. } => refusal.to_string(),
        }
    }
}

/// Codes that say that the way was broken, and not that the request was. So do these statuses where a proxy answered
/// with nothing else: whether what is behind it was asked before, they do not tell.
pub(super) fn is_broken(code: &Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Canceled
            | Code::Unknown
            | Code::Internal
            | Code::Status(408 | 500..=599)
    )
}

/// envd of one sandbox.
#[derive(Debug, Clone, Copy)]
pub(super) struct Envd<'a> {
    pub(super) sandbox: &'a Inner,
}

impl Envd<'_> {
    pub(super) fn url(&self) -> String {
        let access = self.sandbox.access();
        let config = &self.sandbox.api.config;
        config.envd(&self.sandbox.id, access.domain.as_deref())
    }

    fn call(&self, procedure: &str, kind: &str, body: Vec<u8>) -> Call {
        let config = &self.sandbox.api.config;
        let mut headers = vec![
            ("content-type", kind.to_owned()),
            ("connect-protocol-version", "1".to_owned()),
            ("e2b-sandbox-id", self.sandbox.id.clone()),
            ("e2b-sandbox-port", ENVD_PORT.to_string()),
        ];
        if let Some(token) = self.sandbox.access().token {
            headers.push(("x-access-token", token));
        }
        if let Some(user) = &config.user {
            let user = STANDARD.encode(format!("{user}:"));
            headers.push(("authorization", format!("Basic {user}")));
        }
        Call {
            method: Method::POST,
            url: format!("{}/process.Process/{procedure}", self.url()),
            headers,
            body: body.into(),
        }
    }

    /// Start or Connect. No `Connect-Timeout-Ms`: of a Start it kills the process (`reference/e2b.md` §0.1).
    pub(super) async fn open(
        &self,
        procedure: &str,
        message: &Value,
        patience: Patience,
    ) -> Result<Events, Unheard> {
        let mut call = self.call(procedure, STREAM, enclosed(message.to_string().as_bytes()));
        let seconds = patience.keepalive.as_secs().max(1);
        call.headers
            .push(("keepalive-ping-interval", seconds.to_string()));
        let api = &self.sandbox.api;
        let opened = api.web.open(&call, api.config.request_timeout).await;
        let response = opened.map_err(Unheard::Failed)?;
        let status = response.status();
        if status.is_success() {
            return Ok(Events::of(response.into_body(), patience));
        }
        let retry_after = retry_after(response.headers());
        let body = Limited::new(response.into_body(), REFUSAL_BYTES).collect();
        let body = tokio::time::timeout(api.config.request_timeout, body).await;
        let body = match body {
            Ok(Ok(body)) => body.to_bytes(),
            // The status is known, whatever became of the body.
            Ok(Err(_)) | Err(_) => bytes::Bytes::new(),
        };
        Err(Unheard::Refused {
            status: status.as_u16(),
            refusal: Refusal::of(status.as_u16(), &body),
            retry_after,
        })
    }

    async fn unary(&self, procedure: &str, message: &Value) -> Result<Answer, Unheard> {
        let call = self.call(procedure, "application/json", message.to_string().into());
        let api = &self.sandbox.api;
        let answer = api.web.call(&call, api.config.request_timeout).await;
        let answer = answer.map_err(Unheard::Failed)?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        let status = answer.status.as_u16();
        Err(Unheard::Refused {
            status,
            refusal: Refusal::of(status, &answer.body),
            retry_after: answer.retry_after,
        })
    }

    /// The pid of the process with this tag, while it runs.
    pub(super) async fn find(&self, tag: &str) -> Result<Option<u32>, Unheard> {
        let answer = self
            .unary("List", &Value::Object(Default::default()))
            .await?;
        let list = serde_json::from_slice::<List>(&answer.body);
        let list = list.map_err(|error| Unheard::Failed(Failed::Lost(error.into())))?;
        let mut listed = list.processes.into_iter();
        let found = listed.find(|process| process.tag.as_deref() == Some(tag));
        Ok(found.map(|process| process.pid))
    }

    pub(super) async fn send_input(&self, process: &Value, bytes: &[u8]) -> Result<(), Unheard> {
        let message = message::send_input(process, bytes);
        self.unary("SendInput", &message).await.map(drop)
    }

    pub(super) async fn close_stdin(&self, process: &Value) -> Result<(), Unheard> {
        let message = serde_json::json!({ "process": process });
        self.unary("CloseStdin", &message).await.map(drop)
    }

    pub(super) async fn signal(&self, process: &Value, signal: Signal) -> Result<(), Unheard> {
        let message = message::send_signal(process, signal);
        self.unary("SendSignal", &message).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::Unheard;
    use crate::e2b::refusal::Refusal;

    #[test]
    fn a_bare_status_is_a_refusal_or_leaves_it_open() {
        for (status, body, uncertain) in [
            (400, "", false),
            (401, "", false),
            (403, r#"{"message":"no"}"#, false),
            (404, "", false),
            (408, "", true),
            (429, "", false),
            (500, r#"{"message":"oh"}"#, true),
            (501, r#"{"code":"unimplemented"}"#, false),
            (502, "", true),
            (503, r#"{"code":"unavailable"}"#, true),
            (524, "<html>", true),
            // The edge's word that there is no such sandbox: it reached nobody.
            (
                502,
                r#"{"code":502,"message":"The sandbox was not found"}"#,
                false,
            ),
        ] {
            let unheard = Unheard::Refused {
                status,
                refusal: Refusal::of(status, body.as_bytes()),
                retry_after: None,
            };
            assert_eq!(unheard.is_uncertain(), uncertain, "{status} {body}");
        }
    }
}
