//! A run's journal as a page for the terminal: who ran, how it ended and why, and a waterfall of its spans.
//!
//! ```text
//! RUN ─ locate ─► files ─ load, traces ─► Run ─ tree ─► Tree ─┬─ header ──────────► how it ended, what it took
//!                                                             ├─ rows, waterfall ─► one row a span, on a time axis
//!                                                             └─ footer ──────────► why it failed, what was lost
//! ```
//!
//! `locate`, `load` and `view` touch the world; all else is a pure function, down to the `String` that is
//! written. Text from the journal passes through `text::clean` on its way, for an agent may have put anything in it.

mod axis;
mod footer;
mod header;
mod load;
mod locate;
mod page;
mod rows;
mod text;
mod traces;
mod tree;
mod view;
mod waterfall;

#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::path::PathBuf;

use thiserror::Error;

pub use view::{Charset, Colour, View};

use crate::cli::ReportConfig;
use crate::journal::LocateError;
use load::Run;
use tree::Tree;

/// Why there is no report.
#[derive(Debug, Error)]
pub enum ReportError {
    #[error(transparent)]
    Locate(#[from] LocateError),
    #[error("{} holds neither events.ndjson nor traces.jsonl, so it is no run's journal", directory.display())]
    NoJournal { directory: PathBuf },
    #[error("{} is of no known kind, name a run, its directory, or its events.ndjson or traces.jsonl", path.display())]
    UnknownFile { path: PathBuf },
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("cannot write the report: {0}")]
    Write(#[source] io::Error),
}

impl ReportError {
    /// The code to exit with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        125
    }
}

/// Writes the report on a run. A reader that went away, as `head` does, is no error.
pub fn print(config: &ReportConfig, view: View, out: &mut impl Write) -> Result<(), ReportError> {
    let located = locate::locate(&config.run, &config.journal)?;
    let page = render(load::load(located)?, view);
    match out.write_all(page.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(ReportError::Write(error)),
        _ => Ok(()),
    }
}

/// The whole page.
fn render(mut run: Run, view: View) -> String {
    let root = run
        .started
        .as_ref()
        .map(|started| started.root_span_id.clone());
    let tree = Tree::build(std::mem::take(&mut run.spans), root.as_deref());
    let parts = [
        header::render(&run, &tree, view),
        waterfall::render(&tree, run.last_seen, view),
        footer::render(&run, view),
    ];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("\n")
}
