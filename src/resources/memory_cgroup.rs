//! The memory cgroup that a process is charged to: where its files are, and what they say.
//!
//! /proc/PID/cgroup names a path within each hierarchy, and /proc/self/mountinfo says where, and from which path on, a
//! hierarchy can be seen. In a container both are cut short in ways of their own, so neither is guessed from the other.
//! On a machine with both versions only one has the memory controller; its files tell which.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sandtrace_client::wire::CgroupResources;

/// A version of the cgroup interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    V1,
    V2,
}

impl CgroupVersion {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }

    /// The file that counts OOM kills: it is there exactly where memory is charged. The root of version 2 has none.
    #[must_use]
    pub fn events_file(self) -> &'static str {
        match self {
            Self::V1 => "memory.oom_control",
            Self::V2 => "memory.events",
        }
    }

    fn usage_file(self) -> &'static str {
        match self {
            Self::V1 => "memory.usage_in_bytes",
            Self::V2 => "memory.current",
        }
    }

    fn limit_file(self) -> &'static str {
        match self {
            Self::V1 => "memory.limit_in_bytes",
            Self::V2 => "memory.max",
        }
    }
}

/// The memory cgroup that a process is charged to, with those above it as far as they can be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryCgroup {
    version: CgroupVersion,
    /// Its own directory first, then its parent's, up to the mount; never empty.
    directories: Vec<PathBuf>,
}

impl MemoryCgroup {
    /// That of this process, which the agent inherits unless it is put elsewhere.
    ///
    /// `None` where there is no memory controller, no /proc, or nothing may be read.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        Self::read("/proc/self/cgroup")
    }

    /// As [`Self::of_this_process`], of any process.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        Self::read(&format!("/proc/{pid}/cgroup"))
    }

    fn read(memberships: &str) -> Option<Self> {
        Self::of_memberships(&fs::read_to_string(memberships).ok()?)
    }

    /// That of whoever has these memberships, the text of /proc/PID/cgroup.
    #[must_use]
    pub fn of_memberships(memberships: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        Self::first(&mounts, memberships, &|file| File::open(file).is_ok())
    }

    /// The first place whose counters can be read, from the process's own cgroup upwards: a cgroup of version 2 whose
    /// parent has not enabled the controller is charged to that parent.
    fn first(mounts: &str, memberships: &str, readable: &dyn Fn(&Path) -> bool) -> Option<Self> {
        places(mounts, memberships)
            .into_iter()
            .find_map(|(version, mut directories)| {
                let own = directories
                    .iter()
                    .position(|directory| readable(&directory.join(version.events_file())))?;
                directories.drain(..own);
                Some(Self {
                    version,
                    directories,
                })
            })
    }

    #[must_use]
    pub fn version(&self) -> CgroupVersion {
        self.version
    }

    /// The directory with its files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directories
            .first()
            .map_or(Path::new(""), PathBuf::as_path)
    }

    /// Its own directory first, then those of the cgroups above it, up to where the hierarchy is mounted. The last one
    /// may be the root of version 2, which has no memory files.
    #[must_use]
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// What it uses and may use, now; `None` once it is removed.
    #[must_use]
    pub fn resources(&self) -> Option<CgroupResources> {
        let own = self.directory();
        let usage = fs::read_to_string(own.join(self.version.usage_file())).ok()?;
        let limits = self.directories.iter().filter_map(|directory| {
            let text = fs::read_to_string(directory.join(self.version.limit_file())).ok()?;
            limit(&text)
        });
        Some(CgroupResources {
            memory_used_bytes: usage.trim().parse().ok()?,
            memory_limit_bytes: limits.min(),
            oom_kills: fs::read_to_string(own.join(self.version.events_file()))
                .ok()
                .and_then(|text| counter(&text, "oom_kill")),
        })
    }
}

/// One `name value` line of a file of such lines.
#[must_use]
pub fn counter(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
}

/// `max` is version 2's word for no limit; version 1 has the largest number of pages that a signed 64-bit count of bytes
/// holds, which depends on the page's size.
fn limit(text: &str) -> Option<u64> {
    text.trim()
        .parse()
        .ok()
        .filter(|&bytes: &u64| bytes < 1 << 62)
}

