//! The search for a run whose stream broke.
//!
//! The run's own process cannot be listened to again without a gap: what it said while nobody listened, envd threw away
//! (`reference/e2b.md` §0.2). Its journal has everything, so `sandtrace attach`, a process of its own in the sandbox, tells
//! what follows the last event that arrived. Only of a run without a journal its own output is taken up again.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::envd::{Unheard, is_broken};
use super::error::Error;
use super::events::{Events, Heard, Patience};
use super::http::Failed;
use super::message::{by_pid, by_tag, start};
use super::refusal::Code;
use super::sandbox::Presence;
use super::target::Target;
use crate::launch::shell_line;
use crate::live::Signal;
use crate::run::{Loss, LossReason};

/// Without output from the supervisor, whose heartbeat comes every 20 s.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(65);

/// How long a run whose process is there may need until its journal can be found: on a sandbox with too little CPU, a
/// login shell alone takes seconds.
const JOURNAL: Duration = Duration::from_secs(30);

/// How long a remembered exit is waited for.
const EXIT: Duration = Duration::from_secs(5);

/// The longest wait between tries that a server can ask for.
const MOST_WAIT: Duration = Duration::from_secs(30);

/// How long ending the processes of broken streams may take.
const END_STALE: Duration = Duration::from_secs(5);

/// Variables that say where a journal is, and where the supervisor.
const ATTACH_ENV: [&str; 4] = ["SANDTRACE_JOURNAL", "XDG_STATE_HOME", "HOME", "PATH"];

/// `attach`'s exit code when the supervisor is gone.
const SUPERVISOR_GONE: i32 = 3;

/// Where the lines are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Journal {
    Off,
    /// The run's own directory.
    Directory(String),
    /// Where the launch says, or else the supervisor's default.
    Below,
}

/// A search from what is known.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) target: Arc<Target>,
    /// The last event that arrived.
    pub(super) seq: u64,
    pub(super) journal: Journal,
    /// How the run's process ended, if that was seen.
    pub(super) ended: Option<String>,
    /// How the `attach` before ended.
    pub(super) attach_exit: Option<i32>,
    /// Since when no event has arrived for all the searching.
    pub(super) since: Instant,
    /// How long to wait first.
    pub(super) first_wait: Duration,
    /// Whether that one began when the run's process was gone, so that there was a journal then or never.
    pub(super) was_last: bool,
    /// The tags of `attach` processes of broken streams.
    pub(super) stale: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Found {
    Attached {
        events: Events,
        tag: String,
        /// Whether the run's process was gone before.
        is_last: bool,
    },
    Rejoined {
        events: Events,
        why: String,
    },
    Lost(Box<Loss>),
}

enum Attempt {
    Found(Found),
    Again { after: Option<Duration> },
}

/// What envd was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The run's own process.
    Process,
    /// Something else, so that its answer says nothing of the process.
    Other,
}

impl Search {
    pub(super) async fn run(mut self) -> Result<Found, Error> {
        let give_up = self.target.sandbox.api.config.reconnect_for;
        let mut backoff = Backoff::new();
        tokio::time::sleep(self.first_wait).await;
        if self.since.elapsed() > give_up {
            // There were streams, and each broke before it brought anything.
            return Ok(Found::Lost(Box::new(Loss::new(LossReason::Unreachable))));
        }
        loop {
            let after = match self.attempt().await? {
                Attempt::Found(found) => {
                    self.end_stale();
                    return Ok(found);
                }
                Attempt::Again { after } => after,
            };
            let left = give_up.saturating_sub(self.since.elapsed());
            if left.is_zero() {
                return Ok(Found::Lost(Box::new(Loss::new(LossReason::Unreachable))));
            }
            tokio::time::sleep(pause(backoff.wait(), after, left)).await;
        }
    }

    async fn attempt(&mut self) -> Result<Attempt, Error> {
        match (self.attach_exit.take(), &self.journal) {
            (Some(SUPERVISOR_GONE), _) => self.supervisor_gone().await,
            // 125: there is no such run; 127: there is no `attach`.
            (Some(1..), _) => {
                self.without_journal("sandtrace attach cannot find its journal")
                    .await
            }
            (_, Journal::Off) => self.without_journal("it keeps no journal").await,
            _ => self.attach(false).await,
        }
    }

