//! The destination `otlp`, by OpenTelemetry's own variables: each signal's, which win, or those for every signal.
//!
//! Nothing here is ever read for another destination: whatever OTEL_EXPORTER_OTLP_HEADERS holds goes to the backend
//! that OTEL_EXPORTER_OTLP_ENDPOINT names, and nowhere else (specification, protocol/exporter.md).

use std::time::Duration;

use http::{HeaderMap, Uri};

use super::address::{Address, Schemeless, exact};
use super::values::{first, is, positive, word};
use super::{DestinationError, Lookup, headers};
use crate::telemetry::destination::{
    Compression, Dialect, OtlpDestination, Protocol, Route, Semconv, Signal, Signals, Temporality,
    TlsFiles,
};

/// The variable of one signal, which wins, and the one for every signal.
type Pair = [&'static str; 2];

/// The variables of one signal.
#[derive(Debug)]
struct Variables {
    endpoint: Pair,
    headers: Pair,
    protocol: Pair,
    compression: Pair,
    timeout: Pair,
    certificate: Pair,
    client_key: Pair,
    client_certificate: Pair,
    insecure: Pair,
}

macro_rules! variables {
    ($signal:literal) => {
        Variables {
            endpoint: pair!($signal, "ENDPOINT"),
            headers: pair!($signal, "HEADERS"),
            protocol: pair!($signal, "PROTOCOL"),
            compression: pair!($signal, "COMPRESSION"),
            timeout: pair!($signal, "TIMEOUT"),
            certificate: pair!($signal, "CERTIFICATE"),
            client_key: pair!($signal, "CLIENT_KEY"),
            client_certificate: pair!($signal, "CLIENT_CERTIFICATE"),
            insecure: pair!($signal, "INSECURE"),
        }
    };
}

macro_rules! pair {
    ($signal:literal, $what:literal) => {
        [
            concat!("OTEL_EXPORTER_OTLP_", $signal, "_", $what),
            concat!("OTEL_EXPORTER_OTLP_", $what),
        ]
    };
}

static TRACES: Variables = variables!("TRACES");
static METRICS: Variables = variables!("METRICS");
static LOGS: Variables = variables!("LOGS");

fn of(signal: Signal) -> &'static Variables {
    match signal {
        Signal::Traces => &TRACES,
        Signal::Metrics => &METRICS,
        Signal::Logs => &LOGS,
    }
}

/// The signals that have an address.
pub(super) fn reachable(lookup: Lookup<'_>) -> Signals {
    let has = |signal| first(lookup, &of(signal).endpoint).is_some();
    Signals {
        traces: has(Signal::Traces),
        metrics: has(Signal::Metrics),
        logs: has(Signal::Logs),
    }
}

/// Reads the destination.
pub(super) fn otlp(
    lookup: Lookup<'_>,
    signals: Signals,
) -> Result<OtlpDestination, DestinationError> {
    let wanted = [Signal::Traces, Signal::Metrics, Signal::Logs]
        .into_iter()
        .filter(|signal| signals.has(*signal));
    let routes = wanted.map(|signal| route(lookup, signal));
    Ok(OtlpDestination {
        name: "otlp",
        dialect: Dialect::Otlp,
        semconv: Semconv::default(),
        resource: Vec::new(),
        temporality: temporality(lookup)?.unwrap_or(Temporality::Cumulative),
        routes: routes.collect::<Result<_, _>>()?,
    })
}

fn route(lookup: Lookup<'_>, signal: Signal) -> Result<Route, DestinationError> {
    let names = of(signal);
    let protocol = match first(lookup, &names.protocol) {
        Some((variable, value)) => protocol(variable, value)?,
        None => Protocol::default(),
    };
    Ok(Route {
        signal,
        endpoint: endpoint(lookup, signal, protocol)?,
        headers: match first(lookup, &names.headers) {
            Some((variable, text)) => headers::list(variable, &text)?,
            None => HeaderMap::new(),
        },
        protocol,
        compression: match first(lookup, &names.compression) {
            Some((variable, value)) => compression(variable, value)?,
            None => Compression::default(),
        },
        timeout: timeout(first(lookup, &names.timeout))?,
        tls: TlsFiles {
            authorities: first(lookup, &names.certificate).map(|(_, path)| path.into()),
            identity: identity(lookup, names)?,
        },
    })
}

/// A key without its certificate says nothing, and the other way round.
fn identity(
    lookup: Lookup<'_>,
    names: &Variables,
) -> Result<Option<(std::path::PathBuf, std::path::PathBuf)>, DestinationError> {
    let certificate = first(lookup, &names.client_certificate);
    let key = first(lookup, &names.client_key);
    match (certificate, key) {
        (Some((_, certificate)), Some((_, key))) => Ok(Some((certificate.into(), key.into()))),
        (None, None) => Ok(None),
        (Some((variable, _)), None) => Err(DestinationError::Half {
            variable,
            other: names.client_key[1],
        }),
        (None, Some((variable, _))) => Err(DestinationError::Half {
            variable,
            other: names.client_certificate[1],
        }),
    }
}

fn endpoint(
    lookup: Lookup<'_>,
    signal: Signal,
    protocol: Protocol,
) -> Result<Uri, DestinationError> {
    let names = of(signal);
    let [own, base] = names.endpoint;
    let given = first(lookup, &names.endpoint);
    if protocol == Protocol::Grpc {
        let (variable, text) = given.unwrap_or((base, "http://localhost:4317".to_owned()));
        let insecure = first(lookup, &names.insecure);
        let insecure = insecure.is_some_and(|(variable, _)| is(lookup, variable, &["true"]));
        return Address::read(variable, &text, Schemeless::Grpc { insecure })?.grpc();
    }
    match given {
        // A signal's own address is used as it stands; the general one is a base.
        Some((variable, text)) if variable == own => exact(variable, &text),
        Some((variable, text)) => Address::read(variable, &text, Schemeless::Refused)?.http(signal),
        None => Address::read(base, "http://localhost:4318", Schemeless::Refused)?.http(signal),
    }
}

pub(super) fn protocol(
    variable: &'static str,
    value: String,
) -> Result<Protocol, DestinationError> {
    let words = [
        ("http/protobuf", Protocol::HttpProtobuf),
        ("http/json", Protocol::HttpJson),
        ("grpc", Protocol::Grpc),
    ];
    word(variable, value, &words, "http/protobuf, http/json or grpc")
}

pub(super) fn compression(
    variable: &'static str,
    value: String,
) -> Result<Compression, DestinationError> {
    let words = [("gzip", Compression::Gzip), ("none", Compression::None)];
    word(variable, value, &words, "gzip or none")
}

pub(super) fn timeout(value: Option<(&'static str, String)>) -> Result<Duration, DestinationError> {
    let millis = value
        .map(|(variable, value)| positive(variable, value, "a number of milliseconds above 0"));
    Ok(Duration::from_millis(millis.transpose()?.unwrap_or(10_000)))
}

/// How counters are to be told, if anybody says so (specification, metrics/sdk_exporters/otlp.md).
pub(super) fn temporality(lookup: Lookup<'_>) -> Result<Option<Temporality>, DestinationError> {
    let variable = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
    let words = [
        ("cumulative", Temporality::Cumulative),
        ("delta", Temporality::Delta),
        ("lowmemory", Temporality::LowMemory),
    ];
    let read = |value| word(variable, value, &words, "cumulative, delta or lowmemory");
    lookup(variable).map(read).transpose()
}

#[cfg(test)]
mod tests;
