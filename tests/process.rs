//! The agent as a process tree, with real processes.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::unistd::{Pid, close, dup, dup2_stderr, dup2_stdin, dup2_stdout, getpgid};
use sandtrace::process::{
    Command, Group, IgnoredSignals, Pipe, Protection, Reaped, Signalled, Signals, SpawnError,
    Spawned, State, Termination, Tree, keep_stdout, reap, signal, spawn,
};

use crate::executable::executable;
use crate::isolated::{is_inside, isolated, poll};

fn command<const N: usize>(argv: [&str; N]) -> Command {
    Command {
        argv: argv.into_iter().map(OsString::from).collect(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
    }
}

fn sh(script: &str) -> Command {
    command(["sh", "-c", script])
}

/// Reaps until it is this one's turn; the others are lost.
fn await_end(pid: Pid) -> Reaped {
    poll("the end of the agent", || {
        reap().into_iter().find(|reaped| reaped.pid == pid)
    })
}

fn run(command: &Command) -> Termination {
    await_end(spawn(command).unwrap().pid).termination
}

fn read_all(agent: Spawned) -> (String, String) {
    let runtime = runtime();
    let _context = runtime.enter();
    let mut streams = [agent.stdout, agent.stderr].map(|fd| (Pipe::new(fd).unwrap(), Vec::new()));
    for (pipe, bytes) in &mut streams {
        let mut buffer = [0; 4096];
        loop {
            match runtime.block_on(pipe.read(&mut buffer)).unwrap() {
                0 => break,
                count => bytes.extend(&buffer[..count]),
            }
        }
    }
    streams
        .map(|(_, bytes)| String::from_utf8(bytes).unwrap())
        .into()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// The C library's own signals. It lets nobody change them, and its posix_spawn leaves the first ignored.
const RESERVED: u64 = 0b11 << 31;

/// A set of signals in /proc/PID/status.
fn signals(process: impl ToString, name: &str) -> u64 {
    let path = Path::new("/proc").join(process.to_string()).join("status");
    let status = fs::read_to_string(path).unwrap();
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(":"))
        .unwrap();
    u64::from_str_radix(value.trim(), 16).unwrap() & !RESERVED
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as i32 - 1)
}

