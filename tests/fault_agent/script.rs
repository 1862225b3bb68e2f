//! The arguments: a table with a row for each flag, from which parser and help are made.

use std::io;
use std::time::Duration;

use crate::Agent;
use crate::processes::{Leak, parse_signal};

/// Whether the script goes on.
pub(crate) enum Flow {
    Next,
    Exit(u8),
}

pub(crate) type Outcome = io::Result<Flow>;
pub(crate) type Step = Box<dyn FnOnce(&mut Agent) -> Outcome>;

/// What holds for all steps, wherever it stands.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    /// Bytes of a line of `--lines`, its newline included.
    pub(crate) line_length: usize,
    pub(crate) every: Duration,
    pub(crate) chunk: Chunk,
}

/// How much goes into one write.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Chunk {
    Bytes(usize),
    /// From 1 byte to 64 KiB.
    Random,
}

pub(crate) enum Refused {
    Help,
    Wrong(String),
}

type Made = Result<Step, String>;

enum Does {
    Heading,
    Set(fn(&mut Settings, &str) -> Result<(), String>),
    Step(fn(&str) -> Made),
}

struct Row {
    flag: &'static str,
    /// What it takes, in the words of the help; empty for nothing.
    value: &'static str,
    help: &'static str,
    does: Does,
}

const fn heading(help: &'static str) -> Row {
    Row {
        flag: "",
        value: "",
        help,
        does: Does::Heading,
    }
}

const fn set(
    flag: &'static str,
    value: &'static str,
    help: &'static str,
    set: fn(&mut Settings, &str) -> Result<(), String>,
) -> Row {
    Row {
        flag,
        value,
        help,
        does: Does::Set(set),
    }
}

const fn step(
    flag: &'static str,
    value: &'static str,
    help: &'static str,
    step: fn(&str) -> Made,
) -> Row {
    Row {
        flag,
        value,
        help,
        does: Does::Step(step),
    }
}

/// A step that takes a value.
#[expect(clippy::unnecessary_wraps, reason = "the tail of every row's closure")]
fn with<T: 'static>(value: T, run: fn(&mut Agent, T) -> Outcome) -> Made {
    Ok(Box::new(move |agent| run(agent, value)))
}

/// A step that takes none.
#[expect(clippy::unnecessary_wraps, reason = "the tail of every row's closure")]
fn plain(run: fn(&mut Agent) -> Outcome) -> Made {
    Ok(Box::new(run))
}

