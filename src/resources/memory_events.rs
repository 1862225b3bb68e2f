//! What the kernel has counted about memory: OOM kills of the cgroups that the agent is charged to, and of the sandbox.
//!
//! The counters are cumulative, so that only the difference between two readings says anything. In version 2
//! `memory.events` counts what happens below a cgroup too: `oom_kill` where the victim was, `oom` where the limit is, which
//! may be higher up. In version 1 `oom_kill` is each cgroup's own and is not passed up (`reference/supervision.md` §3.1).

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::libc;

use super::memory_cgroup::{CgroupVersion, MemoryCgroup, counter};
use super::pressure::average;

/// Processes of a cgroup that are looked at, at most: a look must stay cheap.
const OTHERS: usize = 64;
/// Bytes read of any file here.
const FILE: u64 = 16 << 10;

/// One cgroup's memory at one moment. Counts are since the cgroup was made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CgroupMemory {
    /// Its path in the hierarchy as far as it can be seen, `/user` for instance.
    pub name: String,
    /// Processes of it, and in version 2 below it, that the kernel killed for memory. In version 2 the first victim of a
    /// group is counted twice.
    pub oom_kills: Option<u64>,
    /// How often the limit of it or of a cgroup above it could not be kept, whether or not somebody was killed. Only in
    /// version 2.
    pub ooms: Option<u64>,
    /// How often all of it was killed at once (`memory.oom.group`).
    pub group_kills: Option<u64>,
    /// How often systemd-oomd killed in it (`user.oomd_kill`).
    pub oomd_kills: Option<u64>,
    /// Bytes charged.
    pub used_bytes: Option<u64>,
    /// The lowest limit that applies, bytes; `None` for none.
    pub limit_bytes: Option<u64>,
    /// Bytes of files that live in memory (tmpfs, shared memory): no process is charged with them when victims are
    /// compared.
    pub shmem_bytes: Option<u64>,
    /// The largest process in it that is not the run's, resident bytes: 0 if there is none, `None` if nobody looked.
    pub largest_other_bytes: Option<u64>,
    /// Share of the last ten seconds in which no task in it could go on for lack of memory, percent; only in version 2.
    pub pressure_full: Option<f64>,
}

/// The cgroups whose counters matter: ours, and the agent's where it has been put elsewhere.
#[derive(Debug, Default)]
pub struct MemoryCounters {
    cgroups: Vec<MemoryCgroup>,
    /// The agent's memberships when it was last looked for: the mounts need not be searched while it stays.
    memberships: String,
}

impl MemoryCounters {
    /// Those of our own cgroup, which the agent will inherit. Without any, readings are empty.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self {
            cgroups: MemoryCgroup::of_this_process().into_iter().collect(),
            memberships: String::new(),
        }
    }

    /// Looks where the agent is now, and remembers it: once it is gone, nobody can tell any more.
    pub fn follow(&mut self, agent: u32) {
        let Some(memberships) = text(Path::new(&format!("/proc/{agent}/cgroup"))) else {
            return;
        };
        if memberships == self.memberships {
            return;
        }
        let Some(cgroup) = MemoryCgroup::of_memberships(&memberships) else {
            return;
        };
        self.memberships = memberships;
        let known = self.cgroups.iter();
        // Who is dying is already back at the root, above where it lived.
        let is_known = known
            .map(MemoryCgroup::directory)
            .any(|directory| directory.starts_with(cgroup.directory()));
        if !is_known {
            // An agent that wanders is followed to its last place only; ours stays.
            self.cgroups.truncate(1);
            self.cgroups.push(cgroup);
        }
    }

    /// The largest process in each, ours first, that is not the run's: resident bytes, 0 if there is none.
    #[must_use]
    pub fn largest_others(&self, is_ours: &dyn Fn(u32) -> bool) -> Vec<u64> {
        let cgroups = self.cgroups.iter();
        cgroups
            .map(|cgroup| largest_other(cgroup.directory(), is_ours))
            .collect()
    }

    /// Reads them, ours first, without a look at who else is in there.
    #[must_use]
    pub fn read(&self) -> Vec<CgroupMemory> {
        self.cgroups
            .iter()
            .map(|cgroup| {
                let directories: Vec<&Path> =
                    cgroup.directories().iter().map(|path| &**path).collect();
                let resources = cgroup.resources().unwrap_or_default();
                CgroupMemory {
                    used_bytes: Some(resources.memory_used_bytes),
                    limit_bytes: resources.memory_limit_bytes,
                    ..events(cgroup.version(), &directories)
                }
            })
            .collect()
    }
}

