//! The spool: what a run leaves, the next one sends, as it was and once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::supervised::{Finished, Running, Supervised, poll, sh, skipped, times};
use crate::support::receiver::{Answer, Receiver};

/// Makes two spans a round, without end.
const BUSY: &str = r#"
echo '{"type":"system","subtype":"init","session_id":"s1","model":"m"}'
echo '{"ready":1}'
i=0
while [ $i -lt ROUNDS ]; do
  i=$((i+1))
  echo '{"type":"assistant","message":{"id":"m'$i'","model":"m","content":[{"type":"tool_use","id":"t'$i'","name":"Bash","input":{}}],"usage":{"input_tokens":1,"output_tokens":1}}}'
  echo '{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t'$i'","content":"x"}]}}'
  PAUSE
done
"#;

/// Only waits.
const WAITING: &str = "echo '{\"ready\":1}'; read line";

fn busy(rounds: usize, pause: &str) -> String {
    BUSY.replace("ROUNDS", &rounds.to_string())
        .replace("PAUSE", pause)
}

/// A run that sends each span by itself, traces alone, to this address.
fn sending(script: &str, root: &Path, url: &str) -> Supervised {
    sh(script)
        .journal(root)
        .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url)
        .env("OTEL_METRICS_EXPORTER", "none")
        .env("OTEL_LOGS_EXPORTER", "none")
        .env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
        .env("OTEL_BSP_SCHEDULE_DELAY", "20")
}

/// A receiver that is of no use until the switch is on, and slow then.
fn switched(wait: Duration) -> (Receiver, Arc<AtomicBool>) {
    let on = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&on);
    let receiver = Receiver::scripted(move |_, _| match asked.load(Ordering::Relaxed) {
        true => Answer::status(200).after(wait),
        false => Answer::status(503),
    });
    (receiver, on)
}

/// All requests in the spools below a root.
fn spooled(root: &Path) -> Vec<PathBuf> {
    let runs = fs::read_dir(root).unwrap().flatten();
    let spools = runs.filter_map(|run| fs::read_dir(run.path().join("spool")).ok());
    let files = spools.flatten().flatten().map(|file| file.path());
    let mut files: Vec<_> = files
        .filter(|file| file.extension().is_some_and(|ending| ending == "otlp"))
        .collect();
    files.sort();
    files
}

/// Reads a request as the format is documented, not as the program reads it.
fn parse(file: &Path) -> Option<(Value, Vec<u8>)> {
    let bytes = fs::read(file).unwrap();
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (line, body) = (&bytes[..end], &bytes[end + 1..]);
    let header: Value = serde_json::from_slice(line).ok()?;
    let said = header["sha256"].as_str()?;
    let covered = &line[..line.len() - said.len() - ",\"sha256\":\"\"}".len()];
    let digest = Sha256::digest([covered, body].concat());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    (digest == said && header["bytes"] == body.len()).then(|| (header, body.to_vec()))
}

fn bodies(root: &Path) -> Vec<Vec<u8>> {
    let files = spooled(root);
    files
        .iter()
        .filter_map(|file| Some(parse(file)?.1))
        .collect()
}

/// How often each body came.
fn arrivals(receiver: &Receiver) -> BTreeMap<Vec<u8>, usize> {
    let mut arrivals = BTreeMap::new();
    for request in receiver.received() {
        *arrivals.entry(request.body).or_default() += 1;
    }
    arrivals
}

/// A run that is over, and has left this many requests at least.
fn leave(receiver: &Receiver, root: &Path, rounds: usize) -> (Finished, Vec<Vec<u8>>) {
    let run = sending(&busy(rounds, ""), root, &receiver.traces_url())
        .option("--flush-timeout", "300ms")
        .run();
    assert_eq!(run.code(), 0, "{}", run.errors());
    let left = bodies(root);
    assert!(left.len() >= 2 * rounds, "{} requests", left.len());
    (run, left)
}

/// Starts a run that has nothing of its own to say for now.
fn next(receiver: &Receiver, root: &Path) -> Running {
    let run = sending(WAITING, root, &receiver.traces_url())
        .stdin_held()
        .start();
    run.ready();
    run
}

fn end(run: Running) -> Finished {
    run.send(Signal::SIGTERM);
    run.wait()
}

