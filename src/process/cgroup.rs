//! A cgroup of the agent's own, by which everything in it can be ended at once.
//!
//! `cgroup.kill` (Linux 5.14) reaches who forks meanwhile, who has become another user, and who is frozen; a sweep by
//! pid reaches none of these for sure. It comes on top of the sweep and does not replace it, for a process may have been
//! moved elsewhere, and most sandboxes let nobody but root make a cgroup.
//!
//! The leaf lies below our own cgroup and no controller is enabled for it, so memory and CPU are counted where they
//! would be without us. At the end of the run it goes; whoever is to stay goes back to our own cgroup first.
//!
//! The agent is born in the leaf (`CLONE_INTO_CGROUP`, see `spawn`). Writing its pid to `cgroup.procs` would have the
//! kernel wait for a grace period: 8 to 15 ms on an idle machine, where the agent must be executing within 3.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::stat::{own_start_ticks, start_ticks};

const PREFIX: &str = "sandtrace-";
/// So often a leaf is made anew that others have taken for stale.
const ATTEMPTS: u32 = 16;
/// How long those who stay may take to be moved, and those who die to leave.
const DISSOLVE_BOUND: Duration = Duration::from_millis(100);
const DISSOLVE_PAUSE: Duration = Duration::from_millis(1);

/// Why the agent has no cgroup of its own. It costs the run nothing but the certainty of `cgroup.kill`.
#[derive(Debug, thiserror::Error)]
pub enum NoLeaf {
    #[error("no cgroup2 hierarchy shows the supervisor's cgroup")]
    NotMounted,
    #[error("the supervisor's cgroup has controllers for its children, who would be counted apart")]
    Controllers,
    #[error("the kernel has no cgroup.kill")]
    NoKill,
    #[error("cannot make a cgroup: {}", .0)]
    Make(#[source] io::Error),
    #[error("the agent cannot be started in it: {}", .0.desc())]
    Enter(Errno),
}

/// A cgroup that holds the agent and what the agent starts.
#[derive(Debug)]
pub struct Leaf {
    path: PathBuf,
    /// Our own cgroup.
    parent: PathBuf,
    /// Locked, which tells other supervisors that the leaf is in use.
    directory: File,
    /// `cgroup.kill`, opened while there still are files to be had.
    kill: File,
}

impl Leaf {
    /// Makes an empty one below our own cgroup.
    pub fn make() -> Result<Self, NoLeaf> {
        let parent = own_cgroup().ok_or(NoLeaf::NotMounted)?;
        let enabled = fs::read_to_string(parent.join("cgroup.subtree_control"));
        if !enabled.map_err(NoLeaf::Make)?.trim().is_empty() {
            return Err(NoLeaf::Controllers);
        }
        let name = own_name().ok_or(NoLeaf::Make(io::ErrorKind::Unsupported.into()))?;
        let (path, directory) = claim(&parent, &name).map_err(NoLeaf::Make)?;
        let kill = OpenOptions::new()
            .write(true)
            .open(path.join("cgroup.kill"));
        match kill {
            Ok(kill) => Ok(Self {
                path,
                parent,
                directory,
                kill,
            }),
            Err(_missing) => {
                remove_empty(&path).ok();
                Err(NoLeaf::NoKill)
            }
        }
    }

    /// The directory, for a process to be born in.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Ends everyone who is in it or below with KILL; who forks meanwhile does not get away.
    ///
    /// Refuses when somebody has moved this very process there.
    pub(super) fn kill(&self) -> io::Result<()> {
        if self.members()?.contains(&Pid::this()) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        (&self.kill).write_all(b"1")
    }

    /// Whether somebody alive is in it or below. Unknown counts as nobody.
    pub(super) fn is_populated(&self) -> bool {
        is_populated(&self.path)
    }

    /// Who is in it, zombies included. Whoever this process cannot name, being of another pid namespace, is left out.
    pub(super) fn members(&self) -> io::Result<Vec<Pid>> {
        let list = fs::read_to_string(self.path.join("cgroup.procs"))?;
        let pids = list.lines().filter_map(|line| line.parse().ok());
        // Zero stands for the nameless, and to write it somewhere would move ourselves.
        Ok(pids.filter(|&pid| pid > 0).map(Pid::from_raw).collect())
    }