/// The counters of a cgroup, of its directory and those above it, nearest first.
fn events(version: CgroupVersion, directories: &[&Path]) -> CgroupMemory {
    let Some((own, above)) = directories.split_first() else {
        return CgroupMemory::default();
    };
    let events = text(&own.join(version.events_file())).unwrap_or_default();
    let stat = text(&own.join("memory.stat")).unwrap_or_default();
    let ooms = counter(&events, "oom").map(|oom| {
        let above = above
            .iter()
            .filter_map(|directory| counter(&text(&directory.join(version.events_file()))?, "oom"));
        // Each counts what is below it, so the highest that can be read has the most.
        above.fold(oom, u64::max)
    });
    let shmem = match version {
        CgroupVersion::V1 => "total_shmem",
        CgroupVersion::V2 => "shmem",
    };
    CgroupMemory {
        name: name(directories),
        oom_kills: counter(&events, "oom_kill"),
        ooms,
        group_kills: counter(&events, "oom_group_kill"),
        oomd_kills: oomd_kills(own),
        shmem_bytes: counter(&stat, shmem),
        pressure_full: text(&own.join("memory.pressure")).and_then(|text| average(&text, "full")),
        ..CgroupMemory::default()
    }
}

/// Processes that the kernel killed for memory since boot, in the whole sandbox: kills within cgroups count, too.
#[must_use]
pub fn sandbox_oom_kills() -> Option<u64> {
    counter(&text(Path::new("/proc/vmstat"))?, "oom_kill")
}

/// As [`CgroupMemory::pressure_full`], of the whole sandbox.
#[must_use]
pub fn sandbox_pressure_full() -> Option<f64> {
    average(&text(Path::new("/proc/pressure/memory"))?, "full")
}

/// The path below the mount, which is the last directory.
fn name(directories: &[&Path]) -> String {
    let below = match directories {
        [own, .., mount] => own.strip_prefix(mount).unwrap_or(own),
        _ => Path::new(""),
    };
    format!("/{}", below.display())
}

/// The largest process that is neither of the run nor us.
fn largest_other(directory: &Path, is_ours: &dyn Fn(u32) -> bool) -> u64 {
    let Some(list) = text(&directory.join("cgroup.procs")) else {
        return 0;
    };
    list.lines()
        .filter_map(|line| line.parse().ok())
        .take(OTHERS)
        .filter(|&pid| !is_ours(pid))
        .filter_map(resident)
        .max()
        .unwrap_or(0)
}

/// Resident bytes of a process.
fn resident(pid: u32) -> Option<u64> {
    let statm = text(Path::new(&format!("/proc/{pid}/statm")))?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let page = page
        .ok()
        .flatten()
        .and_then(|size| u64::try_from(size).ok());
    Some(pages.saturating_mul(page.unwrap_or(4096)))
}

/// The start of a file, so that nothing here grows with what somebody else writes.
fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::with_capacity(4096);
    File::open(path)
        .ok()?
        .take(FILE)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// systemd-oomd counts its kills in an extended attribute of the cgroup.
