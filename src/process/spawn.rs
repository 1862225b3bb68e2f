//! Starts the agent.
//!
//! By fork and exec of our own, for three reasons: PATH must be the child's and a wrong executable must be told from a
//! missing one; no handler of ours may run in the child, so every signal stays blocked until dispositions are reset; and
//! no other reaper, like that of [`std::process::Child`], may wait for the agent.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2, read, write};

use super::cgroup::Leaf;
use super::disposition::IgnoredSignals;
use super::exec::{Failure, Plan};

/// Enough that a burst of long lines does not stop the agent. More would eat into the 64 MiB of pipes that a user may
/// have, past which new pipes shrink.
const STDOUT_PIPE_BYTES: i32 = 256 * 1024;
/// For clone3: the child is born in the cgroup of the given file. libc's constant of this name is an int, into which
/// the value does not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What to execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The first is looked up in the PATH of `env` unless it contains a slash.
    pub argv: Vec<OsString>,
    /// The complete environment: nothing of our own is added.
    pub env: Vec<(OsString, OsString)>,
}

/// The process group the agent runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// One of its own.
    Own,
    /// Ours. On a terminal a group of its own would be a background group, stopped as soon as it reads from there.
    Shared,
}

impl Group {
    /// Whether a terminal already sends this signal to the agent, so that forwarding it would send it twice.
    ///
    /// Who sent it the kernel does not tell: in a shared group these signals are not passed on when they are meant for us
    /// alone, by kill(1) for instance. TERM always is.
    #[must_use]
    pub fn hears_from_terminal(self, signal: Signal) -> bool {
        self == Self::Shared
            && matches!(
                signal,
                Signal::SIGINT
                    | Signal::SIGQUIT
                    | Signal::SIGTSTP
                    | Signal::SIGHUP
                    | Signal::SIGWINCH
            )
    }
}

/// The running agent, and our ends of its pipes.
#[derive(Debug)]
pub struct Spawned {
    pub pid: Pid,
    pub group: Group,
    /// What the agent writes to fd 1; does not block.
    pub stdout: OwnedFd,
    /// What the agent writes to fd 2; does not block.
    pub stderr: OwnedFd,
    /// Just before the fork.
    pub started: Instant,
    /// From the fork to the exec.
    pub took: Duration,
    /// Why the agent is not in the leaf it was offered.
    pub not_in_leaf: Option<Errno>,
}

/// Why there is no agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpawnError {
    /// Exit code 127.
    #[error("find the command")]
    NotFound(#[source] Errno),
    /// Exit code 126.
    #[error("execute the command")]
    NotExecutable(#[source] Errno),
    /// Exit code 125: not the command's fault.
    #[error("start a process")]
    Failed(#[source] Errno),
}

impl SpawnError {
    #[must_use]
    pub fn errno(self) -> Errno {
        match self {
            Self::NotFound(errno) | Self::NotExecutable(errno) | Self::Failed(errno) => errno,
        }
    }

    /// What the errno means here, for a sentence that goes on after a colon.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self.errno() {
            // "Try again", as the C library has it, helps nobody.
            Errno::EAGAIN => {
                "no more processes are allowed here, by RLIMIT_NPROC or the pids limit of a cgroup"
            }
            errno => errno.desc(),
        }
    }

    /// The code that env(1) and timeout(1) end with.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::NotFound(_) => 127,
            Self::NotExecutable(_) => 126,
            Self::Failed(_) => 125,
        }
    }
}

impl From<Failure> for SpawnError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Preparation(errno) => Self::Failed(errno),
            Failure::Exec(errno) => match errno {
                Errno::ENOENT => Self::NotFound(errno),
                // A lack of resources says nothing about the file.
                Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::EIO => {
                    Self::Failed(errno)
                }
                errno => Self::NotExecutable(errno),
            },
        }
    }
}

/// Starts `command` where we are; see [`spawn_into`].
pub fn spawn(command: &Command) -> Result<Spawned, SpawnError> {
    spawn_into(command, None)
}

