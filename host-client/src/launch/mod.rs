//! The command and the environment that start a supervised run.
//!
//! ```
//! use std::time::Duration;
//! use sandtrace_client::Launch;
//!
//! let launch = Launch::new(["/opt/sandtrace/venv/bin/python", "/opt/sandtrace/agent.py", "Say hello"])
//!     .run_id("hello-1")
//!     .deadline(Duration::from_secs(600))
//!     .traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
//! assert_eq!(launch.argv(), [
//!     "sandtrace", "run", "--run-id", "hello-1", "--deadline", "600s", "--",
//!     "/opt/sandtrace/venv/bin/python", "/opt/sandtrace/agent.py", "Say hello",
//! ]);
//! assert_eq!(launch.env()[0].0, "TRACEPARENT");
//! ```

mod shell;
mod value;

use std::fmt;
use std::time::Duration;

use thiserror::Error;

pub use value::{Capture, Echo, Survivors};

/// Options that may be given more than once.
const REPEATABLE: [&str; 3] = ["--attribute", "--pass-env", "--redact"];

/// One pattern a line.
const REDACT: &str = "SANDTRACE_REDACT";

/// How to start a run. Plain data: hand [`argv`](Self::argv) or [`command_line`](Self::command_line), and
/// [`env`](Self::env), to whatever starts processes where the agent lives.
///
/// An option that is not set here is what the sandbox's environment, `/etc/sandtrace/env` or the supervisor's default
/// say it is. Set twice, the last counts, but for those that add up. Arguments can be seen by every process of the
/// sandbox, so keys belong into [`var`](Self::var).
///
/// Nothing is checked while it is put together; [`check`](Self::check) does it. The transports of this crate call it
/// before they start anything.
///
/// Its `Debug` has the names of the variables and not their values, which may be keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Launch {
    program: String,
    options: Vec<(&'static str, String)>,
    run_id: Option<String>,
    command: Vec<String>,
    env: Vec<(String, String)>,
}

