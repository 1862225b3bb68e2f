//! From a run's files to what they say. A journal is read as far as it can be: a supervisor may have died in the middle
//! of a line, and a newer one may write lines that this version does not know.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sandtrace_client::wire::{
    AgentExited, RunFinished, RunStarted, SpanEnded, SpanStarted, Stamp, Warning,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::ReportError;
use super::locate::Located;
use super::traces;
use super::tree::{Span, Status};
use crate::time::UnixNanos;

/// Far above the longest line a supervisor writes; what is longer is no journal's line and is not kept in memory.
const LONGEST_LINE: u64 = 64 << 20;

/// All that the journal says and a report shows.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) started: Option<RunStarted>,
    pub(super) exited: Option<AgentExited>,
    pub(super) finished: Option<RunFinished>,
    pub(super) spans: Vec<Span>,
    /// Each with how often it stands in the journal.
    pub(super) warnings: Vec<(Warning, usize)>,
    pub(super) trace_id: Option<String>,
    /// When the newest line was admitted.
    pub(super) last_seen: Option<UnixNanos>,
    pub(super) files: Vec<PathBuf>,
    pub(super) unreadable: Vec<Unreadable>,
}

/// Lines of one file that could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) file: String,
    pub(super) lines: usize,
    /// The number of the first of them, from 1.
    pub(super) first: usize,
}

/// A line that is not what the file promises.
#[derive(Debug)]
pub(super) struct BadLine;

/// Reads the files that were found.
pub(super) fn load(located: Located) -> Result<Run, ReportError> {
    let mut loader = Loader::default();
    let mut unreadable = Vec::new();
    if let Some(path) = &located.events {
        unreadable.extend(each_line(path, |line| loader.event(line))?);
    }
    if let Some(path) = &located.traces {
        unreadable.extend(each_line(path, |line| loader.trace(line))?);
    }
    Ok(Run {
        files: located.files,
        unreadable,
        ..loader.run
    })
}

#[derive(Default)]
struct Loader {
    run: Run,
    /// Where each span id stands in `run.spans`.
    index: HashMap<String, usize>,
}

/// What every line has, ours or the agent's.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow, default)]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(rename = "sandtrace", borrow, default)]
    stamp: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    /// The data of a line of ours, once its type has told what it is.
    ///
    /// Not by [`sandtrace_client::wire::Body`]: to find the type wherever it may stand, serde must be able to keep any
    /// data until then, which made the binary 100 KB larger.
    fn data<T: Deserialize<'a>>(&self) -> Result<T, BadLine> {
        let data = self.data.ok_or(BadLine)?;
        serde_json::from_str(data.get()).map_err(|_| BadLine)
    }
}

