//! Stopping a run: signals, limits, and what the agent leaves behind.

use std::net::TcpListener;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::supervised::{Running, Supervised, poll, python, sh, skipped};

/// Says which signal came and goes on, or ends with a code.
const LISTENER: &str = r#"
import json, os, signal, sys, time
def heard(number, frame):
    print(json.dumps({'heard': signal.Signals(number).name}))
    code = os.environ.get(signal.Signals(number).name)
    if code is not None:
        os._exit(int(code))
for number in [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1]:
    signal.signal(number, heard)
print('{"ready":1}')
while True:
    time.sleep(300)
"#;

fn heard(run: &Running, signal: Signal) {
    run.line(signal.as_str(), |line| line["heard"] == signal.as_str());
}

/// Nobody can hear a signal that this very process was started to ignore, by nohup for instance.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
    ignored & (1 << (signal as i32 - 1)) != 0
}

#[test]
fn a_signal_is_the_agent_s_to_handle_and_its_exit_code_stays() {
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        if is_ignored(signal) {
            skipped(format_args!("{signal} is ignored here"));
            continue;
        }
        let run = python(LISTENER).env(signal.as_str(), "7").start();
        run.ready();
        run.send(signal);
        let run = run.wait();
        assert_eq!(run.code(), 7, "{signal}");
        let transcript = run.transcript();
        let heard = format!("{{\"heard\": \"{signal}\"}}");
        assert_eq!(transcript.agent_lines()[1], heard.as_bytes());
        assert_eq!(transcript.finished()["outcome"], "cancelled");
        assert_eq!(transcript.verdict(), "cancelled.host");
        assert_eq!(transcript.finished()["exit"]["code"], 7);
        run.assert_sound();
    }
}

#[test]
fn an_agent_that_dies_of_a_forwarded_signal_gives_128_and_its_number() {
    let run = sh("echo '{\"ready\":1}'; exec sleep 300").start();
    run.ready();
    run.send(Signal::SIGTERM);
    let run = run.wait();
    assert_eq!(run.code(), 128 + 15);
    assert_eq!(run.transcript().verdict(), "cancelled.host");
    assert_eq!(run.transcript().finished()["exit"]["signal"], "SIGTERM");
    run.assert_sound();
}

#[test]
fn a_harmless_signal_is_passed_on_and_stops_nothing() {
    let run = python(LISTENER).start();
    run.ready();
    run.send(Signal::SIGUSR1);
    heard(&run, Signal::SIGUSR1);
    run.send(Signal::SIGTERM);
    heard(&run, Signal::SIGTERM);
    run.send(Signal::SIGTERM);
    let run = run.wait();
    assert_eq!(run.code(), 128 + 9, "two requests to stop, not three");
    run.assert_sound();
}

