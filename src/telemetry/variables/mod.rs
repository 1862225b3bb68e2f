//! The variables that say where telemetry goes, and how, read into [`Destination`]s and their like.
//!
//! Pure functions of a lookup, which gives a variable's value and `None` if it is unset or empty. A value that cannot
//! be understood is an error that says what, where and what to do, but never repeats what may be a credential.
//!
//! `OTEL_EXPORTERS` names destinations for all signals and wins; otherwise each of `OTEL_{TRACES,METRICS,LOGS}_EXPORTER`
//! names those for its signal; otherwise a signal goes to `otlp` if that has an address.

mod address;
mod backends;
mod batching;
mod headers;
mod limits;
mod otlp;
mod prometheus;
mod propagators;
mod sampling;
mod values;

use self::backends::{BACKENDS, Backend, PROMETHEUS_PUSH};
use self::values::is;
use super::destination::{Destination, Semconv, Signal, Signals};

pub use self::batching::{batching, metric_interval};
pub use self::limits::limits;
pub use self::propagators::{Propagators, propagators};
pub use self::sampling::{SamplingDecision, sampling};

/// Why the destinations cannot be known.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// A name that no destination has, in a variable of our own.
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
    /// A key, or whatever else becomes a header, that cannot be sent.
    #[error(
        "{variable} cannot be sent as a header, for it has control characters or is not plain text: set it to the value alone"
    )]
    Key {
        /// Where it stands. The value itself is a credential.
        variable: &'static str,
    },
    /// Part of an address that would not be a part of it.
    #[error("{variable} is no part of a host name: set it to one, for instance {example}")]
    HostPart {
        /// Where it stands.
        variable: &'static str,
        /// What it could be.
        example: &'static str,
    },
    /// A destination without what it needs.
    #[error("{chosen_by} names {destination}, which lacks {what}: set {variables}")]
    Missing {
        /// The variable that asks for the destination.
        chosen_by: &'static str,
        /// Its name.
        destination: &'static str,
        /// What it lacks.
        what: &'static str,
        /// The variables that would say it.
        variables: String,
    },
    /// Half of what only works as a whole.
    #[error("{variable} needs {other} beside it: set both or neither")]
    Half {
        /// What is there.
        variable: &'static str,
        /// What is not.
        other: &'static str,
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
    /// Places that telemetry is sent to, in the order in which they are named.
    pub destinations: Vec<Destination>,
    /// Places that are off, each for a reason to tell. No reason to stop a run: the variables are often meant for the
    /// agent's own telemetry.
    pub unsupported: Vec<Unsupported>,
}

/// Something that does not exist here, but is no reason to refuse a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// An exporter that OpenTelemetry knows and we do not have.
    #[error(
        "{variable} names {name}, which is not supported, so this destination is off: use otlp or console"
    )]
    Exporter {
        /// Where it stands.
        variable: &'static str,
        /// As OpenTelemetry names it.
        name: &'static str,
    },
    /// A destination that does not take this signal.
    #[error("{variable} names {name}, which takes no {signal}, so none are sent there: use otlp")]
    Signal {
        /// Where it stands.
        variable: &'static str,
        /// As in our table.
        name: &'static str,
        /// What it does not take.
        signal: &'static str,
    },
    /// The page that a Prometheus scrapes, by the variable that an agent's own exporter reads too: it serves one on the
    /// same port, and whoever comes second gets none. The agent comes second.
    #[error(
        "{variable} names prometheus, which is left to the agent, for two pages cannot have one port: set OTEL_EXPORTERS, for instance to otlp,prometheus, and sandtrace serves one"
    )]
    Page {
        /// Where it stands.
        variable: &'static str,
    },
    /// A word that no exporter has, in a variable of OpenTelemetry's: an unknown value is told and passed over
    /// (specification, configuration/sdk-environment-variables.md, *Enum*).
    #[error(
        "{variable} names {name:?}, which no destination is called, so the word is passed over: use one or more of {known}, separated by commas"
    )]
    Unknown {
        /// Where it stands.
        variable: &'static str,
        /// As written.
        name: String,
        /// The names that exist.
        known: &'static str,
    },
    /// Propagators that do not exist here.
    #[error(
        "OTEL_PROPAGATORS names {names}, which is not supported, so context of that kind is neither read nor handed on: use tracecontext, baggage or none"
    )]
    Propagators {
        /// As written, separated by commas.
        names: String,
    },
    /// A sampler that asks a server.
    #[error(
        "OTEL_TRACES_SAMPLER names a sampler that asks a server, which is not supported, so every run is kept that its caller keeps: use parentbased_traceidratio, or OTEL_SAMPLING_RATE"
    )]
    Sampler,
}