#[expect(unsafe_code, reason = "nix has no getxattr")]
fn oomd_kills(directory: &Path) -> Option<u64> {
    let path = CString::new(directory.as_os_str().as_bytes()).ok()?;
    let mut value = [0_u8; 32];
    // SAFETY: both strings end in NUL, and the kernel writes at most `value.len()` bytes.
    let length = unsafe {
        libc::getxattr(
            path.as_ptr(),
            c"user.oomd_kill".as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    let value = value.get(..usize::try_from(length).ok()?)?;
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

/// What would have been read of a recorded case: of the agent's cgroup, else of the one that it shares.
#[cfg(test)]
pub(crate) fn reading_of(recorded: &Path, case: &str) -> (Vec<CgroupMemory>, Option<u64>) {
    let own = recorded.to_owned();
    let parent = recorded.join("parent");
    let of = |name: &str, directories: &[&Path]| {
        let limit = directories
            .iter()
            .filter_map(|directory| text(&directory.join("memory.max"))?.trim().parse().ok());
        let own = directories.first()?;
        own.join("memory.events").exists().then(|| CgroupMemory {
            name: name.to_owned(),
            limit_bytes: limit.min(),
            largest_other_bytes: Some(0),
            ..events(CgroupVersion::V2, directories)
        })
    };
    let agent = recorded.join("agent");
    let (ours, agents) = (format!("/{case}"), format!("/{case}/agent"));
    let cgroups = [
        of(&ours, &[&own, &parent]).or_else(|| of(&ours, &[&parent])),
        of(&agents, &[&agent, &own, &parent]),
    ];
    let vmstat = text(&recorded.join("vmstat")).unwrap_or_default();
    (
        cgroups.into_iter().flatten().collect(),
        counter(&vmstat, "oom_kill"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(of: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in of {
            let file = directory.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, content).unwrap();
        }
        directory
    }

    #[test]
    fn version_2_counts_a_kill_at_the_victim_and_the_shortage_at_the_limit() {
        let root = files(&[
            (
                "a/b/memory.events",
                "max 0\noom 0\noom_kill 1\noom_group_kill 2\n",
            ),
            ("a/memory.events", "max 20\noom 4\noom_kill 1\n"),
            ("a/b/memory.stat", "anon 5\nshmem 4096\n"),
            (
                "a/b/memory.pressure",
                "some avg10=9.00 avg60=0.00 total=1\nfull avg10=51.25 avg60=0.00 total=1\n",
            ),
        ]);
        let (own, above) = (root.path().join("a/b"), root.path().join("a"));
        let read = events(CgroupVersion::V2, &[&own, &above, root.path()]);
        let expected = CgroupMemory {
            name: "/a/b".to_owned(),
            oom_kills: Some(1),
            ooms: Some(4),
            group_kills: Some(2),
            shmem_bytes: Some(4096),
            pressure_full: Some(51.25),
            ..CgroupMemory::default()
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn version_1_counts_each_cgroup_for_itself() {
        let root = files(&[
            (
                "a/memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
            ),
            (
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 9\n",
            ),
            ("a/memory.stat", "shmem 1\ntotal_shmem 2\n"),
        ]);
        let own = root.path().join("a");
        let read = events(CgroupVersion::V1, &[&own, root.path()]);
        assert_eq!(read.oom_kills, Some(3));
        assert_eq!(read.ooms, None);
        assert_eq!(read.shmem_bytes, Some(2));
        let nothing = events(CgroupVersion::V2, &[&own]);
        assert_eq!(
            (nothing.oom_kills, nothing.ooms, &*nothing.name),
            (None, None, "/")
        );
    }

    #[test]
    fn the_others_are_measured_and_the_run_s_own_are_not() {
        let us = std::process::id();
        let root = files(&[("cgroup.procs", &format!("{us}\nnobody\n"))]);
        assert!(largest_other(root.path(), &|_| false) > 1 << 20);
        assert_eq!(largest_other(root.path(), &|pid| pid == us), 0);
        assert_eq!(largest_other(Path::new("/nowhere"), &|_| false), 0);
    }
}
