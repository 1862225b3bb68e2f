//! Death for want of memory: `reference/supervision.md` §3.2 line by line, and the cases of §3.1 as a real kernel
//! recorded them (`tests/fixtures/memory_events`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::Pid;
use sandtrace_client::failure::{Alternative, FailureKind as K};

use super::*;
use crate::process::reaper::{Reaped, Usage};
use crate::resources::kernel_log::news_of;
use crate::resources::memory_events::reading_of;
use crate::resources::{
    CgroupMemory, Constraint, Kinship, ProcessUse, TreeSample, UserspaceKill, Victim,
};
use crate::session::memory::MemoryReading;

const MIB: u64 = 1 << 20;
const AGENT: u32 = 100;
const CLI: u32 = 101;
const TOOL: u32 = 102;
const STRANGER: u32 = 999;

/// A run of an agent, its CLI and a tool in a cgroup of 64 MiB, second by second; it ends at the tenth.
struct Story {
    memory: Memory,
    reading: MemoryReading,
}

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Nobody else is in the cgroup.
fn story() -> Story {
    let cgroup = CgroupMemory {
        name: "/run".to_owned(),
        oom_kills: Some(7),
        ooms: Some(40),
        group_kills: Some(0),
        used_bytes: Some(30 * MIB),
        limit_bytes: Some(64 * MIB),
        shmem_bytes: Some(0),
        largest_other_bytes: Some(0),
        ..CgroupMemory::default()
    };
    let reading = MemoryReading {
        cgroups: vec![cgroup],
        sandbox_oom_kills: Some(70),
        ..MemoryReading::default()
    };
    let mut memory = Memory::default();
    memory.baseline(reading.clone());
    memory.spawned(AGENT);
    Story { memory, reading }
}

impl Story {
    /// Other commands share the cgroup; the largest of their processes is this large.
    fn shared(mut self, mib: u64) -> Self {
        self.reading.cgroups[0].largest_other_bytes = Some(mib * MIB);
        self
    }

    /// No cgroup's counters can be read.
    fn without_cgroup(mut self) -> Self {
        self.reading.cgroups.clear();
        self
    }

    fn read(&mut self, seconds: f64) {
        self.memory.read(at(seconds), self.reading.clone(), None);
        self.reading.victims.clear();
        self.reading.userspace.clear();
    }

    /// A look at the processes, with what they hold in MiB.
    fn looked(mut self, seconds: f64, processes: &[(u32, u64)]) -> Self {
        self.read(seconds);
        let processes = processes.iter().map(|&(pid, mib)| process(pid, mib));
        let tree = TreeSample {
            processes: processes.collect(),
            ..TreeSample::default()
        };
        self.memory.looked(at(seconds), &tree);
        self
    }

    /// The counters rise; nobody is named.
    fn oom(mut self, seconds: f64) -> Self {
        if let Some(cgroup) = self.reading.cgroups.first_mut() {
            cgroup.oom_kills = cgroup.oom_kills.map(|count| count + 1);
            cgroup.ooms = cgroup.ooms.map(|count| count + 3);
        }
        self.reading.sandbox_oom_kills = self.reading.sandbox_oom_kills.map(|count| count + 1);
        self.read(seconds);
        self
    }

    /// They rise, and the kernel's log says for whom.
    fn oom_of(mut self, seconds: f64, pid: u32, command: &str) -> Self {
        self.reading.victims.push(Victim {
            pid,
            command: command.to_owned(),
            resident_bytes: 62 * MIB,
            constraint: Constraint::Cgroup(Some("/run".to_owned())),
            task_cgroup: Some("/run".to_owned()),
            kinship: Kinship::Gone,
        });
        self.oom(seconds)
    }

    /// Its owner could not be looked up any more, or could.
    fn of_stranger(mut self, seconds: f64, kinship: Kinship) -> Self {
        self.reading.victims.push(Victim {
            pid: STRANGER,
            command: "python3".to_owned(),
            resident_bytes: 40 * MIB,
            constraint: Constraint::Cgroup(Some("/run".to_owned())),
            task_cgroup: Some("/run".to_owned()),
            kinship,
        });
        self.oom(seconds)
    }

    /// A process of the run, of this name and kinship when the log told of it.
    fn oom_of_kin(mut self, seconds: f64, pid: u32, command: &str, kinship: Kinship) -> Self {
        self = self.announced(pid, command, 62);
        self.reading.victims[0].kinship = kinship;
        self.oom(seconds)
    }

    /// The log names somebody, and the next reading will have it.
    fn announced(mut self, pid: u32, command: &str, mib: u64) -> Self {
        self.reading.victims.push(Victim {
            pid,
            command: command.to_owned(),
            resident_bytes: mib * MIB,
            constraint: Constraint::Cgroup(Some("/run".to_owned())),
            task_cgroup: Some("/run".to_owned()),
            kinship: Kinship::Gone,
        });
        self
    }

    /// The largest process that was reaped held this much.
    fn reaped(mut self, mib: u64) -> Self {
        self.reading.reaped_rss_bytes = Some(mib * MIB);
        self
    }

    fn userspace(mut self, pid: Option<u32>) -> Self {
        self.reading.userspace.push(UserspaceKill {
            pid,
            command: None,
            cgroup: None,
            killer: "earlyoom",
        });
        self
    }

