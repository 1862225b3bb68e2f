//! Collects what the dead leave behind: the one place where this program waits for a process.
//!
//! As child subreaper we adopt every orphan of the run, so the reaper takes whoever is dead and the caller tells the
//! agent from the orphans by pid. A SIGCHLD may stand for several deaths, hence the loop.

use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::unistd::Pid;

use super::exit::Termination;

/// A process that is no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    pub pid: Pid,
    pub termination: Termination,
    pub usage: Usage,
}

/// What a process used, its own reaped children included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub user: Duration,
    pub system: Duration,
    /// The most memory that one process of them had resident, bytes.
    pub max_rss_bytes: u64,
}

impl Usage {
    /// User and system time.
    #[must_use]
    pub fn cpu(self) -> Duration {
        self.user.saturating_add(self.system)
    }
}

/// Makes this process the parent of every orphan among its descendants.
pub fn become_subreaper() -> Result<(), Errno> {
    prctl::set_child_subreaper(true)
}

/// Takes every child that is dead, without waiting for any.
#[must_use]
pub fn reap() -> Vec<Reaped> {
    let mut reaped = Vec::new();
    reap_into(&mut reaped);
    reaped
}

/// As [`reap`]; says whether any child is left. For a subreaper no child means no descendant.
pub(super) fn reap_into(reaped: &mut Vec<Reaped>) -> Children {
    loop {
        match wait_for_any() {
            Ok(None) => return Children::Some,
            Ok(Some((pid, status, usage))) => {
                // A stop is only reported to a tracer, and we trace nobody.
                if let Some(termination) = Termination::from_wait_status(status) {
                    reaped.push(Reaped {
                        pid,
                        termination,
                        usage,
                    });
                }
            }
            Err(Errno::EINTR) => {}
            // ECHILD; nothing else is possible with these arguments.
            Err(_) => return Children::None,
        }
    }
}

/// Whether children are left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Children {
    None,
    Some,
}

#[expect(
    unsafe_code,
    reason = "nix has no wait4, and waitpid does not tell the usage"
)]
fn wait_for_any() -> Result<Option<(Pid, i32, Usage)>, Errno> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live variables of the right types.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) };
    let pid = Errno::result(pid)?;
    Ok((pid != 0).then(|| {
        let usage = Usage {
            user: duration(usage.ru_utime),
            system: duration(usage.ru_stime),
            // Linux counts KiB.
            max_rss_bytes: u64::try_from(usage.ru_maxrss)
                .unwrap_or(0)
                .saturating_mul(1024),
        };
        (Pid::from_raw(pid), status, usage)
    }))
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros))
}
