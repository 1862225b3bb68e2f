//! The agent's process tree under every fault, with the real binary: cases 1 to 17 of `reference/supervision.md` §5.
//!
//! | case | tests |
//! |---|---|
//! | 1 exit_codes_0_255 | `process::every_exit_code_is_mirrored` |
//! | 2 signal_exit_all_31 | `process::every_deadly_signal_is_told_by_name`, [`a_dumped_core_is_told`] |
//! | 3 spawn errors | `process::a_command_that_cannot_run_has_the_exit_code_of_env`, `run::a_command_that_cannot_run_gives_127_or_126_and_a_sentence`, [`a_fork_that_is_refused_is_one_clear_sentence`], [`a_working_directory_that_is_gone_changes_nothing`] |
//! | 4 term_once_graceful | `stop::a_signal_is_the_agent_s_to_handle_and_its_exit_code_stays` |
//! | 5 term_ignored | `stop::a_deaf_agent_is_killed_after_the_grace_with_all_its_family` |
//! | 6 term_twice | `stop::a_second_request_to_stop_does_not_wait_for_the_grace`, [`a_second_request_kills_at_once`] |
//! | 7 third_signal | `stop::a_third_request_to_stop_cuts_the_flush_short`, [`a_third_request_leaves_at_once`] |
//! | 8 blocked_ignored_signals_inherited | `process::ignored_signals_stay_ignored`, `process::the_agent_has_a_group_of_its_own_and_default_signals`, [`signals_that_were_blocked_at_our_start_are_heard`] |
//! | 9 double_fork_setsid_x200 | `process::a_sweep_kills_every_orphan_and_no_stranger`, [`two_hundred_deaf_sessions_end_with_the_run`] |
//! | 10 orphan_reap_1000 | `run::orphans_are_reaped_while_the_run_goes_on`, [`a_thousand_orphans_leave_no_zombie`] |
//! | 11 fork_storm_kill | `process::a_sweep_ends_a_tree_that_keeps_forking`, `process::a_sweep_ends_processes_that_never_stay`, [`a_fork_storm_ends_with_the_run`] |
//! | 12 stop_cont_agent | `stop::a_stopped_agent_still_takes_a_request_to_stop`, [`a_stopped_agent_is_told_once_a_stop`] |
//! | 13 supervisor_sigkill | `run::the_agent_dies_with_its_supervisor`, [`a_killed_supervisor_takes_the_agent_with_it_at_once`] |
//! | 14 pid1_mode, parent_is_pid1 | [`as_process_one_the_run_is_as_ever`] |
//! | 15 spawn_thread_pdeathsig | `process::the_agent_dies_with_the_thread_that_spawned_it`, [`the_main_thread_spawned_the_agent`] |
//! | 16 sigchld_coalesced | [`a_hundred_deaths_in_one_sigchld_are_all_noticed`] |
//! | 17 pid_reuse | `sandtrace::process::tree::tests::a_pid_that_is_used_again_is_left_alone`, `stop_command::another_process_with_the_pid_of_a_supervisor_gets_no_signal` |

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::elsewhere::{as_lonely_user, below_process_one, process_one};
use crate::supervised::{Running, poll, python, sh, skipped};

/// State and parent of every process.
fn processes() -> BTreeMap<i32, (char, u32)> {
    let read = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        Some((pid, (state, fields.next()?.parse().ok()?)))
    };
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| read(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}

/// How many children of a process are in this state, or in any.
fn children(parent: u32, state: Option<char>) -> usize {
    let processes = processes();
    let of_parent = processes.values().filter(|process| process.1 == parent);
    of_parent
        .filter(|process| state.is_none_or(|state| process.0 == state))
        .count()
}

