//! What the fake envd does to processes: everything that E2B's users fell over.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fake_envd::{FakeEnvd, Options};
use crate::raw::{Answer, Request, STREAM, envelope, poll, run};

/// Starts a command that goes on; its pid with the stream.
fn start(fake: &FakeEnvd, command: &str) -> (i64, Answer) {
    let mut answer = Request::start(command).send(fake).unwrap();
    (answer.pid(), answer)
}

fn send_signal(fake: &FakeEnvd, pid: i64, signal: &str) -> u16 {
    let message = json!({"process": {"pid": pid}, "signal": signal});
    Request::unary("SendSignal", &message).whole(fake).status
}

/// The commands that go on, as List tells them.
fn listed(fake: &FakeEnvd) -> Vec<Value> {
    let list = Request::unary("List", &json!({})).whole(fake).json();
    list["processes"].as_array().cloned().unwrap_or_default()
}

fn is_alive(pid: i64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Lets a waiting `until [ -e NAME ]` go on.
fn release(fake: &FakeEnvd, name: &str) {
    fs::write(fake.home().join(name), "").unwrap();
}

const WAIT: &str = "wait_for() { until [ -e $HOME/$1 ]; do sleep 0.01; done; };";

#[test]
fn a_command_is_a_login_shell_below_a_wrapper_in_an_environment_of_its_own() {
    let fake = FakeEnvd::start();
    fs::write(
        fake.home().join(".profile"),
        "echo noise; export FROM_PROFILE=yes\n",
    )
    .unwrap();
    let command = "env; pwd; cat /proc/self/oom_score_adj; readlink /proc/self/fd/0";
    let message = json!({
        "process": {
            "cmd": "/bin/bash",
            "args": ["-l", "-c", command],
            "envs": {"MINE": "a b", "E2B_TEMPLATE_ID": "overridden"},
        },
        "stdin": false,
    });
    let mut answer = Request::streaming("Start", &message).send(&fake).unwrap();
    answer.pid();
    let output = answer.output();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[0], "noise", "{output:?}");
    let home = fake.home().display().to_string();
    for expected in [
        "MINE=a b",
        "FROM_PROFILE=yes",
        "E2B_SANDBOX=true",
        "E2B_SANDBOX_ID=debug_sandbox_id",
        "E2B_TEMPLATE_ID=overridden",
        &format!("HOME={home}"),
        "/dev/null",
    ] {
        assert!(lines.contains(&expected), "{expected} is not in {lines:?}");
    }
    for absent in ["CARGO", "RUST"] {
        assert!(!output.stdout.contains(absent), "{absent} is not E2B's");
    }
    let score: i32 = lines[lines.len() - 2].parse().unwrap();
    assert!(score >= 100, "{score}");
    assert_eq!(lines[lines.len() - 3], home);
}

#[test]
fn the_pid_is_the_command_itself_and_a_kill_meets_no_other() {
    let fake = FakeEnvd::start();
    let (pid, mut stream) = start(&fake, "exec sh -c 'sleep 1000 & echo $!; wait'");
    stream.until_printed("\n");
    assert_eq!(
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(),
        "sh\n"
    );
    let list = listed(&fake);
    assert_eq!(list.len(), 1);
    assert_eq!(list[0]["pid"], pid);
    assert_eq!(list[0]["config"]["cmd"], "/bin/bash");
    assert_eq!(send_signal(&fake, pid, "SIGNAL_SIGKILL"), 200);
    poll("the end of the command", || {
        listed(&fake).is_empty().then_some(())
    });
    assert!(!is_alive(pid));
    // Its child knows nothing of it.
    assert_eq!(fake.processes().len(), 1);
    drop(fake);
}

#[test]
fn a_timeout_of_start_kills_and_is_told_as_one() {
    let fake = FakeEnvd::start();
    let began = Instant::now();
    let request = Request::start("echo begun; exec sleep 1000").header("connect-timeout-ms", 700);
    let mut answer = request.send(&fake).unwrap();
    let pid = answer.pid();
    let output = answer.output();
    assert_eq!(output.stdout, "begun\n");
    assert_eq!(output.end, None);
    assert_eq!(output.error.unwrap()["code"], "deadline_exceeded");
    assert!(began.elapsed() >= Duration::from_millis(700));
    poll("the kill", || (!is_alive(pid)).then_some(()));
    let mut later = Request::connect(pid).send(&fake).unwrap();
    assert_eq!(later.pid(), pid);
    assert_eq!(later.output().end.unwrap()["status"], "signal: killed");
}

