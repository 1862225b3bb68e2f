//! What the child does between fork and exec.
//!
//! Other threads of ours may have held any lock at the moment of the fork, so everything here is async-signal-safe: no
//! allocation, no lock, no panic. [`Plan`] is therefore made whole before the fork.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc::{self, c_char};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, dup2_stderr, dup2_stdout, getppid, read, setpgid};

use super::disposition::{IgnoredSignals, LAST_SIGNAL};
use super::spawn::Group;

/// Where execvp looks without a PATH.
const DEFAULT_PATH: &str = "/bin:/usr/bin";
const SHELL: &CStr = c"/bin/sh";

/// The C strings of argv or envp, and the null-terminated array that points at them.
struct CStringArray {
    pointers: Vec<*const c_char>,
    /// Owns what `pointers` points at; a `CString` does not move its bytes.
    _strings: Vec<CString>,
}

impl CStringArray {
    fn new(strings: Vec<CString>) -> Self {
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([ptr::null()])
            .collect();
        Self {
            pointers,
            _strings: strings,
        }
    }
}

/// All that the child needs.
pub(super) struct Plan<'a> {
    /// The files to try, in the order of PATH.
    candidates: Vec<CString>,
    argv: CStringArray,
    /// argv for a script without an interpreter line; its second slot is filled in by the child.
    shell_argv: Vec<*const c_char>,
    envp: CStringArray,
    pub(super) stdout: BorrowedFd<'a>,
    pub(super) stderr: BorrowedFd<'a>,
    pub(super) parent: Pid,
    pub(super) group: Group,
    pub(super) ignored: IgnoredSignals,
}

/// What went wrong in the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Before there was anything to execute.
    Preparation(Errno),
    /// execve refused every candidate.
    Exec(Errno),
}

impl Failure {
    /// One integer for the pipe to the parent; negative before exec.
    pub(super) fn to_bytes(self) -> [u8; 4] {
        match self {
            Self::Preparation(errno) => -(errno as i32),
            Self::Exec(errno) => errno as i32,
        }
        .to_ne_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; 4]) -> Self {
        match i32::from_ne_bytes(bytes) {
            raw if raw < 0 => Self::Preparation(Errno::from_raw(-raw)),
            raw => Self::Exec(Errno::from_raw(raw)),
        }
    }
}

impl<'a> Plan<'a> {
    /// Fails with EINVAL for a NUL byte within an argument or variable, or an empty argv.
    pub(super) fn new(
        argv: &[OsString],
        env: &[(OsString, OsString)],
        stdout: BorrowedFd<'a>,
        stderr: BorrowedFd<'a>,
    ) -> Result<Self, Errno> {
        let name = argv.first().ok_or(Errno::EINVAL)?;
        let path = env
            .iter()
            .find(|(key, _)| key == "PATH")
            .map_or(OsStr::new(DEFAULT_PATH), |(_, path)| path.as_os_str());
        let candidates = candidates(name, path)?;

        let argv = argv
            .iter()
            .map(|argument| c_string(argument.clone()))
            .collect::<Result<_, _>>()?;
        let argv = CStringArray::new(argv);
        let mut shell_argv = vec![SHELL.as_ptr(), ptr::null()];
        shell_argv.extend(&argv.pointers[1..]);

        let envp = env
            .iter()
            .map(|(key, value)| {
                let mut variable = key.clone();
                variable.push("=");
                variable.push(value);
                c_string(variable)
            })
            .collect::<Result<_, _>>()?;

        Ok(Self {
            candidates,
            argv,
            shell_argv,
            envp: CStringArray::new(envp),
            stdout,
            stderr,
            parent: Pid::this(),
            group: Group::Own,
            ignored: IgnoredSignals::default(),
        })
    }

    /// Becomes the agent, or says why not. Every signal is blocked on entry.
    pub(super) fn carry_out(&mut self) -> Failure {
        match self.prepare() {
            Ok(()) => Failure::Exec(self.exec()),
            Err(errno) => Failure::Preparation(errno),
        }
    }

    fn prepare(&self) -> Result<(), Errno> {
        if self.group == Group::Own {
            setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
        }
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // A parent that died before the request above sends nothing. It need not be init that adopts us then, and our
        // parent may itself be process 1, so only the saved pid tells.
        if getppid() != self.parent {
            return Err(Errno::ESRCH);
        }
        dup2_stdout(self.stdout)?;
        dup2_stderr(self.stderr)?;
        self.reset_signals()
    }

