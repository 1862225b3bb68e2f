//! Places where a run is not at home: namespaces, other users, without /proc. Most need root.
//!
//! Each is the beginning of a command line, for [`Supervised::start_under`](crate::supervised::Supervised::start_under).

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::supervised::skipped;

pub(crate) type Wrapper = Vec<String>;

fn words(line: &str) -> Wrapper {
    line.split(' ').map(str::to_owned).collect()
}

/// A shell that does something, then becomes what follows.
fn shell(mut before: Wrapper, script: &str) -> Wrapper {
    let script = format!("{script} && exec \"$@\"");
    before.extend(["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()]);
    before
}

/// `wrapper` if it works here, else says why the test is skipped.
fn usable(what: &str, wrapper: Wrapper) -> Option<Wrapper> {
    let output = Command::new(&wrapper[0])
        .args(&wrapper[1..])
        .arg("true")
        .output();
    match output {
        Ok(output) if output.status.success() => Some(wrapper),
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr);
            skipped(format_args!("{what}: {}", why.trim()));
            None
        }
        Err(error) => {
            skipped(format_args!("{what}: {error}"));
            None
        }
    }
}

/// Process 1 of a pid namespace with a /proc of its own.
pub(crate) fn process_one() -> Option<Wrapper> {
    usable("process 1", words("unshare --pid --fork --mount-proc"))
}

/// The same, below a shell that is process 1.
pub(crate) fn below_process_one() -> Option<Wrapper> {
    let mut wrapper = process_one()?;
    // With a second command the shell does not become the first.
    let script = "\"$@\"; code=$?; exit $code";
    wrapper.extend(["sh", "-c", script, "sh"].map(str::to_owned));
    Some(wrapper)
}

/// A pid namespace in which /proc is still the other one's: no process can be told, but cgroups can.
pub(crate) fn with_foreign_proc() -> Option<Wrapper> {
    usable(
        "a /proc of another namespace",
        words("unshare --pid --fork"),
    )
}

/// Where /proc is an empty directory.
pub(crate) fn without_proc() -> Option<Wrapper> {
    let wrapper = shell(words("unshare --mount"), "mount -t tmpfs none /proc");
    usable("no /proc", wrapper)
}

/// Where nobody can make a cgroup.
pub(crate) fn with_cgroups_read_only() -> Option<Wrapper> {
    let hierarchy = hierarchy()?;
    let hierarchy = hierarchy.display();
    let script = format!("mount -o remount,bind,ro {hierarchy}");
    usable(
        "read-only cgroups",
        shell(words("unshare --mount"), &script),
    )
}

/// As a user nobody else is, who may have `processes` of them, threads included; with a run's directory to write to.
pub(crate) fn as_lonely_user(processes: u32) -> Option<Wrapper> {
    // Of our pid, so that no other test run shares it; another user's limits would count ours.
    let user = 70_000 + std::process::id() % 50_000;
    // The program may lie where this user cannot go. Opened before, it can be executed all the same.
    let script = format!(
        "chown -R {user}:{user} \"$DIR\" && exec 9<\"$1\" && shift && set -- \
         prlimit --nproc={processes} setpriv --reuid={user} --regid={user} --clear-groups /proc/self/fd/9 \"$@\""
    );
    if !nix::unistd::geteuid().is_root() {
        skipped("another user: only root can become one");
        return None;
    }
    Some(shell(Vec::new(), &script))
}

/// Where cgroup2 is mounted, by this test's own reading.
pub(crate) fn hierarchy() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    if mount.is_none() {
        skipped("there is no cgroup2");
    }
    Some(mount?.split(' ').nth(1).unwrap().into())
}

/// The cgroup of this process, if it may make others in it, by trying.
pub(crate) fn own_cgroup() -> Option<PathBuf> {
    let list = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = list.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = hierarchy()?.join(path);
    let probe = own.join(format!("probe-{}", uuid::Uuid::now_v7()));
    let made = fs::create_dir(&probe);
    let has_kill = probe.join("cgroup.kill").exists();
    let hands_on = fs::read_to_string(own.join("cgroup.subtree_control"));
    fs::remove_dir(&probe).ok();
    if let Err(error) = made {
        skipped(format_args!("no cgroup can be made: {error}"));
        return None;
    }
    let usable = has_kill && hands_on.is_ok_and(|controllers| controllers.trim().is_empty());
    if !usable {
        skipped("cgroups here have no cgroup.kill, or controllers");
    }
    usable.then_some(own)
}