/// An agent that takes no TERM, with orphans in sessions of their own that take none either.
fn deaf_family() -> Supervised {
    sh(r#"trap '' TERM
        for n in 1 2 3; do (setsid sh -c 'echo up >> orphans; exec sleep 300' &); done
        until [ "$(wc -l < orphans 2>/dev/null)" = 3 ]; do :; done
        echo '{"ready":1}'
        while :; do sleep 300; done"#)
}

#[test]
fn a_deaf_agent_is_killed_after_the_grace_with_all_its_family() {
    let run = deaf_family().option("--grace", "300ms").start();
    run.ready();
    poll("the family", || (run.processes().len() >= 5).then_some(()));
    run.send(Signal::SIGTERM);
    let run = run.wait();
    assert_eq!(run.code(), 128 + 9);
    let transcript = run.transcript();
    assert_eq!(transcript.verdict(), "cancelled.host");
    assert_eq!(transcript.finished()["exit"]["signal"], "SIGKILL");
    let waited = transcript.finished()["duration_ms"].as_f64().unwrap();
    assert!(waited >= 300.0, "{waited}");
    run.assert_sound();
}

#[test]
fn a_second_request_to_stop_does_not_wait_for_the_grace() {
    let run = python(LISTENER).option("--grace", "5m").start();
    run.ready();
    run.send(Signal::SIGTERM);
    heard(&run, Signal::SIGTERM);
    run.send(Signal::SIGINT);
    let run = run.wait();
    assert_eq!(run.code(), 128 + 9);
    assert_eq!(run.transcript().verdict(), "cancelled.host");
    assert!(run.took < Duration::from_secs(30), "{:?}", run.took);
    run.assert_sound();
}

#[test]
fn a_third_request_to_stop_cuts_the_flush_short() {
    // A backend that takes the spans and never answers.
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", backend.local_addr().unwrap());
    let run = python(LISTENER)
        .env("SIGTERM", "7")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_TRACES_EXPORTER", "otlp")
        .option("--flush-timeout", "5m")
        .start();
    run.ready();
    run.send(Signal::SIGTERM);
    run.line("the verdict", |line| {
        line["type"] == "sandtrace.agent.exited"
    });
    run.send(Signal::SIGTERM);
    run.send(Signal::SIGINT);
    let run = run.wait();
    assert_eq!(run.code(), 7);
    assert!(run.took < Duration::from_secs(60), "{:?}", run.took);
    let transcript = run.transcript();
    transcript.assert_whole();
    let destinations = transcript.finished()["telemetry"]["destinations"]
        .as_array()
        .unwrap();
    let otlp = destinations
        .iter()
        .find(|destination| destination["name"] == "otlp")
        .unwrap();
    assert_eq!(otlp["exported"], 0);
    assert_eq!(
        otlp["queued"].as_u64().unwrap() + otlp["dropped"].as_u64().unwrap(),
        1
    );
    run.assert_nothing_left();
}

#[test]
fn the_deadline_ends_a_run_with_124() {
    let run = sh("sleep 300").option("--deadline", "300ms").run();
    assert_eq!(run.code(), 124);
    let transcript = run.transcript();
    assert_eq!(transcript.verdict(), "timeout.deadline");
    assert_eq!(transcript.finished()["outcome"], "failure");
    assert_eq!(transcript.finished()["exit"]["signal"], "SIGTERM");
    assert_eq!(transcript.started()["limits"]["deadline_ms"], 300);
    assert!(transcript.finished()["duration_ms"].as_f64().unwrap() >= 300.0);
    run.assert_sound();
}

#[test]
fn a_deaf_agent_past_its_deadline_is_killed_and_124_stays() {
    let run = deaf_family()
        .option("--deadline", "1s")
        .option("--grace", "200ms")
        .run();
    assert_eq!(run.code(), 124);
    assert_eq!(run.transcript().verdict(), "timeout.deadline");
    assert_eq!(run.transcript().finished()["exit"]["signal"], "SIGKILL");
    run.assert_sound();
}

const INIT: &str =
    r#"{"type":"system","subtype":"init","session_id":"s","model":"claude-x","tools":[]}"#;
const RESULT: &str = r#"{"type":"result","subtype":"success","is_error":false,"result":"done","session_id":"s","num_turns":1,"total_cost_usd":0.01,"usage":{"input_tokens":1,"output_tokens":1}}"#;
const TOOL: &str = r#"{"type":"assistant","message":{"id":"m","role":"assistant","model":"claude-x","content":[{"type":"tool_use","id":"t","name":"Bash","input":{}}]},"parent_tool_use_id":null,"session_id":"s"}"#;

fn silent_after(lines: &[&str]) -> Supervised {
    let text = lines.join("\n") + "\n";
    sh("cat lines; exec sleep 300")
        .file("lines", text)
        .option("--idle-timeout", "300ms")
}

#[test]
fn silence_between_turns_closes_the_session_which_is_a_success() {
    let run = silent_after(&[INIT, RESULT]).run();
    assert_eq!(run.code(), 0);
    let transcript = run.transcript();
    assert_eq!(transcript.verdict(), "success");
    assert_eq!(transcript.finished()["exit"]["signal"], "SIGTERM");
    assert_eq!(transcript.finished()["failure"], Value::Null);
    run.assert_sound();
}

#[test]
fn silence_in_a_turn_is_a_timeout() {
    let run = silent_after(&[INIT]).run();
    assert_eq!(run.code(), 124);
    assert_eq!(run.transcript().verdict(), "timeout.idle");
    let abandoned = run.transcript().all("sandtrace.span.ended")[0]["attributes"].clone();
    assert_eq!(abandoned["sandtrace.abandoned"], true);
    run.assert_sound();
}

#[test]
fn silence_of_a_tool_is_no_timeout() {
    let run = silent_after(&[INIT, TOOL]).option("--deadline", "2s").run();
    assert_eq!(run.code(), 124);
    assert_eq!(run.transcript().verdict(), "timeout.deadline");
    run.assert_sound();
}

/// Starts a sleeper that holds none of the agent's pipes, and ends.
const LEAVES_A_DAEMON: &str = r#"setsid sleep 300 </dev/null >/dev/null 2>&1 &
    until [ "$(cat /proc/$!/comm)" = sleep ]; do :; done
    echo $! > daemon"#;

#[test]
fn a_daemon_that_the_agent_leaves_is_left_and_reported() {
    let run = sh(LEAVES_A_DAEMON).run();
    assert_eq!(run.code(), 0);
    let daemon = run.daemon();
    let transcript = run.transcript();
    assert_eq!(transcript.verdict(), "success");
    let expected = json!([{"pid": daemon, "command": "sleep", "killed": false}]);
    assert_eq!(transcript.finished()["survivors"], expected);
    assert_eq!(Vec::from_iter(run.processes()), [daemon]);
    run.assert_complete();
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
    run.assert_nothing_left();
}

#[test]
fn a_daemon_is_killed_when_asked_or_when_the_agent_died_of_a_signal() {
    let dies = format!("{LEAVES_A_DAEMON}\nkill -9 $$");
    for (case, code) in [
        (sh(LEAVES_A_DAEMON).option("--survivors", "kill"), 0),
        (sh(&dies), 137),
    ] {
        let run = case.run();
        assert_eq!(run.code(), code);
        let expected = json!([{"pid": run.daemon(), "command": "sleep", "killed": true}]);
        assert_eq!(run.transcript().finished()["survivors"], expected);
        run.assert_sound();
    }
}

#[test]
fn a_grandchild_that_holds_the_pipe_delays_the_end_for_moments_only() {
    // One process, for to start another each time can take longer on a busy machine than counts as silence.
    let chatter = r#"python3 -c '
import os, time
while True:
    os.write(1, b"chatter\n")
    open("ready", "w").close()
    time.sleep(0.05)
' & until [ -e ready ]; do sleep 0.01; done; exit 0"#;
    for (script, most) in [("sleep 300 & exit 0", 300), (chatter, 2000)] {
        let run = sh(script).run();
        assert_eq!(run.code(), 0);
        let transcript = run.transcript();
        let told = transcript.line("sandtrace.agent.exited").time();
        // The phases begin with the run's span, which is a while before the first line of a busy machine.
        let root = &transcript.all("sandtrace.span.started")[0]["start_time"];
        let started: jiff::Timestamp = root.as_str().unwrap().parse().unwrap();
        let exit = transcript.finished()["phases"]["exit_ms"].as_f64().unwrap();
        let drain = (told - started).total(jiff::Unit::Millisecond).unwrap() - exit;
        assert!(drain > f64::from(most) - 50.0, "{script}: {drain} ms");
        assert!(drain < f64::from(most) + 2000.0, "{script}: {drain} ms");
        assert!(
            !transcript.finished()["survivors"]
                .as_array()
                .unwrap()
                .is_empty()
        );
        run.assert_complete();
    }
}

#[test]
fn an_agent_that_closes_its_output_is_waited_for() {
    let run =
        sh("echo '{\"a\":1}'; exec >&-; sleep 0.7; echo late >&2; exec 2>&-; sleep 0.7; exit 5")
            .run();
    assert_eq!(run.code(), 5);
    let transcript = run.transcript();
    assert!(transcript.finished()["duration_ms"].as_f64().unwrap() >= 1400.0);
    assert_eq!(transcript.stream("stderr"), b"late\n");
    run.assert_sound();
}

#[test]
fn a_stopped_agent_still_takes_a_request_to_stop() {
    let run = sh("echo $$ > pid; echo '{\"ready\":1}'; exec sleep 300").start();
    run.ready();
    let agent = run.file("pid");
    kill(Pid::from_raw(agent.parse().unwrap()), Signal::SIGSTOP).unwrap();
    poll("the agent's stop", || {
        let stat = std::fs::read_to_string(format!("/proc/{agent}/stat")).unwrap();
        stat.contains(") T ").then_some(())
    });
    run.send(Signal::SIGTERM);
    let run = run.wait();
    assert_eq!(run.code(), 128 + 15);
    assert_eq!(run.transcript().verdict(), "cancelled.host");
    run.assert_sound();
}

#[test]
fn who_was_there_before_the_run_is_none_of_its_business() {
    let supervisor = env!("CARGO_BIN_EXE_sandtrace");
    let script = r#"sleep 987 </dev/null >/dev/null 2>&1 &
        echo $! > daemon
        exec "$0" run --journal "$DIR/journal" --deadline 300ms -- sh -c 'trap "" TERM; sleep 300'"#;
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script, supervisor]);
    let run = sh("").start_as(command).wait();
    assert_eq!(run.code(), 124);
    let transcript = run.transcript();
    assert_eq!(transcript.finished()["survivors"], json!([]));
    let foreign = run.daemon();
    assert_eq!(Vec::from_iter(run.processes()), [foreign]);
    kill(Pid::from_raw(foreign), Signal::SIGKILL).unwrap();
    run.assert_nothing_left();
}

