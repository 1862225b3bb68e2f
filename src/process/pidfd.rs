//! Processes named beyond doubt.
//!
//! A pid read from a file or from /proc may be another process a moment later. A pidfd stays with one process, and the
//! start time behind it tells whether that is the process which was meant.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::stat;

/// What came of one signal to one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    Yes,
    /// There is no such process any more; its pid may be another's by now, who got nothing.
    Gone,
    /// It is another user's, a setuid program for instance.
    Refused(Errno),
}

/// Signals the process that has this pid and was started at `start_ticks` (clock ticks since boot), and no other.
///
/// Where processes cannot be seen everybody counts as gone.
#[must_use]
pub fn signal_exactly(pid: Pid, start_ticks: u64, signal: Signal) -> Sent {
    let is_same = || stat::read(pid).is_ok_and(|now| now.start_ticks == start_ticks);
    let result = match open_pidfd(pid) {
        Ok(pidfd) => {
            if !is_same() {
                return Sent::Gone;
            }
            send_to_pidfd(&pidfd, signal)
        }
        Err(Errno::ESRCH) => Err(Errno::ESRCH),
        // An old kernel, a strict seccomp filter, or no file to be had.
        Err(_) => {
            if !is_same() {
                return Sent::Gone;
            }
            kill(pid, signal)
        }
    };
    match result {
        Ok(()) => Sent::Yes,
        Err(Errno::ESRCH) => Sent::Gone,
        Err(errno) => Sent::Refused(errno),
    }
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
