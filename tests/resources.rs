//! What a run uses, and which tool used it: real processes that burn CPU and hold memory, figures on spans and lines.
//!
//! CPU time and memory are what the kernel counts, however busy the machine is, so the figures can be asserted.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::supervised::{Finished, Supervised, python, sh, skipped};

const MIB: u64 = 1 << 20;

/// An agent that plays Claude Code's part: each command in a session of its own.
const AGENT: &str = r#"
import fcntl, json, subprocess, sys, termios, time

def say(**line):
    print(json.dumps(line), flush=True)
    # Until it has been read: a command that began long before its tool was heard of is nobody's.
    while any(fcntl.ioctl(1, termios.FIONREAD, bytes(4))):
        time.sleep(0.001)

def use(id, command, name="Bash"):
    content = [{"type": "tool_use", "id": id, "name": name, "input": {"command": command}}]
    say(type="assistant", message={"id": "m" + id, "content": content}, session_id="s")

def result(id):
    content = [{"type": "tool_result", "tool_use_id": id, "content": "ok"}]
    say(type="user", message={"content": content}, session_id="s")

def bash(command):
    return subprocess.Popen(["bash", "-c", command], start_new_session=True)

def load(cpu, mib, wait=0):
    program = f"x = b'x' * ({mib} << 20); import time\nwhile time.process_time() < {cpu}: pass\ntime.sleep({wait})"
    return f'python3 -c "{program}"; true'

say(type="system", subtype="init", session_id="s")
time.sleep(0.5)
"#;

fn agent(acts: &str) -> Supervised {
    python(&format!("{AGENT}{acts}"))
}

/// What the span of a call says of its resources.
#[derive(Debug)]
struct Tool {
    cpu_seconds: f64,
    memory_peak: Option<u64>,
    whose: String,
}

fn attributes<'a>(run: &'a super::supervised::Transcript, id: &str) -> &'a Value {
    let spans = run.all("sandtrace.span.ended");
    let span = spans
        .into_iter()
        .find(|span| span["attributes"]["gen_ai.tool.call.id"] == id);
    &span.unwrap_or_else(|| panic!("no span of {id}"))["attributes"]
}

fn tool(run: &Finished, id: &str) -> Tool {
    let transcript = run.transcript();
    let attributes = attributes(&transcript, id);
    Tool {
        cpu_seconds: attributes["sandtrace.tool.cpu_seconds"].as_f64().unwrap(),
        memory_peak: attributes["sandtrace.tool.memory_peak_bytes"].as_u64(),
        whose: attributes["sandtrace.tool.resources"]
            .as_str()
            .unwrap()
            .to_owned(),
    }
}

fn resources(run: &Finished) -> Value {
    run.transcript().finished()["resources"].clone()
}

#[test]
fn a_tool_is_charged_with_its_own_processes_and_not_with_those_beside_it() {
    let run = agent(
        r#"
beside = subprocess.Popen(["python3", "-c", "x = b'x' * (200 << 20)\nwhile True: pass"])
time.sleep(0.3)
use("toolu_1", load(1, 80, 0.6))
shell = bash(load(1, 80, 0.6))
shell.wait()
result("toolu_1")
beside.kill(); beside.wait()
"#,
    )
    .run();
    let own = tool(&run, "toolu_1");
    assert_eq!(own.whose, "own", "{own:?}");
    // Python takes some time and memory to start, and ticks are 10 ms.
    assert!((0.95..1.7).contains(&own.cpu_seconds), "{own:?}");
    let memory = own.memory_peak.unwrap();
    assert!((80 * MIB..150 * MIB).contains(&memory), "{own:?}");

    let used = resources(&run);
    assert!(
        used["tree_rss_bytes_max"].as_u64().unwrap() > 280 * MIB,
        "{used}"
    );
    assert!(
        used["tree_cpu_seconds"].as_f64().unwrap() > own.cpu_seconds + 0.3,
        "{used}"
    );
    assert!(used["tree_processes_max"].as_u64().unwrap() >= 4, "{used}");
    assert_eq!(used["largest_tool"]["tool_use_id"], "toolu_1");
    assert_eq!(used["largest_tool"]["name"], "Bash");
    assert_eq!(used["largest_tool"]["memory_peak_bytes"], memory);
    let largest = &used["largest_process"];
    assert!(
        largest["command"].as_str().unwrap().starts_with("python"),
        "{used}"
    );
    assert!(largest["rss_bytes"].as_u64().unwrap() > 200 * MIB, "{used}");
    run.assert_sound();
}

