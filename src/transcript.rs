//! The run's transcript: every line is numbered, written to the journal, and handed to the host, in this order.
//!
//! Lines gather in a batch while one chunk of the agent's output is worked through; [`Transcript::commit`] then costs
//! one write for all of them. A journal that fails is reported once and written no more, and the echo goes on without it.

mod log;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use opentelemetry::trace::{SpanId, SpanKind, TraceId};
use opentelemetry::{Array, Value};
use sandtrace_client::wire::{Body, Output, Part, SpanEnded, SpanStarted, Stream, Warning};
use serde_json::{Map, json};

use crate::agent::Fragment;
use crate::cli::EchoMode;
use crate::echo::{Delivery, Echo};
use crate::envelope::Stamper;
use crate::journal::Journal;
use crate::session::semconv::key;
use crate::session::{Attribute, Capture, FinishedSpan, Forked, OpenedSpan, SpanStatus};
use crate::telemetry::Redactor;
use crate::time::Now;

use self::log::Log;
pub use self::log::Logged;

/// A batch that has grown this large is committed before the chunk is done.
const BATCH_BYTES: usize = 256 << 10;

/// The most that a byte of the agent's can become: an empty line is told in about 230 bytes.
const EXPANSION: usize = 256;
/// The least that is read from the agent at a time.
const LEAST_READ: usize = 4 << 10;

/// Where the run's lines go.
#[derive(Debug)]
pub struct Transcript {
    stamper: Stamper,
    journal: Option<Journal>,
    echo: Option<Echo>,
    mode: EchoMode,
    batch: Vec<u8>,
    scratch: Vec<u8>,
    root: SpanId,
    last_line: Duration,
    /// The last line was admitted: nothing may follow it.
    over: bool,
    /// `None` if nobody keeps a log.
    log: Option<Log>,
    /// For what we say ourselves. The agent's lines stay as they are.
    redactor: Arc<Redactor>,
}

impl Transcript {
    #[must_use]
    pub fn new(
        trace_id: TraceId,
        root: SpanId,
        journal: Option<Journal>,
        echo: Option<Echo>,
        mode: EchoMode,
    ) -> Self {
        Self {
            stamper: Stamper::new(trace_id),
            journal,
            echo,
            mode,
            batch: Vec::with_capacity(BATCH_BYTES),
            scratch: Vec::new(),
            root,
            last_line: Duration::ZERO,
            over: false,
            log: None,
            redactor: Arc::default(),
        }
    }

    /// Keeps the secrets that this one knows out of our own lines.
    #[must_use]
    pub fn redacting(self, redactor: Arc<Redactor>) -> Self {
        Self { redactor, ..self }
    }

    /// Tells the events of the run, and its stderr, to a log as well; see [`Self::logged`].
    #[must_use]
    pub fn with_log(mut self, trace_id: TraceId, capture: Capture) -> Self {
        self.log = Some(Log::new(trace_id, capture));
        self
    }

    /// What gathered for the log since the last call. Bounded, so it must be asked often.
    pub fn logged(&mut self) -> Logged {
        self.log.as_mut().map(Log::take).unwrap_or_default()
    }

    /// When the last line was admitted, as time since the start.
    #[must_use]
    pub fn last_line(&self) -> Duration {
        self.last_line
    }

