//! What is measured of spans, as a table, and the instruments that the table makes.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};

use crate::session::semconv::metric;

/// Seconds of a request, `reference/observability.md` §1.1.
const REQUEST_SECONDS: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];
/// Seconds of a workflow, of the same place. Those of an agent end at seven minutes, where our turns do not.
const WORKFLOW_SECONDS: &[f64] = &[
    1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 7_200.0,
];
/// Powers of four, likewise.
const TOKENS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// What a span is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    TokenUsage,
    OperationDuration,
    TimeToFirstChunk,
    InvokeAgentDuration,
    ExecuteToolDuration,
    ApprovalDuration,
    Cost,
    CacheTokens,
    Runs,
    Errors,
}

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measurement {
    pub(super) measure: Measure,
    pub(super) figure: Figure,
    pub(super) attributes: Vec<KeyValue>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Figure {
    Whole(u64),
    Real(f64),
}

impl Figure {
    #[expect(
        clippy::cast_precision_loss,
        reason = "token counts stay far below 2^53"
    )]
    pub(super) fn real(self) -> f64 {
        match self {
            Self::Whole(value) => value as f64,
            Self::Real(value) => value,
        }
    }
}

enum Kind {
    Histogram(&'static [f64]),
    /// Counts whole things.
    Count,
    /// Counts what has fractions.
    Amount,
}

struct Row {
    measure: Measure,
    name: &'static str,
    unit: &'static str,
    about: &'static str,
    kind: Kind,
}

const ROWS: &[Row] = &[
    Row {
        measure: Measure::TokenUsage,
        name: metric::TOKEN_USAGE,
        unit: "{token}",
        about: "Tokens of a request to the model, by type; cached input is part of the input.",
        kind: Kind::Histogram(TOKENS),
    },
    Row {
        measure: Measure::OperationDuration,
        name: metric::OPERATION_DURATION,
        unit: "s",
        about: "Duration of a request to the model, retries included.",
        kind: Kind::Histogram(REQUEST_SECONDS),
    },
    Row {
        measure: Measure::TimeToFirstChunk,
        name: metric::TIME_TO_FIRST_CHUNK,
        unit: "s",
        about: "Time from a request to the first of its answer.",
        kind: Kind::Histogram(REQUEST_SECONDS),
    },
    Row {
        measure: Measure::InvokeAgentDuration,
        name: metric::INVOKE_AGENT_DURATION,
        unit: "s",
        about: "Duration of a turn, or of a subagent.",
        kind: Kind::Histogram(WORKFLOW_SECONDS),
    },
    Row {
        measure: Measure::ExecuteToolDuration,
        name: metric::EXECUTE_TOOL_DURATION,
        unit: "s",
        about: "Duration of a tool call, waiting for approval included.",
        kind: Kind::Histogram(REQUEST_SECONDS),
    },
    Row {
        measure: Measure::ApprovalDuration,
        name: metric::APPROVAL_DURATION,
        unit: "s",
        about: "How long a tool call waited for a person.",
        kind: Kind::Histogram(WORKFLOW_SECONDS),
    },
    Row {
        measure: Measure::Cost,
        name: metric::COST,
        unit: "USD",
        about: "Cost of the model. An estimate, not for billing.",
        kind: Kind::Amount,
    },
    Row {
        measure: Measure::CacheTokens,
        name: metric::CACHE_TOKENS,
        unit: "{token}",
        about: "Input tokens that were read from the prompt cache, or written to it.",
        kind: Kind::Count,
    },
    Row {
        measure: Measure::Runs,
        name: metric::RUNS,
        unit: "{run}",
        about: "Runs that ended, by outcome.",
        kind: Kind::Count,
    },
    Row {
        measure: Measure::Errors,
        name: metric::ERRORS,
        unit: "{error}",
        about: "Spans that ended with an error.",
        kind: Kind::Count,
    },
];

#[derive(Debug)]
enum Instrument {
    Histogram(Histogram<f64>),
    Count(Counter<u64>),
    Amount(Counter<f64>),
}

/// The instruments of the table.
#[derive(Debug)]
pub(super) struct Instruments(Vec<(Measure, Instrument)>);

impl Instruments {
    pub(super) fn new(meter: &Meter) -> Self {
        let made = ROWS.iter().map(|row| {
            let instrument = match row.kind {
                Kind::Histogram(bounds) => Instrument::Histogram(
                    meter
                        .f64_histogram(row.name)
                        .with_unit(row.unit)
                        .with_description(row.about)
                        .with_boundaries(bounds.to_vec())
                        .build(),
                ),
                Kind::Count => Instrument::Count(
                    meter
                        .u64_counter(row.name)
                        .with_unit(row.unit)
                        .with_description(row.about)
                        .build(),
                ),
                Kind::Amount => Instrument::Amount(
                    meter
                        .f64_counter(row.name)
                        .with_unit(row.unit)
                        .with_description(row.about)
                        .build(),
                ),
            };
            (row.measure, instrument)
        });
        Self(made.collect())
    }

    pub(super) fn record(&self, measurement: &Measurement) {
        let attributes = &measurement.attributes;
        let mut all = self.0.iter();
        match all.find(|(measure, _)| *measure == measurement.measure) {
            Some((_, Instrument::Histogram(it))) => {
                it.record(measurement.figure.real(), attributes);
            }
            Some((_, Instrument::Amount(it))) => it.add(measurement.figure.real(), attributes),
            Some((_, Instrument::Count(it))) => {
                if let Figure::Whole(value) = measurement.figure {
                    it.add(value, attributes);
                }
            }
            None => {}
        }
    }
}