/// It is started after the agent, and its parent is gone before the sweep: only who looked meanwhile knows whose it is.
#[test]
fn what_a_foreign_process_leaves_to_us_is_none_of_our_business_either() {
    let supervisor = env!("CARGO_BIN_EXE_sandtrace");
    let script = r#"(until [ -e go ]; do sleep 0.02; done
            setsid sleep 987 </dev/null >/dev/null 2>&1 & echo $! > daemon
            sleep 3; : > gone) </dev/null >/dev/null 2>&1 &
        exec "$0" run --journal "$DIR/journal" -- sh -c ': > go; until [ -e gone ]; do sleep 0.02; done; sleep 0.2; kill -9 $$'"#;
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script, supervisor]);
    let run = sh("").start_as(command).wait();
    assert_eq!(run.code(), 128 + 9);
    assert_eq!(run.transcript().finished()["survivors"], json!([]));
    let foreign = run.daemon();
    assert_eq!(Vec::from_iter(run.processes()), [foreign]);
    kill(Pid::from_raw(foreign), Signal::SIGKILL).unwrap();
    run.assert_nothing_left();
}

/// Types Ctrl-C on a terminal where the agent runs in the foreground, and exits as the supervisor does.
const TYPIST: &str = r#"
import os, pty, sys, time
pid, terminal = pty.fork()
if pid == 0:
    os.execv(os.environ['BIN'], ['sandtrace', 'run', '--journal', 'off', '--', 'python3', '-c', os.environ['AGENT']])
