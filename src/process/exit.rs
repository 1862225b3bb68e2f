//! How a process ended.

use std::borrow::Cow;

use nix::libc;
use nix::sys::signal::Signal;

/// How a process ended, as wait(2) tells it.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Termination {
    /// It called `_exit` with this code, 0 to 255.
    Exited(i32),
    /// A signal ended it.
    Signaled { signal: i32, core_dumped: bool },
}

impl Termination {
    /// Reads a wait status; `None` for a process that was only stopped or continued.
    ///
    /// Not by nix's `WaitStatus`, which refuses the real-time signals.
    pub fn from_wait_status(status: i32) -> Option<Self> {
        if libc::WIFEXITED(status) {
            Some(Self::Exited(libc::WEXITSTATUS(status)))
        } else if libc::WIFSIGNALED(status) {
            Some(Self::Signaled {
                signal: libc::WTERMSIG(status),
                core_dumped: libc::WCOREDUMP(status),
            })
        } else {
            None
        }
    }

    /// The name of the signal that ended the process, for instance `SIGKILL`.
    pub fn signal_name(self) -> Option<Cow<'static, str>> {
        match self {
            Self::Exited(_) => None,
            Self::Signaled { signal, .. } => Some(signal_name(signal)),
        }
    }

    /// The code to end with in the process's place: its own, or 128+n as a shell has it.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        let code = match self {
            Self::Exited(code) => code,
            Self::Signaled { signal, .. } => 128 + signal,
        };
        // The kernel keeps the low eight bits of a code, and the highest signal is 64.
        u8::try_from(code & 0xff).unwrap_or(u8::MAX)
    }
}

/// The name of a signal: `SIGTERM`, `SIGRTMIN+2`, or its number where it has no name.
pub fn signal_name(signal: i32) -> Cow<'static, str> {
    if let Ok(signal) = Signal::try_from(signal) {
        return Cow::Borrowed(signal.as_str());
    }
    match signal - libc::SIGRTMIN() {
        0 => Cow::Borrowed("SIGRTMIN"),
        offset if offset > 0 && signal <= libc::SIGRTMAX() => {
            Cow::Owned(format!("SIGRTMIN+{offset}"))
        }
        _ => Cow::Owned(format!("signal {signal}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_is_kept() {
        for code in 0..=255 {
            let termination = Termination::from_wait_status(code << 8).unwrap();
            assert_eq!(termination, Termination::Exited(code));
            assert_eq!(i32::from(termination.exit_code()), code);
            assert_eq!(termination.signal_name(), None);
        }
    }

    #[test]
    fn a_signal_becomes_128_plus_its_number() {
        let cases = [
            (1, "SIGHUP", 129),
            (2, "SIGINT", 130),
            (9, "SIGKILL", 137),
            (11, "SIGSEGV", 139),
            (15, "SIGTERM", 143),
            (34, "SIGRTMIN", 162),
            (64, "SIGRTMIN+30", 192),
            (33, "signal 33", 161),
        ];
        for (signal, name, code) in cases {
            let termination = Termination::from_wait_status(signal).unwrap();
            assert_eq!(
                termination,
                Termination::Signaled {
                    signal,
                    core_dumped: false
                }
            );
            assert_eq!(termination.signal_name().unwrap(), name);
            assert_eq!(termination.exit_code(), code);
        }
    }

    #[test]
    fn a_core_dump_is_told_apart() {
        assert_eq!(
            Termination::from_wait_status(6 | 0x80),
            Some(Termination::Signaled {
                signal: 6,
                core_dumped: true
            })
        );
    }

    #[test]
    fn a_stop_is_not_an_end() {
        let stopped_by_sigstop = (19 << 8) | 0x7f;
        let continued = 0xffff;
        assert_eq!(Termination::from_wait_status(stopped_by_sigstop), None);
        assert_eq!(Termination::from_wait_status(continued), None);
    }
}
