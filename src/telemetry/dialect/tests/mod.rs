//! Golden traces: what each dialect makes of one rich recording, as snapshots; and the rules that hold for every span
//! of every recording in every dialect.

mod golden;
mod rules;
mod spans;
