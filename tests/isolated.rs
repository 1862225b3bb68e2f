//! Tests that need a process of their own.
//!
//! A reaper takes every child of its process, and signal handlers, dispositions and files 0 to 2 are the process's too;
//! but tests share one. Such a test runs this binary again, for itself alone, as a session without a terminal, and must
//! leave no process behind.

use std::env;
use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::setsid;
use sandtrace::process::{Tree, become_subreaper, reap};

/// Names the test that this process is for.
const MARK: &str = "SANDTRACE_TEST_ISOLATED";

/// Longer than any test takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Declares tests that each run in a process of their own; `after "script"` has a shell run the script first.
macro_rules! isolated {
    ($($(after $script:literal)? fn $name:ident() $body:block)*) => {$(
        #[test]
        fn $name() {
            fn body() $body
            let script: &str = concat!("", $($script)?);
            $crate::isolated::run(concat!(module_path!(), "::", stringify!($name)), script, body);
        }
    )*};
}
pub(crate) use isolated;

pub(crate) fn run(path: &str, script: &str, body: fn()) {
    // libtest leaves the crate's own name out.
    let (_, test) = path.split_once("::").unwrap();
    if env::var_os(MARK).is_some_and(|mark| mark == *OsStr::new(test)) {
        setsid().unwrap();
        become_subreaper().unwrap();
        let _cleanup = Cleanup;
        body();
        assert_nothing_left();
        return;
    }

    let mut child = Command::new("sh")
        .args(["-c", &format!("{script}\nexec \"$@\""), "sh"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(MARK, test)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let timely = {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if child.try_wait().unwrap().is_some() {
                break true;
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                break false;
            }
            thread::sleep(Duration::from_millis(5));
        }
    };
    let output = child.wait_with_output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(timely, "the test hangs\n{stdout}{stderr}");
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("1 passed"), "{test} is no test\n{stdout}");
}

/// Whether this process was started for one test.
pub(crate) fn is_inside() -> bool {
    env::var_os(MARK).is_some()
}

/// Calls `ready` until it gives something.
pub(crate) fn poll<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "still waiting: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// No child, not even a zombie; for a subreaper that means no descendant.
fn assert_nothing_left() {
    drop(reap());
    let child = waitpid(None, Some(WaitPidFlag::WNOHANG));
    let left = Tree::new().descendants();
    assert_eq!(child, Err(Errno::ECHILD), "left behind: {left:?}");
}

/// A test that fails leaves nothing behind either.
struct Cleanup;

impl Drop for Cleanup {
    fn drop(&mut self) {
        drop(Tree::new().sweep_kill(Duration::from_secs(5)));
    }
}
