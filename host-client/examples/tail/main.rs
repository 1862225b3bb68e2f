//! A run as it goes on, in the terminal: one line for each thing that happens, and below them what it is doing now.
//!
//! ```text
//! sandtrace run -- python3 agent.py "Tidy up" | cargo run --example tail
//! cargo run --example tail -- ~/.local/state/sandtrace/RUN/events.ndjson
//! ```
//!
//! Colours and the line at the bottom are for terminals, and `NO_COLOR` is respected. The exit code is the run's: that of
//! `sandtrace run`, or 3 if the stream ends without the run's last line.

mod lines;
mod screen;

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use sandtrace_client::run::{Loss, LossReason};
use sandtrace_client::{Conclusion, Decoded, Decoder, Outcome, Run};

use crate::lines::Lines;
use crate::screen::Screen;

/// How often the line at the bottom is drawn anew.
const REDRAW_EVERY: Duration = Duration::from_millis(250);
/// Of a stream without the run's last line, as `sandtrace attach` has it.
const NO_LAST_LINE: u8 = 3;

fn main() -> ExitCode {
    match follow() {
        Ok(code) => ExitCode::from(code),
        // Whoever reads us has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // Where stderr is closed there is nobody to tell.
            _ = writeln!(io::stderr(), "tail: {error}");
            ExitCode::from(125)
        }
    }
}

fn follow() -> io::Result<u8> {
    let input: Box<dyn Read + Send> = match std::env::args().nth(1) {
        Some(path) if path != "-" => Box::new(File::open(&path).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot read {path}: {error}"))
        })?),
        _ => Box::new(io::stdin()),
    };
    let (sender, chunks) = mpsc::sync_channel(16);
    // A read cannot be given up, so it has a thread of its own; the process does not wait for it.
    thread::spawn(move || read(input, &sender));

    let mut screen = Screen::new();
    let mut lines = Lines::default();
    let mut decoder = Decoder::new();
    let mut run = Run::new();
    loop {
        let decoded = match chunks.recv_timeout(REDRAW_EVERY) {
            Ok(chunk) => decoder.feed(&chunk?),
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => {
                let last: Vec<_> = decoder.finish().into_iter().collect();
                take(&last, &mut run, &mut lines, &mut screen)?;
                break;
            }
        };
        take(&decoded, &mut run, &mut lines, &mut screen)?;
        if run.conclusion().is_some() {
            break;
        }
        screen.status(&lines.status(&run))?;
    }
    screen.status("")?;
    let conclusion = run.lose(Loss::new(LossReason::SupervisorGone { status: None }));
    for line in lines.conclusion(conclusion) {
        screen.line(&line)?;
    }
    Ok(code(conclusion))
}

fn take(
    decoded: &[Decoded],
    run: &mut Run,
    lines: &mut Lines,
    screen: &mut Screen,
) -> io::Result<()> {
    for decoded in decoded {
        match decoded {
            Decoded::Event(event) => {
                run.apply(event);
                for line in lines.of(event) {
                    screen.line(&line)?;
                }
            }
            Decoded::Noise(noise) => screen.line(&lines.noise(&noise.text()))?,
            _ => {}
        }
    }
    Ok(())
}

fn read(mut input: impl Read, chunks: &mpsc::SyncSender<io::Result<Vec<u8>>>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let chunk = match input.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => Ok(buffer[..count].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let is_over = chunk.is_err();
        if chunks.send(chunk).is_err() || is_over {
            return;
        }
    }
}

fn code(conclusion: &Conclusion) -> u8 {
    let exit = conclusion.finished.as_ref().map(|last| last.exit.as_ref());
    match (exit, conclusion.outcome) {
        (None, _) => NO_LAST_LINE,
        (Some(Some(exit)), _) => exit.reported_code,
        (Some(None), Outcome::Success) => 0,
        // It never ran; the supervisor's own code is in no line.
        (Some(None), _) => 125,
    }
}
