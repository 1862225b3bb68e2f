//! What it starts and leaves behind, and how it ends.

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction, signal};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, getpid, setsid};

use crate::Agent;
use crate::script::{Flow, Outcome};

/// How long it lasts what nobody ends.
const LEAK: Duration = Duration::from_secs(60);
const DAEMON: Duration = Duration::from_secs(300);

/// How a process that holds the pipes behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Leak {
    Quiet,
    /// Prints a line every 20 ms.
    Chatty,
}

pub(crate) fn parse_signal(value: &str) -> Result<Signal, String> {
    let named = || {
        let name = value.to_uppercase();
        let name = if name.starts_with("SIG") {
            name
        } else {
            format!("SIG{name}")
        };
        name.parse().ok()
    };
    let numbered = value
        .parse()
        .ok()
        .and_then(|number: i32| Signal::try_from(number).ok());
    numbered
        .or_else(named)
        .ok_or_else(|| format!("'{value}' is no signal"))
}

/// Ends a forked process as it is, without what the parent would still have to write or clean up.
#[expect(
    unsafe_code,
    reason = "the standard library's exit runs the parent's cleaning up"
)]
fn leave(code: i32) -> ! {
    // SAFETY: it ends this process, and nothing in it is used after that.
    unsafe { libc::_exit(code) }
}

/// Forks; the child does its work and ends with its code.
#[expect(unsafe_code, reason = "nobody can promise that a fork is sound")]
fn forked(work: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: this program has one thread, so the child has all of it.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => leave(work()),
    }
}

/// As [`forked`], by way of a process that is gone afterwards: nobody's child, in a session of its own.
fn orphaned(work: impl FnOnce() -> i32) -> io::Result<()> {
    let between = forked(|| {
        if setsid().is_err() {
            return 1;
        }
        i32::from(forked(work).is_err())
    })?;
    loop {
        match waitpid(between, None) {
            Err(Errno::EINTR) => {}
            result => return result.map(drop).map_err(io::Error::from),
        }
    }
}

/// Forks its own successor and goes, again and again.
fn storm(until: Instant) -> i32 {
    loop {
        thread::sleep(Duration::from_millis(25));
        if Instant::now() > until {
            return 0;
        }
        #[expect(unsafe_code, reason = "nobody can promise that a fork is sound")]
        // SAFETY: this process has one thread, so the child has all of it.
        match unsafe { fork() } {
            Ok(ForkResult::Parent { .. }) => return 0,
            Ok(ForkResult::Child) | Err(_) => {}
        }
    }
}

/// Whose the last words are: what it has forked has the handler, too, and nothing to say.
static SPEAKER: AtomicI32 = AtomicI32::new(0);

extern "C" fn say_last_words(_: libc::c_int) {
    if getpid().as_raw() != SPEAKER.load(Ordering::Relaxed) {
        leave(128 + libc::SIGTERM);
    }
    // Only write(2) and _exit(2), which a handler may call.
    #[expect(unsafe_code, reason = "what a handler may call, it must call itself")]
    // SAFETY: the bytes are static, and as many as it says.
    unsafe {
        let out = b"{\"last\":\"words\"}\n";
        libc::write(1, out.as_ptr().cast(), out.len());
        let err = b"last words\n";
        libc::write(2, err.as_ptr().cast(), err.len());
        libc::_exit(0);
    }
}

