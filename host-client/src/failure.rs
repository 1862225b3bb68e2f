//! Why a run failed, in one vocabulary shared by the wire, the spans (`error.type`) and the metrics.
//!
//! A [`Failure`] is a verdict with its evidence: a kind, how sure we are, the facts it rests on, and what else it might
//! have been. It is data about the agent, never an error of the supervisor.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Builds [`FailureKind`] from one table, so that a word stands in exactly one place.
macro_rules! kinds {
    ($( $(#[$doc:meta])* $variant:ident = $class:literal . $reason:literal, $recoverable:literal; )*) => {
        /// What went wrong: a class and, but for `unknown`, a reason.
        ///
        /// On the wire it is the two members `class` and `reason`; as `error.type` it is `class.reason`.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum FailureKind {
            $( $(#[$doc])* $variant, )*
            /// The facts allow no verdict.
            Unknown,
            /// A kind that a newer supervisor knows and this crate does not.
            Other {
                /// The class as it stood on the wire.
                class: String,
                /// The reason as it stood on the wire.
                reason: Option<String>,
            },
        }

        impl FailureKind {
            /// Every kind this version knows, in the order of the documentation.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* Self::Unknown ];

            /// The class: `timeout`, `oom`, `network`, `api`, `limit`, `cancelled`, `crash`, `spawn`, `lost`, `unknown`.
            #[must_use]
            pub fn class(&self) -> &str {
                match self {
                    $( Self::$variant => $class, )*
                    Self::Unknown => "unknown",
                    Self::Other { class, .. } => class,
                }
            }

            /// The reason within the class; `unknown` has none.
            #[must_use]
            pub fn reason(&self) -> Option<&str> {
                match self {
                    $( Self::$variant => Some($reason), )*
                    Self::Unknown => None,
                    Self::Other { reason, .. } => reason.as_deref(),
                }
            }

            /// Whether the same run, started again unchanged, may well succeed.
            #[must_use]
            pub fn recoverable(&self) -> bool {
                match self {
                    $( Self::$variant => $recoverable, )*
                    Self::Unknown | Self::Other { .. } => false,
                }
            }

            /// Finds the kind for a class and a reason read from the wire.
            #[must_use]
            pub fn from_parts(class: &str, reason: Option<&str>) -> Self {
                match (class, reason) {
                    $( ($class, Some($reason)) => Self::$variant, )*
                    ("unknown", None) => Self::Unknown,
                    _ => Self::Other { class: class.to_owned(), reason: reason.map(str::to_owned) },
                }
            }
        }
    };
}

kinds! {
    /// The run's own deadline passed (`--deadline`).
    TimeoutDeadline = "timeout"."deadline", false;
    /// No sign of life within a turn for `--idle-timeout`.
    TimeoutIdle = "timeout"."idle", true;
    /// The Messages API gave no answer in time.
    TimeoutApi = "timeout"."api", true;
    /// The sandbox reached its end of life (the host's verdict).
    TimeoutSandboxEnd = "timeout"."sandbox_end", true;
    /// The kernel killed the agent process for memory.
    OomAgent = "oom"."agent", false;
    /// The kernel killed the Claude Code CLI for memory.
    OomCli = "oom"."cli", false;
    /// A descendant was killed for memory, and the run ended on it.
    OomDescendantFatal = "oom"."descendant_fatal", false;
    /// A language runtime ran out of heap (Python's `MemoryError`, V8, Bun).
    OomHeap = "oom"."heap", false;
    /// The kernel reclaimed for ever without killing anyone.
    OomLivelock = "oom"."livelock", false;
    /// A userspace killer (systemd-oomd, earlyoom) acted.
    OomUserspace = "oom"."userspace", false;
    /// A name could not be resolved.
    NetworkDns = "network"."dns", true;
    /// A connection was refused or could not be made.
    NetworkConnect = "network"."connect", true;
    /// An established connection was reset or dropped.
    NetworkReset = "network"."reset", true;
    /// TLS could not be established or trusted.
    NetworkTls = "network"."tls", false;
    /// An established connection went silent.
    NetworkTimeout = "network"."timeout", true;
    /// HTTP 429.
    ApiRateLimit = "api"."rate_limit", true;
    /// The subscription's usage window is spent.
    ApiUsageLimit = "api"."usage_limit", true;
    /// HTTP 529.
    ApiOverloaded = "api"."overloaded", true;
    /// HTTP 5xx other than 529.
    ApiServerError = "api"."server_error", true;
    /// HTTP 401 or 403 for the key or token.
    ApiAuth = "api"."auth", false;
    /// No credit, or billing refused.
    ApiBilling = "api"."billing", false;
    /// The request itself was refused (HTTP 400, 413).
    ApiInvalidRequest = "api"."invalid_request", false;
    /// The conversation no longer fits the context window.
    ApiContextTooLong = "api"."context_too_long", false;
    /// No such model, or no access to it.
    ApiModelNotFound = "api"."model_not_found", false;
    /// The model declined for safety (`stop_reason: refusal`).
    ApiRefusal = "api"."refusal", false;
    /// The answer exceeded the output token maximum.
    ApiMaxOutput = "api"."max_output", false;
    /// The maximum number of turns was reached.
    LimitTurns = "limit"."turns", false;
    /// The cost budget was spent.
    LimitBudget = "limit"."budget", false;
    /// The answer never matched the requested schema.
    LimitStructuredOutput = "limit"."structured_output", false;
    /// The host asked the run to stop (a signal to the supervisor or the agent).
    CancelledHost = "cancelled"."host", false;
    /// The user interrupted the turn.
    CancelledUser = "cancelled"."user", false;
    /// A denied permission ended the run.
    CancelledPermission = "cancelled"."permission", false;
    /// A signal that nobody we know of meant to send.
    CrashSignal = "crash"."signal", false;
    /// An uncaught exception.
    CrashException = "crash"."exception", false;
    /// A non-zero exit without another explanation.
    CrashExitCode = "crash"."exit_code", false;
    /// Exit 0 after agent events, but the result never came.
    CrashNoResult = "crash"."no_result", false;
    /// The disk was full.
    CrashDiskFull = "crash"."disk_full", false;
    /// The session to resume does not exist.
    CrashBadSession = "crash"."bad_session", false;
    /// The command was not found.
    SpawnNotFound = "spawn"."not_found", false;
    /// The command is not executable.
    SpawnNotExecutable = "spawn"."not_executable", false;
    /// The process could not be made.
    SpawnFailed = "spawn"."failed", true;
    /// The supervisor vanished (the host's verdict).
    LostSupervisor = "lost"."supervisor", true;
    /// The sandbox vanished (the host's verdict).
    LostSandbox = "lost"."sandbox", true;
}

impl fmt::Display for FailureKind {
    /// Writes `class.reason`, the value of `error.type`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.class())?;
        match self.reason() {
            Some(reason) => write!(f, ".{reason}"),
            None => Ok(()),
        }
    }
}

/// One fact that a verdict rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Evidence {
    /// Where the fact was seen: `intent`, `result` (its fields), `wait_status`, `spawn`, `clock`; or in somebody's words:
    /// `message` (the CLI's, in the result), `stderr`, `stream` (an error event of the agent). Of memory, as the kernel
    /// sees it: `cgroup` (its counters, limits and pressure), `vmstat` (the counter of the whole sandbox), `kernel_log`
    /// (whom it killed), `samples` (what the processes held shortly before). Of calls of the model:
    /// `socket` (a connection of the agent's own that the kernel sends the same on again and again, or that there was
    /// none), `probe` (one try, at the time of failure, to open a connection to the API's host or the proxy before it),
    /// `retry` (how often the CLI tried again, over what time, and what came of the last), `rate_limit` (the last that
    /// was said of a rate limit's window). Of a run that was lost, by this crate: `events` (what came last), `samples`,
    /// `process` (what the sandbox says of the supervisor), `provider` (what it says of the sandbox).
    pub source: String,
    /// The fact, in words a person can read.
    pub fact: String,
}

/// Another explanation that the facts do not rule out.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Alternative {
    /// What it would have been.
    pub kind: FailureKind,
    /// How likely, from 0 to 1.
    pub confidence: f64,
}