    async fn attach(&mut self, is_last: bool) -> Result<Attempt, Error> {
        let target = Arc::clone(&self.target);
        let run = match &self.journal {
            Journal::Directory(directory) => directory,
            Journal::Below | Journal::Off => &target.run_id,
        };
        let command = shell_line(&target.launch.attach_argv(run, self.seq));
        let env = target.launch.env().iter();
        let env = env.filter(|(name, _)| ATTACH_ENV.contains(&name.as_str()));
        let env: Vec<_> = env.cloned().collect();
        // A run's id holds no colon, so no run has such a tag.
        let tag = format!("attach:{}:{}", target.run_id, super::start::random_id()?);
        let message = start(&command, &env, &tag, false);
        let opened = target
            .envd()
            .open("Start", &message, self.patience(None))
            .await;
        match opened {
            Ok(events) => Ok(Attempt::Found(Found::Attached {
                events,
                tag,
                is_last,
            })),
            Err(unheard) => {
                if unheard.is_uncertain() {
                    self.stale.push(tag);
                }
                self.judge(Asked::Other, unheard).await
            }
        }
    }

    /// Of a run whose journal cannot be had: its process, if it still runs, from now on.
    async fn without_journal(&mut self, why: &str) -> Result<Attempt, Error> {
        if self.ended.is_some() {
            return Ok(lost_supervisor(self.ended.take()));
        }
        let target = Arc::clone(&self.target);
        let unkept = self.journal == Journal::Off;
        if !unkept && self.seq == 0 && self.since.elapsed() < JOURNAL {
            // It may not have come so far.
            match target.envd().find(&target.run_id).await {
                Ok(Some(_)) => return Ok(Attempt::Again { after: None }),
                // Or it has come so far since, and has ended.
                Ok(None) if !self.was_last => return self.attach(true).await,
                Ok(None) => {}
                Err(unheard) => return self.judge(Asked::Other, unheard).await,
            }
        }
        let known = *target.pid.borrow();
        let process = known.map_or_else(|| by_tag(&target.run_id), by_pid);
        let message = json!({ "process": process });
        let patience = self.patience(Some(HEARTBEAT));
        match target.envd().open("Connect", &message, patience).await {
            Ok(mut events) => match events.next().await {
                Heard::Started(pid) => {
                    target.pid.send_replace(Some(pid));
                    let why = why.to_owned();
                    Ok(Attempt::Found(Found::Rejoined { events, why }))
                }
                Heard::Refused(refusal) => {
                    let unheard = Unheard::Refused {
                        status: 200,
                        refusal,
                        retry_after: None,
                    };
                    self.judge(Asked::Process, unheard).await
                }
                _ => Ok(Attempt::Again { after: None }),
            },
            Err(unheard) => self.judge(Asked::Process, unheard).await,
        }
    }

    /// The journal says that the run's supervisor is gone; envd may remember how.
    async fn supervisor_gone(&mut self) -> Result<Attempt, Error> {
        let known = *self.target.pid.borrow();
        if let (None, Some(pid)) = (&self.ended, known) {
            let message = json!({"process": by_pid(pid)});
            let (envd, patience) = (self.target.envd(), self.patience(None));
            let opened = envd.open("Connect", &message, patience);
            let end = async {
                let mut events = opened.await.ok()?;
                loop {
                    match events.next().await {
                        Heard::Ended(end) => return Some(end.status()),
                        Heard::Refused(_) | Heard::Broken(_) => return None,
                        _ => {}
                    }
                }
            };
            self.ended = tokio::time::timeout(EXIT, end).await.ok().flatten();
        }
        Ok(lost_supervisor(self.ended.take()))
    }

