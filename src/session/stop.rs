//! The way from "stop" to the last process: TERM, grace, KILL, and the drain of what the agent still says.
//!
//! Exit and end of file are two facts. A grandchild can hold the pipe after the agent is gone, and an agent can close
//! its stdout and live; so the run ends when both have come, or 300 ms of silence or 2 s after the exit
//! (`reference/supervision.md` §2.3). An intent is written down before its signal is sent, so that a later exit by
//! KILL is never blamed on the kernel.

use std::time::Duration;

use super::Action;
use super::failure::Intent;
use crate::process::exit::Termination;

/// Silence on the pipes after the agent's exit that ends the drain.
const DRAIN_SILENCE: Duration = Duration::from_millis(300);
/// The drain's absolute bound.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// From TERM to KILL for what the agent left behind.
const SURVIVOR_GRACE: Duration = Duration::from_secs(2);
/// How long KILL may take before the run ends without the confirmation.
const KILL_LIMIT: Duration = Duration::from_secs(2);

/// What becomes of processes that the agent left running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SurvivorPolicy {
    Leave,
    Kill,
}

/// Whether whoever asks us to stop still has patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    Left,
    /// The third signal.
    Lost,
}

/// Whether silence counts against the idle timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// In a turn, waiting for the model: silence is suspicious.
    Turn,
    /// Between turns: silence ends the session, which is no failure.
    BetweenTurns,
    /// A tool or a human is at work, or nothing has begun.
    Excused,
}

/// What the idle timeout looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Activity {
    pub(super) doing: Doing,
    pub(super) last_life: Duration,
    /// Silence is not judged before.
    pub(super) grace_until: Duration,
}

/// The agent's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// TERM was sent.
    Stopping {
        kill_at: Duration,
    },
    /// KILL was sent. An agent in an uninterruptible wait may never die of it.
    Killed {
        give_up_at: Duration,
    },
    /// The wait status is in.
    Gone {
        drain_until: Duration,
        sweep: Sweep,
    },
    Ended,
}

/// Ending what the agent left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sweep {
    NotNeeded,
    /// TERM was sent to the tree.
    Asked {
        kill_at: Duration,
    },
    /// KILL was sent to the tree.
    Killed {
        give_up_at: Duration,
    },
    Done,
}

#[derive(Debug)]
pub(super) struct Stop {
    deadline: Option<Duration>,
    idle_timeout: Option<Duration>,
    grace: Duration,
    survivors: Option<SurvivorPolicy>,
    stage: Stage,
    intent: Option<Intent>,
    signals: u32,
    last_signal: Option<i32>,
    termination: Option<Termination>,
    stdout_open: bool,
    stderr_open: bool,
    last_output: Duration,
}

impl Stop {
    pub(super) fn new(
        deadline: Option<Duration>,
        idle_timeout: Option<Duration>,
        grace: Duration,
        survivors: Option<SurvivorPolicy>,
    ) -> Self {
        Self {
            deadline,
            idle_timeout,
            grace,
            survivors,
            stage: Stage::Running,
            intent: None,
            signals: 0,
            last_signal: None,
            termination: None,
            stdout_open: true,
            stderr_open: true,
            last_output: Duration::ZERO,
        }
    }

    pub(super) fn intent(&self) -> Option<Intent> {
        self.intent
    }

    pub(super) fn termination(&self) -> Option<Termination> {
        self.termination
    }

    /// The signal that asked last.
    pub(super) fn last_signal(&self) -> Option<i32> {
        self.last_signal
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stage != Stage::Running
    }

    pub(super) fn output(&mut self, uptime: Duration) {
        self.last_output = uptime;
    }

    pub(super) fn stdout_closed(&mut self) {
        self.stdout_open = false;
    }

    pub(super) fn stderr_closed(&mut self) {
        self.stderr_open = false;
    }

    pub(super) fn tree_empty(&mut self) {
        if let Stage::Gone { sweep, .. } = &mut self.stage
            && *sweep != Sweep::NotNeeded
        {
            *sweep = Sweep::Done;
        }
    }

