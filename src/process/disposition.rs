//! The signals that this process was started to ignore.
//!
//! Whoever starts us may have us ignore a signal (`nohup`, a shell's `&`, Python's SIGPIPE), and means the agent as
//! well: POSIX hands ignored signals on through exec. The Rust runtime ignores SIGPIPE before `main`, so the answer must
//! be taken down earlier still, by a constructor that runs before the runtime does.

use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::libc;

/// The highest signal number of Linux.
pub(super) const LAST_SIGNAL: i32 = 64;

/// Bit n-1 stands for signal n, as in the SigIgn line of /proc/PID/status. Written once, before `main`.
static IGNORED_AT_ENTRY: AtomicU64 = AtomicU64::new(0);

#[used]
#[expect(
    unsafe_code,
    reason = "nothing but a constructor runs before the Rust runtime"
)]
// SAFETY: the section holds pointers to C functions of no arguments, and this is one. It calls only sigaction and
// touches only an atomic, neither of which needs the runtime.
#[unsafe(link_section = ".init_array")]
static RECORD: extern "C" fn() = record;

extern "C" fn record() {
    let ignored = (1..=LAST_SIGNAL)
        .filter(|&signal| is_ignored(signal))
        .fold(0, |set, signal| set | bit(signal));
    IGNORED_AT_ENTRY.store(ignored, Ordering::Relaxed);
}

#[expect(
    unsafe_code,
    reason = "nix cannot ask for a disposition without setting one"
)]
fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action the call only fills in `action`, which is valid for that. It refuses the signals that
    // the C library keeps to itself, and then `action` is not read.
    unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// A set of ignored signals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IgnoredSignals(u64);

impl IgnoredSignals {
    /// Those that were ignored when this process was executed.
    #[must_use]
    pub fn at_entry() -> Self {
        Self(IGNORED_AT_ENTRY.load(Ordering::Relaxed))
    }

    /// Whether `signal` is among them.
    #[must_use]
    pub fn contains(self, signal: i32) -> bool {
        (1..=LAST_SIGNAL).contains(&signal) && self.0 & bit(signal) != 0
    }
}