#[test]
fn two_tools_at_once_are_told_apart_by_their_commands() {
    let run = agent(
        r#"
use("toolu_a", load(1, 80, 1.0))
use("toolu_b", load(0, 20, 3.0))
# The other way around: only the commands can tell.
b = bash(load(0, 20, 3.0))
a = bash(load(1, 80, 1.0))
a.wait()
result("toolu_a")
b.wait()
result("toolu_b")
"#,
    )
    .run();
    let (a, b) = (tool(&run, "toolu_a"), tool(&run, "toolu_b"));
    assert_eq!((&*a.whose, &*b.whose), ("own", "own"), "{a:?} {b:?}");
    assert!((0.9..1.7).contains(&a.cpu_seconds), "{a:?}");
    assert!(b.cpu_seconds < 0.5, "{b:?}");
    assert!(
        (80 * MIB..150 * MIB).contains(&a.memory_peak.unwrap()),
        "{a:?}"
    );
    assert!(
        (20 * MIB..75 * MIB).contains(&b.memory_peak.unwrap()),
        "{b:?}"
    );
    run.assert_sound();
}

#[test]
fn a_tool_that_is_too_short_to_be_seen_is_charged_all_the_same() {
    let run = agent(
        r#"
use("toolu_1", load(0.1, 1))
bash(load(0.1, 1)).wait()
time.sleep(0.05)
result("toolu_1")
"#,
    )
    .option("--sample-interval", "1h")
    .run();
    let own = tool(&run, "toolu_1");
    assert_eq!(own.whose, "own", "{own:?}");
    assert!((0.08..0.8).contains(&own.cpu_seconds), "{own:?}");
    run.assert_sound();
}

#[test]
fn a_tool_that_starts_no_process_says_that_it_has_the_tree_s() {
    let run = agent(
        r#"
use("toolu_1", "", name="Read")
until = time.process_time() + 0.3
while time.process_time() < until: pass
result("toolu_1")
"#,
    )
    .run();
    let read = tool(&run, "toolu_1");
    assert_eq!(read.whose, "tree");
    assert!((0.25..1.0).contains(&read.cpu_seconds), "{read:?}");
    assert!(read.memory_peak.unwrap() > MIB);
    run.assert_sound();
}

#[test]
fn a_tool_that_the_end_of_the_run_finds_open_has_its_figures() {
    let run = agent(
        r#"
use("toolu_1", load(0.1, 1))
bash(load(0.1, 1)).wait()
sys.exit(3)
"#,
    )
    .option("--sample-interval", "1h")
    .run();
    assert_eq!(run.code(), 3);
    let own = tool(&run, "toolu_1");
    assert_eq!(own.whose, "own");
    assert!((0.08..0.8).contains(&own.cpu_seconds), "{own:?}");
    let transcript = run.transcript();
    assert_eq!(
        attributes(&transcript, "toolu_1")["sandtrace.abandoned"],
        true
    );
    run.assert_sound();
}

#[test]
fn a_command_is_compared_and_never_told() {
    let run = agent(
        r#"
secret = "s3cr3t-w0rd"
use("toolu_a", f"sleep 3; : {secret}")
use("toolu_b", "sleep 3.1")
shells = [bash(f"sleep 3; : {secret}"), bash("sleep 3.1; true")]
for id, shell in zip(["toolu_a", "toolu_b"], shells):
    shell.wait()
    result(id)
"#,
    )
    .run();
    assert_eq!(tool(&run, "toolu_a").whose, "own");
    let transcript = run.transcript();
    let ours = transcript
        .lines
        .iter()
        .filter(|line| line.kind().starts_with("sandtrace."));
    for line in ours {
        assert!(!line.json.to_string().contains("s3cr3t"), "{}", line.json);
    }
    let spans = String::from_utf8(run.journal_file("traces.jsonl")).unwrap();
    assert!(!spans.contains("s3cr3t"));
    run.assert_sound();
}