    /// Somebody asks the run to stop. The first time politely, the second with KILL, the third time by leaving.
    pub(super) fn signal(
        &mut self,
        uptime: Duration,
        signal: i32,
        actions: &mut Vec<Action>,
    ) -> Patience {
        self.signals += 1;
        self.last_signal = Some(signal);
        match (self.signals, self.stage) {
            (1, Stage::Running) => self.begin(uptime, Intent::Stop(signal), signal, actions),
            // A deadline of ours has asked before; the signal adds no intent, but it is passed on.
            (1, Stage::Stopping { .. }) => actions.push(Action::SignalAgent(signal)),
            (2, Stage::Running | Stage::Stopping { .. }) => {
                self.intent.get_or_insert(Intent::Stop(signal));
                self.kill(uptime, actions);
            }
            (1 | 2, Stage::Gone { .. }) => self.hurry(uptime, actions),
            (1 | 2, Stage::Killed { .. } | Stage::Ended) => {}
            _ => return Patience::Lost,
        }
        Patience::Left
    }

    fn begin(&mut self, uptime: Duration, intent: Intent, signal: i32, actions: &mut Vec<Action>) {
        self.intent.get_or_insert(intent);
        self.stage = Stage::Stopping {
            kill_at: uptime.saturating_add(self.grace),
        };
        actions.push(Action::SignalAgent(signal));
        // A stopped process takes no TERM until it is continued.
        actions.push(Action::SignalAgent(nix::libc::SIGCONT));
    }

    fn kill(&mut self, uptime: Duration, actions: &mut Vec<Action>) {
        self.stage = Stage::Killed {
            give_up_at: uptime.saturating_add(KILL_LIMIT),
        };
        actions.push(Action::KillTree);
    }

    /// After the exit there is no grace to cut but that of the survivors.
    fn hurry(&mut self, uptime: Duration, actions: &mut Vec<Action>) {
        if let Stage::Gone { drain_until, sweep } = &mut self.stage {
            *drain_until = uptime;
            if let Sweep::Asked { .. } = sweep {
                *sweep = Sweep::Killed {
                    give_up_at: uptime.saturating_add(KILL_LIMIT),
                };
                actions.push(Action::KillTree);
            }
        }
    }

    /// The agent's wait status is in.
    pub(super) fn exited(
        &mut self,
        uptime: Duration,
        termination: Termination,
        actions: &mut Vec<Action>,
    ) {
        if matches!(self.stage, Stage::Gone { .. } | Stage::Ended) {
            return;
        }
        self.termination = Some(termination);
        let ended_by_itself =
            matches!(termination, Termination::Exited(_)) && self.intent.is_none();
        let policy = self.survivors.unwrap_or(if ended_by_itself {
            SurvivorPolicy::Leave
        } else {
            SurvivorPolicy::Kill
        });
        let sweep = match (policy, self.stage) {
            (SurvivorPolicy::Leave, _) => Sweep::NotNeeded,
            (SurvivorPolicy::Kill, Stage::Killed { .. }) => {
                actions.push(Action::KillTree);
                Sweep::Killed {
                    give_up_at: uptime.saturating_add(KILL_LIMIT),
                }
            }
            (SurvivorPolicy::Kill, _) => {
                actions.push(Action::SignalTree(nix::libc::SIGTERM));
                actions.push(Action::SignalTree(nix::libc::SIGCONT));
                Sweep::Asked {
                    kill_at: uptime.saturating_add(SURVIVOR_GRACE),
                }
            }
        };
        self.last_output = uptime;
        self.stage = Stage::Gone {
            drain_until: uptime.saturating_add(DRAIN_LIMIT),
            sweep,
        };
    }