#[test]
fn a_timeout_of_connect_ends_the_stream_and_nothing_else() {
    let fake = FakeEnvd::start();
    let (pid, _stream) = start(&fake, "exec sleep 1000");
    let request = Request::connect(pid).header("connect-timeout-ms", 100);
    let mut answer = request.send(&fake).unwrap();
    assert_eq!(answer.pid(), pid);
    assert_eq!(answer.output().error.unwrap()["code"], "deadline_exceeded");
    assert!(is_alive(pid));
}

#[test]
fn who_hangs_up_misses_what_is_said_meanwhile_and_kills_nobody() {
    let fake = FakeEnvd::start();
    let command =
        format!("{WAIT} echo one; wait_for a; echo two; touch $HOME/said; wait_for b; echo three");
    let (pid, mut stream) = start(&fake, &command);
    stream.until_printed("one\n");
    drop(stream);
    release(&fake, "a");
    poll("the second word", || {
        fake.home().join("said").exists().then_some(())
    });
    // It lies in the pipe, from which the fake is to take it.
    thread::sleep(Duration::from_millis(500));
    let mut again = Request::connect(pid).send(&fake).unwrap();
    assert_eq!(again.pid(), pid);
    release(&fake, "b");
    let output = again.output();
    assert_eq!(output.stdout, "three\n");
    assert_eq!(output.end.unwrap()["exited"], true);
}

#[test]
fn every_subscriber_gets_everything() {
    let fake = FakeEnvd::start();
    let (pid, mut first) = start(&fake, &format!("{WAIT} wait_for go; seq 20000"));
    let mut second = Request::connect(pid).send(&fake).unwrap();
    second.pid();
    release(&fake, "go");
    let other = thread::spawn(move || second.output());
    let output = first.output();
    let expected: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    assert!(output.stdout == expected, "{} bytes", output.stdout.len());
    assert!(other.join().unwrap().stdout == expected);
    assert!(output.chunks.iter().all(|size| *size <= 32 << 10));
    assert!(output.chunks.len() > 3, "{:?}", output.chunks);
}

#[test]
fn an_exit_is_remembered_for_a_while_and_then_forgotten() {
    let retention = Duration::from_millis(1500);
    let fake = FakeEnvd::with(Options {
        exit_retention: retention,
        ..Options::default()
    });
    let (pid, mut stream) = start(&fake, "exit 7");
    assert_eq!(stream.output().end.unwrap()["exitCode"], 7);
    assert_eq!(listed(&fake), Vec::<Value>::new());
    let mut late = Request::connect(pid).send(&fake).unwrap();
    assert_eq!(late.pid(), pid);
    assert_eq!(late.output().end.unwrap()["exitCode"], 7);
    assert_eq!(
        send_signal(&fake, pid, "SIGNAL_SIGTERM"),
        500,
        "no such process"
    );
    let error = poll("the pid to be forgotten", || {
        let mut answer = Request::connect(pid).send(&fake).unwrap();
        let (_, message) = answer.envelope().unwrap().unwrap();
        message.get("error").cloned()
    });
    assert_eq!(error["code"], "not_found");
}

#[test]
fn a_subscriber_that_does_not_read_holds_the_process_back() {
    let fake = FakeEnvd::start();
    // 64 MB, more than all buffers between the two.
    let command = "head -c 64000000 /dev/zero | tr '\\0' x; echo 1 >$HOME/done";
    let (pid, mut stream) = start(&fake, command);
    // Another one that reads does not help.
    let mut other = Request::connect(pid).send(&fake).unwrap();
    other.pid();
    let reading = thread::spawn(move || other.output());
    let held = Instant::now();
    while held.elapsed() < Duration::from_secs(2) {
        assert!(!fake.home().join("done").exists(), "nobody has read it");
        thread::sleep(Duration::from_millis(20));
    }
    let chunks = stream.output().chunks;
    assert_eq!(chunks.iter().sum::<usize>(), 64_000_000);
    assert!(fake.home().join("done").exists());
    assert!(reading.join().unwrap().end.is_some());
}