impl Loader {
    fn event(&mut self, line: &str) -> Result<(), BadLine> {
        let envelope: Envelope<'_> = serde_json::from_str(line).map_err(|_| BadLine)?;
        let stamp = envelope
            .stamp
            .map(|stamp| serde_json::from_str::<Stamp>(stamp.get()));
        let stamp = stamp.and_then(Result::ok);
        let time = stamp.as_ref().and_then(|stamp| parse_time(&stamp.time));
        self.run.last_seen = self.run.last_seen.max(time);
        if self.run.trace_id.is_none() {
            self.run.trace_id = stamp.map(|stamp| stamp.trace_id);
        }
        match envelope.kind.map_or("", RawValue::get) {
            r#""sandtrace.run.started""# => {
                let started: RunStarted = envelope.data()?;
                // After a fork it is another run, whose open spans are told anew.
                if started.forked_from.is_some() {
                    self.run.trace_id = Some(started.trace_id.clone());
                    self.run.spans.clear();
                    self.index.clear();
                    self.run.started = None;
                }
                self.run.started.get_or_insert(started);
            }
            r#""sandtrace.span.started""# => self.started(envelope.data()?)?,
            r#""sandtrace.span.ended""# => self.ended(envelope.data()?, time)?,
            r#""sandtrace.warning""# => {
                let warning: Warning = envelope.data()?;
                let same = |known: &&mut (Warning, usize)| known.0 == warning;
                match self.run.warnings.iter_mut().find(same) {
                    Some((_, times)) => *times += 1,
                    None => self.run.warnings.push((warning, 1)),
                }
            }
            r#""sandtrace.agent.exited""# => self.run.exited = Some(envelope.data()?),
            r#""sandtrace.run.finished""# => self.run.finished = Some(envelope.data()?),
            _ => {}
        }
        Ok(())
    }

    fn started(&mut self, started: SpanStarted) -> Result<(), BadLine> {
        let span = Span {
            start: parse_time(&started.start_time).ok_or(BadLine)?,
            id: started.span_id,
            parent: started.parent_span_id,
            name: started.name,
            end: None,
            status: Status::Unset,
            message: None,
            attributes: started.attributes,
        };
        self.insert(span);
        Ok(())
    }

    /// `time` is when the line was admitted: without a start it dates the end.
    fn ended(&mut self, ended: SpanEnded, time: Option<UnixNanos>) -> Result<(), BadLine> {
        // A duration that is negative, or longer than time itself, is a duration all the same: a short or a long one.
        let duration = Duration::try_from_secs_f64(ended.duration_ms.max(0.0) / 1_000.0)
            .unwrap_or(Duration::MAX);
        let known = self.index.get(&ended.span_id);
        let start = match known {
            Some(at) => self.run.spans[*at].start,
            None => {
                let end = time.ok_or(BadLine)?;
                let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
                UnixNanos(end.0.saturating_sub(nanos))
            }
        };
        self.insert(Span {
            id: ended.span_id,
            parent: ended.parent_span_id,
            name: ended.name,
            start,
            end: Some(start.plus(duration)),
            status: match ended.status.as_str() {
                "error" => Status::Error,
                "ok" => Status::Ok,
                _ => Status::Unset,
            },
            message: ended.message,
            attributes: ended.attributes,
        });
        Ok(())
    }

    fn trace(&mut self, line: &str) -> Result<(), BadLine> {
        let forked = (self.run.started.as_ref()).is_some_and(|run| run.forked_from.is_some());
        for (trace_id, span) in traces::spans(line)? {
            if forked && self.run.trace_id.as_ref() != Some(&trace_id) {
                continue;
            }
            self.run.trace_id.get_or_insert(trace_id);
            self.insert(span);
        }
        Ok(())
    }

    /// Adds a span, or ends the open one of the same id; a span ends once.
    fn insert(&mut self, span: Span) {
        let Some(at) = self.index.get(&span.id) else {
            self.index.insert(span.id.clone(), self.run.spans.len());
            self.run.spans.push(span);
            return;
        };
        let known = &mut self.run.spans[*at];
        if known.end.is_none() && span.end.is_some() {
            known.name = span.name;
            known.end = span.end;
            known.status = span.status;
            known.message = span.message;
            known.attributes.extend(span.attributes);
        }
    }
}

fn parse_time(text: &str) -> Option<UnixNanos> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_nanosecond()).ok().map(UnixNanos)
}

/// Hands every line of a file on, and counts those that were refused. A last line without its newline is one that was
/// still being written: it is read if it can be, and no matter if not.
fn each_line(
    path: &Path,
    mut read: impl FnMut(&str) -> Result<(), BadLine>,
) -> Result<Option<Unreadable>, ReportError> {
    let unreadable = |source| ReportError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path).map_err(unreadable)?);
    let mut line = Vec::new();
    let mut bad: Option<Unreadable> = None;
    for number in 1.. {
        line.clear();
        let taken = (&mut reader)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line);
        if taken.map_err(unreadable)? == 0 {
            break;
        }
        let whole = line.pop_if(|last| *last == b'\n').is_some();
        let too_long = !whole && line.len() as u64 == LONGEST_LINE;
        if too_long {
            reader.skip_until(b'\n').map_err(unreadable)?;
        }
        let readable = match str::from_utf8(&line) {
            Ok(text) if text.trim().is_empty() => true,
            Ok(text) if !too_long => read(text).is_ok(),
            _ => false,
        };
        if !readable && (whole || too_long) {
            let counted = bad.get_or_insert_with(|| Unreadable {
                file: path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                lines: 0,
                first: number,
            });
            counted.lines += 1;
        }
    }
    Ok(bad)
}