    /// Default dispositions but for the signals that were ignored on our own entry, then an empty mask.
    ///
    /// exec would reset our handlers as well, but only after the mask is emptied, and a handler of the supervisor must
    /// not run in the child.
    #[expect(
        unsafe_code,
        reason = "nix's sigaction does not know real-time signals"
    )]
    fn reset_signals(&self) -> Result<(), Errno> {
        for signal in 1..=LAST_SIGNAL {
            let disposition = if self.ignored.contains(signal) {
                libc::SIG_IGN
            } else {
                libc::SIG_DFL
            };
            // SAFETY: neither disposition is a handler, so nothing can be called. KILL, STOP and the C library's own
            // signals are refused, as they should be.
            unsafe { libc::signal(signal, disposition) };
        }
        SigSet::empty().thread_set_mask()
    }

    /// execvp(3): every candidate in turn, and a text file that the kernel does not know goes to the shell.
    fn exec(&mut self) -> Errno {
        let mut result = Errno::ENOENT;
        for candidate in &self.candidates {
            let errno = execve(candidate, &self.argv.pointers, &self.envp.pointers);
            match errno {
                Errno::ENOENT
                | Errno::ENOTDIR
                | Errno::ENODEV
                | Errno::ESTALE
                | Errno::ETIMEDOUT
                | Errno::EACCES => {
                    // A file that is there, but forbidden, says more than a later one that is not.
                    if result != Errno::EACCES {
                        result = errno;
                    }
                }
                // execvp hands the shell whatever it finds, and an executable for another machine would come out as
                // a syntax error.
                Errno::ENOEXEC if is_text(candidate) => {
                    self.shell_argv[1] = candidate.as_ptr();
                    return execve(SHELL, &self.shell_argv, &self.envp.pointers);
                }
                _ => return errno,
            }
        }
        result
    }
}

/// The paths that execvp would try for `name`.
fn candidates(name: &OsStr, path: &OsStr) -> Result<Vec<CString>, Errno> {
    if name.is_empty() {
        return Ok(Vec::new());
    }
    if name.as_bytes().contains(&b'/') {
        return Ok(vec![c_string(name.to_owned())?]);
    }
    path.as_bytes()
        .split(|&byte| byte == b':')
        .map(|directory| {
            let mut candidate = OsStr::from_bytes(directory).to_owned();
            // An empty element means the working directory.
            if !candidate.is_empty() {
                candidate.push("/");
            }
            candidate.push(name);
            c_string(candidate)
        })
        .collect()
}

fn c_string(string: OsString) -> Result<CString, Errno> {
    CString::new(string.into_vec()).map_err(|_nul| Errno::EINVAL)
}

/// Executes `path`, or says why not. The arrays must be null-terminated.
#[expect(
    unsafe_code,
    reason = "nix's execve allocates, which is not allowed here"
)]
fn execve(path: &CStr, argv: &[*const c_char], envp: &[*const c_char]) -> Errno {
    // SAFETY: both arrays end with a null pointer, and what they point at lives in the `Plan`.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    Errno::last()
}

/// Whether a file looks like a script: no NUL byte at its start, as bash has it.
fn is_text(path: &CStr) -> bool {
    let mut start = [0; 256];
    open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .and_then(|file| read(&file, &mut start))
        .is_ok_and(|length| !start[..length].contains(&0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(name: &str, path: &str) -> Vec<String> {
        candidates(OsStr::new(name), OsStr::new(path))
            .unwrap()
            .into_iter()
            .map(|candidate| candidate.into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_name_is_looked_for_in_every_directory_of_path() {
        assert_eq!(
            tried("python3", "/opt/bin::/usr/bin"),
            ["/opt/bin/python3", "python3", "/usr/bin/python3"]
        );
    }

    #[test]
    fn a_name_with_a_slash_is_a_path() {
        assert_eq!(tried("./agent", "/bin"), ["./agent"]);
        assert_eq!(tried("/bin/sh", "/usr/bin"), ["/bin/sh"]);
    }

    #[test]
    fn an_empty_name_is_nowhere() {
        assert!(tried("", "/bin").is_empty());
    }

    #[test]
    fn a_failure_survives_the_pipe() {
        for failure in [
            Failure::Preparation(Errno::EPERM),
            Failure::Exec(Errno::ENOENT),
        ] {
            assert_eq!(Failure::from_bytes(failure.to_bytes()), failure);
        }
    }
}