/// The supervisor below a wrapper that goes on as its parent or grandparent.
fn supervisor_below(wrapper: u32) -> u32 {
    poll("the supervisor", || {
        let processes = processes();
        let child_of = |parent: u32| {
            let mut children = processes.iter().filter(|(_, process)| process.1 == parent);
            children
                .next()
                .and_then(|(pid, _)| u32::try_from(*pid).ok())
        };
        let mut pid = wrapper;
        loop {
            pid = child_of(pid)?;
            let command = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            if command.trim() == "sandtrace" {
                return Some(pid);
            }
        }
    })
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

fn agent(run: &Running) -> u32 {
    let started = run.line("the start", |line| line["type"] == "sandtrace.run.started");
    started["data"]["pid"].as_u64().unwrap().try_into().unwrap()
}

/// Takes no TERM, and says that it is there.
const DEAF: &str = "trap '' TERM; echo '{\"ready\":1}'; while :; do sleep 300; done";

/// Hears a request, notes it, and goes on.
const STUBBORN: &str =
    "trap 'echo >> heard' TERM; echo '{\"ready\":1}'; while :; do sleep 300 & wait; done";

#[test]
fn a_dumped_core_is_told() {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.starts_with(['|', '/']) {
        skipped(format_args!("cores go to {}", pattern.trim()));
        return;
    }
    let run = sh("ulimit -c unlimited || exit 77; kill -ABRT $$").run();
    if run.code() == 77 {
        skipped("cores are forbidden");
        return;
    }
    assert_eq!(run.code(), 128 + 6);
    let exit = run.transcript().finished()["exit"].clone();
    assert_eq!(exit["signal"], "SIGABRT");
    assert_eq!(exit["core_dumped"], true);
    run.assert_sound();
}

#[test]
fn a_working_directory_that_is_gone_changes_nothing() {
    let leave = [
        "sh",
        "-c",
        "mkdir gone && cd gone && rmdir ../gone && exec \"$@\"",
        "sh",
    ];
    let run = sh("ls -A; exit 3").start_under(&leave).wait();
    assert_eq!(run.code(), 3, "{}", run.errors());
    assert_eq!(run.transcript().stream("stdout"), b"");
    run.assert_sound();
}

#[test]
fn a_fork_that_is_refused_is_one_clear_sentence() {
    let mut codes = BTreeMap::new();
    // How many threads come before the agent is our own affair: somewhere on the way up it is the fork that fails.
    for processes in 1..=12 {
        let Some(wrapper) = as_lonely_user(processes) else {
            return;
        };
        let run = sh("exit 0").start_under(&wrapper).wait();
        let code = run.code();
        let verdict = if run.stdout.is_empty() {
            "nothing began".to_owned()
        } else {
            run.transcript().verdict()
        };
        match (code, verdict.as_str()) {
            (0, "success") => run.assert_sound(),
            (125, "spawn.failed") => {
                let sentence = "cannot start a process 'sh': no more processes are allowed here, \
                                by RLIMIT_NPROC or the pids limit of a cgroup";
                assert_eq!(run.errors(), format!("sandtrace: {sentence}\n"));
                let finished = run.transcript().finished().clone();
                let message = finished["failure"]["message"].as_str().unwrap();
                assert!(message.contains(sentence), "{message}");
                assert_eq!(run.transcript().started()["pid"], Value::Null);
                run.assert_sound();
            }
            // A thread that we cannot do without: nothing was spawned, and it is said why.
            (125, "nothing began") => {
                assert!(run.errors().contains("Resource temporarily unavailable"));
                run.assert_nothing_left();
            }
            other => panic!("{other:?} with {processes} processes: {}", run.errors()),
        }
        codes.insert(verdict, processes);
    }
    assert!(codes.contains_key("spawn.failed"), "{codes:?}");
    assert_eq!(codes["success"], 12);
}

#[test]
fn a_second_request_kills_at_once() {
    let run = sh(STUBBORN).option("--grace", "5m").start();
    run.ready();
    let agent = agent(&run);
    request(&run);
    let asked = Instant::now();
    run.send(Signal::SIGTERM);
    await_death(agent);
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let run = run.wait();
    assert_eq!(run.code(), 128 + 9);
    run.assert_sound();
}

fn await_death(pid: u32) {
    poll("the death of the agent", || {
        let state = processes().get(&pid.cast_signed()).map(|process| process.0);
        matches!(state, None | Some('Z')).then_some(())
    });
}

/// Asks for the first time, and waits until the agent has heard of it: two signals at once would be one.
fn request(run: &Running) {
    run.send(Signal::SIGTERM);
    let heard = run.directory().join("heard");
    poll("the first request", || heard.exists().then_some(()));
}

#[test]
fn a_third_request_leaves_at_once() {
    // A backend that takes the spans and never answers.
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", backend.local_addr().unwrap());
    let run = sh(STUBBORN)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .option("--grace", "5m")
        .option("--flush-timeout", "5m")
        .start();
    run.ready();
    request(&run);
    run.send(Signal::SIGTERM);
    run.line("the verdict", |line| {
        line["type"] == "sandtrace.agent.exited"
    });
    let asked = Instant::now();
    run.send(Signal::SIGTERM);
    let run = run.wait();
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(run.code(), 128 + 9);
    run.transcript().assert_whole();
    run.assert_nothing_left();
}

#[test]
fn signals_that_were_blocked_at_our_start_are_heard() {
    let program = "
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1])
os.execv(sys.argv[1], sys.argv[1:])
";
    let script = "grep '^SigBlk' /proc/self/status; trap 'exit 7' TERM; echo '{\"ready\":1}'; \
                  while :; do sleep 0.02; done";
    let run = sh(script).start_under(&["python3", "-c", program]);
    run.ready();
    run.send(Signal::SIGTERM);
    let run = run.wait();
    assert_eq!(run.code(), 7);
    let stdout = String::from_utf8(run.transcript().stream("stdout")).unwrap();
    // The agent would have been deaf alone: a supervisor that asks it to stop gives it an empty mask.
    assert!(stdout.contains("SigBlk:\t0000000000000000"), "{stdout}");
    run.assert_sound();
}

