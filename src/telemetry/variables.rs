//! The OpenTelemetry variables that say where telemetry goes, read into [`Destination`]s.
//!
//! A pure function of a lookup, which gives a variable's value and `None` if it is unset or empty. A value that cannot
//! be understood is an error that says what, where and what to do, but never repeats what may be a credential.

use std::str::FromStr;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;

use super::destination::{
    Batching, Compression, Destination, Dialect, OtlpDestination, Protocol, Route, Signal, Signals,
    Temporality, TlsFiles,
};

/// Why the destinations cannot be known.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// A name that no destination has.
    #[error(
        "{variable} names the unknown destination {name:?}: use one or more of {known}, separated by commas"
    )]
    UnknownName {
        /// Where it stands.
        variable: &'static str,
        /// The name as written.
        name: String,
        /// The names that exist.
        known: &'static str,
    },
    /// An address that cannot be used.
    #[error("{variable} is not a usable address ({reason}): write it like http://localhost:4318")]
    Endpoint {
        /// Where it stands.
        variable: &'static str,
        /// What is wrong. The address itself may hold a token.
        reason: &'static str,
    },
    /// Headers that cannot be used.
    #[error(
        "{variable} is malformed at member {member} ({reason}): write it as name=value,name=value, with values percent-encoded"
    )]
    Headers {
        /// Where it stands.
        variable: &'static str,
        /// Counts from 1.
        member: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// A word or number that is not among the allowed ones.
    #[error("{variable} cannot be {value:?}: use {allowed}")]
    Value {
        /// Where it stands.
        variable: &'static str,
        /// The value as written.
        value: String,
        /// What may stand there.
        allowed: &'static str,
    },
}

/// Where telemetry is to go.
#[derive(Debug, Default, PartialEq)]
pub struct Wanted {
    /// Places that spans are sent to.
    pub destinations: Vec<Destination>,
    /// Places that are off, each for a reason to tell. No reason to stop a run: the variables are often meant for the
    /// agent's own telemetry.
    pub unsupported: Vec<Unsupported>,
}

/// Something well-formed that does not exist here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// gRPC, which would need an HTTP/2 stack of its own.
    #[error(
        "{variable} asks for grpc, which is not supported, so the destination otlp is off: set OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf, and OTEL_EXPORTER_OTLP_TRACES_ENDPOINT (usually port 4318, path /v1/traces)"
    )]
    Grpc {
        /// Where it stands.
        variable: &'static str,
    },
    /// A backend without a destination of its own yet.
    #[error(
        "{variable} names {name}, which is not supported yet, so this destination is off: use otlp, with the backend's OTLP address in OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    )]
    Name {
        /// Where it stands.
        variable: &'static str,
        /// As in our table.
        name: &'static str,
    },
}

/// Gives a variable's value, `None` if it is unset or empty.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

const ENDPOINT: Pair = (
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
);
const HEADERS: Pair = (
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_HEADERS",
);
const PROTOCOL: Pair = (
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
);
const COMPRESSION: Pair = (
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
);
const TIMEOUT: Pair = (
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
);
const CERTIFICATE: Pair = (
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
);

/// The variable for traces, which wins, and the one for every signal.
type Pair = (&'static str, &'static str);

/// The request's path for traces, which a base address lacks.
const TRACES_PATH: &str = "/v1/traces";