fn counts(run: &Finished) -> Value {
    let finished = run.transcript().finished().clone();
    let rows = finished["telemetry"]["destinations"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == "otlp");
    row.unwrap().clone()
}

fn no_spool_left(root: &Path) {
    for run in fs::read_dir(root).unwrap().flatten() {
        assert!(!run.path().join("spool").exists(), "{:?}", run.path());
    }
}

#[test]
fn what_a_run_leaves_the_next_one_sends_as_it_was_and_once() {
    let root = tempfile::tempdir().unwrap();
    let (receiver, on) = switched(Duration::ZERO);
    let (run, left) = leave(&receiver, root.path(), 20);
    let row = counts(&run);
    assert_eq!(row["exported"], 0);
    assert_eq!(row["dropped"], 0);
    assert_eq!(row["queued"], left.len());
    assert_eq!(row["spooled"], left.len());
    let tried = receiver.received().len();

    on.store(true, Ordering::Relaxed);
    let second = next(&receiver, root.path());
    poll("the spool is sent", || {
        spooled(root.path()).is_empty().then_some(())
    });
    let sent = receiver.received().split_off(tried);
    let sent: Vec<_> = sent.into_iter().map(|request| request.body).collect();
    assert_eq!(
        sent, left,
        "the same bytes, in the order in which they were made"
    );
    let second = end(second);
    let row = counts(&second);
    assert_eq!(row["resent"], left.len());
    assert_eq!(
        (row["dropped"].clone(), row["queued"].clone()),
        (0.into(), 0.into())
    );
    no_spool_left(root.path());
    second.assert_nothing_left();
}

#[test]
fn two_next_runs_at_once_send_nothing_twice() {
    let root = tempfile::tempdir().unwrap();
    let (receiver, on) = switched(Duration::from_millis(15));
    let (_, left) = leave(&receiver, root.path(), 20);
    let before = arrivals(&receiver);
    on.store(true, Ordering::Relaxed);
    let runs = [(); 3].map(|()| {
        sending(WAITING, root.path(), &receiver.traces_url())
            .stdin_held()
            .start()
    });
    poll("the spool is sent", || {
        spooled(root.path()).is_empty().then_some(())
    });
    let resent: u64 = runs
        .into_iter()
        .map(|run| {
            run.ready();
            counts(&end(run))["resent"].as_u64().unwrap()
        })
        .sum();
    assert_eq!(resent, left.len() as u64);
    let after = arrivals(&receiver);
    for body in &left {
        let tried = before.get(body).copied().unwrap_or_default();
        assert_eq!(after[body] - tried, 1);
    }
    no_spool_left(root.path());
}

#[test]
fn torn_and_altered_requests_are_never_sent() {
    let root = tempfile::tempdir().unwrap();
    let (receiver, on) = switched(Duration::ZERO);
    let (_, left) = leave(&receiver, root.path(), 5);
    let files = spooled(root.path());
    let edit = |file: &Path, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(file).unwrap();
        change(&mut bytes);
        fs::write(file, bytes).unwrap();
    };
    edit(&files[0], &|bytes| bytes.truncate(bytes.len() / 2));
    edit(&files[1], &|bytes| *bytes.last_mut().unwrap() ^= 1);
    edit(&files[2], &|bytes| {
        let text = String::from_utf8_lossy(&bytes[..80]).replace("\"otlp\"", "\"0tlp\"");
        bytes[..80].copy_from_slice(text.as_bytes());
    });
    edit(&files[3], &|bytes| bytes.clear());
    edit(&files[4], &|bytes| bytes.extend_from_slice(b"more"));
    let tried = receiver.received().len();

    on.store(true, Ordering::Relaxed);
    let second = next(&receiver, root.path());
    // The third is now for somebody who is not here.
    poll("the spool is sent", || {
        (spooled(root.path()) == files[2..3]).then_some(())
    });
    let sent = receiver.received().split_off(tried);
    let sent: Vec<_> = sent.into_iter().map(|request| request.body).collect();
    assert_eq!(sent, left[5..]);
    let row = counts(&end(second));
    assert_eq!(row["resent"], left.len() - 5);
    let told = row["last_error"].as_str().unwrap();
    assert!(told.contains("request of an earlier run"), "{told}");
}

