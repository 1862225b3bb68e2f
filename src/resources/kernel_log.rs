//! What the kernel's log says about who was killed for memory: the only place that names the victim.
//!
//! Reading needs a privilege where `dmesg_restrict` is set (`reference/supervision.md` §3.2), and there is no log in most
//! containers; both are an ability that is missing, not an error. A record is text that changes with the kernel's version,
//! so only the few words are looked for that have stayed since 4.x. Its pids are those of the first pid namespace, so
//! whoever uses them must compare more than the pid.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::read;

const PATH: &str = "/dev/kmsg";
/// The longest record that the kernel gives out (`PRINTK_MESSAGE_MAX`, and less in older ones).
const RECORD: usize = 8 << 10;
/// Records taken at a time; one OOM kill writes about eighty. Of a flood the rest is passed over.
const RECORDS: usize = 4096;
/// Kills told of at a time.
const KILLS: usize = 64;

/// A process that the kernel killed for memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Victim {
    /// In the first pid namespace.
    pub pid: u32,
    /// Its `comm`, 15 bytes at most.
    pub command: String,
    /// Bytes that it had resident and not in a file: its own and shared.
    pub resident_bytes: u64,
    /// Whose limit was reached.
    pub constraint: Constraint,
    /// The cgroup that it was charged to.
    pub task_cgroup: Option<String>,
    pub kinship: Kinship,
}

/// What was found under the victim's pid when the log told of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kinship {
    /// Nothing any more, or a process of another name.
    #[default]
    Gone,
    /// One of our descendants.
    BelowUs,
    /// Somebody else's process.
    Elsewhere,
}

/// Why somebody had to be killed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Constraint {
    /// The limit of this memory cgroup; `None` where the log does not name it.
    Cgroup(Option<String>),
    /// The machine had no memory left.
    #[default]
    Sandbox,
}

/// A killer in userspace wrote of what it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserspaceKill {
    /// Whom it named, where it named a pid.
    pub pid: Option<u32>,
    /// What it called that process, where it did.
    pub command: Option<String>,
    /// The cgroup of which it killed everybody, where it named one.
    pub cgroup: Option<String>,
    /// `earlyoom` or `systemd-oomd`.
    pub killer: &'static str,
}

/// What is new in the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct News {
    pub victims: Vec<Victim>,
    pub userspace: Vec<UserspaceKill>,
}

/// The log from some moment on.
#[derive(Debug)]
pub struct KernelLog {
    file: File,
}

impl KernelLog {
    /// From now on; an error where this user may not read it.
    pub fn from_now() -> io::Result<Self> {
        // Some containers have a terminal in its place, from which a read would take somebody's input.
        if fs::metadata(PATH)?.rdev() != libc::makedev(1, 11) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(PATH)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file })
    }

    /// Adds what was written since the last time. Never waits.
    pub fn read(&mut self, news: &mut News) {
        let mut record = [0; RECORD];
        for _ in 0..RECORDS {
            match read(&self.file, &mut record) {
                Ok(length @ 1..) => note(&record[..length], news),
                // Older records were overwritten before we came to them: the next read gives the oldest there is.
                Err(Errno::EPIPE | Errno::EINTR) => {}
                Ok(_) | Err(_) => return,
            }
        }
        // Nothing else can be done about it: then the next look begins where this one ends.
        self.file.seek(SeekFrom::End(0)).ok();
    }
}