    /// earlyoom writes whom it asks to end.
    fn earlyoom(mut self, seconds: f64, pid: u32, command: &str) -> Self {
        self.reading.userspace.push(UserspaceKill {
            pid: Some(pid),
            command: Some(command.to_owned()),
            cgroup: None,
            killer: "earlyoom",
        });
        self.read(seconds);
        self
    }

    /// systemd-oomd writes which cgroup it killed.
    fn oomd_killed(mut self, seconds: f64, cgroup: &str) -> Self {
        self.reading.userspace.push(UserspaceKill {
            pid: None,
            command: None,
            cgroup: Some(cgroup.to_owned()),
            killer: "systemd-oomd",
        });
        self.read(seconds);
        self
    }

    fn oomd(mut self) -> Self {
        self.reading.cgroups[0].oomd_kills = Some(1);
        self
    }

    /// OOM situations without a kill.
    fn ooms(mut self, seconds: f64, times: u64, pressure: f64) -> Self {
        let cgroup = &mut self.reading.cgroups[0];
        cgroup.ooms = cgroup.ooms.map(|count| count + times);
        cgroup.pressure_full = Some(pressure);
        self.read(seconds);
        self
    }

    fn full(mut self) -> Self {
        self.reading.cgroups[0].used_bytes = Some(63 * MIB);
        self
    }

    fn orphan_killed(mut self, seconds: f64, pid: u32, ours: bool) -> Self {
        let reaped = Reaped {
            pid: Pid::from_raw(i32::try_from(pid).unwrap()),
            termination: Termination::Signaled {
                signal: 9,
                core_dumped: false,
            },
            usage: Usage::default(),
        };
        self.memory.orphan_ended(at(seconds), reaped, ours);
        self
    }

    /// The agent had the tool's end as a result.
    fn told(mut self) -> Self {
        assert!(
            self.memory
                .blame_for_tool(at(0.0), "Exit code 137")
                .is_some()
        );
        self
    }

    fn end(mut self, case: Case) -> Case {
        self.read(10.0);
        self.memory.exited(at(10.0));
        Case {
            memory: self.memory,
            ..case
        }
    }
}

fn process(pid: u32, mib: u64) -> ProcessUse {
    let (command, executable, parent) = match pid {
        AGENT => ("python3", "python3.11", 1),
        // Its own binary shows its version as its name.
        CLI => ("2.1.37", "claude", AGENT),
        _ => ("hog", "hog", CLI),
    };
    ProcessUse {
        pid,
        start_ticks: 5,
        parent,
        session: parent,
        command: Arc::from(command),
        executable: Some(Arc::from(executable)),
        cpu: Duration::ZERO,
        children_cpu: Duration::ZERO,
        rss_bytes: mib * MIB,
    }
}

const CLI_KILLED: &str =
    "claude_agent_sdk._errors.ProcessError: Command failed with exit code -9 (exit code: -9)";
const SUBPROCESS: &str =
    "subprocess.CalledProcessError: Command '['hog']' died with <Signals.SIGKILL: 9>.";

/// A row: what happened, and the verdict with its confidence, at least and at most.
type Row = (&'static str, Case, &'static str, f64, f64);