/// Where the process's cgroup may have its files, with the directories above it, nearest first. Version 1 comes first:
/// a memory hierarchy of its own takes the controller from version 2.
fn places(mounts: &str, memberships: &str) -> Vec<(CgroupVersion, Vec<PathBuf>)> {
    let mut places = Vec::new();
    for version in [CgroupVersion::V1, CgroupVersion::V2] {
        let Some(path) = membership(memberships, version) else {
            continue;
        };
        let mounted = mounts.lines().filter_map(Mount::parse);
        for mount in mounted.filter(|mount| mount.version == version) {
            if let Some(directories) = mount.directories(path) {
                places.push((version, directories));
            }
        }
    }
    places
}

/// The process's path in a hierarchy, of lines like `4:memory:/user` and `0::/user`.
fn membership(memberships: &str, version: CgroupVersion) -> Option<&str> {
    memberships.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = match version {
            CgroupVersion::V1 => controllers.split(',').any(|name| name == "memory"),
            CgroupVersion::V2 => controllers.is_empty(),
        };
        is_it.then_some(path)
    })
}

/// A hierarchy that memory may be charged in, as it is mounted.
struct Mount {
    version: CgroupVersion,
    /// The path within the hierarchy that is seen at the mount point.
    root: String,
    point: String,
}

impl Mount {
    /// `36 35 0:29 ROOT POINT options [optional…] - TYPE SOURCE super-options`, proc(5).
    fn parse(line: &str) -> Option<Self> {
        let (place, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let version = match (kind.next()?, kind.nth(1).unwrap_or_default()) {
            ("cgroup2", _) => CgroupVersion::V2,
            ("cgroup", options) if options.split(',').any(|option| option == "memory") => {
                CgroupVersion::V1
            }
            _ => return None,
        };
        let mut place = place.split(' ').skip(3);
        Some(Self {
            version,
            root: unescape(place.next()?),
            point: unescape(place.next()?),
        })
    }

    /// The directory of the cgroup at `path` and those above it; `None` if it lies outside of what is mounted.
    fn directories(&self, path: &str) -> Option<Vec<PathBuf>> {
        let below = Path::new(path).strip_prefix(&self.root).ok()?;
        // A cgroup outside of our namespace is named by way of `..`, and cannot be seen.
        if below.components().any(|part| part.as_os_str() == "..") {
            return None;
        }
        let point = Path::new(&self.point);
        let above = below.ancestors().map(|part| point.join(part));
        Some(
            above
                .map(|directory| directory.components().collect())
                .collect(),
        )
    }
}

/// A space, a tab, a newline and a backslash are written as three octal digits.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (code, character)| {
        text.replace(code, character)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of mountinfo that matter, on several machines.
    const V1: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:12 master:1 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const V2: &str =
        "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    /// A container without a cgroup namespace sees its own part of the hierarchy alone.
    const CONTAINER_V1: &str = "720 715 0:32 /docker/abc /sys/fs/cgroup/memory ro,nosuid master:17 - cgroup cgroup rw,memory\n";
    const ODD_PLACE: &str = "9 1 0:26 / /mnt/c\\040g rw - cgroup2 none rw\n";

    fn found(
        mounts: &str,
        memberships: &str,
        files: &[&str],
    ) -> Option<(CgroupVersion, Vec<String>)> {
        let readable = |file: &Path| files.iter().any(|known| Path::new(known) == file);
        let cgroup = MemoryCgroup::first(mounts, memberships, &readable)?;
        let directories = cgroup.directories().iter();
        Some((
            cgroup.version(),
            directories.map(|path| path.display().to_string()).collect(),
        ))
    }

