//! The command and the environment that start a supervised run.
//!
//! ```
//! use std::time::Duration;
//! use sandtrace_client::Launch;
//!
//! let launch = Launch::new(["python3", "/opt/sandtrace/agent.py", "Say hello"])
//!     .run_id("hello-1")
//!     .deadline(Duration::from_secs(600))
//!     .traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
//! assert_eq!(launch.argv(), [
//!     "sandtrace", "run", "--run-id", "hello-1", "--deadline", "600s", "--",
//!     "python3", "/opt/sandtrace/agent.py", "Say hello",
//! ]);
//! assert_eq!(launch.env()[0].0, "TRACEPARENT");
//! ```

use std::time::Duration;

/// How to start a run. Plain data: hand [`argv`](Self::argv) or [`command_line`](Self::command_line), and
/// [`env`](Self::env), to whatever starts processes where the agent lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    program: String,
    options: Vec<(&'static str, String)>,
    run_id: Option<String>,
    command: Vec<String>,
    env: Vec<(String, String)>,
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

    /// The run's id, `[A-Za-z0-9._-]{1,64}`. The transports choose one if there is none, for it is what they find the
    /// run by after a broken connection.
    #[must_use]
    pub fn run_id(mut self, id: impl Into<String>) -> Self {
        self.run_id = Some(id.into());
        self
    }

    /// Ends the whole run after this time.
    #[must_use]
    pub fn deadline(self, limit: Duration) -> Self {
        self.option("--deadline", seconds(limit))
    }

    /// An option of `sandtrace run` and its value.
    #[must_use]
    pub fn option(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.options.push((name, value.into()));
        self
    }

    /// A variable for the supervisor and the agent.
    #[must_use]
    pub fn var(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// The caller's span, in the form of W3C Trace Context: the run becomes its child.
    #[must_use]
    pub fn traceparent(self, value: impl Into<String>) -> Self {
        self.var("TRACEPARENT", value)
    }

    /// The id that was chosen.
    #[must_use]
    pub fn chosen_run_id(&self) -> Option<&str> {
        self.run_id.as_deref()
    }

    /// The command, word by word.
    #[must_use]
    pub fn argv(&self) -> Vec<String> {
        let mut argv = vec![self.program.clone(), "run".to_owned()];
        if let Some(id) = &self.run_id {
            argv.extend(["--run-id".to_owned(), id.clone()]);
        }
        for (name, value) in &self.options {
            argv.extend([(*name).to_owned(), value.clone()]);
        }
        argv.push("--".to_owned());
        argv.extend(self.command.iter().cloned());
        argv
    }

    /// The command as a line for `sh`, every word quoted that needs it.
    #[must_use]
    pub fn command_line(&self) -> String {
        let words: Vec<String> = self.argv().iter().map(|word| quoted(word)).collect();
        words.join(" ")
    }

    /// The environment that the run has beside what is there already.
    #[must_use]
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }
}

fn seconds(limit: Duration) -> String {
    if limit.subsec_millis() == 0 {
        format!("{}s", limit.as_secs())
    } else {
        format!("{}ms", limit.as_millis())
    }
}

/// One word for `sh`.
fn quoted(word: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "-_./:=@%+,".contains(char);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