#[expect(clippy::too_many_lines, reason = "a table")]
fn table() -> Vec<Row> {
    let small = [(AGENT, 20), (CLI, 10)];
    let large = [(AGENT, 50), (CLI, 10)];
    let tool = [(AGENT, 20), (CLI, 10), (TOOL, 30)];
    let cli = [(AGENT, 20), (CLI, 40)];
    vec![
        // SIGKILL, counter up.
        (
            "the log names the agent",
            story()
                .looked(9.0, &small)
                .oom_of(9.9, AGENT, "python3")
                .end(killed(9)),
            "oom.agent",
            0.99,
            0.99,
        ),
        (
            "the log names the agent, which no sample saw",
            story().oom_of(9.9, AGENT, "agent").end(killed(9)),
            "oom.agent",
            0.99,
            0.99,
        ),
        (
            "the log is not ours to read, the agent was the largest",
            story().looked(9.0, &large).oom(10.0).end(killed(9)),
            "oom.agent",
            0.9,
            0.9,
        ),
        (
            "the same among others who are smaller",
            story()
                .shared(30)
                .looked(9.0, &large)
                .oom(10.0)
                .end(killed(9)),
            "oom.agent",
            0.9,
            0.9,
        ),
        (
            "nobody looked, but nobody else is there",
            story().oom(10.0).end(killed(9)),
            "oom.agent",
            0.7,
            0.7,
        ),
        (
            "a tool was larger",
            story().looked(9.0, &tool).oom(10.0).end(killed(9)),
            "oom.descendant_fatal",
            0.5,
            0.5,
        ),
        (
            "a larger tool vanished in the same tick",
            story()
                .looked(8.0, &tool)
                .oom(9.0)
                .looked(9.0, &small)
                .end(killed(9)),
            "oom.descendant_fatal",
            0.5,
            0.5,
        ),
        (
            "the log names a tool just before",
            story()
                .looked(8.0, &tool)
                .oom_of(9.5, TOOL, "hog")
                .end(killed(9)),
            "oom.descendant_fatal",
            0.5,
            0.5,
        ),
        // SIGKILL, counter still.
        (
            "kill -9",
            story().looked(9.0, &large).end(killed(9)),
            "crash.signal",
            0.9,
            0.9,
        ),
        (
            "earlyoom took the agent",
            story().userspace(Some(AGENT)).end(killed(9)),
            "oom.userspace",
            0.8,
            0.8,
        ),
        (
            "earlyoom took somebody else",
            story().userspace(Some(STRANGER)).end(killed(9)),
            "crash.signal",
            0.9,
            0.9,
        ),
        (
            "oomd's mark moved",
            story().oomd().end(killed(9)),
            "oom.userspace",
            0.8,
            0.8,
        ),
        // Exit 137.
        (
            "a shell reports a kill, and the log says whose",
            story()
                .looked(8.0, &tool)
                .oom_of(9.9, TOOL, "hog")
                .end(exit(137)),
            "oom.descendant_fatal",
            0.8,
            0.8,
        ),
        (
            "a shell reports a kill",
            story().oom(9.9).end(exit(137)),
            "oom.descendant_fatal",
            0.8,
            0.8,
        ),
        (
            "a shell reports a kill of no kernel",
            story().end(exit(137)),
            "crash.signal",
            0.8,
            0.8,
        ),
        (
            "a shell reports a kill, and others are there",
            story().shared(5).oom(9.9).end(exit(137)),
            "oom.descendant_fatal",
            0.5,
            0.5,
        ),
        // Another code.
        (
            "it was told of the tool, and had its own reasons",
            story()
                .looked(6.0, &tool)
                .oom_of(7.0, TOOL, "hog")
                .told()
                .end(exit(1).said("ValueError: x")),
            "crash.exception",
            0.7,
            0.7,
        ),
        (
            "it ended on it",
            story()
                .looked(8.0, &tool)
                .oom_of(9.9, TOOL, "hog")
                .end(exit(3)),
            "oom.descendant_fatal",
            0.7,
            0.7,
        ),
        (
            "it ended on it and says so",
            story()
                .looked(8.0, &tool)
                .oom_of(9.9, TOOL, "hog")
                .end(exit(1).said(SUBPROCESS)),
            "oom.descendant_fatal",
            0.8,
            0.8,
        ),
        (
            "a long time after",
            story()
                .looked(1.0, &tool)
                .oom_of(2.0, TOOL, "hog")
                .end(exit(3)),
            "crash.exit_code",
            0.8,
            0.8,
        ),
        // Exit 0.
        (
            "all was well",
            story().oom_of(9.9, TOOL, "hog").end(exit(0).well()),
            "-",
            0.0,
            0.0,
        ),
        // TERM.
        (
            "TERM long after",
            story()
                .looked(1.0, &tool)
                .oom_of(2.0, TOOL, "hog")
                .end(killed(15)),
            "crash.signal",
            0.95,
            0.95,
        ),
        (
            "143 long after",
            story()
                .looked(1.0, &tool)
                .oom_of(2.0, TOOL, "hog")
                .end(exit(143)),
            "crash.signal",
            0.6,
            0.95,
        ),
        // Runtimes.
        (
            "V8",
            story().end(killed(6).said("FATAL ERROR: JavaScript heap out of memory")),
            "oom.heap",
            0.97,
            0.97,
        ),
        (
            "Bun says so",
            story().end(killed(5).said("bun: out of memory")),
            "crash.signal",
            0.5,
            0.5,
        ),
        (
            "Bun says nothing",
            story().full().end(killed(4)),
            "crash.signal",
            0.5,
            0.5,
        ),
        (
            "a fault with room left",
            story().end(killed(11)),
            "crash.signal",
            0.85,
            0.85,
        ),
        (
            "Bun under a shell",
            story().full().end(exit(134)),
            "crash.signal",
            0.5,
            0.5,
        ),
        (
            "Python",
            story().end(exit(1).said("MemoryError")),
            "oom.heap",
            0.85,
            0.85,
        ),
        (
            "a program of C",
            story().end(exit(1).said("fork: Cannot allocate memory")),
            "oom.heap",
            0.85,
            0.85,
        ),
        // The CLI.
        (
            "the log names the CLI",
            story()
                .looked(9.0, &cli)
                .oom_of(9.9, CLI, "2.1.37")
                .end(exit(1).said(CLI_KILLED)),
            "oom.cli",
            0.97,
            0.97,
        ),
        (
            "the log has the name of its file",
            story()
                .looked(9.0, &cli)
                .oom_of(9.9, CLI, "claude")
                .end(exit(1).said(CLI_KILLED)),
            "oom.cli",
            0.97,
            0.97,
        ),
        (
            "the log has a name that nobody saw",
            story()
                .oom_of(9.9, CLI, "claude")
                .end(exit(1).said(CLI_KILLED)),
            "oom.cli",
            0.97,
            0.97,
        ),
        (
            "the log has the name of a thread",
            story()
                .oom_of(9.9, CLI, "HeapHelper")
                .end(exit(1).said(CLI_KILLED)),
            "oom.cli",
            0.8,
            0.8,
        ),
        (
            "the log names the CLI, or another command's",
            story()
                .shared(60)
                .looked(9.0, &small)
                .oom_of(9.9, 77, "claude")
                .end(exit(1).said(CLI_KILLED)),
            "oom.cli",
            0.8,
            0.8,
        ),
        (
            "the agent does not say so",
            story()
                .looked(9.0, &cli)
                .oom_of(9.9, CLI, "claude")
                .end(exit(1)),
            "oom.cli",
            0.97,
            0.97,
        ),
        (
            "nor does its code",
            story()
                .looked(9.0, &cli)
                .oom_of(9.9, CLI, "claude")
                .end(exit(0).open()),
            "oom.cli",
            0.97,
            0.97,
        ),
        (
            "the CLI was the largest",
            story()
                .looked(9.0, &cli)
                .oom(9.9)
                .end(exit(1).said(CLI_KILLED)),
            "oom.cli",
            0.9,
            0.9,
        ),
        (
            "the CLI was killed among others",
            story()
                .shared(60)
                .looked(9.0, &cli)
                .oom(9.9)
                .end(exit(1).said(CLI_KILLED)),
            "oom.cli",
            0.5,
            0.5,
        ),
        (
            "somebody killed the CLI",
            story().looked(9.0, &cli).end(exit(1).said(CLI_KILLED)),
            "crash.signal",
            0.9,
            0.9,
        ),
        (
            "somebody killed the CLI, says an event",
            story().end(exit(1).error("Command failed with exit code -9 (exit code: -9)")),
            "crash.exception",
            0.85,
            0.9,
        ),
        // Controls: another command of this cgroup.
        (
            "the log names a stranger",
            story()
                .shared(40)
                .looked(8.0, &large)
                .of_stranger(9.5, Kinship::Elsewhere)
                .end(killed(9)),
            "crash.signal",
            0.9,
            0.9,
        ),
        (
            "the log names somebody who was seen to be a stranger",
            story().of_stranger(9.5, Kinship::Elsewhere).end(exit(3)),
            "crash.exit_code",
            0.8,
            0.8,
        ),
        (
            "somebody who was gone at once, and not the agent",
            story()
                .shared(40)
                .looked(8.0, &large)
                .of_stranger(9.5, Kinship::Gone)
                .end(killed(9)),
            "crash.signal",
            0.9,
            0.9,
        ),
        (
            "a larger stranger, and no log",
            story()
                .shared(60)
                .looked(9.0, &small)
                .oom(9.9)
                .end(killed(9)),
            "crash.signal",
            0.5,
            0.6,
        ),
        (
            "nobody looked, others are there",
            story().shared(5).oom(9.9).end(killed(9)),
            "oom.agent",
            0.5,
            0.5,
        ),
        (
            "the whole sandbox counts, nobody looked",
            story().without_cgroup().oom(9.9).end(killed(9)),
            "oom.agent",
            0.5,
            0.5,
        ),
        (
            "a stranger's death and an exit code",
            story().shared(60).oom(9.9).end(exit(3)),
            "crash.exit_code",
            0.5,
            0.6,
        ),
        (
            "the agent lived on for long",
            story()
                .looked(3.0, &large)
                .oom(4.0)
                .looked(5.0, &large)
                .end(killed(9)),
            "crash.signal",
            0.9,
            0.9,
        ),
        (
            "a pid like the tool's with another name",
            story()
                .shared(40)
                .looked(8.0, &tool)
                .oom_of(9.5, TOOL, "nginx")
                .end(exit(3)),
            "crash.exit_code",
            0.5,
            0.6,
        ),
        // Evidence of pids without the log.
        (
            "an orphan's wait status",
            story()
                .shared(60)
                .looked(8.0, &tool)
                .orphan_killed(9.8, TOOL, false)
                .oom(9.9)
                .end(exit(3)),
            "oom.descendant_fatal",
            0.7,
            0.7,
        ),
        (
            "an orphan's wait status, just after the counter",
            story()
                .shared(60)
                .looked(8.0, &tool)
                .oom(9.8)
                .orphan_killed(9.9, TOOL, false)
                .end(exit(3)),
            "oom.descendant_fatal",
            0.7,
            0.7,
        ),
        (
            "an orphan that we ended",
            story()
                .shared(60)
                .looked(8.0, &small)
                .orphan_killed(9.8, TOOL, true)
                .oom(9.9)
                .end(exit(3)),
            "crash.exit_code",
            0.5,
            0.6,
        ),
        (
            "the largest vanished in that tick",
            story()
                .shared(10)
                .looked(8.0, &tool)
                .oom(9.0)
                .looked(9.1, &small)
                .end(exit(3)),
            "oom.descendant_fatal",
            0.7,
            0.7,
        ),
        (
            "a small one vanished in that tick",
            story()
                .shared(60)
                .looked(8.0, &tool)
                .oom(9.0)
                .looked(9.1, &small)
                .end(exit(3)),
            "crash.exit_code",
            0.5,
            0.6,
        ),
        // We meant it.
        (
            "our own kill comes first",
            story()
                .looked(9.0, &large)
                .oom_of(9.9, AGENT, "python3")
                .end(killed(9).meant(Intent::Idle(MINUTE))),
            "timeout.idle",
            0.95,
            0.95,
        ),
    ]
}