/// Reads which destinations the user wants. None at all is not an error: then the journal alone is written.
pub fn from_env(lookup: Lookup<'_>) -> Result<Wanted, DestinationError> {
    let is = |name: &str, words: &[&str]| {
        lookup(name).is_some_and(|value| {
            words
                .iter()
                .any(|word| value.trim().eq_ignore_ascii_case(word))
        })
    };
    if is("OTEL_SDK_DISABLED", &["true"]) || is("OTEL_ENABLED", &["false", "0", "no", "off"]) {
        return Ok(Wanted::default());
    }
    let Names { names, unbuilt } = names(lookup)?;
    let mut destinations = Vec::new();
    let mut unsupported = unbuilt;
    for name in names {
        let destination = match name {
            Name::Otlp => match protocol(lookup)? {
                Ok(protocol) => Destination::Otlp(Box::new(otlp(lookup, protocol)?)),
                Err(missing) => {
                    if !unsupported.contains(&missing) {
                        unsupported.push(missing);
                    }
                    continue;
                }
            },
            Name::Console => Destination::Console(Signals {
                traces: true,
                ..Signals::default()
            }),
            Name::File => Destination::File,
            Name::Host => Destination::Host,
        };
        if !destinations.contains(&destination) {
            destinations.push(destination);
        }
    }
    Ok(Wanted {
        destinations,
        unsupported,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Otlp,
    Console,
    File,
    Host,
}

const NAMES: [(&str, Name); 4] = [
    ("otlp", Name::Otlp),
    ("console", Name::Console),
    ("file", Name::File),
    ("host", Name::Host),
];

/// Those of DESIGN §8 that are still to be built.
const UNBUILT: [&str; 12] = [
    "langfuse",
    "signoz",
    "phoenix",
    "honeycomb",
    "datadog",
    "braintrust",
    "grafana",
    "logfire",
    "langsmith",
    "traceloop",
    "jaeger",
    "prometheus",
];

#[derive(Debug, Default)]
struct Names {
    names: Vec<Name>,
    unbuilt: Vec<Unsupported>,
}

fn names(lookup: Lookup<'_>) -> Result<Names, DestinationError> {
    let list = [
        (
            "OTEL_EXPORTERS",
            &NAMES[..],
            "otlp, console, file, host, none",
        ),
        ("OTEL_TRACES_EXPORTER", &NAMES[..2], "otlp, console, none"),
    ];
    for (variable, names, known) in list {
        let Some(value) = lookup(variable) else {
            continue;
        };
        let words = value
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty());
        let mut found = Names::default();
        for word in words.filter(|word| !word.eq_ignore_ascii_case("none")) {
            let is = |name: &str| word.eq_ignore_ascii_case(name);
            if let Some((_, name)) = names.iter().find(|(name, _)| is(name)) {
                found.names.push(*name);
            } else if let Some(name) = UNBUILT.into_iter().find(|name| is(name)) {
                let missing = Unsupported::Name { variable, name };
                if !found.unbuilt.contains(&missing) {
                    found.unbuilt.push(missing);
                }
            } else {
                return Err(DestinationError::UnknownName {
                    variable,
                    name: word.to_owned(),
                    known,
                });
            }
        }
        return Ok(found);
    }
    let reachable = first(lookup, ENDPOINT).is_some();
    Ok(Names {
        names: reachable.then_some(Name::Otlp).into_iter().collect(),
        unbuilt: Vec::new(),
    })
}

fn first(lookup: Lookup<'_>, (traces, every): Pair) -> Option<(&'static str, String)> {
    [traces, every]
        .into_iter()
        .find_map(|name| Some((name, lookup(name)?)))
}

fn otlp(lookup: Lookup<'_>, protocol: Protocol) -> Result<OtlpDestination, DestinationError> {
    Ok(OtlpDestination {
        name: "otlp",
        dialect: Dialect::Otlp,
        resource: Vec::new(),
        temporality: Temporality::Cumulative,
        routes: vec![Route {
            signal: Signal::Traces,
            endpoint: endpoint(lookup)?,
            headers: match first(lookup, HEADERS) {
                Some((variable, text)) => headers(variable, &text)?,
                None => HeaderMap::new(),
            },
            protocol,
            compression: compression(lookup)?,
            timeout: timeout(lookup)?,
            tls: TlsFiles {
                authorities: first(lookup, CERTIFICATE).map(|(_, path)| path.into()),
                identity: None,
            },
        }],
    })
}

fn endpoint(lookup: Lookup<'_>) -> Result<Uri, DestinationError> {
    let (variable, text) =
        first(lookup, ENDPOINT).unwrap_or((ENDPOINT.1, "http://localhost:4318".to_owned()));
    let error = |reason| DestinationError::Endpoint { variable, reason };
    let uri = Uri::from_str(text.trim()).map_err(|_| error("it does not parse"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(error("it does not start with http:// or https://"));
    }
    let authority = uri.authority().ok_or_else(|| error("it has no host"))?;
    if authority.host().is_empty() {
        return Err(error("it has no host"));
    }
    if authority.as_str().contains('@') {
        return Err(error(
            "it holds credentials: put them into OTEL_EXPORTER_OTLP_HEADERS instead",
        ));
    }
    if authority.port().is_none() && authority.as_str() != authority.host() {
        return Err(error("its port is no number up to 65535"));
    }
    if variable == ENDPOINT.0 {
        return Ok(uri);
    }
    let base = uri.path().trim_end_matches('/');
    let base = base.strip_suffix(TRACES_PATH).unwrap_or(base);
    let query = uri
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let path = PathAndQuery::from_str(&format!("{base}{TRACES_PATH}{query}"))
        .map_err(|_| error("its path is malformed"))?;
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|_| error("it does not parse"))
}

/// Reads headers as the specification writes them: W3C Baggage without its properties.
fn headers(variable: &'static str, text: &str) -> Result<HeaderMap, DestinationError> {
    let mut headers = HeaderMap::new();
    let members = text
        .split(',')
        .enumerate()
        .filter(|(_, member)| !member.trim().is_empty());
    for (index, member) in members {
        let error = |reason| DestinationError::Headers {
            variable,
            member: index + 1,
            reason,
        };
        let (name, value) = member.split_once('=').ok_or_else(|| error("it has no ="))?;
        let name =
            HeaderName::from_str(name.trim()).map_err(|_| error("its name is no header name"))?;
        let value: Vec<u8> = percent_decode_str(value.trim()).collect();
        let mut value = HeaderValue::from_bytes(&value)
            .map_err(|_| error("its value has control characters"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    // How a request is framed and written is not the user's to say: it would garble every request.
    for name in [
        CONNECTION,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_TYPE,
        TRANSFER_ENCODING,
    ] {
        headers.remove(name);
    }
    Ok(headers)
}

fn protocol(lookup: Lookup<'_>) -> Result<Result<Protocol, Unsupported>, DestinationError> {
    let Some((variable, value)) = first(lookup, PROTOCOL) else {
        return Ok(Ok(Protocol::default()));
    };
    match value.trim().to_ascii_lowercase().as_str() {
        "http/protobuf" => Ok(Ok(Protocol::HttpProtobuf)),
        "http/json" => Ok(Ok(Protocol::HttpJson)),
        "grpc" => Ok(Err(Unsupported::Grpc { variable })),
        _ => Err(DestinationError::Value {
            variable,
            value,
            allowed: "http/protobuf or http/json",
        }),
    }
}

fn compression(lookup: Lookup<'_>) -> Result<Compression, DestinationError> {
    let Some((variable, value)) = first(lookup, COMPRESSION) else {
        return Ok(Compression::default());
    };
    match value.trim().to_ascii_lowercase().as_str() {
        "none" => Ok(Compression::None),
        "gzip" => Ok(Compression::Gzip),
        _ => Err(DestinationError::Value {
            variable,
            value,
            allowed: "gzip or none",
        }),
    }
}

fn timeout(lookup: Lookup<'_>) -> Result<Duration, DestinationError> {
    let value = first(lookup, TIMEOUT);
    let millis = value
        .map(|(variable, value)| positive(variable, value, "a number of milliseconds above 0"));
    Ok(Duration::from_millis(millis.transpose()?.unwrap_or(10_000)))
}

/// Reads how spans are gathered into requests.
pub fn batching(lookup: Lookup<'_>) -> Result<Batching, DestinationError> {
    let read = |variable, allowed| {
        let value = lookup(variable).map(|value| positive(variable, value, allowed));
        value.transpose()
    };
    let delay = read(
        "OTEL_BSP_SCHEDULE_DELAY",
        "a number of milliseconds above 0",
    )?;
    let max_spans = read(
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

fn positive(
    variable: &'static str,
    value: String,
    allowed: &'static str,
) -> Result<u64, DestinationError> {
    match value.trim().parse::<u64>() {
        // A day is longer than any wait of ours.
        Ok(number @ 1..=86_400_000) => Ok(number),
        _ => Err(DestinationError::Value {
            variable,
            value,
            allowed,
        }),
    }
}

#[cfg(test)]
mod tests;