const ROWS: &[Row] = &[
    heading("Settings, which hold for the whole script"),
    set(
        "--seed",
        "N",
        "what random bytes and sizes come from; 1 unless told",
        |settings, value| number(value).map(|seed| settings.seed = seed),
    ),
    set(
        "--line-length",
        "N",
        "bytes of a line of --lines, newline included; 80",
        |settings, value| size(value).map(|length| settings.line_length = length),
    ),
    set(
        "--every",
        "SECONDS",
        "pause after each line, event or MiB eaten; none",
        |settings, value| seconds(value).map(|every| settings.every = every),
    ),
    set(
        "--chunk",
        "N|random",
        "bytes to a write; 65536",
        |settings, value| {
            settings.chunk = match value {
                "random" => Chunk::Random,
                _ => Chunk::Bytes(size(value)?.max(1)),
            };
            Ok(())
        },
    ),
    heading("Output"),
    step(
        "--to",
        "stdout|stderr",
        "where the output of what follows goes",
        |value| with(stream(value)?, Agent::to),
    ),
    step("--ready", "", "prints {\"ready\":1}", |_| {
        plain(Agent::ready)
    }),
    step("--lines", "N", "prints N numbered lines of JSON", |value| {
        with(number(value)?, Agent::lines)
    }),
    step(
        "--line-bytes",
        "N",
        "prints one line of N bytes and a newline",
        |value| with(size(value)?, Agent::line_bytes),
    ),
    step(
        "--random-bytes",
        "N",
        "prints N random bytes, newlines among them",
        |value| with(size(value)?, Agent::random_bytes),
    ),
    step(
        "--all-bytes",
        "",
        "prints all 256 byte values, NUL and CRLF",
        |_| plain(Agent::all_bytes),
    ),
    step(
        "--bad-utf8",
        "",
        "prints lines of broken UTF-8, in JSON and out of it",
        |_| plain(Agent::bad_utf8),
    ),
    step("--no-newline", "", "prints half a line", |_| {
        plain(Agent::no_newline)
    }),
    step(
        "--ansi",
        "",
        "prints escape sequences, as text and in a tool's name",
        |_| plain(Agent::ansi),
    ),
    step(
        "--forge",
        "",
        "prints lines that pretend to be the supervisor's",
        |_| plain(Agent::forge),
    ),
    step(
        "--stderr-bytes",
        "N",
        "prints N bytes of lines on stderr",
        |value| with(size(value)?, Agent::stderr_bytes),
    ),
    step("--close-stdout", "", "closes stdout", |_| {
        plain(Agent::close_stdout)
    }),
    step("--close-stderr", "", "closes stderr", |_| {
        plain(Agent::close_stderr)
    }),
    step(
        "--nonblock",
        "",
        "makes stdout and stderr non-blocking, for all who share them",
        |_| plain(Agent::nonblock),
    ),
    step(
        "--measure",
        "FILE",
        "writes the longest write until now to FILE, in milliseconds",
        |value| with(value.to_owned(), Agent::measure),
    ),
    heading("Input"),
    step(
        "--read-stdin",
        "",
        "reads stdin to its end and prints how many bytes there were",
        |_| plain(Agent::read_stdin),
    ),
    step("--close-stdin", "", "closes stdin", |_| {
        plain(Agent::close_stdin)
    }),
    heading("A Claude agent"),
    step(
        "--events",
        "N",
        "prints a turn: init, N assistant messages, a result",
        |value| with(number(value)?, Agent::events),
    ),
    step("--init", "", "prints the line that begins a turn", |_| {
        plain(Agent::init)
    }),
    step(
        "--result",
        "",
        "prints the line that ends a turn well",
        |_| plain(Agent::result),
    ),
    step(
        "--tool",
        "SECONDS",
        "calls a tool: a process of its own session that works for so long",
        |value| with(seconds(value)?, Agent::tool),
    ),
    step(
        "--tool-begin",
        "",
        "prints a tool call; what follows is the tool's work",
        |_| plain(Agent::tool_begin),
    ),
    step(
        "--tool-end",
        "",
        "prints the result of the last tool call",
        |_| plain(Agent::tool_end),
    ),
    heading("Work"),
    step("--sleep", "SECONDS", "sleeps", |value| {
        with(seconds(value)?, Agent::sleep)
    }),
    step("--burn-cpu", "SECONDS", "uses so much CPU time", |value| {
        with(seconds(value)?, Agent::burn_cpu)
    }),
    step(
        "--eat-memory",
        "BYTES",
        "takes memory, a MiB at a time, touches and keeps it",
        |value| with(size(value)?, Agent::eat_memory),
    ),
    step(
        "--connect",
        "HOST:PORT",
        "connects, sends a request and keeps the connection; a failure goes to stderr",
        |value| with(value.to_owned(), Agent::connect),
    ),
    step(
        "--wait-for",
        "FILE",
        "waits until FILE is there, for a minute at most",
        |value| with(value.to_owned(), Agent::wait_for),
    ),
    step("--touch", "FILE", "makes FILE", |value| {
        with(value.to_owned(), Agent::touch)
    }),
    heading("Processes"),
    step(
        "--child",
        "SCRIPT",
        "runs a script, its words divided by spaces, in a process of its own session, and waits",
        |value| with(value.to_owned(), Agent::child),
    ),
    step(
        "--leak-pipe",
        "quiet|chatty",
        "leaves a process that holds stdout and stderr, for a minute",
        |value| {
            let leak = match value {
                "quiet" => Leak::Quiet,
                "chatty" => Leak::Chatty,
                _ => return Err(format!("'{value}' is neither quiet nor chatty")),
            };
            with(leak, Agent::leak_pipe)
        },
    ),
    step(
        "--daemon",
        "",
        "leaves a process in a session of its own, for five minutes; its pid goes to $DIR/daemon",
        |_| plain(Agent::daemon),
    ),
    step(
        "--fork-storm",
        "N",
        "leaves N lines of processes, each of which forks the next and goes; for a minute",
        |value| with(number(value)?, Agent::fork_storm),
    ),
    step(
        "--orphans",
        "N",
        "leaves N orphans that end at once, with codes 0 to 9",
        |value| with(number(value)?, Agent::orphans),
    ),
    heading("Signals"),
    step("--ignore-term", "", "ignores SIGTERM", |_| {
        plain(Agent::ignore_term)
    }),
    step(
        "--last-words",
        "",
        "from here on answers SIGTERM with a line on each stream, and code 0",
        |_| plain(Agent::last_words),
    ),
    step(
        "--stop-self",
        "",
        "stops itself, as SIGSTOP does, until somebody continues it",
        |_| plain(Agent::stop_self),
    ),
    heading("Ends; without one of them the code is 0"),
    step("--exit", "N", "ends with this code", |value| {
        let code = value
            .parse()
            .map_err(|_| format!("'{value}' is no exit code"))?;
        with(code, |_, code| Ok(Flow::Exit(code)))
    }),
    step(
        "--signal",
        "NAME|N",
        "dies of this signal, without a core",
        |value| with(parse_signal(value)?, Agent::die),
    ),
    step(
        "--memory-error",
        "",
        "ends as Python does without memory",
        |_| plain(Agent::memory_error),
    ),
    step("--heap-error", "", "ends as node does without heap", |_| {
        plain(Agent::heap_error)
    }),
];

