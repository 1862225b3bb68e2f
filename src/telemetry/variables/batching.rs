//! How telemetry is gathered into requests, and how often metrics are told.
//!
//! Of the batch processors' variables these have a meaning here: OTEL_BSP_SCHEDULE_DELAY and OTEL_BSP_MAX_EXPORT_BATCH_SIZE
//! for spans, OTEL_BLRP_SCHEDULE_DELAY and OTEL_BLRP_MAX_EXPORT_BATCH_SIZE for log records, which follow those for spans
//! where they are unset: the specification's second would be five times as many requests for a run that is mostly quiet.
//!
//! Two others have none, and are passed over without a word, for they are often meant for the agent's own SDK.
//! OTEL_{BSP,BLRP}_MAX_QUEUE_SIZE bounds a queue by its items, beyond which they are lost: ours are bounded by bytes, in
//! memory and on disk. OTEL_{BSP,BLRP}_EXPORT_TIMEOUT bounds an export with all its retries, for nothing else is sent
//! meanwhile: here nobody waits for a retry, each request has OTEL_EXPORTER_OTLP_TIMEOUT, and the end of the run
//! `--flush-timeout`. The same goes for OTEL_METRIC_EXPORT_TIMEOUT.

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

/// Reads how spans and log records are gathered into requests.
pub fn batching(lookup: Lookup<'_>) -> Result<Batching, DestinationError> {
    let delay = read(lookup, "OTEL_BSP_SCHEDULE_DELAY", MILLIS)?;
    let max_spans = read(
        lookup,
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        "a number of spans above 0",
    )?;
    let log_delay = read(lookup, "OTEL_BLRP_SCHEDULE_DELAY", MILLIS)?;
    let max_logs = read(
        lookup,
        "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
        "a number of log records above 0",
    )?;
    let default = Batching::default();
    let delay = delay.map_or(default.delay, Duration::from_millis);
    // A larger wish is answered by the default, for the bytes of a request are bounded anyway.
    let most = |wish: Option<u64>, most: usize| {
        let wish = wish.and_then(|items| usize::try_from(items).ok());
        wish.map_or(most, |items| items.min(most))
    };
    let max_spans = most(max_spans, default.max_spans);
    Ok(Batching {
        delay,
        max_spans,
        log_delay: log_delay.map_or(delay, Duration::from_millis),
        max_logs: match max_logs {
            Some(_) => most(max_logs, default.max_logs),
            None => max_spans,
        },
    })
}

/// Reads how often metrics are told.
pub fn metric_interval(lookup: Lookup<'_>) -> Result<Duration, DestinationError> {
    let millis = read(lookup, "OTEL_METRIC_EXPORT_INTERVAL", MILLIS)?;
    Ok(millis.map_or(METRIC_INTERVAL, Duration::from_millis))
}
