//! What of the transcript is told to a log as well: the events of the run's life, warnings, and what the agent wrote to
//! stderr. Each record has the trace and span of its line.

use opentelemetry::logs::Severity;
use opentelemetry::trace::{SpanId, TraceId};
use sandtrace_client::wire::{AgentExited, Body, Outcome, RunStarted};

use crate::agent::Fragment;
use crate::session::semconv::{event, key};
use crate::session::{Attribute, Capture};
use crate::telemetry::LogEntry;
use crate::time::Now;

/// The most records between two looks of the loop: a flood on stderr is in the journal, and need not be in a log.
const MOST: usize = 256;
/// The most bytes of a line of stderr that are considered.
const LINE_BYTES: usize = 16 << 10;

/// Records that wait for the loop to hand them to the exporter.
#[derive(Debug)]
pub(super) struct Log {
    trace_id: TraceId,
    capture: Capture,
    entries: Vec<LogEntry>,
    left_out: u64,
}

/// What gathered since the last look.
#[derive(Debug, Default)]
pub struct Logged {
    pub entries: Vec<LogEntry>,
    /// Records beyond what may gather.
    pub left_out: u64,
}

impl Log {
    pub(super) fn new(trace_id: TraceId, capture: Capture) -> Self {
        Self {
            trace_id,
            capture,
            entries: Vec::new(),
            left_out: 0,
        }
    }

    pub(super) fn change_trace(&mut self, trace_id: TraceId) {
        self.trace_id = trace_id;
    }

    pub(super) fn take(&mut self) -> Logged {
        Logged {
            entries: std::mem::take(&mut self.entries),
            left_out: std::mem::take(&mut self.left_out),
        }
    }

    /// A line of ours, if it is an event of the run's life.
    pub(super) fn body(&mut self, now: Now, span_id: SpanId, body: &Body) {
        let told = match body {
            Body::RunStarted(started) => run_started(started),
            Body::AgentExited(exited) => self.agent_exited(exited),
            Body::Warning(warning) => Told {
                severity: Severity::Warn,
                event: event::WARNING,
                body: warning.message.clone(),
                attributes: vec![(key::WARNING_CODE.into(), warning.code.clone().into())],
            },
            _ => return,
        };
        self.push(now, span_id, told);
    }

    /// A line, or a part of one, that the agent wrote to stderr. Who wants no content wants none of it.
    pub(super) fn stderr(&mut self, now: Now, span_id: SpanId, fragment: &Fragment<'_>) {
        let is_first = fragment.part.is_none_or(|part| part.index == 0);
        let bytes = fragment.bytes.trim_ascii_end();
        if self.capture == Capture::None || !is_first || bytes.is_empty() {
            return;
        }
        if self.entries.len() >= MOST {
            self.left_out += 1;
            return;
        }
        let bytes = &bytes[..bytes.len().min(LINE_BYTES)];
        let told = Told {
            severity: Severity::Info,
            event: event::STDERR,
            body: String::from_utf8_lossy(bytes).into_owned(),
            attributes: vec![(key::LOG_IOSTREAM.into(), "stderr".into())],
        };
        self.push(now, span_id, told);
    }

    fn agent_exited(&self, exited: &AgentExited) -> Told {
        let mut attributes: Vec<Attribute> = Vec::new();
        attributes.push((key::OUTCOME.into(), exited.outcome.as_str().into()));
        if let Some(exit) = &exited.exit {
            let code = i64::from(exit.reported_code);
            attributes.push((key::PROCESS_EXIT_CODE.into(), code.into()));
        }
        let Some(failure) = &exited.failure else {
            return Told {
                severity: Severity::Info,
                event: event::AGENT_EXITED,
                body: "the run succeeded".to_owned(),
                attributes,
            };
        };
        let kind = failure.kind.to_string();
        attributes.push((key::ERROR_TYPE.into(), kind.clone().into()));
        attributes.push((key::FAILURE_CONFIDENCE.into(), failure.confidence.into()));
        Told {
            severity: match exited.outcome {
                Outcome::Cancelled => Severity::Warn,
                _ => Severity::Error,
            },
            event: event::AGENT_EXITED,
            // The sentence may quote the API or the agent.
            body: match self.capture {
                Capture::None => kind,
                Capture::Preview | Capture::Full => failure.message.clone(),
            },
            attributes,
        }
    }

    fn push(&mut self, now: Now, span_id: SpanId, told: Told) {
        if self.entries.len() >= MOST {
            self.left_out += 1;
            return;
        }
        self.entries.push(LogEntry {
            time: now.wall,
            severity: told.severity,
            event: told.event,
            body: told.body,
            attributes: told.attributes,
            trace_id: self.trace_id,
            span_id,
        });
    }
}

struct Told {
    severity: Severity,
    event: &'static str,
    body: String,
    attributes: Vec<Attribute>,
}

/// Sent at once, so that a run that never ends is seen too.
fn run_started(started: &RunStarted) -> Told {
    let mut attributes: Vec<Attribute> = vec![
        (key::RUN_ID.into(), started.run_id.clone().into()),
        (
            key::PROCESS_EXECUTABLE_NAME.into(),
            started.executable.clone().into(),
        ),
    ];
    if let Some(pid) = started.pid {
        attributes.push((key::PROCESS_PID.into(), i64::from(pid).into()));
    }
    Told {
        severity: Severity::Info,
        event: event::RUN_STARTED,
        body: format!("the run {} started", started.run_id),
        attributes,
    }
}