impl AsRawFd for KernelLog {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Whether this user may read the log.
#[must_use]
pub fn is_readable() -> bool {
    KernelLog::from_now().is_ok()
}

/// `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT`, and lines with details after it.
fn note(record: &[u8], news: &mut News) {
    let Some(semicolon) = memchr::memchr(b';', record) else {
        return;
    };
    let (head, text) = (&record[..semicolon], &record[semicolon + 1..]);
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let priority = head.split(|byte| *byte == b',').next().unwrap_or_default();
    let priority: Option<u32> = std::str::from_utf8(priority)
        .ok()
        .and_then(|text| text.parse().ok());
    // The low three bits are the level, the others who wrote: 0 is the kernel. Others may write here as well.
    match priority.map(|priority| priority >> 3) {
        Some(0) if has(line, b"Killed process ") => {
            if let Some(victim) = killed(&String::from_utf8_lossy(line)) {
                place(victim, news);
            }
        }
        Some(0) if line.starts_with(b"oom-kill:") => {
            chosen(&String::from_utf8_lossy(line), news);
        }
        Some(1..) if news.userspace.len() < KILLS => {
            news.userspace
                .extend(userspace(&String::from_utf8_lossy(line)));
        }
        _ => {}
    }
}

fn has(line: &[u8], words: &[u8]) -> bool {
    memchr::memmem::find(line, words).is_some()
}

/// `Memory cgroup out of memory: Killed process 4242 (a b) total-vm:9kB, anon-rss:8kB, file-rss:4kB, shmem-rss:0kB, …`
fn killed(line: &str) -> Option<Victim> {
    let (why, rest) = line.split_once("Killed process ")?;
    let (pid, rest) = rest.split_once(" (")?;
    // A command may hold parentheses itself.
    let (command, sizes) = rest.rsplit_once(") ").or_else(|| rest.rsplit_once("), "))?;
    let size = |name: &str| {
        let (_, value) = sizes.split_once(name)?;
        let kib: u64 = value.split_once("kB")?.0.parse().ok()?;
        Some(kib.saturating_mul(1024))
    };
    Some(Victim {
        pid: pid.parse().ok()?,
        command: command.to_owned(),
        resident_bytes: size("anon-rss:")?.saturating_add(size("shmem-rss:").unwrap_or(0)),
        constraint: if why.contains("emory cgroup") {
            Constraint::Cgroup(None)
        } else {
            Constraint::Sandbox
        },
        task_cgroup: None,
        kinship: Kinship::Gone,
    })
}

/// `oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=/a,task_memcg=/a/b,task=python3,pid=4242,uid=0`, which comes just
/// before the victim's own line, and only for the one that was chosen. It is left out when there are many.
fn chosen(line: &str, news: &mut News) {
    if news.victims.len() >= KILLS {
        return;
    }
    let member = |name: &str| line.split(',').find_map(|word| word.strip_prefix(name));
    // A command may hold a comma, and comes before the pid.
    let last = |name: &str| line.rsplit(',').find_map(|word| word.strip_prefix(name));
    let Some(pid) = last("pid=").and_then(|pid| pid.parse().ok()) else {
        return;
    };
    news.victims.push(Victim {
        pid,
        command: member("task=").unwrap_or_default().to_owned(),
        resident_bytes: 0,
        constraint: match member("oom_memcg=") {
            Some(cgroup) => Constraint::Cgroup(Some(cgroup.to_owned())),
            None => Constraint::Sandbox,
        },
        task_cgroup: member("task_memcg=").map(str::to_owned),
        kinship: Kinship::Gone,
    });
}

/// Puts what is known of one victim together: it is announced, killed, and killed again with its group.
fn place(victim: Victim, news: &mut News) {
    let group = news
        .victims
        .last()
        .and_then(|last| match &last.constraint {
            Constraint::Cgroup(Some(owner)) => Some(owner.clone()),
            _ => None,
        })
        .filter(|_| victim.constraint == Constraint::Cgroup(None));
    let mut all = news.victims.iter_mut();
    if let Some(known) = all.find(|known| known.pid == victim.pid) {
        known.resident_bytes = known.resident_bytes.max(victim.resident_bytes);
    } else if news.victims.len() < KILLS {
        news.victims.push(Victim {
            constraint: Constraint::Cgroup(group).or(victim.constraint),
            ..victim
        });
    }
}

impl Constraint {
    /// A cgroup by its name is worth more than one without.
    fn or(self, other: Self) -> Self {
        match self {
            Self::Cgroup(Some(_)) => self,
            Self::Cgroup(None) | Self::Sandbox => other,
        }
    }
}

/// `earlyoom[99]: sending SIGTERM to process 4242 uid 0 "python3": …` and
/// `systemd-oomd[99]: Killed /user.slice/… due to memory pressure …`.
fn userspace(line: &str) -> Option<UserspaceKill> {
    let killer = ["earlyoom", "systemd-oomd"]
        .into_iter()
        .find(|name| line.starts_with(name))?;
    let pid = line
        .split_once(" to process ")
        .and_then(|(_, rest)| rest.split(' ').next())
        .and_then(|pid| pid.parse().ok());
    let killed = line.split_once(": Killed ").map(|(_, rest)| rest);
    let acted = match killer {
        "earlyoom" => pid.is_some(),
        _ => killed.is_some(),
    };
    let command = || Some(line.split_once(" \"")?.1.rsplit_once("\":")?.0.to_owned());
    let cgroup = || {
        let (path, _) = killed?.split_once(" due to ")?;
        path.starts_with('/').then(|| path.to_owned())
    };
    acted.then(|| UserspaceKill {
        pid,
        command: pid.and_then(|_| command()),
        cgroup: cgroup(),
        killer,
    })
}

#[cfg(test)]
pub(crate) fn news_of(log: &str) -> News {
    let mut news = News::default();
    log.lines()
        .for_each(|record| note(record.as_bytes(), &mut news));
    news
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroup(path: &str) -> Constraint {
        Constraint::Cgroup(Some(path.to_owned()))
    }

    #[test]
    fn a_victim_is_put_together_from_its_lines() {
        let log = "\
6,392,3853057,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,task_memcg=/a/b,task=python3,pid=102,uid=0
3,393,3854373,-;Memory cgroup out of memory: Killed process 102 (python3) total-vm:50256kB, anon-rss:48244kB, file-rss:4kB, shmem-rss:712kB, UID:0 pgtables:136kB oom_score_adj:100
3,394,3854374,-;Memory cgroup out of memory: Killed process 103 (a) (b) total-vm:4kB, anon-rss:4kB, file-rss:4kB, shmem-rss:0kB, UID:0 pgtables:136kB oom_score_adj:100
6,712,15497802,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/g,task=hog,pid=453,uid=0
3,713,15497949,-;Out of memory: Killed process 453 (hog) total-vm:314448kB, anon-rss:312508kB, file-rss:4kB, shmem-rss:712kB, UID:0
";
        let expected = [
            (102, "python3", 48_244 + 712, cgroup("/a"), Some("/a/b")),
            // The rest of a group, whose limit was the one that was named before.
            (103, "a) (b", 4, cgroup("/a"), None),
            (453, "hog", 312_508 + 712, Constraint::Sandbox, Some("/g")),
        ];
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(pid, command, kib, constraint, task)| Victim {
                pid,
                command: command.to_owned(),
                resident_bytes: kib << 10,
                constraint,
                task_cgroup: task.map(str::to_owned),
                kinship: Kinship::Gone,
            })
            .collect();
        assert_eq!(news_of(log).victims, expected);
    }