pub(crate) fn parse(
    arguments: impl Iterator<Item = String>,
) -> Result<(Settings, Vec<Step>), Refused> {
    let mut settings = Settings {
        seed: 1,
        line_length: 80,
        every: Duration::ZERO,
        chunk: Chunk::Bytes(64 << 10),
    };
    let mut steps = Vec::new();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        if argument == "--help" || argument == "-h" {
            return Err(Refused::Help);
        }
        let (flag, joined) = match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let row = ROWS
            .iter()
            .find(|row| !flag.is_empty() && row.flag == flag)
            .ok_or_else(|| Refused::Wrong(format!("no flag '{flag}'")))?;
        let value = match (row.value, joined) {
            ("", None) => String::new(),
            ("", Some(_)) => return Err(Refused::Wrong(format!("{flag} takes nothing"))),
            (_, Some(value)) => value,
            (wanted, None) => arguments
                .next()
                .ok_or_else(|| Refused::Wrong(format!("{flag} takes {wanted}")))?,
        };
        let wrong = |why: String| Refused::Wrong(format!("{flag}: {why}"));
        match row.does {
            Does::Heading => {}
            Does::Set(set) => set(&mut settings, &value).map_err(wrong)?,
            Does::Step(make) => steps.push(make(&value).map_err(wrong)?),
        }
    }
    Ok((settings, steps))
}

pub(crate) fn help() -> String {
    let mut help =
        "An agent that misbehaves on demand. Steps are taken in the order in which they stand.\n\n\
                    usage: fault-agent [SETTING]... [STEP]...\n"
            .to_owned();
    for row in ROWS {
        if let Does::Heading = row.does {
            help.push_str(&format!("\n{}:\n", row.help));
        } else {
            let usage = format!("{} {}", row.flag, row.value);
            help.push_str(&format!("  {:<27} {}\n", usage.trim_end(), row.help));
        }
    }
    help
}

fn number(value: &str) -> Result<u64, String> {
    value
        .parse()
        .map_err(|_| format!("'{value}' is no whole number"))
}

fn size(value: &str) -> Result<usize, String> {
    value
        .parse()
        .map_err(|_| format!("'{value}' is no number of bytes"))
}

fn seconds(value: &str) -> Result<Duration, String> {
    let seconds = value.parse().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("'{value}' is no number of seconds"))
}

fn stream(value: &str) -> Result<i32, String> {
    match value {
        "stdout" => Ok(1),
        "stderr" => Ok(2),
        _ => Err(format!("'{value}' is neither stdout nor stderr")),
    }
}
