//! A run as part of the application's own trace.
//!
//! The supervisor makes the spans of a run and exports them from the sandbox. Three things only the host can do: hand
//! the caller's context in, close what a lost sandbox left open, and export for a sandbox that may not reach a backend.
//! And it alone sees the sandbox come and go.
//!
//! # The caller's context
//!
//! ```
//! use sandtrace_client::Launch;
//!
//! // TRACEPARENT, TRACESTATE and BAGGAGE of the current context: `agent.run` becomes a child of the current span.
//! let launch = Launch::new(["python3", "agent.py"]).current_context();
//! ```
//!
//! # A lost run
//!
//! A sandbox that is killed takes its open spans with it. [`orphans`] makes them anew: the same ids, parents, names and
//! start times, ended at the last event, with an error. They go to whatever exporter or processor the application has.
//!
//! ```
//! use opentelemetry_sdk::trace::{InMemorySpanExporter, SpanExporter};
//! use sandtrace_client::{Run, otel};
//!
//! # async fn example(run: &Run, exporter: &InMemorySpanExporter) -> Result<(), opentelemetry_sdk::error::OTelSdkError> {
//! // Once, when the run has its conclusion. There are none if it ended before our eyes.
//! let orphans = otel::orphans(run);
//! if !orphans.is_empty() {
//!     exporter.export(orphans).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! An exporter sends them under the application's resource: spans carry `sandtrace.run.id`, so that they can be told
//! from its own. Where they must not mix, give them an exporter of their own, and set its resource.
//!
//! # A sandbox without egress
//!
//! With `OTEL_EXPORTERS=host` the supervisor puts OTLP requests among its lines. [`OtlpRequest::of`] gives each as a path
//! and a body, for any HTTP client; feature `otlp` has [`Forwarder`], which posts them to a collector.
//!
//! # The sandbox
//!
//! [`Instruments`] records what the table has, by the global providers or by given ones. Feature `e2b` calls them when
//! its client has them; for another provider, call [`Instruments::creating`] and [`Sandbox::killing`].
//!
//! | name | kind | unit | attributes | is |
//! |---|---|---|---|---|
//! | `sandbox.create` | span, client | | `sandbox.id`, `sandbox.template.id`, `error.type` | from asking for a sandbox until there is one |
//! | `sandbox.kill` | span, client | | `sandbox.id`, `sandbox.template.id`, `error.type` | from asking for its end until it is confirmed |
//! | `sandtrace.sandbox.create.duration` | histogram | s | `sandbox.template.id`, `error.type` | the length of the first |
//! | `sandtrace.sandbox.active` | up-down counter | {sandbox} | `sandbox.template.id` | sandboxes made by this process, and not known to be gone |
//! | `sandtrace.events.sent` | counter | {event} | `sandtrace.event.type` | events handed to the application; those of agents are all `agent` |
//!
//! # One trace
//!
//! With a caller's span, `sandbox.create`, `agent.run` and `sandbox.kill` are its children, side by side: the sandbox
//! was made, used and unmade on the caller's behalf, and none of them contains another. Without a caller's span there
//! must still be one trace, so `sandbox.create` begins it, and is the parent of the other two. [`Sandbox::context`] is
//! the context that follows from this rule: `launch.context(&sandbox.context())`. Feature `e2b` does so for a
//! launch that has no TRACEPARENT yet.

mod context;
mod names;
mod orphans;
mod request;
mod sandbox;

#[cfg(feature = "otlp")]
mod forward;

#[cfg(feature = "otlp")]
pub use self::forward::{Forwarded, Forwarder, Full, NotForwardable};
pub use self::names::{key, metric, span};
pub use self::orphans::orphans;
pub use self::request::OtlpRequest;
pub use self::sandbox::{Creating, Instruments, Killing, Sandbox};

#[cfg(test)]
mod tests;
