//! Every process of the run: our descendants.
//!
//! The agent's process group is not enough, for each of its tools may have a session of its own. But as child subreaper
//! we inherit every orphan, so whatever the agent starts stays below us in the tree, however it forks.
//!
//! Not everything below us is the agent's: a shell that starts a helper and then execs us leaves us its child. Whoever is
//! there before the spawn is foreign, is never signalled, and neither is what still hangs below it, or did at one of the
//! looks that the loop takes each second.
//!
//! What ends many at once comes before what goes from one to the next: the agent's own cgroup where it has one, and
//! where /proc cannot be read, the agent's process group. Both are beyond doubt: the cgroup holds nobody but the agent's,
//! and the group's number is taken as long as a child of ours that nobody has reaped is in it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::cgroup::Leaf;
use super::pidfd::{Sent, signal_exactly};
use super::reaper::{Children, Reaped, reap_into};
use super::spawn::{Group, Spawned};
use super::stat::{self, Process, State};
use crate::order::by_number;

/// Stopping a tree that forks takes a few looks, each of which finds fewer that are new; then killing must do.
const STOP_ROUNDS: usize = 8;
const SHORTEST_PAUSE: Duration = Duration::from_micros(500);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);
/// A look can miss a process whose parent dies meanwhile. Where the kernel cannot say that no child is left, because
/// foreign ones are or such as nobody can see, so many looks in a row must find nobody.
const EMPTY_LOOKS: usize = 3;

/// What came of a sweep.
#[must_use]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Everyone who died meanwhile, the agent perhaps among them: the caller must look, as after [`super::reap`].
    pub reaped: Vec<Reaped>,
    /// Those that could not be ended: another user's, or in an uninterruptible wait.
    pub survivors: Vec<Process>,
}

