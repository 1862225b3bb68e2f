//! What happens to a run's memory, second by second, told in the order in which the supervisor would hear of it.

use super::*;

pub(super) const MIB: u64 = 1 << 20;
pub(super) const AGENT: u32 = 100;
pub(super) const CLI: u32 = 101;
pub(super) const TOOL: u32 = 102;
pub(super) const STRANGER: u32 = 999;

/// A run of an agent, its CLI and a tool in a cgroup of 64 MiB, second by second; it ends at the tenth.
pub(super) struct Story {
    pub(super) memory: Memory,
    pub(super) reading: MemoryReading,
}

pub(super) fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Nobody else is in the cgroup.
pub(super) fn story() -> Story {
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
    pub(super) fn shared(mut self, mib: u64) -> Self {
        self.reading.cgroups[0].largest_other_bytes = Some(mib * MIB);
        self
    }

    /// No cgroup's counters can be read.
    pub(super) fn without_cgroup(mut self) -> Self {
        self.reading.cgroups.clear();
        self
    }

    pub(super) fn read(&mut self, seconds: f64) {
        self.memory.read(at(seconds), self.reading.clone(), None);
        self.reading.victims.clear();
        self.reading.userspace.clear();
    }

    /// A look at the processes, with what they hold in MiB.
    pub(super) fn looked(mut self, seconds: f64, processes: &[(u32, u64)]) -> Self {
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
    pub(super) fn oom(mut self, seconds: f64) -> Self {
        if let Some(cgroup) = self.reading.cgroups.first_mut() {
            cgroup.oom_kills = cgroup.oom_kills.map(|count| count + 1);
            cgroup.ooms = cgroup.ooms.map(|count| count + 3);
        }
        self.reading.sandbox_oom_kills = self.reading.sandbox_oom_kills.map(|count| count + 1);
        self.read(seconds);
        self
    }

    /// They rise, and the kernel's log says for whom.
    pub(super) fn oom_of(mut self, seconds: f64, pid: u32, command: &str) -> Self {
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
    pub(super) fn of_stranger(mut self, seconds: f64, kinship: Kinship) -> Self {
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
    pub(super) fn oom_of_kin(
        mut self,
        seconds: f64,
        pid: u32,
        command: &str,
        kinship: Kinship,
    ) -> Self {
        self = self.announced(pid, command, 62);
        self.reading.victims[0].kinship = kinship;
        self.oom(seconds)
    }

    /// The log names somebody, and the next reading will have it.
    pub(super) fn announced(mut self, pid: u32, command: &str, mib: u64) -> Self {
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
    pub(super) fn reaped(mut self, mib: u64) -> Self {
        self.reading.reaped_rss_bytes = Some(mib * MIB);
        self
    }

    pub(super) fn userspace(mut self, pid: Option<u32>) -> Self {
        self.reading.userspace.push(UserspaceKill {
            pid,
            command: None,
            cgroup: None,
            killer: "earlyoom",
        });
        self
    }

    /// earlyoom writes whom it asks to end.
    pub(super) fn earlyoom(mut self, seconds: f64, pid: u32, command: &str) -> Self {
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
    pub(super) fn oomd_killed(mut self, seconds: f64, cgroup: &str) -> Self {
        self.reading.userspace.push(UserspaceKill {
            pid: None,
            command: None,
            cgroup: Some(cgroup.to_owned()),
            killer: "systemd-oomd",
        });
        self.read(seconds);
        self
    }

    pub(super) fn oomd(mut self) -> Self {
        self.reading.cgroups[0].oomd_kills = Some(1);
        self
    }

    /// OOM situations without a kill.
    pub(super) fn ooms(mut self, seconds: f64, times: u64, pressure: f64) -> Self {
        let cgroup = &mut self.reading.cgroups[0];
        cgroup.ooms = cgroup.ooms.map(|count| count + times);
        cgroup.pressure_full = Some(pressure);
        self.read(seconds);
        self
    }

    pub(super) fn full(mut self) -> Self {
        self.reading.cgroups[0].used_bytes = Some(63 * MIB);
        self
    }

    pub(super) fn orphan_killed(mut self, seconds: f64, pid: u32, ours: bool) -> Self {
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
    pub(super) fn told(mut self) -> Self {
        assert!(
            self.memory
                .blame_for_tool(at(0.0), "Exit code 137")
                .is_some()
        );
        self
    }

    pub(super) fn end(mut self, case: Case) -> Case {
        self.read(10.0);
        self.memory.exited(at(10.0));
        Case {
            memory: self.memory,
            ..case
        }
    }
}

pub(super) fn process(pid: u32, mib: u64) -> ProcessUse {
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