#[test]
fn a_spool_holds_no_credentials_and_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let root = tempfile::tempdir().unwrap();
    let (receiver, _) = switched(Duration::ZERO);
    let url = format!("{}?token=hush-query", receiver.traces_url());
    let run = sending(&busy(3, ""), root.path(), &url)
        .env(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20hush-header,x-hush-name=1",
        )
        .option("--flush-timeout", "300ms")
        .run();
    assert_eq!(run.code(), 0);
    let files = spooled(root.path());
    assert!(!files.is_empty());
    for file in files {
        let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
        assert!(!text.contains("hush"), "{text}");
        let (header, _) = parse(&file).unwrap();
        assert_eq!(header["destination"], "otlp");
        assert_eq!(header["endpoint"], receiver.traces_url());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o600);
        assert_eq!(mode(file.parent().unwrap()), 0o700);
    }
}

#[test]
fn what_is_for_somebody_else_stays() {
    let root = tempfile::tempdir().unwrap();
    let (receiver, _) = switched(Duration::ZERO);
    let (_, left) = leave(&receiver, root.path(), 3);
    let other = Receiver::healthy();
    let second = next(&other, root.path());
    let row = counts(&end(second));
    assert_eq!(row["resent"], 0);
    assert_eq!(bodies(root.path()), left);
}

#[test]
fn a_backend_that_refuses_what_was_left_is_asked_once() {
    let root = tempfile::tempdir().unwrap();
    let on = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&on);
    let receiver = Receiver::scripted(move |_, _| {
        Answer::status(if asked.load(Ordering::Relaxed) {
            400
        } else {
            503
        })
    });
    let (_, left) = leave(&receiver, root.path(), 3);
    let tried = receiver.received().len();
    on.store(true, Ordering::Relaxed);
    let second = next(&receiver, root.path());
    poll("the spool is settled", || {
        spooled(root.path()).is_empty().then_some(())
    });
    assert_eq!(receiver.received().len() - tried, left.len());
    let row = counts(&end(second));
    assert_eq!(row["resent"], 0);
    assert!(row["last_error"].as_str().unwrap().contains("400"), "{row}");
}

#[test]
fn a_backend_that_still_fails_is_tried_with_one_request_of_all_that_was_left() {
    let root = tempfile::tempdir().unwrap();
    let (receiver, _) = switched(Duration::ZERO);
    let (_, left) = leave(&receiver, root.path(), 5);
    let tried = receiver.received().len();
    let second = next(&receiver, root.path());
    receiver.wait_for(tried + 1, Duration::from_secs(10));
    let row = counts(&end(second));
    let asked = receiver.received().split_off(tried);
    let asked = asked.iter().filter(|request| left.contains(&request.body));
    assert_eq!(asked.count(), 1);
    assert_eq!(row["resent"], 0);
    let still = bodies(root.path());
    assert!(left.iter().all(|body| still.contains(body)));
}

#[test]
fn an_answer_that_never_comes_to_what_was_left_delays_neither_the_run_nor_its_end() {
    let root = tempfile::tempdir().unwrap();
    let left: Arc<Mutex<Option<Vec<Vec<u8>>>>> = Arc::default();
    let asked = Arc::clone(&left);
    let receiver = Receiver::scripted(move |_, request| match &*asked.lock().unwrap() {
        None => Answer::status(503),
        Some(left) if left.contains(&request.body) => Answer::BlackHole,
        Some(_) => Answer::status(200),
    });
    let (_, bodies_left) = leave(&receiver, root.path(), 5);
    *left.lock().unwrap() = Some(bodies_left.clone());
    let tried = receiver.received().len();
    let second = next(&receiver, root.path());
    receiver.wait_for(tried + 1, Duration::from_secs(10));
    let asked = Instant::now();
    second.send(Signal::SIGTERM);
    let second = second.wait();
    assert!(
        asked.elapsed() < Duration::from_secs(4),
        "{:?}",
        asked.elapsed()
    );
    let row = counts(&second);
    assert_eq!(
        row["exported"],
        second.transcript().span_ids().len(),
        "{row}"
    );
    assert_eq!(bodies(root.path()), bodies_left, "nothing is lost");
}

