//! /proc/PID/stat.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, SysconfVar, sysconf};

/// One process at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: Pid,
    pub parent: Pid,
    /// The process that leads its session.
    pub session: Pid,
    /// Clock ticks from boot to its start: with the pid, the identity of a process.
    pub start_ticks: u64,
    /// Its command name (`comm`), never its arguments.
    pub command: String,
    pub state: State,
    /// User and system time so far.
    pub cpu: Duration,
    /// The same of its children that it has waited for, and of theirs.
    pub children_cpu: Duration,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
}

/// What a process is doing, as far as a supervisor cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Running, or waiting for something.
    Alive,
    /// Stopped by a signal or a tracer.
    Stopped,
    /// Dead; its parent has not asked for its status yet.
    Zombie,
}

/// Whether there is a /proc, and it is that of our pid namespace: in another's our pids name strangers.
#[must_use]
pub fn sees_processes() -> bool {
    fs::read_link("/proc/self").is_ok_and(|link| link == Path::new(&Pid::this().to_string()))
}

/// When this process started, in clock ticks since boot: with the pid it names one process for good.
#[must_use]
pub fn own_start_ticks() -> Option<u64> {
    // Not by pid, which in a /proc of another pid namespace names somebody else.
    read_file("/proc/self/stat")
        .ok()
        .map(|process| process.start_ticks)
}

/// Whether a process stands still, by SIGSTOP for instance; no if it cannot be seen.
#[must_use]
pub fn is_stopped(pid: Pid) -> bool {
    sees_processes() && read(pid).is_ok_and(|process| process.state == State::Stopped)
}

/// Whether a process is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Alive,
    /// It is dead, whether or not somebody has asked for its status; its pid may be another's by now.
    Gone,
    /// It cannot be told: /proc is not there, is another pid namespace's, or hides it.
    Hidden,
}

/// Looks for the process that has this pid and was started at `start_ticks`, of which 0 means that nobody knows.
#[must_use]
pub fn presence(pid: u32, start_ticks: u64) -> Presence {
    let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0) else {
        return Presence::Gone;
    };
    if start_ticks == 0 || !sees_processes() {
        return Presence::Hidden;
    }
    let pid = Pid::from_raw(pid);
    match read(pid) {
        Ok(now) if now.start_ticks != start_ticks || now.state == State::Zombie => Presence::Gone,
        Ok(_) => Presence::Alive,
        Err(_) if kill(pid, None) == Err(Errno::ESRCH) => Presence::Gone,
        // As `hidepid` does with processes that have hidden their memory.
        Err(_) => Presence::Hidden,
    }
}

/// As [`own_start_ticks`], of any process that is there.
#[must_use]
pub fn start_ticks(pid: u32) -> Option<u64> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?);
    read(pid).ok().map(|process| process.start_ticks)
}

/// The parent and the command of any process that is there, a zombie too.
#[must_use]
pub fn parent_and_command(pid: u32) -> Option<(u32, String)> {
    lineage(read(Pid::from_raw(i32::try_from(pid).ok()?)).ok()?)
}

fn lineage(process: Process) -> Option<(u32, String)> {
    // Somebody took its status while the kernel wrote the line, which then says parent 0 and session -1: that is not to
    // be taken for a process without a parent, who is a stranger.
    if process.session.as_raw() < 0 {
        return None;
    }
    let parent = u32::try_from(process.parent.as_raw()).ok()?;
    Some((parent, process.command))
}

/// Reads one process; `NotFound` once it is gone.
pub(super) fn read(pid: Pid) -> io::Result<Process> {
    read_file(&format!("/proc/{pid}/stat"))
}