/// Our descendants, but for those that were there first.
#[derive(Debug, Clone)]
pub struct Tree {
    root: Pid,
    /// Pid and start time: a pid alone may be another's by now.
    foreign: HashSet<(Pid, u64)>,
    agent: Option<(Pid, Group)>,
    leaf: Option<Arc<Leaf>>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// The processes below this one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            root: Pid::this(),
            foreign: HashSet::new(),
            agent: None,
            leaf: None,
        }
    }

    /// Says who the agent is, and which cgroup is its own.
    #[must_use]
    pub fn with_agent(mut self, agent: &Spawned, leaf: Option<Leaf>) -> Self {
        self.agent = Some((agent.pid, agent.group));
        self.leaf = leaf.map(Arc::new);
        self
    }

    /// The processes that come to be below this one from now on: to be called just before the spawn.
    ///
    /// Where the processes cannot be seen there is nobody to except, for none can be found later either.
    #[must_use]
    pub fn from_now() -> Self {
        let mut tree = Self::new();
        // Without a child there is no descendant, which saves the usual start the look at all processes.
        if has_child(Id::All) {
            let present = tree.family().unwrap_or_default().into_iter();
            tree.foreign = present
                .map(|process| (process.pid, process.start_ticks))
                .collect();
        }
        tree
    }

    /// Learns what the foreign processes have started meanwhile: once they are gone, their orphans come to us like the
    /// agent's own. To be called now and then; it costs nothing where nobody is foreign.
    pub fn learn_foreign(&mut self) {
        if self.foreign.is_empty() {
            return;
        }
        let Ok(processes) = processes(&HashSet::new()) else {
            return;
        };
        let identity = |process: &Process| (process.pid, process.start_ticks);
        let living: HashSet<_> = processes.iter().map(identity).collect();
        self.foreign.retain(|foreign| living.contains(foreign));
        let mut family: HashSet<Pid> = self.foreign.iter().map(|(pid, _)| *pid).collect();
        loop {
            let before = self.foreign.len();
            for process in &processes {
                if family.contains(&process.parent) && self.foreign.insert(identity(process)) {
                    family.insert(process.pid);
                }
            }
            if self.foreign.len() == before {
                return;
            }
        }
    }

    /// Every living descendant, by pid; without the zombies, which need no more than reaping.
    ///
    /// One whose parent dies during the look may be missing from it. Fails where there is no /proc.
    pub fn descendants(&self) -> io::Result<Vec<Process>> {
        let mut descendants = self.family()?;
        descendants.retain(|process| process.state != State::Zombie);
        Ok(by_number(descendants, |process| {
            u128::from(process.pid.as_raw().unsigned_abs())
        }))
    }

    /// Every descendant, zombies too, which may have children to tell of, and CPU time that nobody else has yet.
    ///
    /// Fails where there is no /proc.
    pub fn family(&self) -> io::Result<Vec<Process>> {
        Ok(self.family_and_strangers(&HashSet::new())?.0)
    }

    /// As [`Self::family`], without reading the processes `known` to be none of it; and who else is none.
    pub(crate) fn family_and_strangers(
        &self,
        known: &HashSet<Pid>,
    ) -> io::Result<(Vec<Process>, Vec<Process>)> {
        let mut strangers = processes(known)?;
        strangers.retain(|process| !self.foreign.contains(&(process.pid, process.start_ticks)));
        let mut family = HashSet::from([self.root]);
        let mut descendants = Vec::new();
        // Pids wrap around, so a child may have a lower one than its parent: repeat until nobody joins.
        loop {
            let before = descendants.len();
            descendants.extend(strangers.extract_if(.., |process| {
                let related = family.contains(&process.parent);
                if related {
                    family.insert(process.pid);
                }
                related
            }));
            if descendants.len() == before {
                break;
            }
        }
        Ok((descendants, strangers))
    }

    /// Whether nobody is left. Where the processes cannot be seen, the kernel still tells of the children.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self.descendants() {
            Ok(descendants) => descendants.is_empty(),
            Err(_) => !has_child(Id::All),
        }
    }

    /// Who is in the agent's own cgroup, by pid alone: what is known where the processes cannot be seen.
    #[must_use]
    pub fn pids_in_leaf(&self) -> Vec<Pid> {
        let leaf = self.leaf.as_deref();
        leaf.and_then(|leaf| leaf.members().ok())
            .unwrap_or_default()
    }

    /// Gives up the agent's own cgroup; whoever is still in it stays, in ours.
    pub fn dissolve_leaf(&mut self) {
        if let Some(leaf) = self.leaf.take() {
            leaf.dissolve();
        }
    }

    /// Sends `signal` once to every descendant; returns how many received it. Where they cannot be seen, the agent's
    /// group gets it, and counts as one.
    pub fn kill(&self, signal: Signal) -> io::Result<usize> {
        match self.descendants() {
            Ok(descendants) => Ok(descendants
                .iter()
                .filter(|process| send(process, signal) == Sent::Yes)
                .count()),
            Err(error) => match self.signal_unseen(signal) {
                Reached::Somebody => Ok(1),
                Reached::Nobody => Err(error),
            },
        }
    }

    /// Signals the agent's group, or where it has none of its own the agent, without a look at the processes.
    fn signal_unseen(&self, signal: Signal) -> Reached {
        let result = match self.agent {
            Some((agent, Group::Own)) if has_child(Id::PGid(agent)) => killpg(agent, signal),
            Some((agent, Group::Shared)) if has_child(Id::Pid(agent)) => kill(agent, signal),
            _ => return Reached::Nobody,
        };
        // A group of zombies takes any signal, and nobody is there to hear it; they are to be reaped.
        match result {
            Ok(()) => Reached::Somebody,
            Err(_) => Reached::Nobody,
        }
    }

    /// Ends every descendant, reaping as it goes, and returns as soon as none is left; after `bound` at the latest.
    ///
    /// Each round first stops everyone, so that nobody forks while the others are killed. That no child is left is the
    /// kernel's word, not a look's: a look can miss a process whose parent dies. Only next to foreign children, of which
    /// the kernel would tell as well, looks must do.
    ///
    /// What cannot be seen is ended by cgroup and group, and is given up as soon as neither reaches anybody.
    pub fn sweep_kill(&self, bound: Duration) -> Sweep {
        let deadline = Instant::now() + bound;
        let mut sweep = Sweep::default();
        let mut pause = SHORTEST_PAUSE;
        let mut empty_looks = 0;
        loop {
            let in_leaf = self.kill_leaf();
            let blind = !stat::sees_processes();
            // Before the reaping: a group that is all reaped has no number any more.
            let unseen = if blind {
                self.signal_unseen(Signal::SIGKILL)
            } else {
                Reached::Nobody
            };
            if reap_into(&mut sweep.reaped) == Children::None {
                return sweep;
            }
            self.stop_all(deadline);
            let descendants = self.descendants().unwrap_or_default();
            let nobody = [in_leaf, unseen] == [Reached::Nobody; 2];
            if descendants.is_empty() && nobody {
                empty_looks += 1;
            } else {
                empty_looks = 0;
            }
            if (!self.foreign.is_empty() || blind) && empty_looks >= EMPTY_LOOKS {
                return sweep;
            }
            let refused = descendants
                .iter()
                .filter(|process| matches!(send(process, Signal::SIGKILL), Sent::Refused(_)))
                .count();
            // Whom we may not signal the cgroup ends all the same.
            let hopeless = !descendants.is_empty() && refused == descendants.len() && nobody;
            if hopeless || Instant::now() >= deadline {
                if reap_into(&mut sweep.reaped) == Children::Some {
                    sweep.survivors = self.descendants().unwrap_or_default();
                }
                return sweep;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Ends whoever is in the agent's own cgroup.
    fn kill_leaf(&self) -> Reached {
        match &self.leaf {
            Some(leaf) if leaf.is_populated() && leaf.kill().is_ok() => Reached::Somebody,
            _ => Reached::Nobody,
        }
    }

    fn stop_all(&self, deadline: Instant) {
        let mut seen = HashSet::new();
        for _ in 0..STOP_ROUNDS {
            let Ok(mut descendants) = self.descendants() else {
                return;
            };
            descendants.retain(|process| seen.insert((process.pid, process.start_ticks)));
            if descendants.is_empty() || Instant::now() >= deadline {
                return;
            }
            for process in &descendants {
                send(process, Signal::SIGSTOP);
            }
        }
    }
}

/// Whether a signal that was not sent to one process found anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reached {
    Somebody,
    Nobody,
}

/// Whether this process has such a child, dead or alive; reaps none.
///
/// While it has one, the pid or group that names it cannot become another's: only we reap, and this does not.
fn has_child(which: Id<'_>) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(which, flags) != Err(Errno::ECHILD)
}

/// Every process there is, but for these.
fn processes(known: &HashSet<Pid>) -> io::Result<Vec<Process>> {
    if !stat::sees_processes() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let pid = Pid::from_raw(pid);
        // It may be gone by now, and a hidden one is not ours.
        if !known.contains(&pid)
            && let Ok(process) = stat::read(pid)
        {
            processes.push(process);
        }
    }
    Ok(processes)
}