#[test]
fn two_hundred_deaf_sessions_end_with_the_run() {
    let program = "
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for n in range(200):
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        os.setpgid(0, 0)
        while True:
            signal.pause()
    os.wait()
print('{\"ready\":1}')
while True:
    signal.pause()
";
    let run = python(program).option("--grace", "1ms").start();
    run.ready();
    assert_eq!(run.processes().len(), 201);
    let asked = Instant::now();
    run.send(Signal::SIGTERM);
    let run = run.wait();
    let took = asked.elapsed();
    assert_eq!(run.code(), 128 + 9);
    assert!(took < Duration::from_secs(10), "{took:?}");
    run.assert_sound();
}

#[test]
fn a_thousand_orphans_leave_no_zombie() {
    let program = "
import os, signal
for n in range(1000):
    if os.fork() == 0:
        if os.fork() != 0:
            os._exit(0)
        os._exit(n % 3)
    os.wait()
print('{\"ready\":1}')
while True:
    signal.pause()
";
    let run = python(program).start();
    run.ready();
    poll("the last orphan", || {
        (children(run.pid(), None) == 1).then_some(())
    });
    assert_eq!(children(run.pid(), Some('Z')), 0);
    run.send(Signal::SIGTERM);
    let run = run.wait();
    assert_eq!(run.code(), 128 + 15);
    assert_eq!(run.transcript().finished()["survivors"], json!([]));
    run.assert_sound();
}

#[test]
fn a_fork_storm_ends_with_the_run() {
    // Each forks its successor and exits at once, in a session of its own. They end with the directory at the latest.
    let script = "trap '' TERM
        for i in 1 2 3 4 5; do setsid sh -c 'comet() { [ -e storm ] && comet & }; comet' & done
        echo '{\"ready\":1}'; while :; do sleep 300; done";
    let run = sh(script)
        .file("storm", "")
        .option("--grace", "300ms")
        .start();
    run.ready();
    run.send(Signal::SIGTERM);
    let run = run.wait();
    assert_eq!(run.code(), 128 + 9);
    assert!(run.took < Duration::from_secs(20), "{:?}", run.took);
    run.assert_sound();
}

#[test]
fn a_stopped_agent_is_told_once_a_stop() {
    let run = sh("echo '{\"ready\":1}'; exec sleep 300").start();
    run.ready();
    let agent = agent(&run);
    let stopped = Instant::now();
    send(agent, Signal::SIGSTOP);
    run.line("the warning", |line| {
        line["data"]["code"] == "agent_stopped"
    });
    let took = stopped.elapsed();
    assert!(took >= Duration::from_secs(4), "{took:?}");
    // Long enough for a second warning, were there one.
    std::thread::sleep(Duration::from_millis(1500));
    send(agent, Signal::SIGCONT);
    run.send(Signal::SIGTERM);
    let run = run.wait();
    assert_eq!(run.code(), 128 + 15);
    assert_eq!(run.transcript().warnings(), ["agent_stopped"]);
    run.assert_sound();
}