/// The verdict on a run that did not succeed.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(not(feature = "produce"), non_exhaustive)]
pub struct Failure {
    /// What went wrong.
    pub kind: FailureKind,
    /// One sentence for a person.
    pub message: String,
    /// How sure the verdict is, from 0 to 1.
    pub confidence: f64,
    /// Whether the same run, started again unchanged, may well succeed.
    pub recoverable: bool,
    /// The facts it rests on, the strongest first.
    pub evidence: Vec<Evidence>,
    /// What else it might have been.
    pub alternatives: Vec<Alternative>,
}

/// The verdict on a run that did not succeed.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
struct WireFailure {
    /// `timeout`, `oom`, `network`, `api`, `limit`, `cancelled`, `crash`, `spawn`, `lost`, `unknown`.
    class: String,
    /// The reason within the class; `unknown` has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// One sentence for a person.
    message: String,
    /// How sure the verdict is.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1)))]
    confidence: f64,
    /// Whether the same run, started again unchanged, may well succeed.
    recoverable: bool,
    /// The facts it rests on, the strongest first.
    #[serde(default)]
    evidence: Vec<Evidence>,
    /// What else it might have been.
    #[serde(default)]
    alternatives: Vec<Alternative>,
}

/// Another explanation that the facts do not rule out.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
struct WireAlternative {
    /// As of a failure.
    class: String,
    /// As of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// How likely.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1)))]
    confidence: f64,
}

