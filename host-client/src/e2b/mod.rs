//! Runs in [E2B](https://e2b.dev) sandboxes: made, started in, followed, whatever becomes of the connection.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use sandtrace_client::{Launch, e2b};
//!
//! let e2b = e2b::Client::from_env()?;
//! let sandbox = e2b.create("sandtrace-agent")
//!     .timeout(Duration::from_secs(20 * 60))
//!     .env("ANTHROPIC_API_KEY", std::env::var("ANTHROPIC_API_KEY")?)
//!     .send()
//!     .await?;
//! let launch = Launch::new(["/opt/sandtrace/venv/bin/python", "/opt/sandtrace/agent.py", "Tidy up"])
//!     .deadline(Duration::from_secs(15 * 60));
//! let mut live = sandbox.start(&launch).await?;
//! while let Some(event) = live.next().await? {
//!     println!("{}", event.raw());
//! }
//! println!("{:?}", live.conclude().await?);
//! sandbox.kill().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The template must have `sandtrace` in its `PATH`. The sandbox should live a minute longer than the run's deadline, which
//! the run is told; [`Sandbox::start`] refuses what cannot end well.
//!
//! # What becomes of a broken connection
//!
//! A stream is broken when its connection is, or when it is silent for three of [`Config::keepalive`]. The run goes on
//! meanwhile. [`Live::next`](crate::live::Live::next) connects again, waiting up to 5 s between tries and giving up after
//! [`Config::reconnect_for`], and has the run's journal told from the last event on, by `sandtrace attach` in the sandbox.
//! So nothing is missing and nothing comes twice. What is said to the run goes to its own process all the time.
//!
//! With `--journal off` there is nothing to tell it from: what the run says while there is no connection is lost, and
//! [`LiveError::Unreplayed`](crate::live::LiveError::Unreplayed) says so.
//!
//! A sandbox that is paused is [`Error::SandboxPaused`]: [`Sandbox::resume`] it, and call `next` again. One that is gone
//! ends the run as lost; E2B is asked why, so `timeout` is told from the rest (`FailureKind::TimeoutSandboxEnd`).
//!
//! # What is tried again, and what is not
//!
//! What never reached anybody is tried again for [`Config::connect_for`]. A start, and a line for the agent, whose answer
//! was lost is not: it may have been carried out. A run is looked for then, by its id; for a line there is
//! [`Error::AnswerLost`].
//!
//! # Debug mode
//!
//! With `E2B_DEBUG=true`, as in E2B's own SDKs, nothing is asked of the REST API, and the one sandbox is at
//! `E2B_SANDBOX_URL` or `http://localhost:49983`.

mod backoff;
mod config;
mod envd;
pub mod envelope;
mod error;
mod events;
mod http;
mod message;
mod moment;
mod refusal;
mod rest;
mod sandbox;
mod search;
mod start;
mod stream;
mod target;
mod telemetry;

pub use config::Config;
pub use error::Error;
pub use refusal::{Code, Refusal};
pub use rest::Metrics;
pub use sandbox::{Client, Create, Sandbox};
pub use stream::Stream;
pub use target::Ears;