/// Starts `command` in the cgroup `leaf`, if it may, and returns once it has been executed.
///
/// Call this from the main thread: the kernel kills the agent when the thread that spawned it ends, not the process.
/// Files 0, 1 and 2 must be open, which [`super::stdio::keep_stdout`] sees to. Every file of ours must be close-on-exec,
/// as the standard library, tokio and our own calls make them: the agent gets the others, which are those that whoever
/// started us meant for it, the pipe of a shell's `<(…)` for instance.
pub fn spawn_into(command: &Command, leaf: Option<&Leaf>) -> Result<Spawned, SpawnError> {
    let (stdout, stdout_of_child) = output_pipe()?;
    let (stderr, stderr_of_child) = output_pipe()?;
    // Refused once the user's pipes use too much; the default size will do then.
    fcntl(&stdout, FcntlArg::F_SETPIPE_SZ(STDOUT_PIPE_BYTES)).ok();
    // Closed by exec: the end of this pipe means that the agent runs.
    let (failure, failure_of_child) = pipe2(OFlag::O_CLOEXEC).map_err(SpawnError::Failed)?;

    let group = if has_terminal() {
        Group::Shared
    } else {
        Group::Own
    };
    let mut plan = Plan::new(
        &command.argv,
        &command.env,
        stdout_of_child.as_fd(),
        stderr_of_child.as_fd(),
    )
    .map_err(SpawnError::Failed)?;
    plan.group = group;
    plan.ignored = IgnoredSignals::at_entry();

    let started = Instant::now();
    let (pid, not_in_leaf) = fork_and_exec(&mut plan, &failure_of_child, leaf)?;
    drop(plan);
    drop((stdout_of_child, stderr_of_child, failure_of_child));

    if let Some(failure) = read_failure(&failure) {
        // The child is ours and about to exit, so this neither blocks nor takes the status of another.
        while waitpid(pid, None) == Err(Errno::EINTR) {}
        return Err(failure.into());
    }
    Ok(Spawned {
        pid,
        group,
        stdout,
        stderr,
        started,
        took: started.elapsed(),
        not_in_leaf,
    })
}

/// A pipe of which only our end, the first, does not block: the agent must find an ordinary pipe.
fn output_pipe() -> Result<(OwnedFd, OwnedFd), SpawnError> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).map_err(SpawnError::Failed)?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(SpawnError::Failed)?;
    Ok((ours, theirs))
}

/// Whether this process has a controlling terminal, on whatever files.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

#[expect(
    unsafe_code,
    reason = "fork is unsafe, and nix has no _exit that is not"
)]
fn fork_and_exec(
    plan: &mut Plan<'_>,
    failure: &OwnedFd,
    leaf: Option<&Leaf>,
) -> Result<(Pid, Option<Errno>), SpawnError> {
    let mask = SigSet::all()
        .thread_swap_mask(SigmaskHow::SIG_SETMASK)
        .map_err(SpawnError::Failed)?;
    let mut not_in_leaf = None;
    // SAFETY: until it execs or exits, the child only runs async-signal-safe code; see `exec`.
    let born = leaf.and_then(|leaf| match unsafe { fork_into(leaf) } {
        Ok(born) => Some(born),
        Err(errno) => {
            not_in_leaf = Some(errno);
            None
        }
    });
    // SAFETY: as above. Whatever kept the child out of the leaf, without it there may be one.
    let forked = match born.map_or_else(|| unsafe { fork() }, Ok) {
        Ok(ForkResult::Child) => {
            let reason = plan.carry_out();
            // Without a parent to read it there is nobody to tell.
            write(failure, &reason.to_bytes()).ok();
            // SAFETY: leaves without running destructors or exit handlers, which belong to the parent.
            unsafe { libc::_exit(127) }
        }
        Ok(ForkResult::Parent { child }) => Ok((child, not_in_leaf)),
        Err(errno) => Err(SpawnError::Failed(errno)),
    };
    // A mask that the kernel handed out is one that it takes back.
    mask.thread_set_mask().ok();
    forked
}

/// fork(2), with the child in `leaf` from its first moment.
///
/// # Safety
///
/// As for fork, and more so: the C library does not know of this child, which must do nothing but async-signal-safe
/// calls that ask the kernel.
#[expect(unsafe_code, reason = "nix has no clone3")]
unsafe fn fork_into(leaf: &Leaf) -> Result<ForkResult, Errno> {
    // SAFETY: these are plain numbers, for which zero is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = CLONE_INTO_CGROUP;
    arguments.exit_signal = u64::from((Signal::SIGCHLD as i32).unsigned_abs());
    arguments.cgroup = u64::from(leaf.directory().as_raw_fd().unsigned_abs());
    // SAFETY: without CLONE_VM the child has its own copy of everything, and goes on where the parent does.
    let child = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match Errno::result(child)? {
        0 => Ok(ForkResult::Child),
        child => {
            // The kernel's pids are ints, which this call widens.
            let child = i32::try_from(child).map_err(|_too_large| Errno::EOVERFLOW)?;
            Ok(ForkResult::Parent {
                child: Pid::from_raw(child),
            })
        }
    }
}

/// Waits for the exec, or for the reason why it did not happen.
fn read_failure(pipe: &OwnedFd) -> Option<Failure> {
    let mut bytes = [0; 4];
    loop {
        match read(pipe, &mut bytes) {
            // Four bytes are written at once, so they are never torn.
            Ok(4) => return Some(Failure::from_bytes(bytes)),
            Err(Errno::EINTR) => {}
            Ok(_) | Err(_) => return None,
        }
    }
}
