//! `sandtrace attach RUN --after SEQ`.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::supervised::{Running, fault, poll, sh};

/// Somebody who is attached to a run.
struct Attached {
    child: Child,
    unread: Option<ChildStdout>,
    stdout: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

/// One who is not attached any more.
struct Detached {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: String,
}

impl Attached {
    fn new(run: &str, options: &[&str]) -> Self {
        let mut attached = Self::unread(run, options);
        attached.read();
        attached
    }

    /// Nobody reads what it prints until [`Self::read`].
    fn unread(run: &str, options: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sandtrace"))
            .args(["attach", run])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            unread: child.stdout.take(),
            child,
            stdout: Arc::default(),
            reader: None,
        }
    }

    fn read(&mut self) {
        let (mut from, to) = (self.unread.take().unwrap(), Arc::clone(&self.stdout));
        self.reader = Some(thread::spawn(move || {
            let mut chunk = vec![0; 64 << 10];
            while let Ok(length @ 1..) = from.read(&mut chunk) {
                to.lock().unwrap().extend_from_slice(&chunk[..length]);
            }
        }));
    }

    fn so_far(&self) -> Vec<u8> {
        self.stdout.lock().unwrap().clone()
    }

    fn until(&self, what: &str, text: &str) {
        poll(what, || {
            String::from_utf8(self.so_far())
                .unwrap()
                .contains(text)
                .then_some(())
        });
    }

    fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    fn wait(mut self) -> Detached {
        let status = poll("the end of the attachment", || {
            self.child.try_wait().unwrap()
        });
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        let mut stderr = String::new();
        let mut from = self.child.stderr.take().unwrap();
        from.read_to_string(&mut stderr).unwrap();
        Detached {
            status,
            stdout: self.so_far(),
            stderr,
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

impl Detached {
    fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// What it says to people: one sentence.
    fn said(&self) -> &str {
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        assert!(self.stderr.starts_with("sandtrace: "), "{}", self.stderr);
        &self.stderr
    }

    fn assert_whole_run_from(&self, lines: &[u8]) {
        assert_eq!(self.code(), Some(0), "{}", self.stderr);
        assert_eq!(self.stderr, "");
        assert!(
            self.stdout == lines,
            "{} bytes, not {}: {}",
            self.stdout.len(),
            lines.len(),
            String::from_utf8_lossy(&self.stdout)
                .chars()
                .take(2000)
                .collect::<String>()
        );
    }
}

fn attach(run: &str, options: &[&str]) -> Detached {
    Attached::new(run, options).wait()
}

/// The journal's directory of a run that goes on.
fn journal(run: &Running) -> PathBuf {
    let root = run.directory().join("journal");
    let mut runs = fs::read_dir(root).unwrap();
    runs.next().unwrap().unwrap().path()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn lines(stdout: &[u8]) -> Vec<&[u8]> {
    stdout.split_inclusive(|byte| *byte == b'\n').collect()
}

/// Lines of every kind: an agent's with white space around and inside, words, half a line, bytes, and long ones.
const TALK: &str = r#"
printf '{"type":"x","text":"\\"sandtrace\\":{\\"seq\\":1,"}\n'
printf ' { "spaces" : [ ] }  \t \r\n{}\nwords\n\377\376\n'
head -c 300000 /dev/zero | tr '\0' x | sed 's/.*/{"long":"&"}/'
printf '\n{"padded":1}'; head -c 100000 /dev/zero | tr '\0' ' '; echo
echo err >&2; printf 'half a line'; exit 3
"#;

#[test]
fn a_run_that_is_over_is_printed_again_from_any_line_on() {
    let run = sh(TALK).run();
    let directory = run.journal();
    let told = lines(&run.stdout);
    let last = run.transcript().lines.len();
    assert!(last > 12 && told.len() == last, "{last}");
    for after in 0..=last + 2 {
        let detached = attach(text(&directory), &["--after", &after.to_string()]);
        let missing = told[after.min(last)..].concat();
        detached.assert_whole_run_from(&missing);
    }
    // By its id, and all of it if nothing is said.
    let (root, id) = (directory.parent().unwrap(), directory.file_name().unwrap());
    let detached = attach(id.to_str().unwrap(), &["--journal", text(root)]);
    detached.assert_whole_run_from(&run.stdout);
    run.assert_sound();
}

#[test]
fn a_run_is_followed_as_it_goes_on() {
    let script = "--lines 3 --touch started --wait-for one --lines 2 --to stderr --lines 1 --to stdout --wait-for two --lines 500 --exit 7";
    let mut run = fault(script).start();
    let started = run.directory().join("started");
    poll("the first lines", || started.exists().then_some(()));
    let directory = journal(&run);
    let early = Attached::new(text(&directory), &[]);
    let later = Attached::new(text(&directory), &["--after", "5"]);
    // More than there is before the end.
    let last = Attached::new(text(&directory), &["--after", "500"]);
    for go in ["one", "two"] {
        let before = early.so_far().len();
        fs::write(run.directory().join(go), "").unwrap();
        poll("new lines", || {
            (early.so_far().len() > before).then_some(())
        });
        assert!(last.so_far().is_empty() || go == "two");
    }
    poll("the end of the run", || run.is_over().then_some(()));
    let run = run.wait();
    let told = lines(&run.stdout);
    early.wait().assert_whole_run_from(&run.stdout);
    later.wait().assert_whole_run_from(&told[5..].concat());
    last.wait().assert_whole_run_from(&told[500..].concat());
    assert_eq!(run.code(), 7);
    run.assert_sound();
}

#[test]
fn whoever_lost_the_connection_gets_the_rest() {
    // A host that reads a little and hangs up, as often as not in the middle of a line.
    let mut run = fault("--lines 2000 --touch half --wait-for go --lines 2000")
        .unread()
        .start();
    let half = run.directory().join("half");
    poll("half of the lines", || half.exists().then_some(()));
    run.close_stdout();
    let directory = journal(&run);
    let attached = Attached::new(text(&directory), &["--after", "1000"]);
    fs::write(run.directory().join("go"), "").unwrap();
    let run = run.wait();
    let told = run.journal_file("events.ndjson");
    let told = lines(&told);
    assert!(told.len() > 4000);
    attached
        .wait()
        .assert_whole_run_from(&told[1000..].concat());
    run.assert_journal_whole();
    run.assert_nothing_left();
}

#[test]
fn a_run_whose_supervisor_is_killed_ends_with_3_and_without_its_torn_line() {
    let kept = tempfile::tempdir().unwrap();
    let root = kept.path().to_str().unwrap();
    let options = ["--journal", root];
    let run = sh("echo '{\"ready\":1}'; exec sleep 300")
        .option("--run-id", "lost")
        .journal(root)
        .start();
    run.ready();
    let following = Attached::new("lost", &options);
    following.until("the agent's line", "ready");
    let pid = run.pid();
    run.send(Signal::SIGKILL);
    // Nobody has asked for its status yet, and still it is known to be dead.
    let followed = following.wait();
    let events = kept.path().join("lost/events.ndjson");
    let whole = fs::read(&events).unwrap();
    let mut file = OpenOptions::new().append(true).open(&events).unwrap();
    file.write_all(b"{\"type\":\"assistant\",\"sandtrace\":{\"seq\":99,\"ti")
        .unwrap();
    drop(run);
    for detached in [followed, attach("lost", &options)] {
        assert_eq!(detached.code(), Some(3));
        assert!(detached.stdout == whole);
        let gone =
            format!("the supervisor of run lost, pid {pid}, is gone without having finished");
        assert!(detached.said().contains(&gone), "{}", detached.stderr);
        assert!(detached.said().contains("sandtrace report lost"));
    }
    // Nothing is there after the last line, and nothing ever will be.
    let detached = attach("lost", &["--journal", root, "--after", "4000"]);
    assert_eq!((detached.code(), detached.stdout.len()), (Some(3), 0));
}

#[test]
fn a_reader_that_leaves_in_the_middle_is_no_error() {
    // Far more than a pipe holds.
    let run = sh("yes '{}' | head -n 20000; exit 4").run();
    let mut attached = Attached::unread(text(&run.journal()), &[]);
    let mut stdout = attached.unread.take().unwrap();
    stdout.read_exact(&mut [0; 10]).unwrap();
    assert!(!attached.is_over());
    drop(stdout);
    let detached = attached.wait();
    assert_eq!((detached.code(), detached.stderr.as_str()), (Some(0), ""));
    run.assert_sound();
}

#[test]
fn a_reader_that_sleeps_costs_no_memory_and_loses_nothing() {
    let script = "--touch started --line-length 4000 --lines 8000 --touch done --wait-for go";
    let run = fault(script).start();
    let started = run.directory().join("started");
    poll("its beginning", || started.exists().then_some(()));
    let directory = journal(&run);
    let mut attached = Attached::unread(text(&directory), &[]);
    let done = run.directory().join("done");
    poll("32 MB of lines", || done.exists().then_some(()));
    fs::write(run.directory().join("go"), "").unwrap();
    let run = run.wait();
    let status = fs::read_to_string(format!("/proc/{}/status", attached.child.id())).unwrap();
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    let peak: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(peak < 24 << 10, "{peak} KiB");
    attached.read();
    attached.wait().assert_whole_run_from(&run.stdout);
    run.assert_sound();
}

/// A journal that the test writes, and a process that it says is the supervisor.
struct Forged {
    root: TempDir,
    directory: PathBuf,
    supervisor: Child,
    events: File,
    seq: u64,
    /// All that was ever written.
    told: Vec<u8>,
}

impl Forged {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("forged");
        fs::create_dir(&directory).unwrap();
        let supervisor = Command::new("sleep").arg("300").spawn().unwrap();
        let events = File::create_new(directory.join("events.ndjson")).unwrap();
        let forged = Self {
            root,
            directory,
            supervisor,
            events,
            seq: 0,
            told: Vec::new(),
        };
        forged.state("running", &Value::Null);
        forged
    }

    fn state(&self, status: &str, outcome: &Value) {
        let pid = self.supervisor.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let ticks = stat
            .rsplit(") ")
            .next()
            .unwrap()
            .split(' ')
            .nth(19)
            .unwrap();
        let state = json!({"run_id": "forged", "status": status, "outcome": outcome, "supervisor_pid": pid,
            "supervisor_start_ticks": ticks.parse::<u64>().unwrap(), "trace_id": "", "started": ""});
        fs::write(self.directory.join("state.json"), state.to_string()).unwrap();
    }

    fn next_line(&mut self, kind: &str) -> String {
        self.seq += 1;
        let stamp = json!({"seq": self.seq, "time": "2026-01-31T12:00:00.123456Z",
            "trace_id": "0".repeat(32), "span_id": "0".repeat(16)});
        // As the supervisor spells it.
        let order = ["seq", "time", "trace_id", "span_id"];
        let members = order.map(|name| format!("\"{name}\":{}", stamp[name]));
        let line = format!(
            "{{\"type\":\"{kind}\",\"sandtrace\":{{{}}}}}\n",
            members.join(",")
        );
        self.told.extend_from_slice(line.as_bytes());
        line
    }

    fn write(&mut self, kind: &str) {
        let line = self.next_line(kind);
        self.events.write_all(line.as_bytes()).unwrap();
    }

    /// Puts another file, with these lines of the old one, in its place.
    fn compact(&mut self, keep: impl Fn(&[u8]) -> bool) {
        let old = fs::read(self.directory.join("events.ndjson")).unwrap();
        let kept = lines(&old).into_iter().filter(|line| keep(line));
        let fresh = self.directory.join("events.ndjson.new");
        self.events = File::create_new(&fresh).unwrap();
        self.events
            .write_all(&kept.collect::<Vec<_>>().concat())
            .unwrap();
        fs::rename(fresh, self.directory.join("events.ndjson")).unwrap();
    }

    fn attach(&self, options: &[&str]) -> Attached {
        Attached::new(text(&self.directory), options)
    }

    fn until_all_is_read(&self, attached: &Attached) {
        poll("all that was written", || {
            (attached.so_far().len() >= self.told.len()).then_some(())
        });
    }
}

impl Drop for Forged {
    fn drop(&mut self) {
        self.supervisor.kill().ok();
        self.supervisor.wait().ok();
    }
}

#[test]
fn a_journal_that_is_made_smaller_neither_loses_nor_repeats_a_line_for_its_followers() {
    let mut run = Forged::new();
    run.write("sandtrace.run.started");
    let attached = run.attach(&[]);
    for round in 0..40 {
        for _ in 0..=round * 7 {
            run.write("assistant");
        }
        // Now and then it is replaced before the follower has seen the last lines, else when it stands at the end.
        if round % 2 == 0 {
            run.until_all_is_read(&attached);
        }
        match round % 3 {
            0 => run.compact(|line| line.starts_with(b"{\"type\":\"sandtrace.")),
            1 => run.compact(|_| true),
            _ => {}
        }
        run.write("sandtrace.warning");
        // As the cap is, two replacements are a long time apart.
        run.until_all_is_read(&attached);
    }
    run.write("sandtrace.run.finished");
    attached.wait().assert_whole_run_from(&run.told);
    // Whoever comes later finds gaps where lines were dropped, and what is left in its order.
    let left = fs::read(run.directory.join("events.ndjson")).unwrap();
    assert!(left.len() < run.told.len());
    run.attach(&[]).wait().assert_whole_run_from(&left);
}

#[test]
fn a_follower_that_slept_through_two_replacements_goes_on_without_repeating_a_line() {
    let mut run = Forged::new();
    run.write("sandtrace.run.started");
    let attached = run.attach(&[]);
    run.until_all_is_read(&attached);
    let pid = Pid::from_raw(attached.child.id().try_into().unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    for _ in 0..2 {
        for _ in 0..50 {
            run.write("assistant");
        }
        run.compact(|line| line.starts_with(b"{\"type\":\"sandtrace."));
    }
    run.write("sandtrace.run.finished");
    kill(pid, Signal::SIGCONT).unwrap();
    let detached = attached.wait();
    assert_eq!(detached.code(), Some(0));
    // The first fifty stand in the file that it held open; the next went before it could look.
    let told = lines(&run.told);
    let expected = [&told[..51], &told[101..]].concat().concat();
    assert!(detached.stdout == expected);
}

#[test]
fn a_reader_that_leaves_while_there_is_nothing_to_read_is_not_forgotten() {
    let mut run = Forged::new();
    run.write("sandtrace.run.started");
    let mut attached = Attached::unread(text(&run.directory), &[]);
    let mut stdout = attached.unread.take().unwrap();
    let mut line = vec![0; run.told.len()];
    stdout.read_exact(&mut line).unwrap();
    assert!(line == run.told);
    assert!(!attached.is_over());
    drop(stdout);
    let detached = attached.wait();
    assert_eq!((detached.code(), detached.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_run_that_changes_its_name_is_followed_on() {
    let mut run = Forged::new();
    run.write("sandtrace.run.started");
    let attached = run.attach(&[]);
    run.until_all_is_read(&attached);
    // As in a copy of the sandbox, whose run is one of its own from here on.
    let renamed = run.root.path().join("copy");
    fs::rename(&run.directory, &renamed).unwrap();
    run.directory = renamed;
    run.write("sandtrace.run.started");
    run.until_all_is_read(&attached);
    run.compact(|_| true);
    run.write("sandtrace.run.finished");
    attached.wait().assert_whole_run_from(&run.told);
}

#[test]
fn a_line_is_passed_on_once_it_is_whole() {
    let mut run = Forged::new();
    let attached = run.attach(&[]);
    for at in [1, 40, 90] {
        let line = run.next_line("assistant");
        let (head, tail) = line.split_at(at);
        let before = attached.so_far().len();
        run.events.write_all(head.as_bytes()).unwrap();
        let since = Instant::now();
        poll("a few looks", || {
            (since.elapsed() > Duration::from_millis(100)).then_some(())
        });
        assert_eq!(attached.so_far().len(), before);
        run.events.write_all(tail.as_bytes()).unwrap();
        run.until_all_is_read(&attached);
    }
    run.write("sandtrace.run.finished");
    attached.wait().assert_whole_run_from(&run.told);
}

#[test]
fn a_journal_that_broke_is_told_apart_from_a_run_that_was_lost() {
    let mut run = Forged::new();
    run.write("sandtrace.run.started");
    let attached = run.attach(&[]);
    run.until_all_is_read(&attached);
    run.state("finished", &json!("failure"));
    run.supervisor.kill().unwrap();
    let detached = attached.wait();
    assert_eq!(detached.code(), Some(3));
    assert!(detached.stdout == run.told);
    let sentence = "run forged has finished (failure), but its journal could not be written";
    assert!(detached.said().contains(sentence), "{}", detached.stderr);
}

#[test]
fn a_supervisor_s_pid_that_is_another_s_by_now_is_not_waited_for() {
    let mut run = Forged::new();
    run.write("sandtrace.run.started");
    let path = run.directory.join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    state["supervisor_start_ticks"] = 7.into();
    fs::write(&path, state.to_string()).unwrap();
    let detached = run.attach(&[]).wait();
    assert_eq!(detached.code(), Some(3));
    assert!(detached.said().contains("is gone"), "{}", detached.stderr);
    assert_eq!(run.supervisor.try_wait().unwrap(), None);
}

#[test]
fn a_run_that_has_just_begun_has_no_state_yet() {
    let mut run = Forged::new();
    let path = run.directory.join("state.json");
    let state = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let attached = run.attach(&[]);
    run.write("sandtrace.run.started");
    run.until_all_is_read(&attached);
    fs::write(&path, state).unwrap();
    let since = Instant::now();
    poll("its patience", || {
        (since.elapsed() > Duration::from_millis(2500)).then_some(())
    });
    run.write("sandtrace.run.finished");
    attached.wait().assert_whole_run_from(&run.told);
}

#[test]
fn what_cannot_be_attached_to_is_said_in_one_sentence() {
    let kept = tempfile::tempdir().unwrap();
    let root = text(kept.path());
    sh("exit 0").option("--run-id", "known").journal(root).run();
    for name in ["empty", "stateless", "torn"] {
        fs::create_dir(kept.path().join(name)).unwrap();
    }
    for name in ["stateless", "torn"] {
        fs::write(kept.path().join(name).join("events.ndjson"), "").unwrap();
    }
    fs::write(kept.path().join("torn/state.json"), "{\"run_id\":").unwrap();
    let events = format!("{root}/known/events.ndjson");
    for (run, root, sentence) in [
        ("unknown", root, "there is no run \"unknown\": looked for"),
        ("unknown", root, "the newest runs there are "),
        (
            "unknown",
            "off",
            "the journal is off here, so no run is kept that \"unknown\" could name",
        ),
        ("empty", root, "empty/events.ndjson: No such file"),
        ("stateless", root, "stateless/state.json: No such file"),
        ("torn", root, "torn/state.json: EOF while parsing"),
        (
            &events,
            root,
            "is a file, name the run by its id or its directory",
        ),
    ] {
        let detached = attach(run, &["--journal", root]);
        assert_eq!(detached.code(), Some(125), "{run}");
        assert_eq!(detached.stdout, b"");
        assert!(detached.said().contains(sentence), "{}", detached.stderr);
    }
    // With the journal off a directory still names a run.
    let known = format!("{root}/known");
    let detached = attach(&known, &["--journal", "off"]);
    assert_eq!(detached.code(), Some(0));
    assert!(detached.stdout == fs::read(events).unwrap());
}

#[test]
fn a_stdout_that_takes_no_more_is_said() {
    let run = sh("exit 0").run();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sandtrace"))
        .arg("attach")
        .arg(run.journal())
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        text,
        "sandtrace: cannot write to stdout: No space left on device (os error 28)\n"
    );
}