/// What was acknowledged is not sent again, but for what a kill catches between the answer and the removal: at most one
/// request of the run's own and one of those that earlier runs had left.
#[test]
fn a_supervisor_killed_at_any_moment_loses_nothing_and_repeats_next_to_nothing() {
    let root = tempfile::tempdir().unwrap();
    let receiver = Receiver::scripted(|_, _| Answer::status(200).after(Duration::from_millis(12)));
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut left = BTreeSet::new();
    let mut before = BTreeMap::new();
    let mut caught = 0;
    for _ in 0..times("SANDTRACE_TEST_KILLS", 30) {
        let run = sending(
            &busy(100_000, "sleep 0.015"),
            root.path(),
            &receiver.traces_url(),
        )
        .start();
        run.ready();
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        std::thread::sleep(Duration::from_millis((random >> 33) % 250));
        run.send(Signal::SIGKILL);
        poll("its lock is free", || {
            let mut run = run_directories(root.path()).into_iter();
            run.all(|run| !is_locked(&run)).then_some(())
        });
        let answered = arrivals(&receiver);
        let files = spooled(root.path());
        let whole: Vec<_> = files.iter().filter_map(|file| parse(file)).collect();
        assert!(
            files.len() - whole.len() <= 1,
            "at most the one being written is torn"
        );
        // What came during this run and is still there.
        let again = whole
            .iter()
            .filter(|(_, body)| answered.get(body) > before.get(body))
            .count();
        assert!(
            again <= 2,
            "{again} requests were acknowledged and are still there"
        );
        caught += again;
        left.extend(whole.into_iter().map(|(_, body)| body));
        before = answered;
    }
    assert!(left.len() > 10, "the kills left {} requests", left.len());
    let last = next(&receiver, root.path());
    poll("all spools are sent", || {
        spooled(root.path()).is_empty().then_some(())
    });
    assert_eq!(counts(&end(last))["queued"], 0);
    let arrived = arrivals(&receiver);
    for body in &left {
        assert!(arrived.contains_key(body), "a request never came");
    }
    let repeated: usize = arrived.values().map(|count| count - 1).sum();
    assert!(
        repeated <= caught,
        "{repeated} repeated, {caught} were in flight"
    );
    // Whatever the journals say of spans was delivered, but for a batch that a kill caught on its way to the spool.
    for run in run_directories(root.path()) {
        let events = fs::read_to_string(run.join("events.ndjson")).unwrap();
        let torn = events
            .lines()
            .filter(|line| serde_json::from_str::<Value>(line).is_err());
        assert!(torn.count() <= 1, "{run:?}");
    }
}

fn run_directories(root: &Path) -> Vec<PathBuf> {
    let runs = fs::read_dir(root).unwrap().flatten();
    runs.map(|run| run.path()).collect()
}

fn is_locked(run: &Path) -> bool {
    use nix::fcntl::{Flock, FlockArg};
    let Ok(lock) = fs::File::open(run.join("spool/lock")) else {
        return false;
    };
    Flock::lock(lock, FlockArg::LockSharedNonblock).is_err()
}

#[test]
fn a_full_disk_costs_the_spool_and_not_the_run() {
    let (receiver, _) = switched(Duration::ZERO);
    let case = sending(
        &format!("{}\nexit 9", busy(300, "")),
        Path::new("/nonexistent"),
        &receiver.traces_url(),
    )
    .stdin("");
    fs::create_dir(case.directory().join("disk")).unwrap();
    let script = "mount -t tmpfs -o size=192k none \"$DIR\"/disk || exit 99; exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args([
            "-rm",
            "sh",
            "-c",
            script,
            "sh",
            env!("CARGO_BIN_EXE_sandtrace"),
            "run",
        ])
        .args([
            "--journal",
            "disk/journal",
            "--flush-timeout",
            "300ms",
            "--",
        ])
        .args(["sh", "-c"])
        .arg(format!("{}\nexit 9", busy(300, "")));
    let run = case.start_as(command).wait();
    if run.status.code() != Some(9) && !run.errors().contains("sandtrace") {
        skipped(format_args!(
            "no file system can be mounted here: {}",
            run.errors()
        ));
        return;
    }
    assert_eq!(run.code(), 9, "{}", run.errors());
    run.transcript().assert_whole();
    let row = counts(&run);
    let number = |name: &str| row[name].as_u64().unwrap();
    // The disk's end came before the last span: all of them are somewhere or counted.
    assert!(number("spooled") < number("queued"), "{row}");
    assert_eq!(number("dropped"), 0, "memory has room for them");
    run.assert_nothing_left();
}