/// Why a run cannot be started like that.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// There is nothing to run.
    #[error("the command is empty: name the agent's program, for instance python3")]
    NoCommand,
    /// The run's id would not be taken.
    #[error(
        "{id:?} is no run id: it takes 1 to 64 of the characters A-Z a-z 0-9 . _ - and may not be `.` or `..`"
    )]
    RunId {
        /// The id that was chosen.
        id: String,
    },
    /// No argument or variable can hold a NUL.
    #[error("{place} holds a NUL character, which no process can be given")]
    Nul {
        /// What holds it, for instance `argument 3` or `the variable NAME`.
        place: String,
    },
    /// A variable cannot be called that.
    #[error("{name:?} is no name of a variable: it may not be empty or hold `=`")]
    Variable {
        /// The name.
        name: String,
    },
    /// An option's value would be refused.
    #[error("{option} cannot be {value:?}: {why}")]
    Option {
        /// For instance `--attribute`.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Launch {
    /// Starts `command` under `sandtrace run`.
    #[must_use]
    pub fn new<I, S>(command: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Self {
            program: "sandtrace".to_owned(),
            options: Vec::new(),
            run_id: None,
            command: command.into_iter().map(Into::into).collect(),
            env: Vec::new(),
        }
    }

    /// Where the supervisor is, if not in `PATH`.
    #[must_use]
    pub fn program(mut self, path: impl Into<String>) -> Self {
        self.program = path.into();
        self
    }

    /// The run's id, `[A-Za-z0-9._-]{1,64}`; one that was used before is refused. The transports choose one if there is
    /// none, for it is what they find the run by after a broken connection.
    #[must_use]
    pub fn run_id(mut self, id: impl Into<String>) -> Self {
        self.run_id = Some(id.into());
        self
    }

    /// Ends the whole run after this time: failure `timeout.deadline`. Without it, and with zero, there is no such limit.
    #[must_use]
    pub fn deadline(self, limit: Duration) -> Self {
        self.option("--deadline", value::length(limit))
    }

    /// Ends a turn in which there is no sign of life for this long: failure `timeout.idle`. Between two turns it closes
    /// the session, which is no failure. `None` for never; the supervisor's default is 30 minutes.
    #[must_use]
    pub fn idle_timeout(self, limit: Option<Duration>) -> Self {
        self.option("--idle-timeout", value::limit(limit))
    }

    /// When the sandbox ends, RFC 3339, as `2026-01-31T12:00:00Z`: in its last 30 seconds everything is sent each
    /// second. The agent is not stopped, for the sandbox may be extended.
    #[must_use]
    pub fn sandbox_ends_at(self, time: impl Into<String>) -> Self {
        self.option("--sandbox-ends-at", time)
    }

    /// The longest time from asking the agent to stop until killing it; the supervisor's default is 10 seconds.
    #[must_use]
    pub fn grace(self, limit: Duration) -> Self {
        self.option("--grace", value::length(limit))
    }

    /// The longest time that the last export takes; the supervisor's default is 5 seconds.
    #[must_use]
    pub fn flush_timeout(self, limit: Duration) -> Self {
        self.option("--flush-timeout", value::length(limit))
    }

    /// What becomes of processes that the agent leaves running.
    #[must_use]
    pub fn survivors(self, survivors: Survivors) -> Self {
        self.option("--survivors", survivors.as_str())
    }

    /// What is on the supervisor's stdout. Only what is [`Echo::Enriched`] is for a [`Decoder`](crate::Decoder).
    #[must_use]
    pub fn echo(self, echo: Echo) -> Self {
        self.option("--echo", echo.as_str())
    }

    /// How much of prompts, answers and tools goes into spans and logs.
    #[must_use]
    pub fn capture(self, capture: Capture) -> Self {
        self.option("--capture", capture.as_str())
    }

    /// Takes what matches this regular expression, or its first group, out of all telemetry; adds up. It goes by the
    /// environment, for such a pattern may tell the secret.
    #[must_use]
    pub fn redact(mut self, pattern: impl AsRef<str>) -> Self {
        let pattern = pattern.as_ref();
        match self.env.iter_mut().find(|(name, _)| name == REDACT) {
            Some((_, patterns)) => {
                patterns.push('\n');
                patterns.push_str(pattern);
                self
            }
            None => self.var(REDACT, pattern),
        }
    }

    /// Exports a run that took longer than this also where sampling would keep it back.
    #[must_use]
    pub fn slow(self, limit: Duration) -> Self {
        self.option("--slow", value::length(limit))
    }

    /// How often CPU and memory are sampled; `None` for never. The supervisor's default is each second.
    #[must_use]
    pub fn sample_interval(self, interval: Option<Duration>) -> Self {
        self.option("--sample-interval", value::limit(interval))
    }

    /// The directory of the runs' journals, in the sandbox.
    #[must_use]
    pub fn journal(self, directory: impl Into<String>) -> Self {
        self.option("--journal", directory)
    }

    /// Keeps no journal. After a broken connection nothing can then be read again.
    #[must_use]
    pub fn no_journal(self) -> Self {
        self.option("--journal", "off")
    }

    /// An attribute on every span, for instance a tenant; adds up.
    #[must_use]
    pub fn attribute(self, key: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        let pair = format!("{}={}", key.as_ref(), value.as_ref());
        self.option("--attribute", pair)
    }

    /// The agent's name on spans; the supervisor's default is `claude`.
    #[must_use]
    pub fn agent_name(self, name: impl Into<String>) -> Self {
        self.option("--agent-name", name)
    }

    /// The session that the run belongs to; else it is Claude Code's own.
    #[must_use]
    pub fn session_id(self, id: impl Into<String>) -> Self {
        self.option("--session-id", id)
    }

    /// The user that the run belongs to; else it is `user.id` of the baggage.
    #[must_use]
    pub fn user_id(self, id: impl Into<String>) -> Self {
        self.option("--user-id", id)
    }

    /// Lets the agent keep a variable that would be held back from it, an exporter's key; adds up.
    #[must_use]
    pub fn pass_env(self, name: impl Into<String>) -> Self {
        self.option("--pass-env", name)
    }

    /// An option of `sandtrace run` and its value.
    #[must_use]
    pub fn option(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if !REPEATABLE.contains(&name) {
            self.options.retain(|(set, _)| *set != name);
        }
        self.options.push((name, value.into()));
        self
    }

    /// A variable for the supervisor and the agent. Exporters' keys (`OTEL_EXPORTER_OTLP_HEADERS`,
    /// `LANGFUSE_SECRET_KEY` and the like) stay with the supervisor.
    #[must_use]
    pub fn var(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        self.env.retain(|(set, _)| *set != name);
        self.env.push((name, value.into()));
        self
    }

    /// The caller's span, in the form of W3C Trace Context: the run becomes its child.
    #[must_use]
    pub fn traceparent(self, value: impl Into<String>) -> Self {
        self.var("TRACEPARENT", value)
    }

    /// What vendors add to the caller's span, in the form of W3C Trace Context.
    #[must_use]
    pub fn tracestate(self, value: impl Into<String>) -> Self {
        self.var("TRACESTATE", value)
    }

    /// The caller's baggage, in the form of W3C Baggage, as `user.id=alice,tier=gold`.
    #[must_use]
    pub fn baggage(self, value: impl Into<String>) -> Self {
        self.var("BAGGAGE", value)
    }

    /// The id that was chosen.
    #[must_use]
    pub fn chosen_run_id(&self) -> Option<&str> {
        self.run_id.as_deref()
    }

    /// Whether a run can be started like that.
    ///
    /// # Errors
    ///
    /// Says what is wrong, before anything is started. What only the supervisor can know, such as an id that was used
    /// before, it says on its stderr, and exits with 125.
    pub fn check(&self) -> Result<(), LaunchError> {
        if self.command.first().is_none_or(String::is_empty) || self.program.is_empty() {
            return Err(LaunchError::NoCommand);
        }
        if let Some(id) = self.run_id.as_ref().filter(|id| !is_run_id(id)) {
            return Err(LaunchError::RunId { id: id.clone() });
        }
        for (option, value) in &self.options {
            if let Some(why) = value::problem(option, value) {
                return Err(LaunchError::Option {
                    option,
                    value: value.clone(),
                    why,
                });
            }
        }
        if let Some(at) = self.argv().iter().position(|word| word.contains('\0')) {
            let place = format!("argument {at}");
            return Err(LaunchError::Nul { place });
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains('=') {
                return Err(LaunchError::Variable { name: name.clone() });
            }
            if name.contains('\0') || value.contains('\0') {
                let place = format!("the variable {name}");
                return Err(LaunchError::Nul { place });
            }
        }
        Ok(())
    }

    /// The command, word by word.
    #[must_use]
    pub fn argv(&self) -> Vec<String> {
        let mut argv = vec![self.program.clone(), "run".to_owned()];
        if let Some(id) = &self.run_id {
            push_option(&mut argv, "--run-id", id);
        }
        for (name, value) in &self.options {
            push_option(&mut argv, name, value);
        }
        argv.push("--".to_owned());
        argv.extend(self.command.iter().cloned());
        argv
    }

    /// The command as a line for `sh`, every word quoted that needs it.
    #[must_use]
    pub fn command_line(&self) -> String {
        shell::line(&self.argv())
    }

    /// The environment that the run has beside what is there already.
    #[must_use]
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// The command that reads a run again: its lines after the one with number `after`, then those to come. It reads
    /// the same journals as this launch writes.
    #[must_use]
    pub fn attach_argv(&self, run_id: &str, after: u64) -> Vec<String> {
        let mut argv = self.beside("attach");
        argv.extend(["--after".to_owned(), after.to_string()]);
        argv.extend(["--".to_owned(), run_id.to_owned()]);
        argv
    }

    /// The command that asks a run to stop, as SIGTERM to its supervisor does.
    #[must_use]
    pub fn stop_argv(&self, run_id: &str) -> Vec<String> {
        let mut argv = self.beside("stop");
        argv.extend(["--".to_owned(), run_id.to_owned()]);
        argv
    }

    /// A command of the supervisor's for a run that this launch has started.
    fn beside(&self, command: &str) -> Vec<String> {
        let mut argv = vec![self.program.clone(), command.to_owned()];
        let journal = self.options.iter().find(|(name, _)| *name == "--journal");
        if let Some((name, directory)) = journal.filter(|(_, directory)| directory != "off") {
            push_option(&mut argv, name, directory);
        }
        argv
    }
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("Launch")
            .field("program", &self.program)
            .field("options", &self.options)
            .field("run_id", &self.run_id)
            .field("command", &self.command)
            .field("env", &names)
            .finish()
    }
}

