//! The agent's two streams: chunks become lines, lines go through the session to the transcript.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::unistd::Pid;
use opentelemetry::trace::SpanId;
use sandtrace_client::wire::{Body, Stream};
use tokio::sync::mpsc;

use super::Supervisor;
use crate::agent::AgentEvent;
use crate::agent::event::Block;
use crate::agent::{Decoded, Fragment, Lines, decode};
use crate::cli::EchoMode;
use crate::process::Pipe;
use crate::resources::{
    Finding, Occasion, Sample, Sampler, Scope, TreeSample, TreeWatch, crowd_now,
};
use crate::session::{Input, wants_reading};
use crate::time::Now;
use crate::transcript::Transcript;

/// A resource event comes at most this often, and at each end of a tool.
const RESOURCES_EVERY: Duration = Duration::from_secs(5);
/// A tool's beginning or end is worth a look at the processes, at most this often.
const LOOK_EVERY: Duration = Duration::from_millis(20);
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

    pub(super) fn drain_is_over(&self, now: Now) -> bool {
        let ends = self.session.drain_ends();
        ends.is_some_and(|end| now.uptime >= end)
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
        if wants_reading(&decoded) {
            self.read_memory_for_tool();
            self.effects.clear();
        }
        if turns_on_tools(&decoded) {
            self.look(now);
        }
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

    /// Begins to sample the sandbox and the agent's tree, unless that is switched off.
    pub(super) fn start_sampling(
        &mut self,
        agent: Pid,
        interval: Option<Duration>,
    ) -> mpsc::Receiver<Finding> {
        let (sender, findings) = mpsc::channel(4);
        let watch = || TreeWatch::new(self.tree.clone(), self.reaped_cpu.clone());
        self.sampler = interval.and_then(|interval| {
            let scope = Scope {
                watch: watch(),
                agent: u32::try_from(agent.as_raw()).unwrap_or(0),
                directory: std::env::current_dir().unwrap_or_default(),
            };
            Sampler::start(interval, scope, sender).ok()
        });
        self.watch = Some(watch());
        findings
    }

    /// Looks at the tree in this very moment, for a tool begins or ends; not so often that it would cost the relay.
    fn look(&mut self, now: Now) {
        let is_due = self
            .last_look
            .is_none_or(|last| now.uptime.saturating_sub(last) >= LOOK_EVERY);
        // Once the agent is gone the drain's clock decides, and a look must not be what it ends on.
        if is_due
            && self.sampler.is_some()
            && self.agent.is_some()
            && let Some(tree) = self.see(now)
        {
            self.session
                .handle(now, Input::Looked(&tree), &mut self.effects);
        }
    }

    /// As [`Self::look`], whenever the last one was, and by itself.
    pub(super) fn look_now(&mut self) {
        if self.sampler.is_some()
            && let Some(tree) = self.see(self.clock.now())
        {
            self.take(Input::Looked(&tree));
        }
    }

    /// Whether the agent works, where no samples say so: nobody who switches them off wants a busy agent called idle.
    pub(super) fn look_for_life(&mut self) {
        if self.sampler.is_none()
            && self.agent.is_some()
            && let Some(tree) = self.see(self.clock.now())
        {
            self.take(Input::Worked {
                cpu: tree.cpu,
                crowd: crowd_now(),
            });
        }
    }

    fn see(&mut self, now: Now) -> Option<TreeSample> {
        let tree = self.watch.as_mut()?.look();
        self.last_look = Some(now.uptime);
        if tree.is_err() {
            // Where processes cannot be seen now, they will not be later.
            self.watch = None;
        }
        tree.ok()
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
        self.read_memory();
        self.take(Input::Sampled(&sample));
        if let Some(telemetry) = &self.telemetry {
            telemetry.resources(&sample.resources);
        }
        self.last_sample = Some(sample.resources);
        let is_due = self
            .last_resources
            .is_none_or(|last| now.uptime.saturating_sub(last) >= RESOURCES_EVERY);
        if is_due || sample.occasion == Occasion::ToolEnded {
            self.echo_resources(now);
        }
    }
}

/// Whether a line begins or ends tools.
fn turns_on_tools(decoded: &Decoded<'_>) -> bool {
    match decoded {
        Decoded::Event(AgentEvent::User(user)) => !user.results.is_empty(),
        Decoded::Event(AgentEvent::Assistant(assistant)) => assistant
            .blocks
            .iter()
            .any(|block| matches!(block, Block::ToolUse(_))),
        _ => false,
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