/// A backend that is away for the whole of a run costs disk, not memory.
#[test]
fn ten_thousand_long_spans_that_nobody_takes_wait_on_disk() {
    let root = tempfile::tempdir().unwrap();
    let (receiver, _) = switched(Duration::ZERO);
    let run = sh(&format!(
        "{}\n echo '{{\"done\":1}}'; read line",
        busy(5_000, "")
    ))
    .journal(root.path())
    .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", receiver.traces_url())
    .env("OTEL_METRICS_EXPORTER", "none")
    .env("OTEL_LOGS_EXPORTER", "none")
    .env("OTEL_BSP_SCHEDULE_DELAY", "100")
    .option("--flush-timeout", "300ms")
    // More than may be in memory, all in all.
    .option("--attribute", format!("pad={}", "x".repeat(3_000)))
    .stdin_held()
    .start();
    run.line("the agent is done", |line| line.get("done").is_some());
    let peak = run.memory("VmHWM");
    let run = end(run);
    let row = counts(&run);
    let number = |name: &str| row[name].as_u64().unwrap();
    let all = run.transcript().finished()["telemetry"].clone();
    let all = |name: &str| all[name].as_u64().unwrap();
    assert!(all("spans") >= 10_000);
    let told = number("queued") + number("dropped") + all("spans_dropped");
    assert_eq!(told, all("spans"), "{row}");
    assert!(number("spooled") > 0, "{row}");
    assert!(peak < 48 << 10, "{peak} KiB at the most");
}