    /// Moves whoever is still in it to our own cgroup, and removes it; does nothing the second time.
    ///
    /// What the agent has put into cgroups of its own below this one stays there, and the leaf with it: they may have
    /// limits that somebody counts on.
    pub fn dissolve(&self) {
        let deadline = Instant::now() + DISSOLVE_BOUND;
        while remove_empty(&self.path).is_err() && Instant::now() < deadline {
            let parent = OpenOptions::new()
                .write(true)
                .open(self.parent.join("cgroup.procs"));
            let (Ok(mut parent), Ok(members)) = (parent, self.members()) else {
                return;
            };
            for member in members {
                // It may have died, which is as good.
                parent.write_all(member.to_string().as_bytes()).ok();
            }
            if remove_empty(&self.path).is_ok() {
                break;
            }
            thread::sleep(DISSOLVE_PAUSE);
        }
        remove_stale(&self.parent);
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        if self.path.exists() {
            self.dissolve();
        }
    }
}

/// Our own cgroup's directory in the second version's hierarchy.
#[must_use]
pub fn own_cgroup() -> Option<PathBuf> {
    let list = fs::read_to_string("/proc/self/cgroup").ok()?;
    // Mount points need not be UTF-8.
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    directory_of(&list, &mounts)
}

/// Where the cgroup that /proc/PID/cgroup names can be found in the file system, by /proc/PID/mountinfo.
fn directory_of(list: &str, mounts: &[u8]) -> Option<PathBuf> {
    let path = list.lines().find_map(|line| line.strip_prefix("0::"))?;
    // A cgroup outside of our namespace, or one that is gone.
    if path.split('/').any(|name| name == "..") || path.ends_with(" (deleted)") {
        return None;
    }
    mounts.split(|&byte| byte == b'\n').find_map(|line| {
        let separator = memchr::memmem::find(line, b" - ")?;
        let file_system = line[separator + 3..].split(|&byte| byte == b' ').next();
        if file_system != Some(b"cgroup2") {
            return None;
        }
        // id parent major:minor root mount-point …; of a bind mount the root is not that of the hierarchy.
        let mut fields = line[..separator].split(|&byte| byte == b' ').skip(3);
        let root = unescaped(fields.next()?);
        let mount_point = unescaped(fields.next()?);
        let below = Path::new(path).strip_prefix(root).ok()?;
        Some(mount_point.join(below))
    })
}

/// A path as mountinfo has it, with blanks and backslashes in octal.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\');
        let escaped = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(escaped.unwrap_or(first));
        rest = escaped.map_or(tail, |_| &tail[3..]);
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// A name that nobody has or has had: whoever clears away must not meet another leaf where the stale one was.
fn own_name() -> Option<String> {
    let ticks = own_start_ticks()?;
    let namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino());
    Some(format!("{PREFIX}{}-{ticks}-{namespace}", Pid::this()))
}

/// A new directory that nobody else has or clears away, while the file is open. It is called `name`, or so and a number.
fn claim(parent: &Path, name: &str) -> io::Result<(PathBuf, File)> {
    let mut result = Err(io::ErrorKind::AlreadyExists.into());
    for number in 0..ATTEMPTS {
        let path = match number {
            0 => parent.join(name),
            _ => parent.join(format!("{name}-{number}")),
        };
        match DirBuilder::new().mode(0o755).create(&path) {
            Ok(()) => match locked(&path) {
                Ok(Some(directory)) => return Ok((path, directory)),
                Ok(None) => result = Err(io::ErrorKind::NotFound.into()),
                Err(error) => {
                    remove_empty(&path).ok();
                    return Err(error);
                }
            },
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => result = Err(error),
            Err(error) => return Err(error),
        }
    }
    result
}

/// Opens and locks a directory. `None` if somebody has taken it for stale before it was locked: see [`remove_stale`].
fn locked(path: &Path) -> io::Result<Option<File>> {
    let directory = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    // Where directories cannot be locked, the leaf may be cleared away before the agent is born, who will do without.
    if matches!(directory.try_lock(), Err(TryLockError::WouldBlock)) {
        return Ok(None);
    }
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    // It may have gone between the opening and the lock.
    let named = fs::metadata(path).map(identity).ok();
    let ours = identity(directory.metadata()?);
    Ok((named == Some(ours)).then_some(directory))
}

fn is_populated(path: &Path) -> bool {
    fs::read_to_string(path.join("cgroup.events"))
        .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
}

/// Removes a cgroup without anybody in it, and those below; a cgroup that is gone is removed.
fn remove_empty(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) && !is_populated(path) => {
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    remove_empty(&entry.path())?;
                }
            }
            fs::remove_dir(path)
        }
        result => result,
    }
}

/// Removes the empty leaves of supervisors that were killed before they could.
///
/// One of another pid namespace, as in a container, has a name that says nothing here, and its leaf is empty until its
/// agent is born. So whoever holds a leaf has it locked, and the kernel unlocks what a killed one held.
fn remove_stale(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(owner);
        if owner.is_some_and(|(pid, ticks)| start_ticks(pid) != Some(ticks)) {
            remove_unlocked(&entry.path()).ok();
        }
    }
}

/// Removes an empty cgroup unless somebody has locked it.
fn remove_unlocked(path: &Path) -> io::Result<()> {
    let directory = File::open(path)?;
    // Shared with others who clear away; until it is gone nobody can claim it.
    match directory.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Ok(()),
        Ok(()) | Err(TryLockError::Error(_)) => remove_empty(path),
    }
}

