//! What is recorded of sandboxes, when the feature `otel` is on; without it, nothing.

#[cfg(feature = "otel")]
pub(super) use on::{Recorder, Trace};

#[cfg(not(feature = "otel"))]
pub(super) use off::{Recorder, Trace};

#[cfg(feature = "otel")]
mod on {
    use opentelemetry::Context;

    use crate::e2b::error::Error;
    use crate::event::Event;
    use crate::launch::Launch;
    use crate::otel::{self, Instruments, Sandbox};

    #[derive(Debug, Clone)]
    pub(in crate::e2b) struct Recorder(pub(in crate::e2b) Instruments);

    impl Recorder {
        pub(in crate::e2b) fn new() -> Self {
            Self(Instruments::global())
        }

        pub(in crate::e2b) fn creating(&self, template: &str) -> Creating {
            Creating(self.0.creating(template, &Context::current()))
        }

        pub(in crate::e2b) fn connected(&self, sandbox: &str) -> Trace {
            Trace(self.0.connected(sandbox, None, &Context::current()))
        }
    }

    /// Not to be dropped before it is known what came of it.
    #[derive(Debug)]
    pub(in crate::e2b) struct Creating(otel::Creating);

    impl Creating {
        pub(in crate::e2b) fn done(self, sandbox: &str) -> Trace {
            Trace(self.0.done(sandbox))
        }

        pub(in crate::e2b) fn failed(self, error: &Error) {
            self.0.failed(word(error), error.to_string());
        }
    }

    #[derive(Debug, Clone)]
    pub(in crate::e2b) struct Trace(Sandbox);

    impl Trace {
        /// A launch that has a context of its own keeps it.
        pub(in crate::e2b) fn hand_to(&self, launch: Launch) -> Launch {
            let has_one = launch.env().iter().any(|(name, _)| name == "TRACEPARENT");
            if has_one {
                return launch;
            }
            launch.context(&self.0.context())
        }

        pub(in crate::e2b) fn killing(&self) -> Killing {
            Killing(self.0.killing())
        }

        pub(in crate::e2b) fn gone(&self) {
            self.0.gone();
        }

        pub(in crate::e2b) fn event(&self, event: &Event) {
            self.0.event(event);
        }
    }

    #[derive(Debug)]
    pub(in crate::e2b) struct Killing(otel::Killing);

    impl Killing {
        pub(in crate::e2b) fn ended(self, result: &Result<(), Error>) {
            match result {
                Ok(()) => self.0.done(),
                Err(error) => self.0.failed(word(error), error.to_string()),
            }
        }
    }

    /// `error.type`.
    fn word(error: &Error) -> &'static str {
        match error {
            Error::SandboxGone { .. } => "sandbox_gone",
            Error::SandboxPaused { .. } => "sandbox_paused",
            Error::NotFound { .. } => "not_found",
            Error::Unauthorised { .. } => "unauthorised",
            Error::RateLimited { .. } => "rate_limited",
            Error::Timeout { .. } => "timeout",
            Error::Unreachable { .. } => "unreachable",
            Error::AnswerLost { .. } => "answer_lost",
            Error::Refused { .. } => "refused",
            Error::Protocol { .. } => "protocol",
            _ => "_OTHER",
        }
    }
}

#[cfg(not(feature = "otel"))]
mod off {
    use crate::e2b::error::Error;
    use crate::event::Event;
    use crate::launch::Launch;

    #[derive(Debug, Clone)]
    pub(in crate::e2b) struct Recorder;

    impl Recorder {
        pub(in crate::e2b) fn new() -> Self {
            Self
        }

        pub(in crate::e2b) fn creating(&self, _template: &str) -> Creating {
            Creating
        }

        pub(in crate::e2b) fn connected(&self, _sandbox: &str) -> Trace {
            Trace
        }
    }

    #[derive(Debug)]
    pub(in crate::e2b) struct Creating;

    impl Creating {
        pub(in crate::e2b) fn done(self, _sandbox: &str) -> Trace {
            Trace
        }

        pub(in crate::e2b) fn failed(self, _error: &Error) {}
    }

    #[derive(Debug, Clone)]
    pub(in crate::e2b) struct Trace;

    impl Trace {
        pub(in crate::e2b) fn hand_to(&self, launch: Launch) -> Launch {
            launch
        }

        pub(in crate::e2b) fn killing(&self) -> Killing {
            Killing
        }

        pub(in crate::e2b) fn gone(&self) {}

        pub(in crate::e2b) fn event(&self, _event: &Event) {}
    }

    #[derive(Debug)]
    pub(in crate::e2b) struct Killing;

    impl Killing {
        pub(in crate::e2b) fn ended(self, _result: &Result<(), Error>) {}
    }
}
