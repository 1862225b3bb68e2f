//! Reads what a supervised run says.
//!
//! `sandtrace run` prints one JSON object a line. This crate owns the definition of those lines: [`wire`] has their
//! types, [`failure`] the vocabulary of verdicts. It does no I/O, knows no clock, and builds on any operating system.
#![warn(missing_docs)]

pub mod failure;
pub mod wire;

pub use failure::{Alternative, Evidence, Failure, FailureKind};
pub use wire::{Body, Outcome, Stamp, WIRE_VERSION};
