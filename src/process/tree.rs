//! Every process of the run: our descendants.
//!
//! The agent's process group is not enough, for each of its tools may have a session of its own. But as child subreaper
//! we inherit every orphan, so whatever the agent starts stays below us in the tree, however it forks.
//!
//! Not everything below us is the agent's: a shell that starts a helper and then execs us leaves us its child. Whoever is
//! there before the spawn is foreign, is never signalled, and neither is what still hangs below it.
//!
//! A pid read from /proc may be another process a moment later. A signal therefore goes to a pidfd, and only after the
//! start time behind that pidfd has been compared.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::reaper::{Children, Reaped, reap_into};
use super::stat::{self, Process, State};

/// Stopping a tree that forks takes a few looks, each of which finds fewer that are new; then killing must do.
const STOP_ROUNDS: usize = 8;
const SHORTEST_PAUSE: Duration = Duration::from_micros(500);
const LONGEST_PAUSE: Duration = Duration::from_millis(10);
/// A look can miss a process whose parent dies meanwhile. Where the kernel cannot say that no child is left, because
/// foreign ones are, so many looks in a row must find nobody.
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

/// What came of one signal to one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Yes,
    /// It ended before.
    Gone,
    /// It is another user's, a setuid program for instance.
    Refused,
}

/// Our descendants, but for those that were there first.
#[derive(Debug, Clone)]
pub struct Tree {
    root: Pid,
    /// Pid and start time: a pid alone may be another's by now.
    foreign: HashSet<(Pid, u64)>,
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
        }
    }

    /// The processes that come to be below this one from now on: to be called just before the spawn.
    ///
    /// Where the processes cannot be seen there is nobody to except, for none can be found later either.
    #[must_use]
    pub fn from_now() -> Self {
        let mut tree = Self::new();
        // Without a child there is no descendant, which saves the usual start the look at all processes.
        if has_children() {
            let present = tree.family().unwrap_or_default().into_iter();
            tree.foreign = present
                .map(|process| (process.pid, process.start_ticks))
                .collect();
        }
        tree
    }

    /// Every living descendant, by pid; without the zombies, which need no more than reaping.
    ///
    /// One whose parent dies during the look may be missing from it. Fails where there is no /proc.
    pub fn descendants(&self) -> io::Result<Vec<Process>> {
        let mut descendants = self.family()?;
        descendants.retain(|process| process.state != State::Zombie);
        descendants.sort_by_key(|process| process.pid);
        Ok(descendants)
    }

    /// Every descendant, zombies too, which may have children to tell of.
    fn family(&self) -> io::Result<Vec<Process>> {
        let mut strangers = processes(self.root)?;
        strangers.retain(|process| !self.foreign.contains(&(process.pid, process.start_ticks)));
        let mut family = HashSet::from([self.root]);
        let mut descendants = Vec::new();
        // Pids wrap around, so a child may have a lower one than its parent: repeat until nobody joins.
        loop {
            let before = descendants.len();
            strangers.retain(|process| {
                let related = family.contains(&process.parent);
                if related {
                    family.insert(process.pid);
                    descendants.push(process.clone());
                }
                !related
            });
            if descendants.len() == before {
                break;
            }
        }
        Ok(descendants)
    }

    /// Sends `signal` once to every descendant; returns how many received it.
    pub fn kill(&self, signal: Signal) -> io::Result<usize> {
        let descendants = self.descendants()?;
        Ok(descendants
            .iter()
            .filter(|process| send(process, signal) == Sent::Yes)
            .count())
    }

    /// Ends every descendant, reaping as it goes, and returns as soon as none is left; after `bound` at the latest.
    ///
    /// Each round first stops everyone, so that nobody forks while the others are killed. That no child is left is the
    /// kernel's word, not a look's: a look can miss a process whose parent dies. Only next to foreign children, of which
    /// the kernel would tell as well, looks must do.
    pub fn sweep_kill(&self, bound: Duration) -> Sweep {
        let deadline = Instant::now() + bound;
        let mut sweep = Sweep::default();
        let mut pause = SHORTEST_PAUSE;
        let mut empty_looks = 0;
        loop {
            if reap_into(&mut sweep.reaped) == Children::None {
                return sweep;
            }
            self.stop_all(deadline);
            let descendants = self.descendants().unwrap_or_default();
            if descendants.is_empty() {
                empty_looks += 1;
            } else {
                empty_looks = 0;
            }
            if !self.foreign.is_empty() && empty_looks >= EMPTY_LOOKS {
                return sweep;
            }
            let refused = descendants
                .iter()
                .filter(|process| send(process, Signal::SIGKILL) == Sent::Refused)
                .count();
            let hopeless = !descendants.is_empty() && refused == descendants.len();
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

/// Whether this process has a child, dead or alive; reaps none.
fn has_children() -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, flags) != Err(Errno::ECHILD)
}

/// Every process there is.
fn processes(us: Pid) -> io::Result<Vec<Process>> {
    // A /proc of another pid namespace would name processes that are not ours by pids that are.
    if fs::read_link("/proc/self")? != Path::new(&us.to_string()) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may be gone by now, and a hidden one is not ours.
        if let Ok(process) = stat::read(Pid::from_raw(pid)) {
            processes.push(process);
        }
    }
    Ok(processes)
}

/// Signals this very process, and never another that has got its pid.
fn send(process: &Process, signal: Signal) -> Sent {
    let result = match open_pidfd(process.pid) {
        Ok(pidfd) => {
            if !is_same(process) {
                return Sent::Gone;
            }
            send_to_pidfd(&pidfd, signal)
        }
        Err(Errno::ESRCH) => Err(Errno::ESRCH),
        // An old kernel, a strict seccomp filter, or no file to be had.
        Err(_) => {
            if !is_same(process) {
                return Sent::Gone;
            }
            kill(process.pid, signal)
        }
    };
    match result {
        Ok(()) => Sent::Yes,
        Err(Errno::ESRCH) => Sent::Gone,
        Err(_) => Sent::Refused,
    }
}

fn is_same(process: &Process) -> bool {
    stat::read(process.pid).is_ok_and(|now| now.start_ticks == process.start_ticks)
}

#[expect(unsafe_code, reason = "nix has no pidfd_open")]
pub(super) fn open_pidfd(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes no pointers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    let fd = i32::try_from(fd).map_err(|_too_large| Errno::EBADF)?;
    // SAFETY: the kernel has just made this file, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[expect(unsafe_code, reason = "nix has no pidfd_send_signal")]
fn send_to_pidfd(pidfd: &OwnedFd, signal: Signal) -> Result<(), Errno> {
    // SAFETY: a null siginfo asks for what kill(2) would fill in.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal as i32,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(result).map(drop)
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
