//! The agent's processes: reaped, signalled, and ended as the session asks.

use std::time::Duration;

use nix::sys::signal::Signal;
use sandtrace_client::wire::Survivor;

use super::{STOP_SIGNALS, Supervisor};
use crate::process::{Group, Reaped, is_stopped, reap, signal};
use crate::session::{Action, Input};

/// How long KILL may take on the loop's own time.
const KILL_BOUND: Duration = Duration::from_secs(1);

/// So many looks, a tick of the clock apart, that see the agent stopped span the 5 seconds after which it is told
/// (`reference/supervision.md` §2.1).
const STOPPED_LOOKS: u32 = 21;
/// The command of a survivor of which only the cgroup tells.
const UNSEEN: &str = "?";

/// What becomes of a process that outlives the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Left,
    Ended,
}

impl Supervisor {
    pub(super) fn reap(&mut self) {
        self.hear_of_kills();
        for reaped in reap() {
            self.reaped(reaped);
        }
        if self.agent.is_none() && self.tree.is_empty() {
            self.take(Input::TreeEmpty);
        }
    }

    pub(super) fn reaped(&mut self, reaped: Reaped) {
        self.reaped_cpu.add(reaped.usage.cpu());
        self.memory.reaped(reaped.usage);
        if self.agent == Some(reaped.pid) {
            self.agent = None;
            // The counters are right now that the status is in; what is left is not ended before they are read.
            self.read_memory();
            // The last word on what the run used, and on the tools it leaves open.
            self.look_now();
            self.take(Input::Exited(reaped.termination));
        } else {
            self.take(Input::OrphanEnded(reaped));
        }
    }

    pub(super) fn signalled(&mut self, signal: Signal) {
        match signal {
            stop if STOP_SIGNALS.contains(&stop) => {
                self.stop_signals += 1;
                self.take(Input::StopSignal(stop as i32));
            }
            Signal::SIGTSTP => {
                // Stopped from the terminal: the agent first, unless the terminal has told it already; then we. Whoever
                // continues us sends CONT, which is forwarded like any other signal.
                if self.group == Group::Own {
                    self.to_agent(Signal::SIGSTOP);
                }
                if let Err(errno) = signal::raise_stop() {
                    self.warn(
                        "stop_failed",
                        &format!("the supervisor could not stop itself: {}", errno.desc()),
                    );
                }
            }
            other if self.group.hears_from_terminal(other) => {}
            other => self.to_agent(other),
        }
    }

    pub(super) fn to_agent(&self, signal: Signal) {
        if let Some(agent) = self.agent {
            // It may have died a moment ago; its wait status will tell.
            signal::send(agent, signal).ok();
        }
    }

    /// Does what the session asked for.
    pub(super) fn carry_out(&mut self) {
        while let Some(action) = self.actions.pop_front() {
            match action {
                Action::SignalAgent(number) => {
                    // With a shared group the terminal has told the agent already. The kernel does not say who sent
                    // us a signal, so of these an INT or HUP sent to us alone, by kill(1), is not passed on there.
                    let signal = Signal::try_from(number).ok();
                    if let Some(signal) =
                        signal.filter(|signal| !self.group.hears_from_terminal(*signal))
                    {
                        self.to_agent(signal);
                    }
                }
                Action::SignalTree(number) => {
                    self.note_survivors(Fate::Ended);
                    if let Ok(signal) = Signal::try_from(number) {
                        // Without /proc there is no tree to see; the sweep after it ends what it can.
                        self.tree.kill(signal).ok();
                    }
                    self.reap();
                }
                Action::KillTree => self.kill_tree(),
                Action::TellApart {
                    pid,
                    start_ticks,
                    commands,
                } => {
                    if let Some(sampler) = &self.sampler {
                        sampler.tell_apart(pid, start_ticks, commands);
                    }
                }
                Action::LookAtSockets => self.look_at_sockets(),
                Action::Probe => self.probe(),
                Action::Flush => {
                    if let Some(telemetry) = &self.telemetry {
                        telemetry.flush_soon();
                    }
                }
                Action::Warn {
                    code,
                    message,
                    counts,
                } => {
                    let now = self.clock.now();
                    self.transcript.warning(now, code, &message, counts);
                }
                // Whose patience is over after an abort, `ending` knows by the number of signals.
                Action::Finish(verdict) | Action::Abort(verdict) => self.verdict = Some(verdict),
            }
        }
        self.transcript.commit(self.clock.now());
    }

    /// Writes down who is still there now that the agent is gone, and what becomes of them.
    pub(super) fn note_survivors(&mut self, fate: Fate) {
        if self.agent.is_some() {
            return;
        }
        let survivors: Vec<_> = match self.tree.descendants() {
            Ok(processes) => processes
                .into_iter()
                .map(|process| (process.pid, process.command))
                .collect(),
            Err(_) => self
                .tree
                .pids_in_leaf()
                .into_iter()
                .map(|pid| (pid, UNSEEN.to_owned()))
                .collect(),
        };
        for (pid, command) in survivors {
            let Ok(pid) = u32::try_from(pid.as_raw()) else {
                continue;
            };
            self.survivors.entry(pid).or_insert(Survivor {
                pid,
                command,
                killed: fate == Fate::Ended,
            });
        }
    }

    /// Whoever is stopped gives no sign of life, and is not to blame for it. Says once a stop that somebody has stopped
    /// the agent: it looks like one that hangs.
    ///
    /// Looks are counted and not seconds, for while we are stopped ourselves the agent has not been seen to be.
    pub(super) fn look_for_a_stop(&mut self) {
        if !self.agent.is_some_and(is_stopped) {
            self.stopped_looks = 0;
            return;
        }
        self.take(Input::AgentStopped);
        self.stopped_looks = self.stopped_looks.saturating_add(1);
        if self.stopped_looks == STOPPED_LOOKS {
            let message =
                "somebody stopped the agent 5 seconds ago; it goes on when it gets SIGCONT";
            self.warn("agent_stopped", message);
        }
    }

    pub(super) fn kill_tree(&mut self) {
        self.note_survivors(Fate::Ended);
        let sweep = self.tree.sweep_kill(KILL_BOUND);
        for reaped in sweep.reaped {
            self.reaped(reaped);
        }
        for process in sweep.survivors {
            let Ok(pid) = u32::try_from(process.pid.as_raw()) else {
                continue;
            };
            self.survivors.insert(
                pid,
                Survivor {
                    pid,
                    command: process.command,
                    killed: false,
                },
            );
        }
        self.reap();
    }
}