    /// The number of the last line.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.stamper.seq()
    }

    /// The journal, even one that can no longer be written: its state still can.
    #[must_use]
    pub fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// Goes on as another run, in the directory of that name if it can be had.
    ///
    /// # Errors
    ///
    /// The error of rename(2). The journal then keeps its old name, and goes on.
    pub fn fork(&mut self, now: Now, run_id: &str, forked: &Forked) -> std::io::Result<()> {
        self.commit(now);
        self.stamper.change_trace(forked.trace_id);
        if let Some(log) = &mut self.log {
            log.change_trace(forked.trace_id);
        }
        self.root = forked.root;
        match &mut self.journal {
            Some(journal) => journal.rename(run_id),
            None => Ok(()),
        }
    }

    /// The journal, as long as it gets every line.
    #[must_use]
    pub fn intact_journal(&self) -> Option<&Journal> {
        self.journal().filter(|journal| !journal.is_broken())
    }

    /// Whether this stream of the agent may be read: with `--echo raw` or without a journal a host that does not read
    /// holds the agent back, as it would without us. Its stderr has a file of its own, and is held back only where it
    /// has no other place than the echo.
    #[must_use]
    pub fn has_room_for(&self, stream: Stream) -> bool {
        let held_back = match (self.mode, stream) {
            (EchoMode::Raw, Stream::Stdout) => true,
            (EchoMode::Raw | EchoMode::Off, _) => false,
            (EchoMode::Enriched, _) => self.intact_journal().is_none(),
        };
        !held_back || self.echo.as_ref().is_none_or(Echo::has_room)
    }

    /// How much of the agent's output to read at once, at most `most`. Where the ring is all that holds the lines, what
    /// one read becomes must fit in it, however short the lines are.
    #[must_use]
    pub fn read_size(&self, most: usize) -> usize {
        match &self.echo {
            Some(echo) if self.mode == EchoMode::Enriched && self.intact_journal().is_none() => {
                (echo.free() / EXPANSION).max(LEAST_READ).min(most)
            }
            _ => most,
        }
    }

    /// Waits until [`Self::has_room_for`] holds for both streams.
    pub async fn room(&self) {
        if let Some(echo) = &self.echo {
            echo.room().await;
        }
    }

    /// The agent's stdout as it came, for `--echo raw`.
    pub fn raw(&self, bytes: &[u8]) {
        if let (Some(echo), EchoMode::Raw) = (&self.echo, self.mode) {
            echo.push(bytes);
        }
    }

    /// A JSON object the agent printed: its own bytes and our member.
    pub fn agent_line(&mut self, now: Now, span: SpanId, line: &[u8]) {
        self.last_line = now.uptime;
        self.stamper.admit(line, now.wall, span, &mut self.batch);
        self.commit_if_large(now);
    }

    /// Output that is no JSON object, or one that pretends to be ours.
    pub fn output(&mut self, now: Now, span: SpanId, stream: Stream, fragment: &Fragment<'_>) {
        if self.over {
            return;
        }
        if let (Some(log), Stream::Stderr) = (&mut self.log, stream) {
            log.stderr(now, span, fragment);
        }
        let (text, base64) = match std::str::from_utf8(fragment.bytes) {
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(STANDARD.encode(fragment.bytes))),
        };
        let part = fragment.part.map(|part| Part {
            index: u64::from(part.index),
            last: part.last,
        });
        let body = Body::Output(Output {
            stream,
            text,
            base64,
            newline: fragment.newline,
            part,
        });
        if self.spell(&body) {
            // A fragment has up to 4 MiB: its copies must not all stand in memory at once.
            drop(body);
            self.admit_spelled(now, span);
        }
    }

    /// A line that is worth nothing once it is late: it is left out when the host is behind and there is no journal.
    pub fn passing(&mut self, now: Now, body: &Body) {
        if self.has_room_for(Stream::Stdout) {
            self.body(now, None, body);
        }
    }

    /// A line of our own.
    pub fn body(&mut self, now: Now, span: Option<SpanId>, body: &Body) {
        if self.over {
            return;
        }
        if matches!(body, Body::RunFinished(_)) {
            // Whatever is to be said about the journal and the echo is said before the last line.
            self.commit(now);
            self.report_lost(now);
            self.over = true;
        }
        let span = span.unwrap_or(self.root);
        if let Some(log) = &mut self.log {
            log.body(now, span, body);
        }
        if self.spell(body) {
            self.admit_spelled(now, span);
        }
    }

    /// Writes a line of ours out as JSON, still without its number.
    fn spell(&mut self, body: &Body) -> bool {
        self.scratch.clear();
        // Serialising our own types into memory cannot fail: every map key is a string.
        serde_json::to_writer(&mut self.scratch, body).is_ok()
    }

    fn admit_spelled(&mut self, now: Now, span: SpanId) {
        self.last_line = now.uptime;
        self.stamper
            .admit(&self.scratch, now.wall, span, &mut self.batch);
        self.scratch.clear();
        self.scratch.shrink_to(BATCH_BYTES);
        self.commit_if_large(now);
    }

    pub fn opened(&mut self, now: Now, span: &OpenedSpan) {
        let body = SpanStarted {
            span_id: span.span_id.to_string(),
            parent_span_id: span.parent_span_id.map(|id| id.to_string()),
            name: self.redactor.text(&span.name).into_owned(),
            kind: match span.kind {
                SpanKind::Client => "client".to_owned(),
                _ => "internal".to_owned(),
            },
            start_time: span.start.to_string(),
            attributes: self.attributes(&span.attributes),
        };
        self.body(now, Some(span.span_id), &Body::SpanStarted(Box::new(body)));
    }

    pub fn closed(&mut self, now: Now, span: &FinishedSpan) {
        let (status, message) = match &span.status {
            SpanStatus::Unset => ("unset", None),
            SpanStatus::Ok => ("ok", None),
            SpanStatus::Error { message } => {
                ("error", Some(self.redactor.text(message).into_owned()))
            }
        };
        let body = SpanEnded {
            span_id: span.span_id.to_string(),
            parent_span_id: span.parent_span_id.map(|id| id.to_string()),
            name: self.redactor.text(&span.name).into_owned(),
            status: status.to_owned(),
            message,
            duration_ms: span.end.since(span.start).as_secs_f64() * 1e3,
            attributes: self.attributes(&span.attributes),
        };
        self.body(now, Some(span.span_id), &Body::SpanEnded(Box::new(body)));
    }

    /// Attributes as JSON, without their secrets. The run's id is on every line's way already.
    fn attributes(&self, attributes: &[Attribute]) -> Map<String, serde_json::Value> {
        attributes
            .iter()
            .filter(|(name, _)| name.as_str() != key::RUN_ID)
            .map(|(name, value)| {
                let mut value = to_json(value);
                self.redactor.json(&mut value);
                (name.as_str().to_owned(), value)
            })
            .collect()
    }

    pub fn warning(
        &mut self,
        now: Now,
        code: &str,
        message: impl Into<String>,
        counts: Map<String, serde_json::Value>,
    ) {
        let warning = Warning {
            code: code.to_owned(),
            message: self.redactor.text(&message.into()).into_owned(),
            counts,
        };
        self.body(now, None, &Body::Warning(warning));
    }

    fn commit_if_large(&mut self, now: Now) {
        if self.batch.len() >= BATCH_BYTES {
            self.commit(now);
        }
    }

    /// Writes the batch: to the journal first, then to the host.
    pub fn commit(&mut self, now: Now) {
        if self.batch.is_empty() {
            return;
        }
        let written = match self
            .journal
            .as_mut()
            .map(|journal| journal.append(&self.batch))
        {
            Some(Ok(written)) => written,
            Some(Err(error)) => {
                self.journal_failed(now, &error);
                None
            }
            None => None,
        };
        if let (Some(echo), EchoMode::Enriched) = (&self.echo, self.mode) {
            match &written {
                Some(written) => echo.push_journaled(&self.batch, &written.file, written.from),
                None => echo.push(&self.batch),
            }
        }
        self.batch.clear();
        self.batch.shrink_to(2 * BATCH_BYTES);
        self.make_room(now);
    }

    /// The journal is as good as gone from here on. The batch in hand still goes to the host, and the next one says why.
    fn journal_failed(&mut self, now: Now, error: &std::io::Error) {
        let batch = std::mem::take(&mut self.batch);
        let message = format!("the journal cannot be written any more and ends here: {error}");
        self.warning(now, "journal_failed", message, Map::new());
        let warning = std::mem::replace(&mut self.batch, batch);
        self.batch.extend_from_slice(&warning);
    }

    /// Makes room in a full journal, and turns what the host has yet to get to the file that replaces it. This takes the
    /// loop some 200 ms a time; it puts nothing into the ring meanwhile, which is what keeps the places true.
    fn make_room(&mut self, now: Now) {
        let Some(journal) = self.journal.as_mut().filter(|journal| journal.is_full()) else {
            return;
        };
        if self.over {
            // It is at most a batch above its cap, and nothing more will come.
            return;
        }
        let echo = self.echo.as_ref();
        let marks = echo.map_or_else(Vec::new, |echo| echo.marks(journal.events()));
        match journal.compact(&marks) {
            Ok(moved) => {
                if let Some(echo) = echo {
                    echo.rebase(&moved);
                }
                let dropped = moved.dropped;
                let counts = json!({"resources": dropped.resources, "spans": dropped.spans, "output": dropped.output});
                let counts = counts.as_object().cloned().unwrap_or_default();
                self.warning(
                    now,
                    "journal_full",
                    "the journal reached its cap and dropped its oldest lines",
                    counts,
                );
            }
            Err(error) => {
                let error = std::io::Error::new(
                    error.kind(),
                    format!("it reached its cap and could not be made smaller: {error}"),
                );
                self.journal_failed(now, &error);
            }
        }
    }

    fn report_lost(&mut self, now: Now) {
        let lost = self.echo.as_ref().map_or(0, Echo::lost);
        if lost > 0 {
            let counts = Map::from_iter([("bytes".to_owned(), lost.into())]);
            let message = "some lines could not be read back from the journal for the host";
            self.warning(now, "echo_lost", message, counts);
        }
    }

    /// Writes what is left and waits for the host to take it.
    pub async fn finish(mut self, now: Now) -> Delivery {
        self.commit(now);
        match self.echo.take() {
            Some(echo) => echo.finish().await,
            None => Delivery::Complete,
        }
    }
}

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(value) => json!(value),
        Value::I64(value) => json!(value),
        Value::F64(value) => json!(value),
        Value::String(value) => json!(value.as_str()),
        Value::Array(Array::Bool(values)) => json!(values),
        Value::Array(Array::I64(values)) => json!(values),
        Value::Array(Array::F64(values)) => json!(values),
        Value::Array(Array::String(values)) => {
            json!(
                values
                    .iter()
                    .map(opentelemetry::StringValue::as_str)
                    .collect::<Vec<_>>()
            )
        }
        other => json!(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
