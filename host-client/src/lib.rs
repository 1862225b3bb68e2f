//! Starts Claude agents under sandtrace, follows them live, and says how they ended.
//!
//! `sandtrace run` supervises an agent inside a sandbox and prints one JSON object a line: the agent's own lines, and
//! lines of its own about spans, resources and the end. This crate is the other side, in the application that wants the
//! run. Without features it does no I/O, knows no clock, and builds on any operating system:
//!
//! ```text
//! Launch ──argv, env──► whatever starts processes ──bytes──► Decoder ──Event──► Run ──► State, …, Conclusion
//! ```
//!
//! # Launching
//!
//! [`Launch`] says what to start, and with which context. Hand its words and variables to whatever starts processes in
//! the sandbox, without a time limit of its own: `--deadline` is the supervisor's business.
//!
//! ```
//! use std::time::Duration;
//! use sandtrace_client::Launch;
//!
//! let launch = Launch::new(["/opt/sandtrace/venv/bin/python", "/opt/sandtrace/agent.py", "Summarise the repository"])
//!     .run_id("summary-17")
//!     .deadline(Duration::from_secs(20 * 60))
//!     .attribute("tenant", "acme")
//!     .traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
//! launch.check()?;
//! assert_eq!(
//!     launch.command_line(),
//!     "sandtrace run --run-id summary-17 --deadline 1200s --attribute tenant=acme -- \
//!      /opt/sandtrace/venv/bin/python /opt/sandtrace/agent.py 'Summarise the repository'"
//! );
//! # Ok::<(), sandtrace_client::LaunchError>(())
//! ```
//!
//! # Reading a stream
//!
//! [`Decoder`] takes the run's stdout in any chunks and gives each line as an [`Event`]; what a login shell prints
//! before it comes as [`Noise`]. An event is the supervisor's ([`Content::Supervisor`], typed by [`wire`]) or the
//! agent's ([`Content::Agent`], whose [`said`](agent::AgentLine::said) reads the dialects that agents print). Whatever
//! it is, [`Event::raw`] is the line as it came.
//!
//! ```
//! use sandtrace_client::agent::Said;
//! use sandtrace_client::wire::Body;
//! use sandtrace_client::{Content, Decoded, Decoder};
//!
//! # let stream: &[u8] = include_bytes!("../tests/fixtures/wire-1/approvals.ndjson");
//! let mut decoder = Decoder::new();
//! let mut shown = Vec::new();
//! for chunk in stream.chunks(1000) {
//!     for decoded in decoder.feed(chunk) {
//!         let Decoded::Event(event) = decoded else { continue };
//!         match event.content() {
//!             Content::Agent(line) => {
//!                 for said in line.said() {
//!                     match said {
//!                         Said::Text(text) => shown.push(format!("says {text:?}")),
//!                         Said::ToolUse(call) => shown.push(format!("calls {}", call.name)),
//!                         _ => {}
//!                     }
//!                 }
//!             }
//!             Content::Supervisor(Body::RunFinished(end)) => shown.push(format!("{:?}", end.outcome)),
//!             _ => {}
//!         }
//!     }
//! }
//! assert_eq!(shown, ["calls Bash", "calls Bash", "says \"Built, but not deployed.\"", "Success"]);
//! ```
//!
//! # Following state
//!
//! [`Run`] folds events into what an application shows: [`state`](Run::state), the [`turns`](Run::turns), the
//! [`open_tools`](Run::open_tools), the [`pending_approvals`](Run::pending_approvals), the [`answer`](Run::answer) so
//! far, [`usage`](Run::usage) and [`cost`](Run::cost), [`resources`](Run::resources), [`warnings`](Run::warnings). It
//! holds no history, and all that it holds is bounded.
//!
//! ```
//! use sandtrace_client::run::State;
//! # use sandtrace_client::{Decoded, Decoder, Run};
//! # let stream: &[u8] = include_bytes!("../tests/fixtures/wire-1/approvals.ndjson");
//! # let mut run = Run::new();
//! # for decoded in Decoder::new().feed(stream) {
//! #     let Decoded::Event(event) = decoded else { continue };
//! run.apply(&event);
//! if run.state() == State::WaitingForApproval {
//!     for asked in run.pending_approvals() {
//!         println!("may {} run with {}? answer to {}", asked.tool_name, asked.input, asked.id);
//!     }
//! }
//! # }
//! # assert!(run.conclusion().unwrap().is_success());
//! ```
//!
//! An interactive agent is spoken to by lines on its stdin, [`Input`]: further messages, answers to its questions, an
//! interrupt.
//!
//! # How a run ends
//!
//! The run's last line has everything, and [`Run::conclusion`] gives it: [`Outcome`], and for what did not succeed a
//! [`Failure`] with a class and reason ([`FailureKind`]), a sentence, a confidence and the evidence. Exit code 0 alone
//! is no success, and 137 alone proves nothing.
//!
//! A stream may end without that line: E2B kills without a warning, and connections break. After a broken connection
//! [`Launch::attach_argv`] reads the missing lines again, and [`Run::apply`] (or [`Sequence`]) passes over what came
//! already. When nothing will come any more, [`Run::lose`] concludes:
//!
//! ```
//! use sandtrace_client::run::{Loss, LossReason};
//! # use sandtrace_client::{Decoded, Decoder, Run};
//! # let stream: &[u8] = include_bytes!("../tests/fixtures/wire-1/approvals.ndjson");
//! # let mut run = Run::new();
//! # for decoded in Decoder::new().feed(&stream[..stream.len() / 2]) {
//! #     if let Decoded::Event(event) = decoded { run.apply(&event); }
//! # }
//! let conclusion = run.lose(Loss::new(LossReason::SandboxGone).provider_says("killed: out of memory"));
//! let failure = conclusion.failure.as_ref().unwrap();
//! assert_eq!(failure.kind.to_string(), "lost.sandbox");
//! assert!(failure.message.starts_with("the sandbox is gone; the last line ("));
//! assert_eq!(failure.evidence[0].fact, "killed: out of memory");
//! ```
//!
//! # Versions
//!
//! The wire has a version, [`WIRE_VERSION`], which `sandtrace.run.started` tells, and within it only grows. So any
//! client of this major version reads any supervisor that speaks the same version of the wire, older or newer:
//!
//! - a member that this crate does not know is passed over; it is still in [`Event::raw`] and [`Event::json`];
//! - a type that it does not know, or a known one in a shape that it cannot read, is [`Content::Unknown`];
//! - a new word where there are a few becomes the variant for it: [`Outcome::Unknown`], [`FailureKind::Other`];
//! - a member that an older supervisor does not write has its default.
//!
//! [`Run::unknown`] counts what could not be read, and [`Run::is_newer_wire`] says whether the supervisor is of a later
//! version. All types of the wire are `#[non_exhaustive]`. Real streams of each version are kept with the crate, and
//! must be read for ever.
//!
//! # Features
//!
//! | feature | what it adds | depends on |
//! |---|---|---|
//! | none | everything above | serde, serde_json, thiserror |
//! | `live` | a run that goes on: its events as they come, ways to speak to it, over any transport | tokio's `sync`, `time` |
//! | `local` | a child process as transport: development, tests | `live`, tokio's `process` |
//! | `e2b` | E2B's sandboxes as transport, with reconnects | `live`, hyper, rustls |
//! | `otel` | the caller's context, and what a lost run left open, as OpenTelemetry spans | opentelemetry |
//! | `sse` | events as Server-Sent Events, resumable | – |
//! | `schema` | JSON Schema of the wire | schemars |
//!
//! `produce` is the supervisor's own.
#![warn(missing_docs)]

pub mod agent;
pub mod attribute;
mod decode;
#[cfg(feature = "e2b")]
pub mod e2b;
mod event;
pub mod failure;
mod input;
pub mod launch;
#[cfg(feature = "live")]
pub mod live;
#[cfg(all(feature = "local", unix))]
pub mod local;
#[cfg(feature = "otel")]
pub mod otel;
pub mod run;
#[cfg(feature = "schema")]
pub mod schema;
mod sequence;
#[cfg(feature = "sse")]
pub mod sse;
mod time;
pub mod wire;

pub use decode::{Decoded, Decoder, Noise};
pub use event::{Content, Event, NotAnEvent};
pub use failure::{Alternative, Evidence, Failure, FailureKind};
pub use input::Input;
pub use launch::{Launch, LaunchError};
pub use run::{Conclusion, Run};
pub use sequence::{Admission, Sequence};
pub use wire::{Body, Outcome, Stamp, WIRE_VERSION};
