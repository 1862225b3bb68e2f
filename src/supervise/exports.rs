//! All that the variables say about telemetry, read and checked at once: a run and `doctor` must not come to different
//! conclusions about the same words.

use std::time::Duration;

use crate::cli::EchoMode;
use crate::telemetry::destination::from_env;
use crate::telemetry::{
    self, Batching, Destination, DestinationError, Limits, Proxies, SamplingDecision,
};

/// What the variables say about telemetry.
#[derive(Debug)]
pub struct Exports {
    pub destinations: Vec<Destination>,
    pub proxies: Proxies,
    pub sampling: SamplingDecision,
    pub limits: Limits,
    pub batching: Batching,
    pub metric_interval: Duration,
    /// Code and sentence of what is not as the user may think.
    pub warnings: Vec<(&'static str, String)>,
}

impl Exports {
    /// Reads them by `lookup`, which gives `None` for what is unset or empty. `caller_samples` is the flag of the
    /// caller's trace, `None` without a caller.
    ///
    /// # Errors
    ///
    /// The first value that cannot be understood.
    pub fn read(
        lookup: &dyn Fn(&str) -> Option<String>,
        caller_samples: Option<bool>,
        echo: EchoMode,
    ) -> Result<Self, DestinationError> {
        let sampling = telemetry::sampling(lookup, caller_samples)?;
        let wanted = from_env(lookup)?;
        let proxies = Proxies::from_env(lookup);
        let mut warnings: Vec<_> = wanted
            .unsupported
            .iter()
            .map(|unsupported| ("destination_unsupported", unsupported.to_string()))
            .collect();
        if let Some(unsupported) = &sampling.unsupported {
            warnings.push(("sampler_unsupported", unsupported.to_string()));
        }
        if let Some(unsupported) = &telemetry::propagators(lookup).unsupported {
            warnings.push(("propagator_unsupported", unsupported.to_string()));
        }
        let is_otlp = |destination: &_| matches!(destination, Destination::Otlp(_));
        let sends = wanted.destinations.iter().any(is_otlp);
        warnings.extend(proxies.unusable().iter().filter(|_| sends).map(|variable| {
            let what = format!(
                "{variable} is not the address of a proxy that speaks plain HTTP, so telemetry goes without"
            );
            ("proxy_unsupported", what)
        }));
        let is_host = |destination: &_| matches!(destination, Destination::Host(_));
        let by_host = wanted.destinations.iter().any(is_host);
        if by_host && echo != EchoMode::Enriched {
            let what = "the destination host is told by lines of the enriched echo, which is off, so nobody gets them while the run lasts: use --echo enriched";
            warnings.push(("host_unheard", what.to_owned()));
        }
        Ok(Self {
            destinations: wanted.destinations,
            proxies,
            sampling,
            limits: telemetry::limits(lookup)?,
            batching: telemetry::batching(lookup)?,
            metric_interval: telemetry::metric_interval(lookup)?,
            warnings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(variables: &[(&str, &str)], echo: EchoMode) -> Vec<&'static str> {
        let lookup = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let exports = Exports::read(&lookup, None, echo).unwrap();
        exports.warnings.iter().map(|(code, _)| *code).collect()
    }

    #[test]
    fn a_host_that_hears_no_lines_is_warned_of() {
        let host = [("OTEL_EXPORTERS", "host,console")];
        assert_eq!(codes(&host, EchoMode::Enriched), [] as [&str; 0]);
        for echo in [EchoMode::Raw, EchoMode::Off] {
            assert_eq!(codes(&host, echo), ["host_unheard"], "{echo:?}");
            let console = [("OTEL_EXPORTERS", "console")];
            assert_eq!(codes(&console, echo), [] as [&str; 0], "{echo:?}");
        }
    }

    #[test]
    fn what_is_off_is_told_once_each() {
        let set = [
            ("OTEL_METRICS_EXPORTER", "prometheus"),
            ("OTEL_TRACES_SAMPLER", "xray"),
            ("OTEL_PROPAGATORS", "b3,xray"),
            ("HTTPS_PROXY", "socks5://proxy:1080"),
        ];
        let told = [
            "destination_unsupported",
            "sampler_unsupported",
            "propagator_unsupported",
        ];
        assert_eq!(codes(&set, EchoMode::Enriched), told);
        let with_backend = [&set[..], &[("OTEL_TRACES_EXPORTER", "otlp")]].concat();
        let told = [&told[..], &["proxy_unsupported"]].concat();
        assert_eq!(codes(&with_backend, EchoMode::Enriched), told);
    }
}
