//! One run in one sandbox.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::envd::{Envd, Unheard};
use super::error::Error;
use super::http::Failed;
use super::message::by_pid;
use super::refusal::Code;
use super::sandbox::{Inner, Presence};
use crate::launch::Launch;
use crate::live::{Channel, Signal};

/// What everybody must know who deals with a run.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) sandbox: Arc<Inner>,
    pub(super) launch: Launch,
    /// The tag of its process as well.
    pub(super) run_id: String,
    /// Whether the launch says that there shall be no journal.
    pub(super) without_journal: bool,
    pub(super) pid: watch::Sender<Option<u32>>,
}

impl Target {
    pub(super) fn envd(&self) -> Envd<'_> {
        Envd {
            sandbox: &self.sandbox,
        }
    }

    /// The pid of the supervisor: as it was told, or else as it is listed under its tag.
    pub(super) async fn pid(&self) -> Result<Option<u32>, Unheard> {
        let known = *self.pid.borrow();
        if known.is_some() {
            return Ok(known);
        }
        let found = self.envd().find(&self.run_id).await?;
        if found.is_some() {
            self.pid.send_replace(found);
        }
        Ok(found)
    }
}

/// The way to the ears of a run in a sandbox: envd's `SendInput` and `SendSignal`, to the process that was started first.
#[derive(Debug, Clone)]
pub struct Ears {
    pub(super) target: Arc<Target>,
}

/// What is to be told to the supervisor's process.
enum Say {
    Input(Vec<u8>),
    End,
    Signal(Signal),
}

impl Channel for Ears {
    type Error = Error;

    async fn write(&self, bytes: Vec<u8>) -> Result<(), Error> {
        self.say(&Say::Input(bytes)).await
    }

    async fn close(&self) -> Result<(), Error> {
        self.say(&Say::End).await
    }

    async fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.say(&Say::Signal(signal)).await
    }
}

impl Ears {
    /// Says it once: again only while it reached nobody.
    async fn say(&self, say: &Say) -> Result<(), Error> {
        let config = &self.target.sandbox.api.config;
        let until = Instant::now() + config.connect_for;
        let mut backoff = Backoff::new();
        let mut refreshed = false;
        loop {
            let unheard = match self.try_to_say(say).await {
                Ok(result) => return result,
                Err(unheard) => unheard,
            };
            // Nothing was done, and the token may have changed, as it does when another process resumes the sandbox.
            let refused = matches!(
                &unheard,
                Unheard::Refused {
                    status: 401 | 403,
                    ..
                }
            );
            if refused && !refreshed {
                refreshed = true;
                if matches!(self.target.sandbox.presence().await, Presence::There) {
                    continue;
                }
            }
            let reached_nobody = matches!(unheard, Unheard::Failed(Failed::Connect(_)))
                || unheard.is_missing_sandbox();
            let error = self.error(say, unheard).await;
            let wait = backoff.wait();
            let gone = matches!(
                error,
                Error::SandboxGone { .. } | Error::SandboxPaused { .. }
            );
            if gone || !reached_nobody || Instant::now() + wait >= until {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn try_to_say(&self, say: &Say) -> Result<Result<(), Error>, Unheard> {
        let Some(pid) = self.target.pid().await? else {
            return Ok(Err(self.over()));
        };
        let (envd, process): (_, Value) = (self.target.envd(), by_pid(pid));
        match say {
            Say::Input(bytes) => envd.send_input(&process, bytes).await?,
            Say::End => envd.close_stdin(&process).await?,
            Say::Signal(signal) => envd.signal(&process, *signal).await?,
        }
        Ok(Ok(()))
    }

    async fn error(&self, say: &Say, unheard: Unheard) -> Error {
        if let Unheard::Refused { refusal, .. } = &unheard {
            // What envd answers when the process is gone, or its stdin.
            let gone = refusal.message.starts_with("error writing to stdin")
                || refusal.message.starts_with("error sending signal");
            if refusal.code == Code::NotFound || gone {
                return self.over();
            }
        }
        let sandbox = &self.target.sandbox;
        if unheard.is_missing_sandbox() {
            let sandbox_id = sandbox.id.clone();
            match sandbox.presence().await {
                Presence::Gone(loss) => {
                    return Error::SandboxGone {
                        sandbox: sandbox_id,
                        reason: loss.provider_says,
                    };
                }
                Presence::Paused => {
                    return Error::SandboxPaused {
                        sandbox: sandbox_id,
                    };
                }
                Presence::There | Presence::Unknown => {}
            }
        }
        let what = match say {
            Say::Input(_) => "writing to the agent's stdin",
            Say::End => "closing the agent's stdin",
            Say::Signal(_) => "sending a signal to the supervisor",
        };
        unheard.into_error(what, &self.target.envd().url())
    }

    fn over(&self) -> Error {
        Error::RunOver {
            run_id: self.target.run_id.clone(),
        }
    }
}
