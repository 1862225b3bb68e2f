//! One fault, carried out twice.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid, getpgrp};

use crate::check::{Trouble, Twins};
use crate::fault::{Collector, EchoMode, Fault, Leaves, Outside};
use crate::supervised::{Finished, Running, Supervised, agent, poll};
use crate::support::receiver::{Answer, Receiver};

/// How long what is asleep sleeps.
const WHILE: Duration = Duration::from_millis(300);
const FLUSH: &str = "300ms";

/// Runs, what was wrong, and what supervision added to the time, where that is comparable.
pub(crate) type Result = (usize, Vec<Trouble>, Option<Duration>);

pub(crate) fn run(fault: &Fault) -> Result {
    let alone = alone(fault);
    let (receiver, endpoint) = match fault.outside {
        Outside::Collector(collector) => receiver(collector),
        _ => (None, None),
    };
    let supervised = supervised(fault, endpoint);
    let delay = supervised.took.saturating_sub(alone.took);
    let troubles = Twins {
        fault,
        alone: &alone,
        supervised: &supervised,
        receiver: receiver.as_ref(),
    }
    .check();
    let is_comparable = fault.leaves == Leaves::Nothing
        && matches!(
            fault.outside,
            Outside::Nothing | Outside::StdinHeld | Outside::Term
        );
    (2, troubles, is_comparable.then_some(delay))
}

fn case(fault: &Fault) -> Supervised {
    let command = [env!("CARGO_BIN_EXE_fault-agent").to_owned()];
    let case = agent([&command[..], &fault.script()].concat());
    if fault.outside == Outside::StdinHeld {
        case.stdin_held()
    } else {
        case.stdin(vec![b'i'; usize::try_from(fault.stdin).unwrap()])
    }
}

fn alone(fault: &Fault) -> Finished {
    let run = case(fault).start_alone();
    middle(fault, &run, |run| match fault.outside {
        Outside::Term => run.send(Signal::SIGTERM),
        // Whom the supervisor kills in the end.
        Outside::TermTwice => run.send(Signal::SIGKILL),
        _ => {}
    });
    end(fault, run)
}

/// What an agent leaves would keep its streams open, alone.
fn end(fault: &Fault, mut run: Running) -> Finished {
    if fault.leaves == Leaves::Nothing {
        return run.wait();
    }
    poll("the end of the agent", || run.is_over().then_some(()));
    while !run.processes().is_empty() {
        for pid in run.processes() {
            // A storm outruns whoever kills one process at a time, but not the end of its whole group.
            if let Ok(group) = getpgid(Some(Pid::from_raw(pid)))
                && group != getpgrp()
            {
                killpg(group, Signal::SIGKILL).ok();
            }
        }
    }
    run.wait()
}

fn supervised(fault: &Fault, endpoint: Option<String>) -> Finished {
    let mut case = case(fault);
    let echo = match fault.echo {
        EchoMode::Enriched => "enriched",
        EchoMode::Raw => "raw",
        EchoMode::Off => "none",
    };
    case = case.option("--echo", echo).option("--survivors", "kill");
    if let Some(endpoint) = endpoint {
        case = case
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .option("--flush-timeout", FLUSH);
    }
    if !fault.journal {
        case = case.without_journal();
    }
    match fault.outside {
        Outside::HostSleeps | Outside::HostGone => case = case.unread(),
        Outside::StderrSleeps => case = case.unread_stderr(),
        Outside::TinyDisk => return on_a_tiny_disk(fault, case, echo),
        _ => {}
    }
    let mut run = case.start();
    if fault.outside == Outside::HostGone {
        run.close_stdout();
    }
    middle(fault, &run, |run| match fault.outside {
        Outside::Term => run.send(Signal::SIGTERM),
        Outside::TermTwice => {
            run.send(Signal::SIGTERM);
            // Signals of one kind that wait together are one.
            thread::sleep(WHILE / 4);
            run.send(Signal::SIGTERM);
        }
        Outside::StopAndContinue => {
            run.send(Signal::SIGTSTP);
            poll("the stop", || is_stopped(run.pid()).then_some(()));
            run.send(Signal::SIGCONT);
        }
        Outside::SupervisorStopped => run.send(Signal::SIGSTOP),
        Outside::JournalDeleted => {
            fs::remove_dir_all(run.directory().join("journal")).unwrap();
        }
        _ => {}
    });
    match fault.outside {
        Outside::HostSleeps | Outside::StderrSleeps => {
            thread::sleep(WHILE);
            run.read();
        }
        Outside::SupervisorStopped => {
            thread::sleep(WHILE);
            run.send(Signal::SIGCONT);
        }
        _ => {}
    }
    run.wait()
}

/// Does what is to be done in the middle of the agent's work, and lets it go on.
fn middle(fault: &Fault, run: &Running, act: impl FnOnce(&Running)) {
    if fault.stops_itself {
        // As whoever stopped it would.
        let stopped = |pid: &i32| is_stopped(u32::try_from(*pid).unwrap());
        let candidates = || {
            let own = i32::try_from(run.pid()).unwrap();
            run.processes().into_iter().chain([own]).find(stopped)
        };
        let pid = poll("the agent that stops itself", candidates);
        kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    }
    if fault.has_middle() {
        let half = run.directory().join("half");
        poll("the middle of the agent's work", || {
            half.exists().then_some(())
        });
        act(run);
        fs::write(run.directory().join("go"), "").unwrap();
    }
}

fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| rest.trim_start().starts_with('T'))
}

/// Root alone can mount; for others the disk is as it is, and the limit on the size of files is small.
fn on_a_tiny_disk(fault: &Fault, case: Supervised, echo: &str) -> Finished {
    let script = "mkdir disk
        { mount -t tmpfs -o size=1m none disk 2>/dev/null; } || ulimit -f 2048
        exec \"$@\"";
    let can_mount = Command::new("unshare").args(["-m", "true"]).output();
    let mut command = if can_mount.is_ok_and(|output| output.status.success()) {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh"]);
        command
    } else {
        Command::new("sh")
    };
    command
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_sandtrace"), "run"])
        .args([
            "--journal",
            "disk/journal",
            "--echo",
            echo,
            "--survivors",
            "kill",
            "--",
        ])
        .arg(env!("CARGO_BIN_EXE_fault-agent"))
        .args(fault.script());
    case.start_as(command).wait()
}

fn receiver(collector: Collector) -> (Option<Receiver>, Option<String>) {
    let receiver = match collector {
        Collector::Dead => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            return (
                None,
                Some(format!("http://{}", listener.local_addr().unwrap())),
            );
        }
        Collector::Healthy => Receiver::healthy(),
        Collector::Silent => Receiver::scripted(|_, _| Answer::BlackHole),
        Collector::Resets => Receiver::scripted(|_, _| Answer::Reset),
        Collector::Refuses => Receiver::scripted(|_, _| Answer::status(500)),
        Collector::Slow => Receiver::scripted(|_, _| Answer::status(200).after(WHILE * 2)),
    };
    let endpoint = format!("http://127.0.0.1:{}", receiver.port());
    (Some(receiver), Some(endpoint))
}
