//! How much of a span is kept, by the variables of the specification (configuration/sdk-environment-variables.md).

use super::values::{first, number};
use super::{DestinationError, Lookup};
use crate::telemetry::limits::Limits;

const ALLOWED: &str = "a whole number from 0";

/// Reads the limits of spans. The name for spans wins over the name for all.
pub fn limits(lookup: Lookup<'_>) -> Result<Limits, DestinationError> {
    let read = |names: &[&'static str]| {
        let value = first(lookup, names);
        let read = value.map(|(variable, value)| {
            let bounds = 0..=i32::MAX.unsigned_abs().into();
            let number = number(variable, value, bounds, ALLOWED)?;
            Ok(usize::try_from(number).unwrap_or(usize::MAX))
        });
        read.transpose()
    };
    let default = Limits::default();
    let count = |names: &[&'static str], default| Ok(read(names)?.unwrap_or(default));
    Ok(Limits {
        attributes: count(
            &[
                "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
                "OTEL_ATTRIBUTE_COUNT_LIMIT",
            ],
            default.attributes,
        )?,
        value_characters: read(&[
            "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        ])?,
        events: count(&["OTEL_SPAN_EVENT_COUNT_LIMIT"], default.events)?,
        links: count(&["OTEL_SPAN_LINK_COUNT_LIMIT"], default.links)?,
        event_attributes: count(
            &[
                "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
                "OTEL_ATTRIBUTE_COUNT_LIMIT",
            ],
            default.event_attributes,
        )?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::looked_up;
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Limits, DestinationError> {
        limits(&looked_up(variables))
    }

    #[test]
    fn the_limits_are_the_specification_s_unless_a_variable_says_otherwise() {
        let default = Limits {
            attributes: 128,
            value_characters: None,
            events: 128,
            links: 128,
            event_attributes: 128,
        };
        assert_eq!(read(&[]), Ok(default));
        for (variable, expected) in [
            (
                "OTEL_ATTRIBUTE_COUNT_LIMIT",
                Limits {
                    attributes: 7,
                    event_attributes: 7,
                    ..default
                },
            ),
            (
                "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
                Limits {
                    attributes: 7,
                    ..default
                },
            ),
            (
                "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
                Limits {
                    value_characters: Some(7),
                    ..default
                },
            ),
            (
                "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
                Limits {
                    value_characters: Some(7),
                    ..default
                },
            ),
            (
                "OTEL_SPAN_EVENT_COUNT_LIMIT",
                Limits {
                    events: 7,
                    ..default
                },
            ),
            (
                "OTEL_SPAN_LINK_COUNT_LIMIT",
                Limits {
                    links: 7,
                    ..default
                },
            ),
            (
                "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
                Limits {
                    event_attributes: 7,
                    ..default
                },
            ),
        ] {
            assert_eq!(read(&[(variable, " 7 ")]), Ok(expected), "{variable}");
            for malformed in ["-1", "many", "1.5", "4294967296"] {
                let message = read(&[(variable, malformed)]).unwrap_err().to_string();
                assert!(message.contains(variable), "{message}");
            }
        }
        let both = [
            ("OTEL_ATTRIBUTE_COUNT_LIMIT", "7"),
            ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "0"),
        ];
        assert_eq!(read(&both).unwrap().attributes, 0);
    }
}