#[test]
fn after_a_signal_the_tail_is_cut_at_the_exit_unless_the_process_lingers() {
    let fake = FakeEnvd::start();
    // What is written less than this before the exit is not read in time.
    fake.faults(|faults| faults.read_delay = Duration::from_millis(300));
    let command = |last: &str| {
        format!("trap 'echo last; {last} exit 0' TERM; echo ready; while :; do sleep 0.02; done")
    };
    let mut lost = 0;
    for (last, is_kept) in [("", false), ("sleep 1;", true)] {
        let (pid, mut stream) = start(&fake, &command(last));
        stream.until_printed("ready\n");
        assert_eq!(send_signal(&fake, pid, "SIGNAL_SIGTERM"), 200);
        let output = stream.output();
        assert_eq!(output.end.unwrap()["status"], "exit status 0");
        assert_eq!(output.stdout == "last\n", is_kept, "{:?}", output.stdout);
        lost += usize::from(output.stdout.is_empty());
    }
    assert_eq!(lost, 1);
    // Without a signal nothing is lost.
    assert_eq!(run(&fake, "echo last").stdout, "last\n");
}

#[test]
fn the_end_waits_for_whoever_holds_a_pipe() {
    let fake = FakeEnvd::start();
    let command = format!("{WAIT} (wait_for go; echo heir) & echo parent");
    let (_, mut stream) = start(&fake, &command);
    stream.until_printed("parent\n");
    thread::sleep(Duration::from_millis(300));
    release(&fake, "go");
    let output = stream.output();
    assert_eq!(output.stdout, "heir\n");
    assert_eq!(output.end.unwrap()["status"], "exit status 0");
    // Stderr alone holds it as well.
    let began = Instant::now();
    let output = run(&fake, "sleep 0.7 >/dev/null & echo parent");
    assert!(began.elapsed() >= Duration::from_millis(700));
    assert_eq!(output.stdout, "parent\n");
}

fn input(pid: i64, bytes: &str) -> Value {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    json!({"process": {"pid": pid}, "input": {"stdin": text}})
}

#[test]
fn stdin_is_written_in_order_and_closed_on_demand() {
    let fake = FakeEnvd::start();
    let message = json!({
        "process": {"cmd": "/bin/bash", "args": ["-l", "-c", "cat; echo over"]},
        "stdin": true,
    });
    let mut stream = Request::streaming("Start", &message).send(&fake).unwrap();
    let pid = stream.pid();
    let status =
        |procedure, message: &Value| Request::unary(procedure, message).whole(&fake).status;
    assert_eq!(status("SendInput", &input(pid, "one\n")), 200);
    stream.until_printed("one\n");
    let mut body = Vec::new();
    let selector = json!({"start": {"process": {"pid": pid}}});
    body.extend(envelope(0, selector.to_string().as_bytes()));
    for line in ["two\n", "three\n"] {
        let data = json!({"data": {"input": input(pid, line)["input"]}, "ignored": 1});
        body.extend(envelope(0, data.to_string().as_bytes()));
    }
    body.extend(envelope(0, b"{\"keepalive\":{}}"));
    let streamed = Request::call("StreamInput", STREAM, body).whole(&fake);
    assert_eq!(streamed.envelopes(), [(0, json!({})), (2, json!({}))]);
    assert_eq!(status("CloseStdin", &json!({"process": {"pid": pid}})), 200);
    let output = stream.output();
    assert_eq!(output.stdout, "two\nthree\nover\n");
    assert_eq!(status("SendInput", &input(pid, "late")), 500);
}

#[test]
fn stdin_is_on_unless_it_is_switched_off() {
    let fake = FakeEnvd::start();
    let message =
        json!({"process": {"cmd": "/bin/bash", "args": ["-c", "read line; echo got $line"]}});
    let mut stream = Request::streaming("Start", &message).send(&fake).unwrap();
    let pid = stream.pid();
    let sent = Request::unary("SendInput", &input(pid, "it\n")).whole(&fake);
    assert_eq!(sent.status, 200);
    assert_eq!(stream.output().stdout, "got it\n");
    let (pid, _stream) = start(&fake, "exec sleep 1000");
    let refused = Request::unary("SendInput", &input(pid, "it\n")).whole(&fake);
    assert_eq!(refused.json()["code"], "internal");
}

#[test]
fn a_tag_names_a_process() {
    let fake = FakeEnvd::start();
    let message = json!({"process": {"cmd": "sleep", "args": ["1000"]}, "tag": "agent"});
    let mut stream = Request::streaming("Start", &message).send(&fake).unwrap();
    let pid = stream.pid();
    let by_tag = json!({"process": {"tag": "agent"}, "signal": 9});
    assert_eq!(
        Request::unary("SendSignal", &by_tag).whole(&fake).status,
        200
    );
    assert_eq!(stream.output().end.unwrap()["exitCode"], -1);
    assert!(!is_alive(pid));
}
