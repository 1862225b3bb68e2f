//! The agent's two streams: chunks become lines, lines go through the session to the transcript.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use opentelemetry::trace::SpanId;
use sandtrace_client::wire::{Body, Stream};

use super::Supervisor;
use crate::agent::{Decoded, Fragment, Lines, decode};
use crate::cli::EchoMode;
use crate::process::Pipe;
use crate::resources::{Occasion, Sample};
use crate::session::Input;
use crate::time::Now;
use crate::transcript::Transcript;

/// A resource event comes at most this often, and at each end of a tool.
const RESOURCES_EVERY: Duration = Duration::from_secs(5);
/// What is read of either stream when nobody waits for it any more: as much as a user may make a pipe hold.
const LAST_WORDS: usize = 1 << 20;

impl Supervisor {
    /// Registers the agent's pipes with the runtime. Where the kernel refuses, the agent cannot be heard and would stop
    /// at a full pipe: it is ended, and its verdict taken, as for any other.
    pub(super) fn watch(
        &mut self,
        stdout: OwnedFd,
        stderr: OwnedFd,
    ) -> (Option<Pipe>, Option<Pipe>) {
        match (Pipe::new(stdout), Pipe::new(stderr)) {
            (Ok(stdout), Ok(stderr)) => (Some(stdout), Some(stderr)),
            (Err(error), _) | (_, Err(error)) => {
                let message =
                    format!("the agent's output cannot be watched, so it is ended: {error}");
                self.warn("output_unwatchable", &message);
                self.kill_tree();
                self.take(Input::StdoutClosed);
                self.take(Input::StderrClosed);
                (None, None)
            }
        }
    }

    /// Whether what stderr's reader does not take is lost, for it stands neither in the journal nor in the echo.
    pub(super) fn stderr_is_only_copy(&self) -> bool {
        self.echo != EchoMode::Enriched && self.transcript.intact_journal().is_none()
    }

    pub(super) fn stdout_chunk(&mut self, lines: &mut Lines, chunk: &[u8]) {
        self.transcript.raw(chunk);
        // What arrives together gets one time: a clock per line would cost more than the line.
        let now = self.clock.now();
        lines.push(chunk, &mut |fragment| self.stdout_fragment(now, &fragment));
    }

    pub(super) fn drain_is_over(&self) -> bool {
        self.session
            .drain_ends()
            .is_some_and(|end| self.clock.now().uptime >= end)
    }

    /// A line, or a fragment of one, of the agent's stdout.
    pub(super) fn stdout_fragment(&mut self, now: Now, fragment: &Fragment<'_>) {
        self.effects.clear();
        if fragment.part.is_some() {
            self.session.handle(now, Input::Fragment, &mut self.effects);
            self.echo_line(now, |transcript, span| {
                transcript.output(now, span, Stream::Stdout, fragment)
            });
            return;
        }
        let decoded = decode(fragment.bytes);
        self.session
            .handle(now, Input::Line(&decoded), &mut self.effects);
        match decoded {
            Decoded::Event(_) | Decoded::Unrecognised => {
                self.echo_line(now, |transcript, span| {
                    transcript.agent_line(now, span, fragment.bytes)
                });
            }
            Decoded::Text | Decoded::Forged => {
                self.echo_line(now, |transcript, span| {
                    transcript.output(now, span, Stream::Stdout, fragment)
                });
            }
        }
    }

    pub(super) fn stderr_fragment(&mut self, now: Now, fragment: &Fragment<'_>) {
        self.effects.clear();
        self.session
            .handle(now, Input::Stderr(fragment.bytes), &mut self.effects);
        self.echo_line(now, |transcript, span| {
            transcript.output(now, span, Stream::Stderr, fragment)
        });
    }

    /// Spans that a line opened stand before it, those it closed after it.
    pub(super) fn echo_line(&mut self, now: Now, line: impl FnOnce(&mut Transcript, SpanId)) {
        for span in self.effects.spans.opened.drain(..) {
            self.transcript.opened(now, &span);
        }
        line(
            &mut self.transcript,
            self.effects
                .line_span
                .unwrap_or_else(|| self.session.root()),
        );
        self.settle(now);
    }

    pub(super) fn echo_resources(&mut self, now: Now) {
        if let Some(sample) = &self.last_sample {
            let body = Body::Resources(Box::new(sample.clone()));
            self.transcript.passing(now, &body);
            self.last_resources = Some(now.uptime);
        }
    }

    pub(super) fn sampled(&mut self, sample: Sample) {
        let now = self.clock.now();
        self.take(Input::Sampled(&sample));
        self.last_sample = Some(sample.resources);
        let is_due = self
            .last_resources
            .is_none_or(|last| now.uptime.saturating_sub(last) >= RESOURCES_EVERY);
        if is_due || sample.occasion == Occasion::ToolEnded {
            self.echo_resources(now);
        }
    }
}

pub(super) async fn read(pipe: &mut Option<Pipe>, chunk: &mut [u8]) -> io::Result<usize> {
    match pipe {
        Some(pipe) => pipe.read(chunk).await,
        None => std::future::pending().await,
    }
}

/// What sits in a pipe now, before it is let go; at most [`LAST_WORDS`], for somebody may write on.
pub(super) fn last_words(pipe: Option<&mut Pipe>, buffer: &mut [u8]) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    let mut left = LAST_WORDS;
    if let Some(pipe) = pipe {
        while let Ok(length @ 1..) = pipe.try_read(buffer) {
            chunks.push(buffer[..length].to_vec());
            left = left.saturating_sub(length);
            if left == 0 {
                break;
            }
        }
    }
    chunks
}