#[test]
fn a_run_without_tools_tells_what_its_processes_used() {
    let run = python(
        "import time\nx = b'x' * (60 << 20)\nwhile time.process_time() < 0.6: pass\ntime.sleep(0.5)",
    )
    .option("--sample-interval", "200ms")
    .run();
    let used = resources(&run);
    // Of the agent, whose last moments no sample saw.
    assert!(
        (0.55..2.0).contains(&used["tree_cpu_seconds"].as_f64().unwrap()),
        "{used}"
    );
    assert!(
        used["tree_rss_bytes_max"].as_u64().unwrap() > 60 * MIB,
        "{used}"
    );
    assert_eq!(used["largest_tool"], Value::Null);

    let transcript = run.transcript();
    let spans = transcript.all("sandtrace.span.ended");
    let root = spans.last().unwrap();
    assert_eq!(
        root["attributes"]["sandtrace.tree.cpu_seconds"],
        used["tree_cpu_seconds"]
    );
    assert_eq!(
        root["attributes"]["sandtrace.tree.memory_peak_bytes"],
        used["tree_rss_bytes_max"]
    );

    let told = transcript.all("sandtrace.resources");
    assert!(!told.is_empty());
    for line in told {
        let sandbox = &line["sandbox"];
        assert!(sandbox["disk_free_bytes"].as_u64().unwrap() > 0, "{line}");
        let has_pressure = fs::exists("/proc/pressure/memory").unwrap();
        assert_eq!(sandbox["pressure"].is_object(), has_pressure, "{line}");
        let tree = &line["tree"];
        // More than one where `python3` is a script that looks for the real one.
        assert!(tree["processes"].as_u64().unwrap() >= 1, "{line}");
        // stdin and the two pipes.
        assert!(tree["open_files"].as_u64().unwrap() >= 3, "{line}");
        assert_eq!(tree.get("pss_bytes"), None, "{line}");
    }
    run.assert_sound();
}

#[test]
fn the_end_of_a_tool_is_told_with_the_share_of_memory() {
    let run = agent("use('toolu_1', 'sleep 0.3')\nbash('sleep 0.3').wait()\nresult('toolu_1')\ntime.sleep(0.7)\n").run();
    let transcript = run.transcript();
    let told = transcript.all("sandtrace.resources");
    let shares: Vec<u64> = told
        .iter()
        .filter_map(|line| line["tree"]["pss_bytes"].as_u64())
        .collect();
    assert_eq!(shares.len(), 1, "{told:?}");
    assert!(shares[0] > 0);
    run.assert_sound();
}

/// A memory cgroup of version 1 of the test's own, with a limit.
struct MemoryCgroup(PathBuf);

impl MemoryCgroup {
    fn new(limit: u64) -> Option<Self> {
        let directory = PathBuf::from(format!(
            "/sys/fs/cgroup/memory/sandtrace-test-{}",
            uuid::Uuid::now_v7()
        ));
        fs::create_dir(&directory).ok()?;
        let cgroup = Self(directory);
        fs::write(cgroup.0.join("memory.limit_in_bytes"), limit.to_string()).ok()?;
        Some(cgroup)
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).ok();
    }
}

#[test]
fn the_limit_of_the_memory_cgroup_is_told() {
    let limit = 512 * MIB;
    let Some(cgroup) = MemoryCgroup::new(limit) else {
        return skipped("no memory cgroup of version 1 can be made here");
    };
    let agent = sh("");
    let journal = agent.directory().join("journal");
    let mut command = Command::new("sh");
    command
        .args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec "$@""#])
        .arg(&cgroup.0)
        .arg(env!("CARGO_BIN_EXE_sandtrace"))
        .args(["run", "--sample-interval", "200ms", "--journal"])
        .arg(journal)
        .args(["--", "sleep", "1"]);
    let run = agent.start_as(command).wait();
    let transcript = run.transcript();
    assert_eq!(transcript.started()["abilities"]["cgroup"], "v1");
    let told = transcript.all("sandtrace.resources");
    assert!(!told.is_empty());
    for line in told {
        let cgroup = &line["cgroup"];
        assert_eq!(cgroup["memory_limit_bytes"], limit, "{line}");
        assert_eq!(cgroup["oom_kills"], 0, "{line}");
        assert!(cgroup["memory_used_bytes"].as_u64().unwrap() > 0, "{line}");
    }
    run.assert_sound();
}

#[test]
fn without_proc_the_run_goes_on_and_no_tree_is_told() {
    let probe = Command::new("unshare")
        .args(["--mount", "sh", "-c", "mount -t tmpfs none /proc"])
        .output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return skipped("/proc can be covered only by root");
    }
    let agent = sh("");
    let journal = agent.directory().join("journal");
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "sh",
            "-c",
            r#"mount -t tmpfs none /proc && exec "$@""#,
            "sh",
        ])
        .arg(env!("CARGO_BIN_EXE_sandtrace"))
        .args(["run", "--sample-interval", "200ms", "--journal"])
        .arg(journal)
        .args(["--", "sh", "-c", "echo '{\"x\":1}'; sleep 1; exit 4"]);
    let run = agent.start_as(command).wait();
    assert_eq!(run.code(), 4, "{}", run.errors());
    let transcript = run.transcript();
    assert_eq!(transcript.started()["abilities"]["proc"], false);
    for line in transcript.all("sandtrace.resources") {
        assert_eq!(line["tree"], Value::Null, "{line}");
    }
    assert_eq!(transcript.stream("stdout"), b"{\"x\":1}\n");
    run.assert_sound();
}