    #[test]
    fn the_cgroup_is_where_mountinfo_and_membership_meet() {
        use CgroupVersion::{V1 as One, V2 as Two};
        let both = "12:cpu,cpuacct:/a\n4:memory:/user/run\n0::/user\n";
        type Row<'a> = (
            &'a str,
            &'a str,
            &'a [&'a str],
            Option<(CgroupVersion, &'a [&'a str])>,
        );
        let table: &[Row<'_>] = &[
            // Version 1 has the controller.
            (
                V1,
                both,
                &["/sys/fs/cgroup/memory/user/run/memory.oom_control"],
                Some((
                    One,
                    &[
                        "/sys/fs/cgroup/memory/user/run",
                        "/sys/fs/cgroup/memory/user",
                        "/sys/fs/cgroup/memory",
                    ],
                )),
            ),
            // Both are mounted, and version 2 has it.
            (
                V1,
                both,
                &["/sys/fs/cgroup/unified/user/memory.events"],
                Some((
                    Two,
                    &["/sys/fs/cgroup/unified/user", "/sys/fs/cgroup/unified"],
                )),
            ),
            // The nearest one above has it.
            (
                V2,
                "0::/user/a/b\n",
                &["/sys/fs/cgroup/user/memory.events"],
                Some((Two, &["/sys/fs/cgroup/user", "/sys/fs/cgroup"])),
            ),
            // Only the root is left, which has no counters in version 2.
            (V2, "0::/\n", &[], None),
            (
                CONTAINER_V1,
                "4:memory:/docker/abc/x\n",
                &["/sys/fs/cgroup/memory/x/memory.oom_control"],
                Some((One, &["/sys/fs/cgroup/memory/x", "/sys/fs/cgroup/memory"])),
            ),
            (
                CONTAINER_V1,
                "4:memory:/docker/abc\n",
                &["/sys/fs/cgroup/memory/memory.oom_control"],
                Some((One, &["/sys/fs/cgroup/memory"])),
            ),
            // Another container's, and one outside of our namespace.
            (
                CONTAINER_V1,
                "4:memory:/docker/abcd\n",
                &["/sys/fs/cgroup/memory/memory.oom_control"],
                None,
            ),
            (
                V2,
                "0::/../other\n",
                &["/sys/fs/cgroup/../other/memory.events"],
                None,
            ),
            (
                ODD_PLACE,
                "0::/user\n",
                &["/mnt/c g/user/memory.events"],
                Some((Two, &["/mnt/c g/user", "/mnt/c g"])),
            ),
            ("nonsense\n - \n", "nonsense\n", &[], None),
            ("", both, &["/memory.events"], None),
        ];
        for (mounts, memberships, files, expected) in table {
            let found = found(mounts, memberships, files);
            let expected = expected.map(|(version, directories)| {
                let directories = directories.iter().map(|&text| text.to_owned()).collect();
                (version, directories)
            });
            assert_eq!(found, expected, "{memberships:?} in {mounts:?}");
        }
    }

    #[test]
    fn no_limit_is_said_in_two_ways() {
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
        assert_eq!(limit("9223372036854710272\n"), None);
        assert_eq!(limit("67108864\n"), Some(64 << 20));
        assert_eq!(limit("0\n"), Some(0));
    }

    #[test]
    fn a_counter_is_found_by_its_whole_name() {
        let v2 = "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 5\n";
        assert_eq!(counter(v2, "oom_kill"), Some(1));
        assert_eq!(counter(v2, "oom"), Some(2));
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n";
        assert_eq!(counter(v1, "oom_kill"), Some(7));
        assert_eq!(counter(v1, "oom"), None);
        assert_eq!(counter("oom_kill many\n", "oom_kill"), None);
    }

    fn directory_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = directory.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        directory
    }

    #[test]
    fn the_lowest_limit_on_the_way_up_is_the_one_that_applies() {
        let root = directory_with(&[
            ("a/memory.max", "3000000\n"),
            ("a/b/memory.max", "max\n"),
            ("a/b/memory.current", "1234567\n"),
            ("a/b/memory.events", "oom 1\noom_kill 2\n"),
        ]);
        let path = |below: &str| root.path().join(below);
        let cgroup = MemoryCgroup {
            version: CgroupVersion::V2,
            directories: vec![path("a/b"), path("a"), path("")],
        };
        let expected = CgroupResources {
            memory_used_bytes: 1_234_567,
            memory_limit_bytes: Some(3_000_000),
            oom_kills: Some(2),
        };
        assert_eq!(cgroup.resources(), Some(expected));
        fs::remove_file(path("a/b/memory.current")).unwrap();
        assert_eq!(cgroup.resources(), None);
    }

    #[test]
    fn this_process_is_charged_somewhere_or_nowhere() {
        match MemoryCgroup::of_this_process() {
            Some(cgroup) => {
                let resources = cgroup.resources().unwrap();
                assert!(resources.memory_used_bytes > 0);
                assert_eq!(MemoryCgroup::of(std::process::id()), Some(cgroup));
            }
            None => {
                let file = Path::new("/sys/fs/cgroup/memory/memory.usage_in_bytes");
                assert!(!file.exists(), "a cgroup of version 1 was not found");
            }
        }
    }
}