impl Agent {
    pub(crate) fn child(&mut self, script: String) -> Outcome {
        let mut command = Command::new(env::current_exe()?);
        command.args(["--seed", &self.settings.seed.to_string()]);
        command.args(script.split_whitespace());
        #[expect(
            unsafe_code,
            reason = "there is no safe way to make a session before exec"
        )]
        // SAFETY: setsid(2) is all it calls.
        unsafe {
            command.pre_exec(|| Ok(setsid().map(drop)?));
        }
        command.status()?;
        Ok(Flow::Next)
    }

    pub(crate) fn leak_pipe(&mut self, leak: Leak) -> Outcome {
        let output = &mut self.output;
        orphaned(|| {
            let until = Instant::now() + LEAK;
            while Instant::now() < until {
                match leak {
                    Leak::Quiet => thread::sleep(LEAK),
                    Leak::Chatty => {
                        if output.write_to(1, b"{\"leaked\":1}\n").is_err() {
                            return 1;
                        }
                        thread::sleep(Duration::from_millis(20));
                    }
                }
            }
            0
        })?;
        Ok(Flow::Next)
    }

    pub(crate) fn daemon(&mut self) -> Outcome {
        let note =
            env::var_os("DIR").map(|directory| std::path::Path::new(&directory).join("daemon"));
        orphaned(|| {
            let Ok(null) = open("/dev/null", OFlag::O_RDWR, Mode::empty()) else {
                return 1;
            };
            let closed = [dup2_stdin(&null), dup2_stdout(&null), dup2_stderr(&null)];
            if let Some(note) = note
                && fs::write(note, format!("{}\n", getpid())).is_err()
            {
                return 1;
            }
            if closed.iter().all(Result::is_ok) {
                thread::sleep(DAEMON);
            }
            0
        })?;
        Ok(Flow::Next)
    }

    pub(crate) fn fork_storm(&mut self, count: u64) -> Outcome {
        let until = Instant::now() + LEAK;
        for _ in 0..count {
            orphaned(|| storm(until))?;
        }
        Ok(Flow::Next)
    }

    pub(crate) fn orphans(&mut self, count: u64) -> Outcome {
        for number in 0..count {
            orphaned(|| i32::try_from(number % 10).unwrap_or(0))?;
        }
        Ok(Flow::Next)
    }

    #[expect(unsafe_code, reason = "a handler could be unsound; this is none")]
    pub(crate) fn ignore_term(&mut self) -> Outcome {
        // SAFETY: ignoring a signal runs no code in a handler.
        unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }?;
        Ok(Flow::Next)
    }

    #[expect(unsafe_code, reason = "a handler could be unsound")]
    pub(crate) fn last_words(&mut self) -> Outcome {
        let action = SigAction::new(
            SigHandler::Handler(say_last_words),
            SaFlags::empty(),
            SigSet::empty(),
        );
        SPEAKER.store(getpid().as_raw(), Ordering::Relaxed);
        // SAFETY: the handler calls nothing that a handler may not.
        unsafe { sigaction(Signal::SIGTERM, &action) }?;
        Ok(Flow::Next)
    }

    pub(crate) fn stop_self(&mut self) -> Outcome {
        raise(Signal::SIGSTOP)?;
        Ok(Flow::Next)
    }

    #[expect(unsafe_code, reason = "a handler could be unsound; this is none")]
    pub(crate) fn die(&mut self, deadly: Signal) -> Outcome {
        let (_, hard) = getrlimit(Resource::RLIMIT_CORE)?;
        setrlimit(Resource::RLIMIT_CORE, 0, hard)?;
        if !matches!(deadly, Signal::SIGKILL | Signal::SIGSTOP) {
            // SAFETY: the default disposition runs no code in a handler.
            unsafe { signal(deadly, SigHandler::SigDfl) }?;
        }
        SigSet::all().thread_unblock()?;
        raise(deadly)?;
        // It was one that nobody dies of.
        Ok(Flow::Next)
    }

    pub(crate) fn memory_error(&mut self) -> Outcome {
        let text = "Traceback (most recent call last):\n  File \"/app/agent.py\", line 31, in <module>\n    main()\n  File \"/app/agent.py\", line 17, in main\n    rows = bytearray(size)\n           ^^^^^^^^^^^^^^^\nMemoryError\n";
        self.output.write_to(2, text.as_bytes())?;
        Ok(Flow::Exit(1))
    }

    pub(crate) fn heap_error(&mut self) -> Outcome {
        let text = "\n<--- Last few GCs --->\n\n[4242:0x5581e0]    31042 ms: Mark-Compact (reduce) 2046.1 (2082.2) -> 2045.9 (2082.5) MB, 812.10 / 0.00 ms  (average mu = 0.098, current mu = 0.003) last resort; GC in old space requested\n\n\n<--- JS stacktrace --->\n\nFATAL ERROR: Ineffective mark-compacts near heap limit Allocation failed - JavaScript heap out of memory\n";
        self.output.write_to(2, text.as_bytes())?;
        io::stderr().flush()?;
        self.die(Signal::SIGABRT)
    }
}