    /// A deadline came; which one, this finds out by itself.
    pub(super) fn tick(&mut self, uptime: Duration, activity: Activity, actions: &mut Vec<Action>) {
        match self.stage {
            Stage::Running => {
                if let Some(deadline) = self.deadline.filter(|deadline| uptime >= *deadline) {
                    self.begin(
                        uptime,
                        Intent::Deadline(deadline),
                        nix::libc::SIGTERM,
                        actions,
                    );
                } else if let (Some(at), Some(timeout)) =
                    (self.idle_at(activity), self.idle_timeout)
                    && uptime >= at
                {
                    let intent = match activity.doing {
                        Doing::BetweenTurns => Intent::SessionIdle(timeout),
                        Doing::Turn | Doing::Excused => Intent::Idle(timeout),
                    };
                    self.begin(uptime, intent, nix::libc::SIGTERM, actions);
                }
            }
            Stage::Stopping { kill_at } if uptime >= kill_at => self.kill(uptime, actions),
            Stage::Killed { give_up_at } if uptime >= give_up_at => {
                self.stage = Stage::Gone {
                    drain_until: uptime,
                    sweep: Sweep::Done,
                };
            }
            Stage::Gone {
                drain_until,
                sweep: Sweep::Asked { kill_at },
            } if uptime >= kill_at => {
                let sweep = Sweep::Killed {
                    give_up_at: uptime.saturating_add(KILL_LIMIT),
                };
                self.stage = Stage::Gone { drain_until, sweep };
                actions.push(Action::KillTree);
            }
            Stage::Gone {
                drain_until,
                sweep: Sweep::Killed { give_up_at },
            } if uptime >= give_up_at => {
                self.stage = Stage::Gone {
                    drain_until,
                    sweep: Sweep::Done,
                };
            }
            Stage::Stopping { .. } | Stage::Killed { .. } | Stage::Gone { .. } | Stage::Ended => {}
        }
        // Only here, and on no other input: on a busy machine the drain's time may pass before anyone has looked into
        // the pipes. Whoever ticks has.
        if self.drained_at().is_some_and(|at| uptime >= at) {
            (self.stdout_open, self.stderr_open) = (false, false);
        }
    }

    /// Whether the run has just come to its end; true once.
    pub(super) fn take_ended(&mut self) -> bool {
        let Stage::Gone { sweep, .. } = self.stage else {
            return false;
        };
        let drained = !self.stdout_open && !self.stderr_open;
        let swept = matches!(sweep, Sweep::NotNeeded | Sweep::Done);
        if drained && swept {
            self.stage = Stage::Ended;
        }
        drained && swept
    }

    /// When the drain ends; `None` if it is over because both pipes are closed.
    pub(super) fn drained_at(&self) -> Option<Duration> {
        let Stage::Gone { drain_until, .. } = self.stage else {
            return None;
        };
        (self.stdout_open || self.stderr_open)
            .then(|| drain_until.min(self.last_output.saturating_add(DRAIN_SILENCE)))
    }

    fn idle_at(&self, activity: Activity) -> Option<Duration> {
        let timeout = self.idle_timeout?;
        let at = activity.last_life.saturating_add(timeout);
        (activity.doing != Doing::Excused).then(|| at.max(activity.grace_until))
    }

    /// When the next tick is due. After that tick the same deadline is never named again.
    pub(super) fn deadline(&self, activity: Activity) -> Option<Duration> {
        match self.stage {
            Stage::Running => earliest(self.deadline, self.idle_at(activity)),
            Stage::Stopping { kill_at } => Some(kill_at),
            Stage::Killed { give_up_at } => Some(give_up_at),
            Stage::Gone { sweep, .. } => {
                let sweep = match sweep {
                    Sweep::Asked { kill_at } => Some(kill_at),
                    Sweep::Killed { give_up_at } => Some(give_up_at),
                    Sweep::NotNeeded | Sweep::Done => None,
                };
                // While the sweep goes on, a drain that is over has nothing more to wait for.
                if sweep.is_some() {
                    sweep
                } else {
                    self.drained_at()
                }
            }
            Stage::Ended => None,
        }
    }
}

pub(super) fn earliest(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
