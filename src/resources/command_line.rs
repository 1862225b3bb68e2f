//! Which of several commands a process runs, by its command line. It is compared here and goes nowhere else.

use std::fs::File;
use std::io::Read as _;

use crate::process::{parent_and_command, start_ticks};

/// A command line is read up to here. It may be megabytes long, and holds the command near its beginning.
const LINE: u64 = 128 << 10;

/// The id of the command that a shell was started with; `None` if it is none of them, or the process is gone, or it has
/// not executed anything yet.
///
/// The kernel takes the line out of the process's memory, and may keep whoever asks waiting where memory is short.
#[must_use]
pub fn running(pid: u32, start: u64, commands: &[(String, String)]) -> Option<&str> {
    let line = line_of(pid)?;
    let (parent, _) = parent_and_command(pid)?;
    // The line is this process's only if the pid is still its own.
    (start_ticks(pid) == Some(start)).then_some(())?;
    // From fork to exec it has its parent's line, and that may hold a command as well: in a prompt, in a program.
    if line_of(parent).is_some_and(|parents| parents == line) {
        return None;
    }
    matching(&String::from_utf8_lossy(&line), commands)
}

fn line_of(pid: u32) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    let file = File::open(format!("/proc/{pid}/cmdline")).ok()?;
    file.take(LINE).read_to_end(&mut line).ok()?;
    Some(line)
}

/// The longest command that the line holds: a short one may be part of another.
fn matching<'a>(line: &str, commands: &'a [(String, String)]) -> Option<&'a str> {
    let line = bare(line);
    commands
        .iter()
        .map(|(id, command)| (id, bare(command)))
        .filter(|(_, command)| !command.is_empty() && line.contains(command.as_str()))
        .max_by_key(|(_, command)| command.len())
        .map(|(id, _)| id.as_str())
}

/// Without what a shell's quoting adds, takes away, or joins words with.
fn bare(text: &str) -> String {
    text.chars()
        .filter(|c| !matches!(c, '\'' | '"' | '\\' | '\0') && !c.is_whitespace())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Command, Stdio};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_command_is_found_whatever_the_quoting() {
        let commands = [
            ("one", "echo 'a b' | wc"),
            ("two", "echo \"it's\""),
            ("three", "echo"),
            ("none", ""),
        ]
        .map(|(id, command)| (id.to_owned(), command.to_owned()));
        let table = [
            (
                "bash\0-c\0eval 'echo '\\''a b'\\'' | wc' \\< /dev/null\0",
                Some("one"),
            ),
            ("bash\0-c\0echo \"it's\"\0", Some("two")),
            ("sh\0-c\0echo other\0", Some("three")),
            ("sleep\x0010\0", None),
            ("", None),
        ];
        for (line, expected) in table {
            assert_eq!(matching(line, &commands), expected, "{line:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_read_as_far_as_a_command_stands() {
        let mut command = Command::new("sh");
        command.args(["-c", "read line # first", "sh"]);
        command.args(vec!["x".repeat(64 << 10); 4]).arg("last");
        let mut shell = command.stdin(Stdio::piped()).spawn().unwrap();
        let commands = ["first", "last"].map(|command| (command.to_owned(), command.to_owned()));
        let start = start_ticks(shell.id()).unwrap();
        let began = Instant::now();
        // Between fork and exec it still has our own line.
        let found = loop {
            let found = running(shell.id(), start, &commands);
            if found.is_some() || began.elapsed() > Duration::from_secs(10) {
                break found;
            }
        };
        assert_eq!(found, Some("first"));
        assert_eq!(running(shell.id(), start, &commands[1..]), None);
        shell.kill().unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn a_process_that_has_executed_nothing_yet_runs_none_of_its_parent_s_commands() {
        let script = "exec 3<&0; (read line; exec sh -c 'read line # second') <&3 & echo $!; wait";
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{script} # first")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let child = line.trim().parse().unwrap();
        let commands = ["first", "second"].map(|command| (command.to_owned(), command.to_owned()));
        let run = |pid| running(pid, start_ticks(pid).unwrap(), &commands);
        assert_eq!(line_of(child), line_of(shell.id()));
        assert_eq!(run(child), None);
        shell.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        let began = Instant::now();
        while run(child).is_none() && began.elapsed() < Duration::from_secs(10) {
            thread::yield_now();
        }
        assert_eq!(run(child), Some("second"));
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }

    #[test]
    fn a_pid_that_is_used_again_runs_none_of_them() {
        let us = std::process::id();
        let line = fs::read(format!("/proc/{us}/cmdline")).unwrap();
        let line = String::from_utf8_lossy(&line).into_owned();
        let commands = [("us".to_owned(), line)];
        let start = start_ticks(us).unwrap();
        assert_eq!(running(us, start, &commands), Some("us"));
        assert_eq!(running(us, start - 1, &commands), None);
    }
}
