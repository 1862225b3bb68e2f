//! How telemetry is gathered into requests, and how often metrics are told.

use std::time::Duration;

use super::values::positive;
use super::{DestinationError, Lookup};
use crate::telemetry::METRIC_INTERVAL;
use crate::telemetry::destination::Batching;

const MILLIS: &str = "a number of milliseconds above 0";

fn read(
    lookup: Lookup<'_>,
    variable: &'static str,
    allowed: &'static str,
) -> Result<Option<u64>, DestinationError> {
    let value = lookup(variable).map(|value| positive(variable, value, allowed));
    value.transpose()
}

/// Reads how spans are gathered into requests.
pub fn batching(lookup: Lookup<'_>) -> Result<Batching, DestinationError> {
    let delay = read(lookup, "OTEL_BSP_SCHEDULE_DELAY", MILLIS)?;
    let max_spans = read(
        lookup,
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        "a number of spans above 0",
    )?;
    let default = Batching::default();
    Ok(Batching {
        delay: delay.map_or(default.delay, Duration::from_millis),
        // A larger wish is answered by the default, for the bytes of a request are bounded anyway.
        max_spans: max_spans
            .and_then(|spans| usize::try_from(spans).ok())
            .map_or(default.max_spans, |spans| spans.min(default.max_spans)),
    })
}

/// Reads how often metrics are told.
pub fn metric_interval(lookup: Lookup<'_>) -> Result<Duration, DestinationError> {
    let millis = read(lookup, "OTEL_METRIC_EXPORT_INTERVAL", MILLIS)?;
    Ok(millis.map_or(METRIC_INTERVAL, Duration::from_millis))
}
