//! What a sandbox without egress asks the host to export.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::event::{Content, Event};
use crate::wire::Body;

/// An OTLP request in JSON, as the supervisor made it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtlpRequest {
    /// `traces`, `metrics` or `logs`.
    pub signal: String,
    /// The body, to be sent as `application/json`.
    pub body: String,
}

impl OtlpRequest {
    /// The request of a line `sandtrace.otlp`; `None` for any other. The body is the line's own text.
    #[must_use]
    pub fn of(event: &Event) -> Option<Self> {
        #[derive(Deserialize)]
        struct Line<'a> {
            #[serde(borrow)]
            data: Data<'a>,
        }
        #[derive(Deserialize)]
        struct Data<'a> {
            #[serde(borrow)]
            request: &'a RawValue,
        }
        let Content::Supervisor(Body::Otlp(otlp)) = event.content() else {
            return None;
        };
        let line: Line<'_> = serde_json::from_str(event.raw()).ok()?;
        Some(Self {
            signal: otlp.signal.clone(),
            body: line.data.request.get().to_owned(),
        })
    }

    /// Where a receiver of OTLP over HTTP wants it: `/v1/traces`. Only of a signal that this version knows, for what is
    /// in a line came out of a sandbox.
    #[must_use]
    pub fn path(&self) -> Option<&'static str> {
        match &*self.signal {
            "traces" => Some("/v1/traces"),
            "metrics" => Some("/v1/metrics"),
            "logs" => Some("/v1/logs"),
            _ => None,
        }
    }
}