/// On the wire these two are what their mirrors are.
#[cfg(feature = "schema")]
mod schema {
    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator};

    use super::{Alternative, Failure, WireAlternative, WireFailure};

    impl JsonSchema for Failure {
        fn schema_name() -> Cow<'static, str> {
            "Failure".into()
        }

        fn json_schema(generator: &mut SchemaGenerator) -> Schema {
            WireFailure::json_schema(generator)
        }
    }

    impl JsonSchema for Alternative {
        fn schema_name() -> Cow<'static, str> {
            "Alternative".into()
        }

        fn json_schema(generator: &mut SchemaGenerator) -> Schema {
            WireAlternative::json_schema(generator)
        }
    }
}

impl Serialize for Failure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        WireFailure {
            class: self.kind.class().to_owned(),
            reason: self.kind.reason().map(str::to_owned),
            message: self.message.clone(),
            confidence: self.confidence,
            recoverable: self.recoverable,
            evidence: self.evidence.clone(),
            alternatives: self.alternatives.clone(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Failure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = WireFailure::deserialize(deserializer)?;
        if !(0.0..=1.0).contains(&wire.confidence) {
            return Err(D::Error::custom("confidence is outside 0..=1"));
        }
        Ok(Self {
            kind: FailureKind::from_parts(&wire.class, wire.reason.as_deref()),
            message: wire.message,
            confidence: wire.confidence,
            recoverable: wire.recoverable,
            evidence: wire.evidence,
            alternatives: wire.alternatives,
        })
    }
}

impl Serialize for Alternative {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        WireAlternative {
            class: self.kind.class().to_owned(),
            reason: self.kind.reason().map(str::to_owned),
            confidence: self.confidence,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Alternative {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = WireAlternative::deserialize(deserializer)?;
        Ok(Self {
            kind: FailureKind::from_parts(&wire.class, wire.reason.as_deref()),
            confidence: wire.confidence,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for kind in FailureKind::ALL {
            let failure = Failure {
                kind: kind.clone(),
                message: "it failed".to_owned(),
                confidence: 0.5,
                recoverable: kind.recoverable(),
                evidence: vec![Evidence {
                    source: "result".to_owned(),
                    fact: "is_error".to_owned(),
                }],
                alternatives: vec![Alternative {
                    kind: FailureKind::Unknown,
                    confidence: 0.1,
                }],
            };
            let json = serde_json::to_string(&failure).unwrap();
            assert_eq!(
                serde_json::from_str::<Failure>(&json).unwrap(),
                failure,
                "{json}"
            );
        }
    }

    #[test]
    fn a_kind_of_a_newer_supervisor_is_kept() {
        let kind = FailureKind::from_parts("quantum", Some("decoherence"));
        assert_eq!(kind.to_string(), "quantum.decoherence");
        assert_eq!(kind.class(), "quantum");
    }

    #[test]
    fn unknown_has_no_reason_and_no_dot() {
        assert_eq!(FailureKind::Unknown.to_string(), "unknown");
        assert_eq!(FailureKind::Unknown.reason(), None);
    }
}
