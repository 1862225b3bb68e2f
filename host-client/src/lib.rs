//! Starts Claude agents under sandtrace, follows them live, and says how they ended.
//!
//! `sandtrace run` prints one JSON object a line. This crate owns the definition of those lines: [`wire`] has their
//! types, [`failure`] the vocabulary of verdicts. Without features it does no I/O, knows no clock, and builds on any
//! operating system: [`Launch`] says what to start, [`Decoder`] turns the bytes that come back into [`Event`]s, and
//! [`Run`] folds these into what the run is doing and, in the end, its [`Conclusion`].
#![warn(missing_docs)]

pub mod agent;
pub mod attribute;
mod decode;
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
