//! Which runs' spans are exported, as far as it is known before the run.

use super::values::first;
use super::{DestinationError, Lookup, Unsupported};

/// What the variables and the caller's flag make of this run.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingDecision {
    /// The trace's flag from here on. `false`: no spans leave the sandbox, whatever becomes of the run.
    pub sampled: bool,
    /// The share of runs whose spans are exported as they go, 0 to 1.
    pub rate: f64,
    /// A sampler that does not exist here; the default is used instead.
    pub unsupported: Option<Unsupported>,
}

const RATE: &str = "OTEL_SAMPLING_RATE";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
const SHARE: &str = "a number from 0 to 1, as in 0.25";
const SAMPLERS: &str = "always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off or parentbased_traceidratio";

/// Reads OTEL_SAMPLING_RATE, which wins, or OTEL_TRACES_SAMPLER with its argument. `parent` is the caller's flag, `None`
/// without a caller.
///
/// The rate is the share of runs that are sent without a further reason, whoever started them; a caller's 00 is still a
/// no. A `parentbased_` sampler asks the caller alone where there is one, any other one never does, as the
/// specification has it (trace/sdk.md, *ParentBased*).
pub fn sampling(
    lookup: Lookup<'_>,
    parent: Option<bool>,
) -> Result<SamplingDecision, DestinationError> {
    let decided = |sampled, rate| SamplingDecision {
        sampled,
        rate,
        unsupported: None,
    };
    if let Some(rate) = share(lookup, RATE)? {
        return Ok(decided(parent.unwrap_or(true), rate));
    }
    let Some((_, value)) = first(lookup, &[SAMPLER]) else {
        return Ok(decided(parent.unwrap_or(true), 1.0));
    };
    let word = value.trim().to_ascii_lowercase();
    let (root, asks_parent) = match word.strip_prefix("parentbased_") {
        Some(root) => (root, true),
        None => (word.as_str(), false),
    };
    let known = match root {
        "always_on" => decided(true, 1.0),
        "always_off" => decided(false, 0.0),
        "traceidratio" => decided(true, share(lookup, ARGUMENT)?.unwrap_or(1.0)),
        "jaeger_remote" | "xray" => SamplingDecision {
            unsupported: Some(Unsupported::Sampler),
            ..decided(parent.unwrap_or(true), 1.0)
        },
        _ => {
            return Err(DestinationError::Value {
                variable: SAMPLER,
                value,
                allowed: SAMPLERS,
            });
        }
    };
    match parent {
        Some(sampled) if asks_parent && known.unsupported.is_none() => Ok(decided(sampled, 1.0)),
        _ => Ok(known),
    }
}

fn share(lookup: Lookup<'_>, variable: &'static str) -> Result<Option<f64>, DestinationError> {
    let Some(value) = lookup(variable) else {
        return Ok(None);
    };
    match value.trim().parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(Some(share)),
        _ => Err(DestinationError::Value {
            variable,
            value,
            allowed: SHARE,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::looked_up;
    use super::*;

    fn decide(
        variables: &[(&str, &str)],
        parent: Option<bool>,
    ) -> Result<SamplingDecision, DestinationError> {
        sampling(&looked_up(variables), parent)
    }

    const ROOT: Option<bool> = None;
    const KEPT: Option<bool> = Some(true);
    const DROPPED: Option<bool> = Some(false);

    #[test]
    fn a_sampler_means_what_the_specification_says() {
        let ratio = ("OTEL_TRACES_SAMPLER_ARG", "0.25");
        for (sampler, expected) in [
            // For a run without a caller, under a caller that samples, and under one that does not.
            ("", [(true, 1.0), (true, 1.0), (false, 1.0)]),
            ("always_on", [(true, 1.0), (true, 1.0), (true, 1.0)]),
            ("ALWAYS_OFF", [(false, 0.0), (false, 0.0), (false, 0.0)]),
            ("traceidratio", [(true, 0.25), (true, 0.25), (true, 0.25)]),
            (
                "parentbased_always_on",
                [(true, 1.0), (true, 1.0), (false, 1.0)],
            ),
            (
                "parentbased_always_off",
                [(false, 0.0), (true, 1.0), (false, 1.0)],
            ),
            (
                "parentbased_traceidratio",
                [(true, 0.25), (true, 1.0), (false, 1.0)],
            ),
        ] {
            for (parent, expected) in [ROOT, KEPT, DROPPED].into_iter().zip(expected) {
                let all = [ratio, ("OTEL_TRACES_SAMPLER", sampler)];
                let set = if sampler.is_empty() {
                    &all[..1]
                } else {
                    &all[..]
                };
                let found = decide(set, parent).unwrap();
                assert_eq!(
                    (found.sampled, found.rate),
                    expected,
                    "{sampler:?} under {parent:?}"
                );
                assert_eq!(found.unsupported, None);
            }
        }
        let without_argument = decide(&[("OTEL_TRACES_SAMPLER", "traceidratio")], ROOT).unwrap();
        assert_eq!(without_argument.rate.to_bits(), 1.0_f64.to_bits());
    }

    #[test]
    fn the_rate_beats_the_sampler_and_the_caller_s_no_beats_the_rate() {
        let set = [
            ("OTEL_SAMPLING_RATE", "0.5"),
            ("OTEL_TRACES_SAMPLER", "always_off"),
        ];
        for (parent, sampled) in [(ROOT, true), (KEPT, true), (DROPPED, false)] {
            let found = decide(&set, parent).unwrap();
            assert_eq!((found.sampled, found.rate), (sampled, 0.5), "{parent:?}");
        }
    }

    #[test]
    fn a_sampler_that_does_not_exist_here_is_told_and_the_default_used() {
        for name in ["jaeger_remote", "parentbased_jaeger_remote", "xray"] {
            let set = [("OTEL_TRACES_SAMPLER", name)];
            for (parent, sampled) in [(ROOT, true), (KEPT, true), (DROPPED, false)] {
                let found = decide(&set, parent).unwrap();
                assert_eq!((found.sampled, found.rate), (sampled, 1.0), "{name}");
                let told = found.unsupported.unwrap().to_string();
                assert!(told.contains("OTEL_TRACES_SAMPLER"), "{told}");
            }
        }
    }

    #[test]
    fn what_is_no_share_is_refused() {
        let ratio = ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio");
        for value in ["10%", "1.5", "-0.1", "nan", "inf", "often"] {
            for (variable, set) in [
                ("OTEL_SAMPLING_RATE", vec![("OTEL_SAMPLING_RATE", value)]),
                (
                    "OTEL_TRACES_SAMPLER_ARG",
                    vec![ratio, ("OTEL_TRACES_SAMPLER_ARG", value)],
                ),
            ] {
                let message = decide(&set, ROOT).unwrap_err().to_string();
                assert!(message.contains(variable), "{message}");
            }
        }
        let unknown = decide(&[("OTEL_TRACES_SAMPLER", "sometimes")], ROOT);
        assert!(unknown.is_err());
        // An argument belongs to its sampler: alone it says nothing.
        assert!(decide(&[("OTEL_TRACES_SAMPLER_ARG", "often")], ROOT).is_ok());
    }
}