fn send(process: &Process, signal: Signal) -> Sent {
    signal_exactly(process.pid, process.start_ticks, signal)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A child that is ended whatever becomes of the test.
    struct Sleeper(Child);

    impl Sleeper {
        fn new() -> Self {
            let child = Command::new("sleep")
                .arg("300")
                .stdin(Stdio::null())
                .spawn()
                .unwrap();
            Self(child)
        }

        fn process(&self) -> Process {
            stat::read(Pid::from_raw(self.0.id().cast_signed())).unwrap()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }

    #[test]
    fn a_signal_reaches_the_process_that_was_seen() {
        let mut sleeper = Sleeper::new();
        assert_eq!(send(&sleeper.process(), Signal::SIGKILL), Sent::Yes);
        assert!(!sleeper.0.wait().unwrap().success());
    }

    #[test]
    fn a_pid_that_is_used_again_is_left_alone() {
        let mut sleeper = Sleeper::new();
        let mut former = sleeper.process();
        former.start_ticks -= 1;
        assert_eq!(send(&former, Signal::SIGKILL), Sent::Gone);
        assert_eq!(sleeper.0.try_wait().unwrap(), None);
    }

    #[test]
    fn a_process_that_is_gone_is_no_error() {
        let mut sleeper = Sleeper::new();
        let process = sleeper.process();
        sleeper.0.kill().unwrap();
        sleeper.0.wait().unwrap();
        assert_eq!(send(&process, Signal::SIGKILL), Sent::Gone);
    }

    #[test]
    fn a_child_is_a_descendant_and_its_parent_is_not() {
        let sleeper = Sleeper::new();
        let pids: Vec<Pid> = Tree::new()
            .descendants()
            .unwrap()
            .iter()
            .map(|process| process.pid)
            .collect();
        assert!(pids.contains(&sleeper.process().pid));
        assert!(!pids.contains(&Pid::this()));
        assert!(!pids.contains(&Pid::parent()));
    }
}