/// Gives a variable's value, `None` if it is unset or empty.
type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// One name of a destination.
#[derive(Debug, Clone, Copy)]
enum Name {
    Otlp,
    Console,
    File,
    Prometheus,
    Host,
    Backend(&'static Backend),
}

/// Those that are not in the table of [`BACKENDS`].
const NAMES: [(&str, Name); 5] = [
    ("otlp", Name::Otlp),
    ("console", Name::Console),
    ("file", Name::File),
    ("prometheus", Name::Prometheus),
    ("host", Name::Host),
];

const KNOWN: &str = "otlp, console, file, host, prometheus, prometheus-push, langfuse, signoz, phoenix, honeycomb, datadog, braintrust, grafana, logfire, langsmith, traceloop, jaeger, none";

/// Exporters of the specification and of its SDKs that do not exist here; a signal's variable may name them for the
/// agent's sake. The longer ones are Python's own names (opentelemetry-python, the entry points of its exporters).
const FOREIGN: [&str; 6] = [
    "zipkin",
    "logging",
    "otlp_proto_http",
    "otlp_proto_grpc",
    "zipkin_json",
    "zipkin_proto",
];

/// A destination, what it is to take, and the variable that says so.
#[derive(Debug, Clone, Copy)]
struct Choice {
    name: &'static str,
    is: Name,
    signals: Signals,
    chosen_by: &'static str,
}

/// Reads which destinations the user wants. None at all is not an error: then the journal alone is written.
pub fn from_env(lookup: Lookup<'_>) -> Result<Wanted, DestinationError> {
    let off = ["false", "0", "no", "off"];
    if is(lookup, "OTEL_SDK_DISABLED", &["true"]) || is(lookup, "OTEL_ENABLED", &off) {
        return Ok(Wanted::default());
    }
    let mut wanted = Wanted::default();
    for choice in choices(lookup, &mut wanted.unsupported)? {
        let signals = choice.signals;
        match choice.is {
            Name::Otlp => {
                let otlp = otlp::otlp(lookup, signals)?;
                wanted.destinations.push(Destination::Otlp(Box::new(otlp)));
            }
            Name::Console => wanted.destinations.push(Destination::Console(signals)),
            Name::File => wanted.destinations.push(Destination::File),
            Name::Host => wanted.destinations.push(Destination::Host(signals)),
            Name::Prometheus => {
                let address = prometheus::scrape_address(lookup)?;
                wanted.destinations.push(Destination::Prometheus(address));
            }
            Name::Backend(backend) => {
                let backend = backend.destination(lookup, signals, choice.chosen_by)?;
                wanted
                    .destinations
                    .push(Destination::Otlp(Box::new(backend)));
            }
        }
    }
    let semconv = Semconv::opted_in(lookup("OTEL_SEMCONV_STABILITY_OPT_IN").as_deref());
    for destination in &mut wanted.destinations {
        if let Destination::Otlp(otlp) = destination {
            otlp.semconv = semconv;
        }
    }
    Ok(wanted)
}

const SIGNALS: [(Signal, &str, &str); 3] = [
    (Signal::Traces, "OTEL_TRACES_EXPORTER", "traces"),
    (Signal::Metrics, "OTEL_METRICS_EXPORTER", "metrics"),
    (Signal::Logs, "OTEL_LOGS_EXPORTER", "logs"),
];

/// The destinations in the order of their first mention, each once.
fn choices(
    lookup: Lookup<'_>,
    unsupported: &mut Vec<Unsupported>,
) -> Result<Vec<Choice>, DestinationError> {
    let mut choices = Vec::new();
    let reachable = otlp::reachable(lookup);
    let variable = "OTEL_EXPORTERS";
    if let Some(value) = lookup(variable) {
        for word in words(&value) {
            let (name, is) = named(word).ok_or_else(|| DestinationError::UnknownName {
                variable,
                name: word.to_owned(),
                known: KNOWN,
            })?;
            let signals = match is {
                // A signal without an address would go to this very machine, where a sandbox has no collector.
                Name::Otlp if reachable != Signals::default() => reachable,
                is => taken(is),
            };
            choose(lookup, &mut choices, (name, is), signals, variable);
        }
        return Ok(choices);
    }
    for (signal, variable, what) in SIGNALS {
        let only = Signals::of(signal);
        let value = lookup(variable).unwrap_or_default();
        // A variable with nothing but unknown words counts as unset.
        if !is_followed(&value) && reachable.has(signal) {
            choose(lookup, &mut choices, NAMES[0], only, variable);
        }
        for word in words(&value) {
            let foreign = FOREIGN.iter().find(|name| word.eq_ignore_ascii_case(name));
            let missing = match (foreign, named(word)) {
                (Some(name), _) => Some(Unsupported::Exporter { variable, name }),
                (None, None) => Some(Unsupported::Unknown {
                    variable,
                    name: word.to_owned(),
                    known: KNOWN,
                }),
                (None, Some((_, Name::Prometheus))) if signal == Signal::Metrics => {
                    push(lookup, &mut choices, only, variable);
                    Some(Unsupported::Page { variable })
                }
                (None, Some((name, is))) if taken(is).has(signal) => {
                    choose(lookup, &mut choices, (name, is), only, variable);
                    None
                }
                (None, Some((name, _))) => Some(Unsupported::Signal {
                    variable,
                    name,
                    signal: what,
                }),
            };
            if let Some(missing) = missing
                && !unsupported.contains(&missing)
            {
                unsupported.push(missing);
            }
        }
    }
    Ok(choices)
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    let words = list.split(',').map(str::trim);
    words.filter(|word| !word.is_empty() && !word.eq_ignore_ascii_case("none"))
}

/// Whether a list has anything to follow, which `none` is too.
fn is_followed(list: &str) -> bool {
    let is_foreign = |word: &str| FOREIGN.iter().any(|name| word.eq_ignore_ascii_case(name));
    list.split(',')
        .map(str::trim)
        .any(|word| word.eq_ignore_ascii_case("none") || is_foreign(word) || named(word).is_some())
}

fn named(word: &str) -> Option<(&'static str, Name)> {
    let backends = BACKENDS.iter();
    let mut all = NAMES
        .into_iter()
        .chain(backends.map(|backend| (backend.name, Name::Backend(backend))));
    all.find(|(name, _)| word.eq_ignore_ascii_case(name))
}

/// What a destination takes at most.
fn taken(name: Name) -> Signals {
    match name {
        Name::Otlp | Name::Console | Name::File | Name::Host => Signals::ALL,
        Name::Prometheus => Signals::of(Signal::Metrics),
        Name::Backend(backend) => backend.signals,
    }
}

fn choose(
    lookup: Lookup<'_>,
    choices: &mut Vec<Choice>,
    (name, is): (&'static str, Name),
    signals: Signals,
    chosen_by: &'static str,
) {
    match choices.iter_mut().find(|choice| choice.name == name) {
        Some(choice) => choice.signals = choice.signals.and(signals),
        None => choices.push(Choice {
            name,
            is,
            signals,
            chosen_by,
        }),
    }
    if matches!(is, Name::Prometheus) {
        push(lookup, choices, signals, chosen_by);
    }
}

/// Whoever says where Prometheus receives wants it pushed there, besides the page.
fn push(lookup: Lookup<'_>, choices: &mut Vec<Choice>, signals: Signals, chosen_by: &'static str) {
    if lookup(PROMETHEUS_PUSH.own.endpoint).is_some() {
        let push = (PROMETHEUS_PUSH.name, Name::Backend(&PROMETHEUS_PUSH));
        choose(lookup, choices, push, signals, chosen_by);
    }
}

#[cfg(test)]
mod tests;