seen = b''
while b'"ready"' not in seen:
    seen += os.read(terminal, 4096)
os.write(terminal, b'\x03')
try:
    while os.read(terminal, 4096):
        pass
except OSError:
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

/// Exits with 40 and the number of interrupts it got. The supervisor stands still until the first has come, or two at
/// once would count as one.
const COUNTS_INTERRUPTS: &str = r#"
import os, signal, sys, time
count = 0
def interrupted(number, frame):
    global count
    count += 1
signal.signal(signal.SIGINT, interrupted)
os.kill(os.getppid(), signal.SIGSTOP)
with open('/dev/tty', 'w') as terminal:
    terminal.write('{"ready":1}')
until = time.monotonic() + 30
while count == 0 and time.monotonic() < until:
    time.sleep(0.01)
os.kill(os.getppid(), signal.SIGCONT)
time.sleep(0.5)
sys.exit(40 + count)
"#;

#[test]
fn an_interrupt_typed_on_the_terminal_reaches_the_agent_once() {
    if is_ignored(Signal::SIGINT) {
        skipped("SIGINT is ignored here");
        return;
    }
    let run = python(TYPIST)
        .env("BIN", env!("CARGO_BIN_EXE_sandtrace"))
        .env("AGENT", COUNTS_INTERRUPTS)
        .start_alone()
        .wait();
    assert_eq!(run.code(), 41, "{}", run.errors());
    run.assert_nothing_left();
}