    #[test]
    fn only_the_kernel_says_whom_it_killed() {
        // A program with the right to write there gets a priority of its own.
        let log = "12,1,2,-;Memory cgroup out of memory: Killed process 102 (x) total-vm:5kB, anon-rss:4kB\n\
                   12,1,2,-;oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/a,task_memcg=/a,task=x,pid=102,uid=0\n\
                   4,1,2,-;hog invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=100\n\
                   nonsense\n;\n3,1,2,-;Killed process many (x) total-vm:5kB, anon-rss:4kB\n";
        assert_eq!(news_of(log), News::default());
    }

    #[test]
    fn killers_in_userspace_are_known_by_their_words() {
        let log = "14,1,2,-;earlyoom[9]: sending SIGTERM to process 4242 uid 0 \"python3\": badness 800\n\
                   30,1,2,-;systemd-oomd[9]: Killed /user.slice/a due to memory pressure for /user.slice\n\
                   14,1,2,-;earlyoom[9]: mem avail: 300 of 400 MiB\n";
        let earlyoom = UserspaceKill {
            pid: Some(4242),
            command: Some("python3".to_owned()),
            cgroup: None,
            killer: "earlyoom",
        };
        let oomd = UserspaceKill {
            pid: None,
            command: None,
            cgroup: Some("/user.slice/a".to_owned()),
            killer: "systemd-oomd",
        };
        assert_eq!(news_of(log).userspace, [earlyoom, oomd]);
    }
}