/// The pid and start time of the supervisor that a leaf was named after.
fn owner(name: &str) -> Option<(u32, u64)> {
    let mut fields = name.strip_prefix(PREFIX)?.split('-');
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// As of a supervisor in another pid namespace: here, nobody has this pid.
    const UNKNOWN: &str = "sandtrace-4294967295-1";

    /// A directory, and a cgroup where one may be made: each kind of file system has locks of its own.
    fn parents() -> (tempfile::TempDir, Option<Cgroup>) {
        let cgroup = own_cgroup().and_then(|own| {
            let path = own.join(format!("test-{}", uuid::Uuid::now_v7()));
            fs::create_dir(&path).ok()?;
            Some(Cgroup(path))
        });
        (tempfile::tempdir().unwrap(), cgroup)
    }

    struct Cgroup(PathBuf);

    impl Drop for Cgroup {
        fn drop(&mut self) {
            remove_empty(&self.0).ok();
        }
    }

    fn in_each(test: impl Fn(&Path)) {
        let (directory, cgroup) = parents();
        test(directory.path());
        if let Some(cgroup) = &cgroup {
            test(&cgroup.0);
        }
    }

    #[test]
    fn a_leaf_is_cleared_away_when_its_unseen_supervisor_is_gone_and_no_sooner() {
        in_each(|parent| {
            let (path, directory) = claim(parent, UNKNOWN).unwrap();
            remove_stale(parent);
            assert!(path.exists());
            // A second of the same name has a leaf of its own.
            let (other, _directory) = claim(parent, UNKNOWN).unwrap();
            assert_ne!(other, path);
            // Not by closing it, for a child that another test forks now has it open for a moment.
            directory.unlock().unwrap();
            remove_stale(parent);
            assert!(!path.exists());
            assert!(other.exists());
        });
    }

    #[test]
    fn a_leaf_that_somebody_clears_away_is_not_taken() {
        in_each(|parent| {
            let path = parent.join(UNKNOWN);
            assert!(locked(&path).unwrap().is_none(), "it is gone");
            fs::create_dir(&path).unwrap();
            let clearing = File::open(&path).unwrap();
            clearing.lock_shared().unwrap();
            assert!(locked(&path).unwrap().is_none());
            let (other, directory) = claim(parent, UNKNOWN).unwrap();
            assert_ne!(other, path);
            // Two can clear away at once.
            remove_stale(parent);
            assert!(!path.exists());
            directory.unlock().unwrap();
            remove_stale(parent);
            assert!(!other.exists());
        });
    }

    #[test]
    fn however_often_others_clear_away_what_was_claimed_stays() {
        in_each(|parent| {
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        while !over.load(Ordering::Relaxed) {
                            remove_stale(parent);
                        }
                    });
                }
                let lost = (0..100).find(|number| {
                    let name = format!("{UNKNOWN}-{number}");
                    let (path, directory) = claim(parent, &name).unwrap();
                    thread::yield_now();
                    let named = fs::metadata(&path).map(|named| named.ino()).ok();
                    let is_lost = named != Some(directory.metadata().unwrap().ino());
                    remove_empty(&path).ok();
                    is_lost
                });
                over.store(true, Ordering::Relaxed);
                assert_eq!(lost, None);
            });
        });
    }

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
34 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn our_cgroup_is_found_wherever_the_hierarchy_is_mounted() {
        let unified =
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let bind = "30 23 0:26 /docker/1f /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let elsewhere = "30 23 0:26 / /mnt/a\\040b\\134c rw - cgroup2 none rw\n";
        for (list, mounts, expected) in [
            (
                "4:memory:/user\n0::/\n",
                HYBRID,
                Some("/sys/fs/cgroup/unified"),
            ),
            ("0::/user\n", HYBRID, Some("/sys/fs/cgroup/unified/user")),
            ("0::/user\n", unified, Some("/sys/fs/cgroup/user")),
            ("0::/docker/1f/a\n", bind, Some("/sys/fs/cgroup/a")),
            ("0::/docker/1f\n", bind, Some("/sys/fs/cgroup")),
            ("0::/docker/1fe\n", bind, None),
            ("0::/x\n", elsewhere, Some("/mnt/a b\\c/x")),
            ("0::/../outside\n", unified, None),
            ("0::/gone (deleted)\n", unified, None),
            ("4:memory:/user\n", unified, None),
            ("0::/user\n", "nonsense\n\n - \n", None),
        ] {
            let found = directory_of(list, mounts.as_bytes());
            let expected = expected.map(|path| format!("{path}/"));
            assert_eq!(
                found.map(|path| path.join("")),
                expected.map(PathBuf::from),
                "{list}{mounts}"
            );
        }
    }

    #[test]
    fn a_leaf_names_its_supervisor() {
        assert_eq!(owner("sandtrace-17-4242"), Some((17, 4242)));
        assert_eq!(owner("sandtrace-17-4242-4026531836"), Some((17, 4242)));
        assert_eq!(owner("sandtrace-17-4242-4026531836-3"), Some((17, 4242)));
        for name in [
            "sandtrace-",
            "sandtrace-17",
            "sandtrace-x-1",
            "user",
            "other-17-4242",
        ] {
            assert_eq!(owner(name), None, "{name}");
        }
    }
}