/// Whether a text can name a run: `[A-Za-z0-9._-]{1,64}`, and no directory of its own meaning.
#[must_use]
pub fn is_run_id(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(fits) && text != "." && text != ".."
}

fn push_option(argv: &mut Vec<String>, name: &str, value: &str) {
    if value.starts_with('-') {
        // Apart it would be taken for an option of its own.
        argv.push(format!("{name}={value}"));
    } else {
        argv.extend([name.to_owned(), value.to_owned()]);
    }
}

/// A command as a line for `sh`, every word quoted that needs it: for [`Launch::attach_argv`] and
/// [`Launch::stop_argv`] where a shell takes the command.
#[must_use]
pub fn shell_line(argv: &[String]) -> String {
    shell::line(argv)
}

#[cfg(test)]
mod tests {
    use super::Launch;

    #[test]
    fn its_debug_names_the_variables_and_hides_what_they_hold() {
        let launch = Launch::new(["python3"])
            .var("LANGFUSE_SECRET_KEY", "sk-lf-hush")
            .redact("hush-[0-9]+");
        for printed in [format!("{launch:?}"), format!("{launch:#?}")] {
            assert!(printed.contains("LANGFUSE_SECRET_KEY"), "{printed}");
            assert!(printed.contains("SANDTRACE_REDACT"), "{printed}");
            assert!(printed.contains("python3"), "{printed}");
            assert!(!printed.contains("hush"), "{printed}");
        }
    }
}
