//! `fault-agent`: an agent that misbehaves on demand, for the tests, the chaos script and the soak.
//!
//! Its arguments are a script: each flag is one step, and steps are taken in the order in which they stand. What it
//! writes depends on its arguments alone, so that two runs of one script are twins.
//!
//! ```text
//! fault-agent --events 3 --to stderr --lines 5 --signal SEGV
//! ```
//!
//! It is a program of its own because its faults must be real: a process that forks, leaks, stops itself or dies. It
//! is never shipped; whoever builds for others names `--bin sandtrace`.

mod claude;
mod load;
mod output;
mod processes;
mod script;

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::process::ExitCode;

use nix::sys::signal::{SigHandler, Signal, signal};

use self::output::{Noise, Output};
use self::script::{Flow, Settings};

/// What the steps work on.
struct Agent {
    settings: Settings,
    noise: Noise,
    output: Output,
    /// Eaten, and never given back.
    memory: Vec<Vec<u8>>,
    /// Open to the end, so that they can be seen.
    connections: Vec<TcpStream>,
    /// How many messages, tools and turns there were, for their ids.
    messages: u64,
    turns: u64,
}

impl Agent {
    fn new(settings: Settings) -> Self {
        Self {
            noise: Noise::new(settings.seed),
            output: Output::new(&settings),
            settings,
            memory: Vec::new(),
            connections: Vec::new(),
            messages: 0,
            turns: 0,
        }
    }

    fn play(&mut self, steps: Vec<script::Step>) -> io::Result<u8> {
        for step in steps {
            if let Flow::Exit(code) = step(self)? {
                return Ok(code);
            }
        }
        Ok(0)
    }
}

#[expect(unsafe_code, reason = "a handler could be unsound; this is none")]
fn die_of_broken_pipes() {
    // Rust ignores the signal; nearly every other program dies of it.
    // SAFETY: the default disposition runs no code in a handler.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.ok();
}

fn main() -> ExitCode {
    die_of_broken_pipes();
    let (settings, steps) = match script::parse(std::env::args().skip(1)) {
        Ok(script) => script,
        Err(refused) => {
            let (text, code) = match refused {
                script::Refused::Help => (script::help(), 0),
                script::Refused::Wrong(why) => (format!("fault-agent: {why}; see --help\n"), 2),
            };
            let written = if code == 0 {
                io::stdout().write_all(text.as_bytes())
            } else {
                io::stderr().write_all(text.as_bytes())
            };
            return ExitCode::from(if written.is_ok() { code } else { 2 });
        }
    };
    ExitCode::from(Agent::new(settings).play(steps).unwrap_or_else(|error| {
        // Where stderr is the fault itself, the code is all there is.
        writeln!(io::stderr(), "fault-agent: {error}").ok();
        3
    }))
}