    /// What it means that envd did not do what it was asked.
    async fn judge(&mut self, asked: Asked, unheard: Unheard) -> Result<Attempt, Error> {
        let sandbox = Arc::clone(&self.target.sandbox);
        let mut after = None;
        if let Unheard::Refused {
            status,
            refusal,
            retry_after,
        } = &unheard
        {
            match (&refusal.code, status) {
                (Code::ResourceExhausted | Code::Status(429), _) | (_, 429) => {
                    return Ok(Attempt::Again {
                        after: *retry_after,
                    });
                }
                // No sandbox's edge, but envd. If it was asked for the process, it does not know it any more.
                (Code::NotFound, _) => {
                    return match (sandbox.presence().await, asked) {
                        (Presence::There | Presence::Unknown, Asked::Process) => {
                            Ok(lost_supervisor(None))
                        }
                        (presence, _) => self.by_presence(presence, *retry_after),
                    };
                }
                (Code::Unauthenticated | Code::PermissionDenied | Code::Status(401 | 403), _)
                | (_, 401 | 403) => {
                    let before = sandbox.access().token;
                    let presence = sandbox.presence().await;
                    let changed = sandbox.access().token != before;
                    if !matches!(presence, Presence::There) || changed {
                        return self.by_presence(presence, None);
                    }
                    return Err(self.error(unheard));
                }
                (code, _) if !is_broken(code) && !unheard.is_missing_sandbox() => {
                    return Err(self.error(unheard));
                }
                _ => after = *retry_after,
            }
        }
        let presence = sandbox.presence().await;
        self.by_presence(presence, after)
    }

    fn by_presence(&self, presence: Presence, after: Option<Duration>) -> Result<Attempt, Error> {
        match presence {
            Presence::Gone(loss) => Ok(Attempt::Found(Found::Lost(loss))),
            Presence::Paused => Err(Error::SandboxPaused {
                sandbox: self.target.sandbox.id.clone(),
            }),
            Presence::There | Presence::Unknown => Ok(Attempt::Again { after }),
        }
    }

    fn error(&self, unheard: Unheard) -> Error {
        let what = format!("following run {}", self.target.run_id);
        unheard.into_error(&what, &self.target.envd().url())
    }

    fn patience(&self, heartbeat: Option<Duration>) -> Patience {
        Patience {
            keepalive: self.target.sandbox.api.config.keepalive,
            heartbeat,
        }
    }

    /// Ends the processes of streams that broke: nobody reads what they tell, and each would stay until the run's end.
    /// In a task of its own, as what was found is not to wait for it.
    fn end_stale(&mut self) {
        let stale = std::mem::take(&mut self.stale);
        if stale.is_empty() {
            return;
        }
        let target = Arc::clone(&self.target);
        let end = async move {
            for tag in stale {
                let ended = target.envd().signal(&by_tag(&tag), Signal::Kill).await;
                // Most are gone already. If there is no way to them they stay, and do no harm but to be there.
                if let Err(Unheard::Failed(Failed::Connect(_) | Failed::Timeout(_))) = ended {
                    return;
                }
            }
        };
        tokio::spawn(tokio::time::timeout(END_STALE, end));
    }
}

/// How long to wait before the next try: as long as the server asks for, within bounds, and never beyond the time that is
/// left, as a try at its end may be the one that succeeds.
fn pause(backoff: Duration, after: Option<Duration>, left: Duration) -> Duration {
    let asked = after.unwrap_or(Duration::ZERO).min(MOST_WAIT);
    asked.max(backoff).min(left)
}

fn lost_supervisor(status: Option<String>) -> Attempt {
    let loss = Loss::new(LossReason::SupervisorGone { status });
    Attempt::Found(Found::Lost(Box::new(loss)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::pause;

    #[test]
    fn a_server_can_ask_for_patience_and_not_for_giving_up() {
        let seconds = Duration::from_secs;
        for (backoff, after, left, wait) in [
            (1, None, 60, 1),
            (1, Some(7), 60, 7),
            (1, Some(0), 60, 1),
            (1, Some(3600), 60, 30),
            (1, Some(u64::MAX), 60, 30),
            (1, Some(3600), 4, 4),
            (5, None, 2, 2),
        ] {
            let paused = pause(seconds(backoff), after.map(seconds), seconds(left));
            assert_eq!(paused, seconds(wait), "{backoff} {after:?} {left}");
        }
    }
}