/// Whoever goes back to an older version must not lose what the newer one left.
#[test]
fn what_a_newer_version_left_stays_and_doctor_names_it() {
    let root = tempfile::tempdir().unwrap();
    let (receiver, on) = switched(Duration::ZERO);
    let (run, left) = leave(&receiver, root.path(), 3);
    let newer = run.journal().join("spool/0000000900.otlp");
    let text = "{\"spool\":2,\"parts\":[1,2]}\nsomething else";
    fs::write(&newer, text).unwrap();
    let doctor = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_sandtrace"))
            .arg("doctor")
            .arg("--journal")
            .arg(root.path())
            .args(arguments)
            .env_clear()
            .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", receiver.traces_url())
            .env("OTEL_METRICS_EXPORTER", "none")
            .env("OTEL_LOGS_EXPORTER", "none")
            .output()
            .unwrap();
        let report = String::from_utf8(output.stdout).unwrap();
        let lines = report.lines().filter(|line| line.contains("spool"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let told = doctor(&[]);
    assert!(
        told.iter()
            .any(|line| line.contains("1 requests were written by a newer sandtrace")),
        "{told:?}"
    );
    assert!(
        !told.iter().any(|line| line.contains("damaged")),
        "{told:?}"
    );

    on.store(true, Ordering::Relaxed);
    let second = next(&receiver, root.path());
    poll("the spool is sent", || {
        (spooled(root.path()) == [newer.clone()]).then_some(())
    });
    let row = counts(&end(second));
    assert_eq!(row["resent"], left.len());
    assert_eq!(row["last_error"], Value::Null, "nothing was damaged");
    let told = doctor(&["--resend"]);
    assert!(
        told.iter().any(|line| line.contains("newer sandtrace")),
        "{told:?}"
    );
    assert_eq!(fs::read_to_string(&newer).unwrap(), text);
}

/// A run in a mount namespace of its own, where a file says which sandbox this is. `None` where there is none to be had.
fn in_sandbox(id: &str, script: &str, root: &Path, url: &str) -> Option<Running> {
    let supervised = sending(script, root, url).stdin_held();
    let enter = format!(
        "mount -t tmpfs none /run && mkdir /run/e2b && echo {id} > /run/e2b/.E2B_SANDBOX_ID || exit 99; exec \"$@\""
    );
    let probe = Command::new("unshare")
        .args(["-m", "mount", "-t", "tmpfs", "none", "/run"])
        .output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        skipped("no mount namespace to be had");
        return None;
    }
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", &enter, "sh"])
        .args([
            env!("CARGO_BIN_EXE_sandtrace"),
            "run",
            "--flush-timeout",
            "1s",
        ])
        .arg("--journal")
        .arg(root)
        .args(["--", "sh", "-c", script]);
    let run = supervised.start_as(command);
    run.ready();
    Some(run)
}

/// The copy of a sandbox is made as its host makes one: the file says another id.
fn copy_sandbox(run: &Running) {
    let id = format!("/proc/{}/root/run/e2b/.E2B_SANDBOX_ID", run.pid());
    fs::write(id, "second\n").unwrap();
}

/// The trace ids of all spans in these bodies.
fn traces(receiver: &Receiver, from: usize) -> BTreeSet<String> {
    let received = receiver.received().split_off(from);
    let spans = received.iter().flat_map(|request| request.spans());
    spans
        .map(|span| {
            let bytes = span.trace_id.iter();
            bytes.map(|byte| format!("{byte:02x}")).collect()
        })
        .collect()
}

#[test]
fn a_copy_of_the_sandbox_sends_nothing_that_waited_when_it_was_made() {
    let root = tempfile::tempdir().unwrap();
    let (receiver, on) = switched(Duration::ZERO);
    let wait = "until [ -e \"$DIR/go\" ]; do sleep 0.05; done";
    // Other calls than before.
    let later = busy(5, "")
        .replace("i=0", "i=20")
        .replace("-lt 5", "-lt 25");
    let script = format!("{}\n{wait}\n{later}\nread line", busy(20, ""));
    let url = receiver.traces_url();
    let Some(run) = in_sandbox("first", &script, root.path(), &url) else {
        return;
    };
    let before = poll("the requests wait", || {
        let waiting = bodies(root.path());
        (waiting.len() >= 40).then_some(waiting)
    });
    // The first has failed, and waits for its next try.
    receiver.wait_for(1, Duration::from_secs(30));
    copy_sandbox(&run);
    on.store(true, Ordering::Relaxed);
    let tried = receiver.received().len();
    let second = run.line("the copy's own run", |line| {
        line["type"] == "sandtrace.run.started" && line["data"]["forked_from"].is_object()
    });
    fs::write(run.directory().join("go"), "").unwrap();
    receiver.wait_for(tried + 10, Duration::from_secs(30));
    let run = end(run);
    let trace = second["data"]["trace_id"].as_str().unwrap().to_owned();
    assert_eq!(traces(&receiver, tried), BTreeSet::from([trace]));
    let row = counts(&run);
    let number = |name: &str| row[name].as_u64().unwrap();
    assert!(number("dropped") >= before.len() as u64, "{row}");
    assert!(number("exported") >= 10, "{row}");
    assert_eq!((number("queued"), number("spooled")), (0, 0), "{row}");
    assert!(
        row["last_error"].as_str().unwrap().contains("copy"),
        "{row}"
    );
    no_spool_left(root.path());
    run.assert_nothing_left();
}

#[test]
fn what_a_run_left_is_sent_from_its_own_sandbox_and_from_no_copy() {
    let root = tempfile::tempdir().unwrap();
    let (receiver, on) = switched(Duration::ZERO);
    let url = receiver.traces_url();
    let Some(run) = in_sandbox("first", &busy(5, ""), root.path(), &url) else {
        return;
    };
    run.wait();
    let left = bodies(root.path());
    assert!(left.len() >= 10);
    on.store(true, Ordering::Relaxed);
    let tried = receiver.received().len();
    let copy = in_sandbox("second", WAITING, root.path(), &url).unwrap();
    assert_eq!(counts(&end(copy))["resent"], 0);
    assert_eq!(bodies(root.path()), left, "it is not the copy's to remove");
    let arrived = receiver.received().split_off(tried);
    assert!(!arrived.iter().any(|request| left.contains(&request.body)));

    let same = in_sandbox("first", WAITING, root.path(), &url).unwrap();
    poll("the spool is sent", || {
        spooled(root.path()).is_empty().then_some(())
    });
    assert_eq!(counts(&end(same))["resent"], left.len());
    no_spool_left(root.path());
}