#[test]
fn every_line_of_the_truth_table_about_memory_holds() {
    let wrong: Vec<String> = table()
        .into_iter()
        .filter_map(|(what, case, expected, least, most)| {
            let failure = case.verdict().1;
            let found = failure
                .as_ref()
                .map_or("-".to_owned(), |failure| failure.kind.to_string());
            let confidence = failure.as_ref().map_or(0.0, |failure| failure.confidence);
            let fits = found == expected && (least..=most).contains(&confidence);
            (!fits).then(|| {
                format!(
                    "{what}: {found} {confidence}, not {expected} {least}-{most}\n  {failure:?}"
                )
            })
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn alternative(failure: &Failure, kind: &K) -> f64 {
    let find = |other: &&Alternative| other.kind == *kind;
    failure
        .alternatives
        .iter()
        .find(find)
        .map_or(0.0, |other| other.confidence)
}

/// No claim about memory is stronger than the half of what is known, where others may have been meant.
#[test]
fn without_a_name_a_shared_cgroup_proves_nothing() {
    for ending in [killed(9), exit(3), exit(137), exit(1).said(CLI_KILLED)] {
        let failure = story().shared(60).oom(9.9).end(ending).verdict().1.unwrap();
        let claims = K::ALL.iter().filter(|kind| kind.class() == "oom");
        let strongest = claims
            .map(|kind| alternative(&failure, kind))
            .chain((failure.kind.class() == "oom").then_some(failure.confidence))
            .fold(0.0, f64::max);
        assert!(0.0 < strongest && strongest <= 0.5, "{failure:?}");
    }
}

fn row(story: Story, ending: Case) -> (String, f64) {
    let failure = story.end(ending).verdict().1.unwrap();
    (failure.kind.to_string(), failure.confidence)
}

/// It may have come and gone between two looks that saw nobody, and nothing of the run's has its size.
#[test]
fn a_stranger_s_death_is_never_the_reason_for_the_end() {
    type Row = (&'static str, fn() -> Story);
    let strangers: [Row; 5] = [
        ("unseen", || {
            story().of_stranger(9.9, Kinship::Gone).reaped(8)
        }),
        ("unseen, and nothing was reaped", || {
            story().of_stranger(9.9, Kinship::Gone)
        }),
        ("seen", || {
            story().shared(40).of_stranger(9.9, Kinship::Elsewhere)
        }),
        ("among others", || {
            story().shared(5).of_stranger(9.9, Kinship::Gone).reaped(8)
        }),
        ("without a log", || {
            story().looked(9.0, &[(AGENT, 8)]).oom(9.9).reaped(8)
        }),
    ];
    for (what, of) in strangers {
        let (kind, _) = row(of(), killed(9));
        assert_eq!(kind, "crash.signal", "{what}");
        for ending in [exit(3), exit(1).said(CLI_KILLED)] {
            let (kind, confidence) = row(of(), ending);
            let is_oom = kind.starts_with("oom.") && confidence > 0.5;
            // Two deaths at once, of the CLI by somebody and of a stranger by the kernel, look like one.
            assert!(!is_oom || kind == "oom.cli", "{what}: {kind} {confidence}");
        }
    }
}

#[test]
fn a_process_nobody_saw_is_the_run_s_if_what_the_run_says_of_itself_fits() {
    let unseen = || story().announced(555, "hog", 40).oom(9.9);
    let shared = || story().shared(5).announced(555, "hog", 40).oom(9.9);
    // Of its size was one that the agent had waited for.
    assert_eq!(
        row(unseen().reaped(44), exit(3)),
        ("oom.descendant_fatal".into(), 0.7)
    );
    assert_eq!(
        row(shared().reaped(44), exit(3)),
        ("oom.descendant_fatal".into(), 0.7)
    );
    // A shell that says so, where nobody else was.
    assert_eq!(
        row(unseen(), exit(137)),
        ("oom.descendant_fatal".into(), 0.8)
    );
    assert_eq!(
        row(shared(), exit(137)),
        ("oom.descendant_fatal".into(), 0.5)
    );
    // Another size, or none.
    for other in [
        unseen().reaped(20),
        unseen().reaped(200),
        shared(),
        unseen(),
    ] {
        assert_eq!(row(other, exit(3)).0, "crash.exit_code");
    }
    // But who killed the agent itself, that does not tell.
    assert_eq!(row(unseen().reaped(44), killed(9)).0, "crash.signal");
    // The tool's result does, for the tool.
    assert!(
        shared()
            .memory
            .blame_for_tool(at(9.0), "Exit code 137\nKilled")
            .is_some()
    );
    assert!(
        shared()
            .memory
            .blame_for_tool(at(9.0), "Exit code 1")
            .is_none()
    );
}

#[test]
fn an_agent_that_became_another_program_is_still_the_agent() {
    let before = || story().looked(9.0, &[(AGENT, 2)]);
    let of = |kinship| before().oom_of_kin(9.9, AGENT, "other", kinship);
    assert_eq!(
        row(of(Kinship::BelowUs), killed(9)),
        ("oom.agent".into(), 0.99)
    );
    assert_eq!(row(of(Kinship::Gone), killed(9)), ("oom.agent".into(), 0.9));
    assert_eq!(row(of(Kinship::Elsewhere), killed(9)).0, "crash.signal");
    let tool = before().oom_of_kin(9.9, TOOL, "other", Kinship::BelowUs);
    assert_eq!(row(tool, exit(3)), ("oom.descendant_fatal".into(), 0.7));
}

/// The log announces a victim before it is killed, and the counter may be read in between.
#[test]
fn one_kill_is_told_once_however_it_is_heard_of() {
    let mut announced = story().announced(AGENT, "python3", 0);
    announced.read(9.8);
    announced = announced.announced(AGENT, "python3", 62).oom(9.9);
    let mut counted = story().oom(9.8).announced(AGENT, "python3", 62);
    counted.read(9.9);
    for story in [announced, counted] {
        assert_eq!(story.memory.kills().len(), 1, "{:?}", story.memory.kills());
        let failure = story.end(killed(9)).verdict().1.unwrap();
        assert_eq!(failure.confidence, 0.99, "{failure:?}");
        assert!(
            failure.message.contains("python3 had 62 MiB"),
            "{failure:?}"
        );
    }
}

/// Nobody is named, but how much the run held is known.
#[test]
fn an_agent_that_held_little_was_not_what_the_kernel_looked_for() {
    let of = |mib| {
        row(
            story()
                .looked(9.0, &[(AGENT, 20)])
                .oom(9.9)
                .reaped(mib)
                .looked(9.95, &[]),
            killed(9),
        )
    };
    assert_eq!(of(60), ("oom.agent".into(), 0.9));
    assert_eq!(of(40), ("oom.agent".into(), 0.5));
    assert_eq!(of(20), ("crash.signal".into(), 0.6));
}

#[test]
fn a_verdict_about_memory_says_who_how_much_and_where() {
    let failure = story()
        .looked(9.0, &[(AGENT, 50)])
        .oom_of(9.9, AGENT, "python3")
        .end(killed(9))
        .verdict()
        .1
        .unwrap();
    assert_eq!(
        failure.message,
        "The kernel killed the agent for memory: python3 had 62 MiB resident, the limit is 64 MiB."
    );
    let facts: Vec<(&str, &str)> = failure
        .evidence
        .iter()
        .map(|item| (&*item.source, &*item.fact))
        .collect();
    assert_eq!(
        facts,
        [
            (
                "kernel_log",
                "killed process 100 (python3), 62 MiB resident, limit of memory cgroup /run"
            ),
            (
                "cgroup",
                "oom_kill rose by 1 in /run (limit 64 MiB) while the agent ran"
            ),
            ("wait_status", "ended by SIGKILL"),
        ]
    );
    let failure = story()
        .looked(9.6, &[(AGENT, 60)])
        .oom(10.0)
        .end(killed(9))
        .verdict()
        .1
        .unwrap();
    assert_eq!(
        failure.evidence[0].fact,
        "python3 (100) was the largest process of the run, 60 MiB of 64 MiB, 0.4 s before"
    );
}

#[test]
fn a_livelock_is_told_beside_what_we_did_about_it() {
    let stuck = || {
        story()
            .ooms(5.0, 60, 10.0)
            .ooms(6.0, 60, 10.0)
            .ooms(9.9, 60, 40.0)
    };
    let stopped = killed(9).meant(Intent::Deadline(MINUTE));
    let mut stuck_at_end = stuck();
    stuck_at_end.memory.exited(at(10.0));
    let failure = Case {
        memory: stuck_at_end.memory,
        ..stopped
    }
    .verdict()
    .1
    .unwrap();
    assert_eq!(failure.kind, K::TimeoutDeadline);
    assert!(alternative(&failure, &K::OomLivelock) >= 0.8, "{failure:?}");
    let running = Case {
        ending: Ending::StillRunning { signal: 15 },
        memory: stuck().memory,
        ..exit(0)
    };
    let failure = running.verdict().1.unwrap();
    assert_eq!(failure.kind, K::OomLivelock);
    assert_eq!(failure.confidence, 0.8);

    // Few of them, and everybody goes on; or pressure alone; or they are over; or each had its victim.
    let healthy = [
        story().ooms(9.0, 5, 10.0),
        story().ooms(9.0, 0, 90.0),
        stuck().ooms(9.95, 0, 0.0),
        stuck().oom(9.95),
    ];
    for (row, story) in healthy.into_iter().enumerate() {
        assert_eq!(story.memory.livelock(), None, "row {row}");
    }
    assert!(story().ooms(9.0, 5, 60.0).memory.livelock().is_some());
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/memory_events")
}

/// What the supervisor would have read of a case: just before, and just after.
fn recorded(case: &str) -> Case {
    let directory = fixtures().join(case);
    let agent: serde_json::Value =
        serde_json::from_slice(&fs::read(directory.join("agent.json")).unwrap()).unwrap();
    let reading = |when: &str| {
        let place = directory.join(when);
        let (mut cgroups, sandbox_oom_kills) = reading_of(&place, case);
        if case == "kill_9_after_foreign_oom" {
            cgroups[0].largest_other_bytes = Some(MIB);
        }
        MemoryReading {
            cgroups,
            sandbox_oom_kills,
            ..MemoryReading::default()
        }
    };
    let mut memory = Memory::default();
    memory.baseline(reading("before"));
    memory.spawned(agent["pid"].as_u64().unwrap().try_into().unwrap());
    let kmsg = String::from_utf8_lossy(&fs::read(directory.join("kmsg")).unwrap()).into_owned();
    let news = news_of(&kmsg);
    // The records have the time since boot in microseconds, of the kill and of the last thing that was heard.
    let times: Vec<Duration> = kmsg
        .lines()
        .filter(|line| line.contains("Killed process"))
        .filter_map(|line| Some(Duration::from_micros(line.split(',').nth(2)?.parse().ok()?)))
        .collect();
    let seen = times.first().copied().unwrap_or_default();
    // The wait status comes with the largest that was waited for; a stranger was not.
    let held = news.victims.iter().map(|victim| victim.resident_bytes);
    let held = held.max().filter(|_| case != "kill_9_after_foreign_oom");
    memory.read(
        seen,
        MemoryReading {
            victims: news.victims,
            userspace: news.userspace,
            reaped_rss_bytes: held,
            ..reading("after")
        },
        None,
    );
    // A TERM came seven seconds after, everything else ended on it.
    let later = if case == "term_after_old_oom" { 7 } else { 0 };
    memory.exited(seen + Duration::from_secs(later));
    let ending = match (
        agent["exit"]["code"].as_i64(),
        agent["exit"]["signal"].as_str(),
    ) {
        (Some(code), _) => exit(code.try_into().unwrap()),
        (None, Some("SIGKILL")) => killed(9),
        (None, Some("SIGTERM")) => killed(15),
        other => panic!("{other:?}"),
    };
    Case { memory, ..ending }
}

#[test]
fn every_recording_of_version_2_gets_its_verdict() {
    let table: &[(&str, &str, f64)] = &[
        ("agent_hog", "oom.agent", 0.99),
        ("tool_hog_fatal", "oom.descendant_fatal", 0.7),
        ("oom_group", "oom.agent", 0.99),
        ("limit_on_parent", "oom.agent", 0.99),
        ("leaf_without_memory", "oom.agent", 0.99),
        ("high_is_max", "oom.agent", 0.99),
        ("two_hogs", "oom.agent", 0.99),
        ("global_oom", "oom.agent", 0.99),
        ("tmpfs_writer", "oom.agent", 0.99),
        ("kill_9", "crash.signal", 0.9),
        ("kill_9_after_earlier_oom", "crash.signal", 0.9),
        ("kill_9_after_foreign_oom", "crash.signal", 0.9),
        ("term_after_old_oom", "crash.signal", 0.95),
    ];
    let wrong: Vec<String> = table
        .iter()
        .filter_map(|(case, expected, confidence)| {
            let failure = recorded(case).verdict().1.unwrap();
            let fits = failure.kind.to_string() == *expected && failure.confidence == *confidence;
            (!fits).then(|| format!("{case}: {failure:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let survived = Case {
        result: exit(0).well().result,
        ..recorded("tool_hog_survived")
    };
    assert_eq!(survived.verdict(), (Outcome::Success, None));
    // Each case is in the table, or below.
    let mut cases: Vec<String> = fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md" && name != "tool_hog_survived" && name != "livelock")
        .collect();
    cases.retain(|name| table.iter().all(|(case, ..)| case != name));
    assert!(cases.is_empty(), "{cases:?}");
}

#[test]
fn the_recordings_say_whose_memory_was_short() {
    let says = |case: &str| recorded(case).verdict().1.unwrap();
    assert!(
        says("global_oom")
            .message
            .contains("the sandbox had no memory left")
    );
    let tmpfs = says("tmpfs_writer");
    assert!(
        tmpfs
            .evidence
            .iter()
            .any(|item| item.fact.contains("were files in memory")),
        "{tmpfs:?}"
    );
    let group = says("oom_group");
    assert!(group.message.contains("hog had 4"), "{group:?}");
    assert!(
        group
            .evidence
            .iter()
            .any(|item| item.fact.contains("memory.oom.group")),
        "{group:?}"
    );
    let livelock = recorded("livelock");
    assert!(
        livelock.memory.livelock().is_some(),
        "{:?}",
        livelock.memory
    );
}

#[test]
fn what_oomd_killed_explains_a_kill_only_if_it_was_our_cgroup_and_just_now() {
    let of = |seconds, cgroup| row(story().oomd_killed(seconds, cgroup), killed(9));
    // Ours, one above it, and ours as it is called outside the container.
    for ours in ["/run", "/", "/host/docker/run"] {
        assert_eq!(of(9.5, ours), ("oom.userspace".into(), 0.8), "{ours}");
    }
    for other in ["/ru", "/run/below", "/user.slice", "/other-run"] {
        assert_eq!(of(9.5, other), ("crash.signal".into(), 0.9), "{other}");
    }
    assert_eq!(of(4.0, "/run"), ("crash.signal".into(), 0.9));
    let mut nameless = story().userspace(None);
    nameless.read(4.0);
    assert_eq!(row(nameless, killed(9)).0, "crash.signal");
    assert_eq!(row(story().userspace(None), killed(9)).0, "oom.userspace");
    // It does not ask first.
    let story = story().oomd_killed(9.5, "/run");
    assert_eq!(row(story, killed(15)).0, "crash.signal");
}

#[test]
fn a_term_is_earlyoom_s_if_it_has_just_named_the_agent() {
    let before = || story().looked(9.0, &[(AGENT, 20)]);
    for signal in [15, 9] {
        let of = |story: Story| row(story, killed(signal));
        let sure = before().earlyoom(9.9, AGENT, "python3");
        assert_eq!(of(sure), ("oom.userspace".into(), 0.8));
        let unseen = story().earlyoom(9.9, AGENT, "agent");
        assert_eq!(of(unseen), ("oom.userspace".into(), 0.8));
        // A pid or a name alone may be another's.
        for hint in [(STRANGER, "python3"), (AGENT, "nginx")] {
            let hinted = before().earlyoom(9.9, hint.0, hint.1);
            assert_eq!(of(hinted), ("oom.userspace".into(), 0.5), "{hint:?}");
        }
        let mut namesake = story();
        let tool = ProcessUse {
            command: Arc::from("python3"),
            ..process(TOOL, 5)
        };
        let tree = TreeSample {
            processes: vec![process(AGENT, 20), tool],
            ..TreeSample::default()
        };
        namesake.memory.looked(at(9.0), &tree);
        let others = [
            before().earlyoom(4.0, AGENT, "python3"),
            before().earlyoom(9.9, STRANGER, "nginx"),
            namesake.earlyoom(9.9, TOOL, "python3"),
        ];
        for (number, story) in others.into_iter().enumerate() {
            assert_eq!(of(story).0, "crash.signal", "row {number}, signal {signal}");
        }
    }
    // What we passed on is ours.
    let passed_on = killed(15).meant(Intent::Stop(15));
    let story = before().earlyoom(9.9, AGENT, "python3");
    assert_eq!(row(story, passed_on).0, "cancelled.host");
}

#[test]
fn many_lines_of_others_do_not_hide_the_last_one() {
    let mut crowded = story();
    for _ in 0..200 {
        crowded = crowded.earlyoom(9.0, STRANGER, "nginx");
    }
    let crowded = crowded.earlyoom(9.9, AGENT, "python3");
    assert_eq!(row(crowded, killed(15)).0, "oom.userspace");
}

#[test]
fn many_orphans_do_not_hide_the_last_one() {
    for earlier in [2.0, 9.7] {
        let mut story = story().shared(60).looked(8.0, &[(AGENT, 20), (TOOL, 30)]);
        for pid in 1000..1200 {
            story = story.orphan_killed(earlier, pid, false);
        }
        let story = story
            .orphan_killed(9.8, TOOL, false)
            .announced(TOOL, "sleep", 30);
        let (kind, confidence) = row(story.oom(9.9), exit(3));
        assert_eq!(
            (kind.as_str(), confidence),
            ("oom.descendant_fatal", 0.7),
            "{earlier}"
        );
    }
}

/// The samples have the living by pid, whatever order they came and went in.
#[test]
fn of_many_the_largest_is_blamed_if_it_vanished_and_only_then() {
    let largest = |pid: u32, and_then: &[u32]| {
        let all = |with: &[u32]| {
            let others = (200..900).filter(|other| *other != pid);
            let others = others.map(|other| (other, 1));
            let large = with.iter().map(|with| (*with, 40));
            let mut all: Vec<(u32, u64)> = others.chain(large).chain([(AGENT, 2)]).collect();
            all.sort_unstable();
            all
        };
        let story = story()
            .shared(10)
            .looked(8.0, &all(&[pid]))
            .oom(9.0)
            .looked(9.1, &all(and_then));
        let blamed = story.memory.kills()[0].process.as_ref();
        blamed.map(|process| process.pid)
    };
    for pid in [101, 200, 201, 555, 898, 899, 5000] {
        assert_eq!(largest(pid, &[]), Some(pid));
        assert_eq!(largest(pid, &[pid]), None, "{pid} lives");
    }
}

#[test]
fn a_kill_in_the_run_stands_in_the_evidence_of_every_end() {
    let ends = [
        exit(0),
        exit(0).open(),
        exit(0).error("it broke"),
        exit(1).result("error_during_execution", true, None),
        exit(1).said("No conversation found"),
        exit(1).said("ValueError: x"),
        exit(3),
        killed(15),
        killed(9),
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let failure = story()
            .looked(1.0, &[(AGENT, 20), (TOOL, 30)])
            .oom_of(2.0, TOOL, "hog")
            .end(end)
            .verdict()
            .1
            .unwrap();
        assert_ne!(failure.kind.class(), "oom", "row {number}: {failure:?}");
        for fact in [
            "killed process 102 (hog)",
            "8.0 s before the end",
            "oom_kill rose by 1",
        ] {
            let told = failure.evidence.iter();
            let told = told.filter(|item| item.fact.contains(fact)).count();
            assert_eq!(told, 1, "row {number}, {fact}: {failure:?}");
        }
    }
}

#[test]
fn a_full_heap_is_the_reason_unless_something_else_came_after_it() {
    let said = |stderr| story().end(exit(1).said(stderr)).verdict().1.unwrap();
    let later = said(
        "FATAL ERROR: JavaScript heap out of memory\nTraceback (most recent call last):\n  File \"a\"\nValueError: x",
    );
    assert_eq!(
        (later.kind.clone(), later.confidence),
        (K::CrashException, 0.9)
    );
    assert_eq!(alternative(&later, &K::OomHeap), 0.5, "{later:?}");
    let told = later.evidence.iter();
    assert!(
        told.clone()
            .any(|item| item.fact.contains("heap out of memory")),
        "{later:?}"
    );
    let reasons = [
        // Before it, or of the CLI whose heap it was.
        "ValueError: x\nFATAL ERROR: JavaScript heap out of memory",
        "FATAL ERROR: JavaScript heap out of memory\n\
         claude_agent_sdk._errors.ProcessError: Command failed with exit code -6 (exit code: -6)",
        "FATAL ERROR: JavaScript heap out of memory\n",
        "RuntimeError: it said JavaScript heap out of memory",
    ];
    for stderr in reasons {
        let failure = said(stderr);
        let found = (failure.kind.clone(), failure.confidence);
        assert_eq!(found, (K::OomHeap, 0.97), "{stderr}: {failure:?}");
    }
    // Both are of memory.
    let python = said("FATAL ERROR: JavaScript heap out of memory\nMemoryError");
    assert_eq!((python.kind.clone(), python.confidence), (K::OomHeap, 0.85));
    assert!(python.alternatives.is_empty(), "{python:?}");
}