isolated! {
    fn every_exit_code_is_mirrored() {
        for code in 0..=255 {
            let termination = run(&sh(&format!("exit {code}")));
            assert_eq!(termination, Termination::Exited(code));
        }
    }

    fn every_deadly_signal_is_told_by_name() {
        let harmless = [
            Signal::SIGCHLD,
            Signal::SIGCONT,
            Signal::SIGSTOP,
            Signal::SIGTSTP,
            Signal::SIGTTIN,
            Signal::SIGTTOU,
            Signal::SIGURG,
            Signal::SIGWINCH,
        ];
        for signal in Signal::iterator().filter(|signal| !harmless.contains(signal)) {
            let number = signal as i32;
            let termination = run(&sh(&format!("ulimit -c 0; kill -{number} $$")));
            assert_eq!(
                termination,
                Termination::Signaled { signal: number, core_dumped: false }
            );
            assert_eq!(termination.signal_name().unwrap(), signal.as_str());
            assert_eq!(i32::from(termination.exit_code()), 128 + number);
        }
        assert_eq!(run(&sh("kill -64 $$")).signal_name().unwrap(), "SIGRTMIN+30");
    }

    fn a_command_that_cannot_run_has_the_exit_code_of_env() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        fs::write(file("plain"), "#!/bin/sh\n").unwrap();
        // ELF, for no machine there is.
        executable(Path::new(&file("foreign")), b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xff\xff");
        executable(Path::new(&file("orphaned")), b"#!/nowhere/interpreter\n");

        let cases = [
            ("no-such-command-anywhere", SpawnError::NotFound(Errno::ENOENT), 127),
            ("", SpawnError::NotFound(Errno::ENOENT), 127),
            ("/no/such/file", SpawnError::NotFound(Errno::ENOENT), 127),
            (&file("orphaned"), SpawnError::NotFound(Errno::ENOENT), 127),
            ("/", SpawnError::NotExecutable(Errno::EACCES), 126),
            (&file("plain"), SpawnError::NotExecutable(Errno::EACCES), 126),
            (&file("plain/x"), SpawnError::NotExecutable(Errno::ENOTDIR), 126),
            (&file("foreign"), SpawnError::NotExecutable(Errno::ENOEXEC), 126),
            ("sh\0", SpawnError::Failed(Errno::EINVAL), 125),
        ];
        for (name, error, code) in cases {
            assert_eq!(spawn(&command([name])).unwrap_err(), error, "{name}");
            assert_eq!(error.exit_code(), code);
        }
        assert_eq!(spawn(&command([])).unwrap_err(), SpawnError::Failed(Errno::EINVAL));

        // No further file may be opened, so there is no pipe to be had.
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
        let error = spawn(&command(["true"])).unwrap_err();
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        assert_eq!(error, SpawnError::Failed(Errno::EMFILE));
        assert!(reap().is_empty(), "a child that never was the agent is not left to the reaper");
    }

    fn a_command_is_looked_up_in_its_own_path() {
        let directory = tempfile::tempdir().unwrap();
        let first = directory.path().join("first");
        let second = directory.path().join("second");
        fs::create_dir(&first).unwrap();
        fs::create_dir(&second).unwrap();
        // Not executable here, so the one there is meant.
        fs::write(first.join("tool"), "").unwrap();
        executable(&second.join("tool"), b"#!/bin/sh\nexit 42\n");

        let path = |directories: &[&Path]| std::env::join_paths(directories).unwrap();
        let mut tool = command(["tool"]);
        assert_eq!(spawn(&tool).unwrap_err(), SpawnError::NotFound(Errno::ENOENT));
        tool.env = vec![("PATH".into(), path(&[&first, &second]))];
        assert_eq!(run(&tool), Termination::Exited(42));
        tool.env = vec![("PATH".into(), path(&[&first, Path::new("/nowhere")]))];
        assert_eq!(spawn(&tool).unwrap_err(), SpawnError::NotExecutable(Errno::EACCES));

        let mut without_path = command(["sh", "-c", "exit 7"]);
        without_path.env = Vec::new();
        assert_eq!(run(&without_path), Termination::Exited(7));
    }

    fn a_script_without_an_interpreter_line_is_the_shell_s() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("script");
        executable(&script, b"exit $1\n");
        assert_eq!(
            run(&command([script.to_str().unwrap(), "9"])),
            Termination::Exited(9)
        );
    }

    fn the_agent_gets_its_arguments_and_nothing_but_its_environment() {
        let mut agent = command(["sh", "-c", "printf '%s|' \"$@\"; env >&2", "sh", "a b", "", "*"]);
        agent.env.push(("NAME".into(), "a=b\nc".into()));
        let agent = spawn(&agent).unwrap();
        let pid = agent.pid;
        let (stdout, stderr) = read_all(agent);
        assert_eq!(stdout, "a b||*|");
        let names: HashSet<&str> = stderr.lines().filter_map(|line| line.split('=').next()).collect();
        // The shell adds PWD (and some shells OLDPWD, SHLVL and _) of its own accord.
        assert!(names.contains("NAME") && names.contains("PATH"), "{stderr}");
        assert!(!names.contains("HOME") && !names.contains("SANDTRACE_TEST_ISOLATED"), "{stderr}");
        assert_eq!(await_end(pid).termination, Termination::Exited(0));
    }

    fn the_agent_has_files_0_1_and_2_and_what_we_were_given() {
        // Without close-on-exec, as a shell opens the pipe of a process substitution.
        let given = dup(std::io::stdin()).unwrap();
        // Cargo may have left us its own.
        let mut expected = vec!["0".to_owned(), "1".to_owned(), "2".to_owned()];
        for fd in 3..1024 {
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = flags.map(|flags| i32::from_str_radix(flags.trim(), 8).unwrap());
            if flags.is_some_and(|flags| flags & OFlag::O_CLOEXEC.bits() == 0) {
                expected.push(fd.to_string());
            }
        }
        expected.sort();
        assert!(expected.contains(&given.as_raw_fd().to_string()));
        let agent = spawn(&command(["sleep", "300"])).unwrap();
        let file = |fd: &str| fs::metadata(format!("/proc/{}/fd/{fd}", agent.pid)).unwrap().ino();
        let files = || {
            let files = fs::read_dir(format!("/proc/{}/fd", agent.pid)).unwrap();
            let mut files: Vec<String> = files
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            files.sort();
            files
        };
        // The loader of a program that has just begun has a library open now and then.
        let began = Instant::now();
        while files() != expected && began.elapsed() < Duration::from_secs(10) {
            thread::yield_now();
        }
        assert_eq!(files(), expected);
        assert_eq!(file("0"), fs::metadata("/proc/self/fd/0").unwrap().ino());
        assert_ne!(file("1"), file("2"));

        // The agent finds blocking pipes, though ours do not block.
        for fd in ["1", "2"] {
            let info = fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", agent.pid)).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
            assert_eq!(flags & OFlag::O_NONBLOCK.bits(), 0);
        }
        let ours = OFlag::from_bits_retain(fcntl(&agent.stdout, FcntlArg::F_GETFL).unwrap());
        assert!(ours.contains(OFlag::O_NONBLOCK));

        let sweep = Tree::new().sweep_kill(Duration::from_secs(10));
        assert_eq!(sweep.survivors, []);
    }

    fn the_agent_has_a_group_of_its_own_and_default_signals() {
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGTERM);
        blocked.thread_block().unwrap();
        let runtime = runtime();
        let _context = runtime.enter();
        let _handlers = Signals::install().unwrap();

        let agent = spawn(&command(["sleep", "300"])).unwrap();
        assert_eq!(agent.group, Group::Own);
        assert_eq!(getpgid(Some(agent.pid)).unwrap(), agent.pid);
        for set in ["SigBlk", "SigIgn", "SigCgt"] {
            assert_eq!(signals(agent.pid, set), 0, "{set}");
        }
        assert_eq!(SigSet::thread_get_mask().unwrap(), blocked, "ours is as it was");

        signal::send(agent.pid, Signal::SIGTERM).unwrap();
        assert_eq!(await_end(agent.pid).termination.exit_code(), 143);
    }

    after "set -- env --ignore-signal=HUP,PIPE,USR1,CHLD \"$@\"" fn ignored_signals_stay_ignored() {
        let ignored = IgnoredSignals::at_entry();
        assert!(ignored.contains(Signal::SIGHUP as i32));
        assert!(!ignored.contains(Signal::SIGTERM as i32));
        let runtime = runtime();
        let _context = runtime.enter();
        let _handlers = Signals::install().unwrap();
        let handled = signals("self", "SigCgt");
        assert_eq!(handled & (bit(Signal::SIGHUP) | bit(Signal::SIGUSR1)), 0);
        assert_ne!(handled & bit(Signal::SIGTERM), 0);

        let expected = bit(Signal::SIGHUP) | bit(Signal::SIGPIPE) | bit(Signal::SIGUSR1)
            | bit(Signal::SIGCHLD);
        let agent = spawn(&command(["sleep", "300"])).unwrap();
        assert_eq!(signals(agent.pid, "SigIgn"), expected);
        signal::send(agent.pid, Signal::SIGHUP).unwrap();
        signal::send(agent.pid, Signal::SIGINT).unwrap();
        // The exit status arrives although SIGCHLD was ignored.
        assert_eq!(await_end(agent.pid).termination.exit_code(), 130);
        assert_eq!(spawn(&command(["/nowhere"])).unwrap_err().exit_code(), 127);
    }

    fn the_agent_dies_with_the_thread_that_spawned_it() {
        let agent = thread::spawn(|| spawn(&command(["sleep", "300"])).unwrap()).join().unwrap();
        assert_eq!(await_end(agent.pid).termination.exit_code(), 137);
    }

    fn signals_reach_the_loop() {
        let runtime = runtime();
        runtime.block_on(async {
            let mut signals = Signals::install().unwrap();
            for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGWINCH, Signal::SIGTSTP] {
                raise(signal).unwrap();
                assert_eq!(signals.recv().await, Signalled::Forward(signal));
            }
            let agent = spawn(&command(["true"])).unwrap();
            assert_eq!(signals.recv().await, Signalled::Child);
            await_end(agent.pid);
        });
    }

    fn a_stop_lasts_until_someone_continues_us() {
        let agent = spawn(&sh(
            "until grep -q '^State:.T' /proc/$PPID/status; do sleep 0.01; done; kill -CONT $PPID",
        ))
        .unwrap();
        signal::raise_stop().unwrap();
        assert_eq!(await_end(agent.pid).termination, Termination::Exited(0));
    }

    fn a_stopped_agent_is_seen_as_stopped() {
        let agent = spawn(&command(["sleep", "300"])).unwrap();
        signal::send(agent.pid, Signal::SIGSTOP).unwrap();
        poll("the stop", || {
            let descendants = Tree::new().descendants().unwrap();
            (descendants[0].state == State::Stopped).then_some(())
        });
        assert_eq!(reap(), [], "a stop is not an end");
        assert_eq!(Tree::new().sweep_kill(Duration::from_secs(10)).survivors, []);
    }

    fn orphans_are_reaped_without_remainder() {
        let agent = spawn(&sh(
            "i=0; while [ $i -lt 200 ]; do (setsid sh -c 'exit 3' &); i=$((i+1)); done",
        ))
        .unwrap();
        let mut reaped = Vec::new();
        poll("200 orphans", || {
            reaped.extend(reap());
            (reaped.len() == 201).then_some(())
        });
        let (agents, orphans): (Vec<Reaped>, Vec<Reaped>) =
            reaped.into_iter().partition(|reaped| reaped.pid == agent.pid);
        assert_eq!(agents[0].termination, Termination::Exited(0));
        assert!(orphans.iter().all(|orphan| orphan.termination == Termination::Exited(3)));
    }

    fn what_a_process_used_is_known_at_its_end() {
        let agent = spawn(&sh("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")).unwrap();
        let usage = await_end(agent.pid).usage;
        assert!(usage.cpu() > Duration::from_millis(1), "{usage:?}");
        assert!(usage.max_rss_bytes > 100 * 1024, "{usage:?}");
        assert!(usage.max_rss_bytes < 1 << 30, "{usage:?}");
    }

    fn a_sweep_ends_a_tree_that_keeps_forking() {
        let agent = spawn(&sh(
            "i=0; while [ $i -lt 30 ]; do \
             (setsid sh -c 'trap \"\" TERM; echo .; while :; do sleep 0.01; (sleep 0.01 &) done' &); i=$((i+1)); \
             done",
        ))
        .unwrap();
        let pid = agent.pid;
        // Each storm says that it blows.
        let runtime = runtime();
        let _context = runtime.enter();
        let mut stdout = Pipe::new(agent.stdout).unwrap();
        let mut ready = 0;
        while ready < 60 {
            ready += runtime.block_on(stdout.read(&mut [0; 64])).unwrap();
        }
        let started = Instant::now();
        let sweep = Tree::new().sweep_kill(Duration::from_secs(10));
        assert_eq!(sweep.survivors, []);
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(sweep.reaped.iter().any(|reaped| reaped.pid == pid));
    }

    fn a_sweep_ends_processes_that_never_stay() {
        // Each forks its successor and exits at once. Should the sweep fail, they end with the directory.
        let directory = tempfile::tempdir().unwrap();
        let mut agent = sh(
            "for i in 1 2 3 4 5; do setsid sh -c 'comet() { [ -e \"$GO\" ] && comet & }; comet' & done",
        );
        agent.env.push(("GO".into(), directory.path().into()));
        spawn(&agent).unwrap();
        let mut ended = 0;
        poll("comets", || {
            ended += reap().len();
            (ended > 100).then_some(())
        });
        let sweep = Tree::new().sweep_kill(Duration::from_secs(10));
        drop(directory);
        assert_eq!(sweep.survivors, []);
        assert_ne!(sweep.reaped, []);
    }

    fn a_sweep_spares_who_was_there_before() {
        let mut foreign = std::process::Command::new("sh")
            .args(["-c", "sleep 300 & sleep 300 & wait"])
            .spawn()
            .unwrap();
        poll("the foreign family", || {
            (Tree::new().descendants().unwrap().len() == 3).then_some(())
        });
        let tree = Tree::from_now();
        assert_eq!(tree.descendants().unwrap(), []);
        let agent = spawn(&sh("setsid sleep 300 & wait")).unwrap();
        poll("the agent's family", || {
            (tree.descendants().unwrap().len() == 2).then_some(())
        });
        let started = Instant::now();
        let sweep = tree.sweep_kill(Duration::from_secs(20));
        assert!(started.elapsed() < Duration::from_secs(10));
        assert_eq!(sweep.survivors, []);
        assert!(sweep.reaped.iter().any(|reaped| reaped.pid == agent.pid));
        assert_eq!(foreign.try_wait().unwrap(), None);
        let left = Tree::new().descendants().unwrap();
        assert_eq!(left.len(), 3);
        assert!(left.iter().all(|process| process.state == State::Alive));
        assert_eq!(Tree::new().sweep_kill(Duration::from_secs(10)).survivors, []);
    }

    fn a_sweep_without_a_tree_is_over_at_once() {
        let started = Instant::now();
        let sweep = Tree::new().sweep_kill(Duration::from_secs(60));
        assert_eq!(sweep.reaped, []);
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    fn one_signal_reaches_every_session() {
        let agent = spawn(&sh("setsid sleep 300 & setsid sleep 300 & wait")).unwrap();
        let tree = Tree::new();
        poll("two sleepers", || {
            let sleepers = tree.descendants().unwrap();
            (sleepers.iter().filter(|process| process.command == "sleep").count() == 2).then_some(())
        });
        assert_eq!(tree.kill(Signal::SIGTERM).unwrap(), 3);
        let mut ends = Vec::new();
        poll("three ends", || {
            ends.extend(reap());
            tree.descendants().unwrap().is_empty().then_some(())
        });
        ends.extend(reap());
        let of_agent = ends.iter().find(|reaped| reaped.pid == agent.pid).unwrap();
        assert_eq!(of_agent.termination.exit_code(), 143);
    }

    // Raised first, since nobody may go below the lowest score of a privileged ancestor, but anybody may go back to it.
    after "echo 100 > /proc/$$/oom_score_adj" fn protection_is_ours_and_not_the_agent_s() {
        let entry = oom_score("self");
        let core = getrlimit(Resource::RLIMIT_CORE).unwrap();
        let protection = Protection::begin();
        let agent = spawn(&sh("ulimit -S -c; sleep 300")).unwrap();
        let abilities = protection.complete(Some(agent.pid));

        assert!(abilities.subreaper && abilities.proc);
        assert!(!abilities.dumpable);
        let own = oom_score("self");
        assert_eq!(abilities.oom_score_adj, Some(own));
        assert!([-900, -450, 0].contains(&own), "{own}");
        assert_eq!(oom_score(agent.pid), (entry + 100).min(1000));
        assert_eq!(abilities.agent_oom_score_adj, Some((entry + 100).min(1000)));
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, core.1));
        let map = abilities.to_map();
        assert_eq!(map["dumpable"], false);
        assert_eq!(map["subreaper"], true);

        let soft = if core.0 == u64::MAX { "unlimited\n".to_owned() } else { format!("{}\n", core.0 / 512) };
        let runtime = runtime();
        let _context = runtime.enter();
        let mut stdout = Pipe::new(agent.stdout).unwrap();
        let mut line = [0; 64];
        let length = runtime.block_on(stdout.read(&mut line)).unwrap();
        assert_eq!(String::from_utf8_lossy(&line[..length]), soft);
        assert_eq!(Tree::new().sweep_kill(Duration::from_secs(10)).survivors, []);
    }

    fn stdout_is_kept_from_whoever_prints() {
        let (mut protocol, stdout) = std::io::pipe().unwrap();
        let (mut people, stderr) = std::io::pipe().unwrap();
        let real = [dup(std::io::stdout()).unwrap(), dup(std::io::stderr()).unwrap()];
        dup2_stdout(&stdout).unwrap();
        dup2_stderr(&stderr).unwrap();

        let kept = keep_stdout().unwrap();
        assert!(kept.as_raw_fd() >= 3);
        let flags = FdFlag::from_bits_retain(fcntl(&kept, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
        nix::unistd::write(std::io::stdout(), b"a library prints").unwrap();
        nix::unistd::write(&kept, b"{}\n").unwrap();

        dup2_stdout(&real[0]).unwrap();
        dup2_stderr(&real[1]).unwrap();
        drop((kept, stdout, stderr));
        let mut read = String::new();
        protocol.read_to_string(&mut read).unwrap();
        assert_eq!(read, "{}\n");
        read.clear();
        people.read_to_string(&mut read).unwrap();
        assert_eq!(read, "a library prints");
    }

    fn closed_standard_files_become_dev_null() {
        let real = [dup(std::io::stdin()), dup(std::io::stdout()), dup(std::io::stderr())]
            .map(Result::unwrap);
        for fd in 0..=2 {
            close(fd).unwrap();
        }
        let kept = keep_stdout();
        let opened: Vec<_> = [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()]
            .into_iter()
            .map(|fd| nix::sys::stat::fstat(fd).map(|status| status.st_rdev))
            .collect();
        // A pipe must not take the number of a standard file: the agent's output would be lost.
        let agent = spawn(&sh("echo out; echo err >&2"));

        dup2_stdin(&real[0]).unwrap();
        dup2_stdout(&real[1]).unwrap();
        dup2_stderr(&real[2]).unwrap();
        let null = nix::sys::stat::stat("/dev/null").unwrap().st_rdev;
        assert_eq!(opened, [Ok(null), Ok(null), Ok(null)]);
        assert!(kept.unwrap().as_raw_fd() >= 3);
        let agent = agent.unwrap();
        let pid = agent.pid;
        assert_eq!(read_all(agent), ("out\n".to_owned(), "err\n".to_owned()));
        await_end(pid);
    }

    fn on_a_terminal_the_agent_stays_in_our_group() {
        // Closing it would hang up on this very process.
        let _terminal = ManuallyDrop::new(open_terminal());
        let agent = spawn(&command(["sleep", "300"])).unwrap();
        assert_eq!(agent.group, Group::Shared);
        assert_eq!(getpgid(Some(agent.pid)).unwrap(), getpgid(None).unwrap());
        assert!(agent.group.hears_from_terminal(Signal::SIGINT));
        assert!(!agent.group.hears_from_terminal(Signal::SIGTERM));
        assert!(!Group::Own.hears_from_terminal(Signal::SIGINT));
        assert_eq!(Tree::new().sweep_kill(Duration::from_secs(10)).survivors, []);
    }
}

#[test]
fn a_sweep_kills_every_orphan_and_no_stranger() {
    let mut stranger = (!is_inside()).then(|| {
        std::process::Command::new("sleep")
            .arg("300")
            .spawn()
            .unwrap()
    });
    crate::isolated::run(
        concat!(
            module_path!(),
            "::a_sweep_kills_every_orphan_and_no_stranger"
        ),
        "",
        || {
            let agent = spawn(&sh("i=0; while [ $i -lt 200 ]; do \
                 (setsid sh -c 'trap \"\" TERM; exec sleep 300' &); i=$((i+1)); done"))
            .unwrap();
            assert_eq!(await_end(agent.pid).termination, Termination::Exited(0));
            let tree = Tree::new();
            poll("200 orphans", || {
                let sleepers = tree.descendants().unwrap();
                let ready = sleepers.len() == 200
                    && sleepers.iter().all(|sleeper| sleeper.command == "sleep");
                ready.then_some(())
            });
            let sweep = tree.sweep_kill(Duration::from_secs(10));
            assert_eq!(sweep.survivors, []);
            assert_eq!(sweep.reaped.len(), 200);
            assert!(
                sweep
                    .reaped
                    .iter()
                    .all(|orphan| orphan.termination.exit_code() == 137)
            );
        },
    );
    if let Some(stranger) = &mut stranger {
        assert_eq!(stranger.try_wait().unwrap(), None);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}

fn oom_score(process: impl ToString) -> i32 {
    let path = Path::new("/proc")
        .join(process.to_string())
        .join("oom_score_adj");
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

/// Gives this process, a session leader, a controlling terminal for as long as the files are open.
#[expect(unsafe_code, reason = "ioctls")]
fn open_terminal() -> (File, File) {
    use nix::libc;
    let master = File::options()
        .read(true)
        .write(true)
        .open("/dev/ptmx")
        .unwrap();
    let mut number = 0;
    let unlocked = 0;
    // SAFETY: either call is given a pointer to one int, which is what it reads or writes.
    let results = unsafe {
        [
            libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked),
            libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number),
        ]
    };
    assert_eq!(results, [0, 0]);
    let slave = File::options()
        .read(true)
        .write(true)
        .open(format!("/dev/pts/{number}"))
        .unwrap();
    (master, slave)
}