fn read_file(path: &str) -> io::Result<Process> {
    let mut line = [0; 2048];
    let mut length = 0;
    let mut file = File::open(path)?;
    while length < line.len() {
        match file.read(&mut line[length..]) {
            Ok(0) => break,
            Ok(count) => {
                length += count;
                // The kernel gives the whole line at once; asking again would only cost a call.
                if line[..length].ends_with(b"\n") {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    parse(&line[..length]).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// `pid (comm) state ppid …`. The command may itself hold spaces and parentheses, so it ends at the last one.
fn parse(line: &[u8]) -> Option<Process> {
    let open = memchr::memchr(b'(', line)?;
    let close = memchr::memrchr(b')', line)?;
    let pid = std::str::from_utf8(line.get(..open)?).ok()?;
    let command = String::from_utf8_lossy(line.get(open + 1..close)?).into_owned();
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    // proc(5) counts fields from 1, and the state is the third.
    let mut fields = [""; 22];
    for (slot, word) in fields.iter_mut().zip(rest.split_ascii_whitespace()) {
        *slot = word;
    }
    let field = |number: usize| fields.get(number - 3).copied();
    let number = |at: usize| field(at)?.parse::<u64>().ok();

    Some(Process {
        pid: Pid::from_raw(pid.trim().parse().ok()?),
        parent: Pid::from_raw(field(4)?.parse().ok()?),
        session: Pid::from_raw(field(6)?.parse().ok()?),
        start_ticks: number(22)?,
        command,
        state: match field(3)? {
            // A process lives on when only its first thread has ended.
            "Z" | "X" | "x" if number(20)? <= 1 => State::Zombie,
            "T" | "t" => State::Stopped,
            _ => State::Alive,
        },
        cpu: ticks(number(14)?.saturating_add(number(15)?)),
        children_cpu: ticks(number(16)?.saturating_add(number(17)?)),
        rss_bytes: number(24)?.saturating_mul(system(SysconfVar::PAGE_SIZE, 4096)),
    })
}

fn ticks(count: u64) -> Duration {
    let per_second = system(SysconfVar::CLK_TCK, 100);
    Duration::from_millis(count.saturating_mul(1000) / per_second)
}

fn system(variable: SysconfVar, usual: u64) -> u64 {
    sysconf(variable)
        .ok()
        .flatten()
        .and_then(|value| u64::try_from(value).ok())
        .filter(|&value| value > 0)
        .unwrap_or(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "4242 (a) R (b) c) S 17 4242 4200 0 -1 4194304 99 0 0 0 150 50 7 7 20 0 1 0 123456 10000000 300 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn a_command_may_look_like_the_rest_of_the_line() {
        let process = parse(LINE.as_bytes()).unwrap();
        assert_eq!(process.pid, Pid::from_raw(4242));
        assert_eq!(process.command, "a) R (b) c");
        assert_eq!(process.state, State::Alive);
        assert_eq!(process.parent, Pid::from_raw(17));
        assert_eq!(process.start_ticks, 123_456);
        assert_eq!(process.session, Pid::from_raw(4200));
        assert_eq!(process.cpu, Duration::from_secs(2));
        assert_eq!(process.children_cpu, Duration::from_millis(140));
        assert_eq!(process.rss_bytes, 300 * 4096);
    }

    #[test]
    fn a_command_need_not_be_utf_8() {
        let line = LINE.replace("a) R (b) c", "?").into_bytes();
        let line: Vec<u8> = line
            .into_iter()
            .map(|byte| if byte == b'?' { 0xff } else { byte })
            .collect();
        assert_eq!(parse(&line).unwrap().command, "\u{fffd}");
    }

    #[test]
    fn a_process_is_dead_when_its_last_thread_is() {
        let zombie = LINE.replace("c) S", "c) Z");
        assert_eq!(parse(zombie.as_bytes()).unwrap().state, State::Zombie);
        let threads_left = zombie.replace(" 20 0 1 0 ", " 20 0 3 0 ");
        assert_eq!(parse(threads_left.as_bytes()).unwrap().state, State::Alive);
    }

    #[test]
    fn a_torn_line_is_no_process() {
        for length in [0, 4, 10, 20, 60] {
            assert_eq!(parse(&LINE.as_bytes()[..length]), None);
        }
    }

    #[test]
    fn a_process_that_is_being_reaped_has_no_parent_to_go_by() {
        let line = LINE.replace("S 17 4242 4200 ", "Z 0 -1 -1 ");
        assert_eq!(lineage(parse(line.as_bytes()).unwrap()), None);
        // The first of a pid namespace has none either, but is there.
        let line = LINE.replace("S 17 4242 4200 ", "S 0 0 0 ");
        let first = lineage(parse(line.as_bytes()).unwrap());
        assert_eq!(first, Some((0, "a) R (b) c".to_owned())));
    }

    #[test]
    fn a_process_is_there_only_under_its_own_start_time_and_until_it_is_dead() {
        let own = own_start_ticks().unwrap();
        assert_eq!(presence(std::process::id(), own), Presence::Alive);
        assert_eq!(presence(std::process::id(), own + 1), Presence::Gone);
        assert_eq!(presence(std::process::id(), 0), Presence::Hidden);
        for nobody in [0, u32::MAX, i32::MAX.cast_unsigned()] {
            assert_eq!(presence(nobody, own), Presence::Gone, "{nobody}");
        }
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let ticks = start_ticks(child.id()).unwrap();
        assert_eq!(presence(child.id(), ticks), Presence::Alive);
        child.kill().unwrap();
        // Nobody has asked for its status yet.
        while presence(child.id(), ticks) != Presence::Gone {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(presence(child.id(), ticks), Presence::Gone);
    }

    #[test]
    fn this_process_can_be_read() {
        let process = read(Pid::this()).unwrap();
        assert_eq!(process.pid, Pid::this());
        assert_eq!(process.parent, Pid::parent());
        assert!(process.rss_bytes > 0);
    }
}