#[test]
fn a_killed_supervisor_takes_the_agent_with_it_at_once() {
    let run = sh(DEAF).start();
    run.ready();
    let agent = agent(&run);
    let killed = Instant::now();
    run.send(Signal::SIGKILL);
    await_death(agent);
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// Leaves ten orphans in sessions of their own, waits for them, and says who its parent is.
const ORPHANS: &str = "
import os, signal, sys, time
def ended(number, frame):
    sys.exit(7)
signal.signal(signal.SIGTERM, ended)
for n in range(10):
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        os._exit(3)
    os.wait()
def children():
    with open(f'/proc/{os.getppid()}/task/{os.getppid()}/children') as file:
        return file.read().split()
until = time.monotonic() + 30
while len(children()) > 1 and time.monotonic() < until:
    time.sleep(0.01)
print('{\"ready\":%d,\"children\":%d}' % (os.getppid(), len(children())))
while True:
    signal.pause()
";

#[test]
fn as_process_one_the_run_is_as_ever() {
    for (wrapper, parent) in [(process_one(), Some(1)), (below_process_one(), None)] {
        let Some(wrapper) = wrapper else { return };
        // Exit codes, and a child that is gone before it is asked for.
        for code in [0, 42] {
            let run = sh(&format!("(exit 3) & exit {code}"))
                .start_under(&wrapper)
                .wait();
            assert_eq!(run.code(), code, "{}", run.errors());
            run.assert_sound();
        }
        let run = sh("kill -9 $$").start_under(&wrapper).wait();
        assert_eq!(run.code(), 128 + 9);
        run.assert_sound();

        // Orphans are reaped, and TERM, which the kernel keeps from a process 1 that does not listen, is heard.
        let run = python(ORPHANS).start_under(&wrapper);
        let ready = run.line("the agent is ready", |line| line.get("ready").is_some());
        assert_eq!(ready["children"], 1, "the agent alone");
        assert_eq!(ready["ready"] == 1, parent == Some(1), "{ready}");
        send(supervisor_below(run.pid()), Signal::SIGTERM);
        let run = run.wait();
        assert_eq!(run.code(), 7);
        assert_eq!(run.transcript().verdict(), "cancelled.host");
        run.assert_sound();

        let run = sh(DEAF).option("--grace", "200ms").start_under(&wrapper);
        run.ready();
        send(supervisor_below(run.pid()), Signal::SIGTERM);
        let run = run.wait();
        assert_eq!(run.code(), 128 + 9);
        run.assert_sound();
    }
}

#[test]
fn the_main_thread_spawned_the_agent() {
    let run = sh("echo '{\"ready\":1}'; read line; exit 5")
        .stdin_held()
        .option("--sample-interval", "off")
        .start();
    run.ready();
    let (supervisor, agent) = (run.pid(), agent(&run));
    // The kernel lists a child with the thread that made it, and kills the agent when that thread ends.
    let path = format!("/proc/{supervisor}/task/{supervisor}/children");
    let Ok(children) = fs::read_to_string(path) else {
        skipped("this kernel does not list the children of threads");
        return;
    };
    assert_eq!(children.trim(), agent.to_string());
    // The thread that removes old journals ends right after the start.
    poll("the end of a thread", || {
        let threads = fs::read_dir(format!("/proc/{supervisor}/task")).unwrap();
        let names = threads.flatten().map(|thread| {
            let name = fs::read_to_string(thread.path().join("comm"));
            name.unwrap_or_default()
        });
        (!names.into_iter().any(|name| name.trim() == "prune")).then_some(())
    });
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(children_state(agent), 'S');
    run.send(Signal::SIGTERM);
    assert_eq!(run.wait().code(), 128 + 15);
}

fn children_state(pid: u32) -> char {
    processes()[&pid.cast_signed()].0
}

#[test]
fn a_hundred_deaths_in_one_sigchld_are_all_noticed() {
    let program = "
import os, signal
os.mkfifo('fifo')
for n in range(100):
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        os.open('fifo', os.O_RDONLY)
        os._exit(3)
    os.wait()
print('{\"ready\":1}')
while True:
    signal.pause()
";
    let run = python(program).start();
    run.ready();
    let supervisor = run.pid();
    poll("a hundred orphans", || {
        (children(supervisor, None) == 101).then_some(())
    });
    run.send(Signal::SIGSTOP);
    poll("our stop", || {
        (processes()[&supervisor.cast_signed()].0 == 'T').then_some(())
    });
    // Whoever waits for a writer goes on when there is one.
    let writer = fs::File::options()
        .write(true)
        .open(run.directory().join("fifo"));
    poll("a hundred zombies", || {
        (children(supervisor, Some('Z')) == 100).then_some(())
    });
    drop(writer);
    run.send(Signal::SIGCONT);
    poll("the last zombie", || {
        (children(supervisor, None) == 1).then_some(())
    });
    run.send(Signal::SIGTERM);
    let run = run.wait();
    assert_eq!(run.code(), 128 + 15);
    run.assert_sound();
}
