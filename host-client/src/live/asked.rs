//! What a launch asks for that its follower must know.

use std::time::Duration;

use thiserror::Error;

use crate::launch::Launch;

/// Why nobody could follow a run that was launched so.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Unfollowable {
    /// Its output is the agent's own, without events.
    #[error(
        "with --echo {echo} the run prints no events that could be followed; leave the option out, or start the run without this crate"
    )]
    NoEvents {
        /// The value that was asked for.
        echo: String,
    },
}

/// What a launch asks for, by its options and, after them, by its variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) without_journal: bool,
    /// `None` also where it is written in a way that the supervisor will refuse.
    pub(crate) deadline: Option<Duration>,
    /// RFC 3339.
    pub(crate) sandbox_ends_at: Option<String>,
}

impl Asked {
    pub(crate) fn of(launch: &Launch) -> Result<Self, Unfollowable> {
        let argv = launch.argv();
        let options = argv.split(|word| word == "--").next().unwrap_or_default();
        let value = |name: &str, variable: &str| {
            let given = options.iter().enumerate().rev();
            let mut given = given.filter_map(|(at, word)| match word.strip_prefix(name)? {
                "" => options.get(at + 1).cloned(),
                rest => rest.strip_prefix('=').map(str::to_owned),
            });
            let set = launch.env().iter().rev();
            let mut set = set.filter(|(name, value)| name == variable && !value.is_empty());
            given.next().or_else(|| Some(set.next()?.1.clone()))
        };
        match value("--echo", "SANDTRACE_ECHO") {
            Some(echo) if echo != "enriched" => return Err(Unfollowable::NoEvents { echo }),
            _ => {}
        }
        let deadline = value("--deadline", "SANDTRACE_DEADLINE");
        let journal = value("--journal", "SANDTRACE_JOURNAL");
        Ok(Self {
            without_journal: journal.as_deref() == Some("off"),
            deadline: deadline.and_then(|text| length(&text)),
            sandbox_ends_at: value("--sandbox-ends-at", "SANDTRACE_SANDBOX_ENDS_AT"),
        })
    }
}

/// A length of time as the supervisor reads it: `500ms`, `10s`, `1m30s`, `2h`, a bare number of seconds; zero is none.
fn length(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|char: char| !char.is_ascii_digit() && char != '.');
        let (number, after) = rest.split_at(end.unwrap_or(rest.len()));
        let end = after.find(|char: char| !char.is_ascii_alphabetic());
        let (unit, after) = after.split_at(end.unwrap_or(after.len()));
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" | "" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit;
        rest = after;
    }
    let length = Duration::try_from_secs_f64(seconds).ok()?;
    (!length.is_zero()).then_some(length)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Asked, Unfollowable, length};
    use crate::Launch;

    #[test]
    fn what_is_asked_for_stands_in_an_option_or_in_a_variable() {
        let launch = Launch::new(["agent", "--journal", "off"]);
        let asked = Asked::of(&launch).unwrap();
        assert!(!asked.without_journal);

        let launch = launch
            .var("SANDTRACE_JOURNAL", "off")
            .var("SANDTRACE_DEADLINE", "1m30s");
        let asked = Asked::of(&launch).unwrap();
        assert!(asked.without_journal);
        assert_eq!(asked.deadline, Some(Duration::from_secs(90)));

        let launch = launch
            .option("--journal", "/var/runs")
            .deadline(Duration::from_millis(1500));
        let asked = Asked::of(&launch).unwrap();
        assert!(!asked.without_journal);
        assert_eq!(asked.deadline, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn a_run_that_prints_no_events_cannot_be_followed() {
        let refused = |launch: Launch| Asked::of(&launch).unwrap_err();
        let no_events = |echo: &str| Unfollowable::NoEvents { echo: echo.into() };
        let launch = Launch::new(["agent"]);
        assert_eq!(
            refused(launch.clone().option("--echo", "raw")),
            no_events("raw")
        );
        assert_eq!(
            refused(launch.clone().var("SANDTRACE_ECHO", "none")),
            no_events("none")
        );
        assert!(Asked::of(&launch.option("--echo", "enriched")).is_ok());
    }

    #[test]
    fn lengths_of_time_are_read_as_the_supervisor_reads_them() {
        for (text, milliseconds) in [
            ("500ms", Some(500)),
            ("10s", Some(10_000)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("90", Some(90_000)),
            ("0", None),
            ("off", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(
                length(text),
                milliseconds.map(Duration::from_millis),
                "{text}"
            );
        }
    }
}
