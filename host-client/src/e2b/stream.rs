//! The stream of a run's events out of a sandbox, through as many connections as it takes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::error::Error;
use super::events::{Events, Heard};
use super::sandbox::Inner;
use super::search::{Found, Journal, Search};
use super::target::{Ears, Target};
use crate::event::Event;
use crate::launch::Launch;
use crate::live::{Piece, Resumed, Transport};
use crate::run::Run;

/// A stream that held so long was a good one: the next trouble is another.
const HELD: Duration = Duration::from_secs(10);

/// The most `attach` processes of broken streams that are remembered, to be ended.
const STALE: usize = 16;

/// The way to a run in a sandbox.
#[derive(Debug)]
pub struct Stream {
    target: Arc<Target>,
    /// Where the events come from at the moment.
    source: Option<Source>,
    /// What was heard of the source before it was read.
    held: Option<Heard>,
    /// How the run's own process ended, if that was seen.
    ended: Option<String>,
    /// How the last `attach` ended.
    attach_exit: Option<i32>,
    /// Whether it began when the run's process was gone.
    was_last: bool,
    /// When the source began.
    opened: Instant,
    trouble: Option<Trouble>,
    stale: Vec<String>,
    /// A stream that was found before anybody asked to resume, and why it does not begin where it should.
    rejoined: Option<(Events, String)>,
    search: Option<Searching>,
}

#[derive(Debug)]
struct Source {
    events: Events,
    /// Of a process `sandtrace attach`, its tag.
    attach: Option<String>,
}

/// Breaks without an event in between.
#[derive(Debug)]
struct Trouble {
    seq: u64,
    since: Instant,
    backoff: Backoff,
}

/// A search under way, in a task of its own: it goes on when nobody waits for it for a while.
#[derive(Debug)]
struct Searching(JoinHandle<Result<Found, Error>>);

impl Drop for Searching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Stream {
    pub(super) fn searching(sandbox: &Arc<Inner>, launch: Launch, run_id: String) -> Self {
        let target = Target {
            sandbox: Arc::clone(sandbox),
            launch,
            run_id,
            without_journal: false,
            pid: watch::Sender::new(None),
        };
        Self::of(Arc::new(target))
    }

    pub(super) fn of(target: Arc<Target>) -> Self {
        Self {
            target,
            source: None,
            held: None,
            ended: None,
            attach_exit: None,
            was_last: false,
            opened: Instant::now(),
            trouble: None,
            stale: Vec::new(),
            rejoined: None,
            search: None,
        }
    }

    /// With the stream of the run's own process.
    pub(super) fn with(mut self, events: Events) -> Self {
        let attach = None;
        self.source = Some(Source { events, attach });
        self
    }

    /// With the stream of an `attach`, of which something was heard already.
    pub(super) fn with_attached(mut self, events: Events, tag: String, held: Heard) -> Self {
        let attach = Some(tag);
        self.source = Some(Source { events, attach });
        self.held = Some(held);
        self
    }

    /// To be resumed with the stream of the run's own process, taken up late.
    pub(super) fn rejoined(mut self, events: Events, why: String) -> Self {
        self.rejoined = Some((events, why));
        self
    }

    /// The run's id.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.target.run_id
    }

    /// The sandbox's id.
    #[must_use]
    pub fn sandbox_id(&self) -> &str {
        &self.target.sandbox.id
    }

    /// There is nothing more to be heard of the source.
    fn close(&mut self, is_over: bool) {
        let attach = self.source.take().and_then(|source| source.attach);
        if let (Some(tag), false) = (attach, is_over) {
            if self.stale.len() == STALE {
                self.stale.remove(0);
            }
            self.stale.push(tag);
        }
    }

    fn search(&mut self, run: &Run) -> Search {
        let seq = run.last_seq();
        let known = self.trouble.take();
        let known = known.filter(|trouble| trouble.seq == seq && self.opened.elapsed() < HELD);
        let first_wait = known.map_or(Duration::ZERO, |mut trouble| {
            let wait = trouble.backoff.wait();
            self.trouble = Some(trouble);
            wait
        });
        let trouble = self.trouble.get_or_insert_with(|| Trouble {
            seq,
            since: Instant::now(),
            backoff: Backoff::new(),
        });
        Search {
            target: Arc::clone(&self.target),
            seq,
            journal: self.target.journal(run),
            ended: self.ended.clone(),
            attach_exit: self.attach_exit.take(),
            was_last: self.was_last,
            since: trouble.since,
            first_wait,
            stale: std::mem::take(&mut self.stale),
        }
    }
}

impl Target {
    /// Where the lines are kept, by what the run says, and before that by what it was told.
    fn journal(&self, run: &Run) -> Journal {
        match run.started() {
            Some(started) => match &started.journal {
                Some(directory) => Journal::Directory(directory.clone()),
                None => Journal::Off,
            },
            None if self.without_journal => Journal::Off,
            None => Journal::Below,
        }
    }
}

impl Transport for Stream {
    type Error = Error;
    type Channel = Ears;

    fn given(&self, event: &Event) {
        self.target.sandbox.trace.event(event);
    }

    async fn read(&mut self) -> Result<Piece, Error> {
        loop {
            let heard = match (self.held.take(), &mut self.source) {
                (Some(heard), _) => heard,
                (None, Some(source)) => source.events.next().await,
                (None, None) => Heard::Broken("there is no stream".to_owned()),
            };
            match heard {
                Heard::Started(pid) => {
                    if let Some(Source { attach: None, .. }) = &self.source {
                        self.target.pid.send_replace(Some(pid));
                    }
                }
                Heard::Stdout(bytes) => return Ok(Piece::Stdout(bytes)),
                Heard::Stderr(bytes) => return Ok(Piece::Stderr(bytes)),
                Heard::Ended(end) => {
                    let status = end.status();
                    match &self.source {
                        Some(Source {
                            attach: Some(_), ..
                        }) => {
                            self.attach_exit = Some(end.exit_code);
                        }
                        _ => self.ended = Some(status.clone()),
                    }
                    self.close(true);
                    return Ok(Piece::Ended { status });
                }
                Heard::Refused(refusal) => {
                    self.close(false);
                    let why = refusal.to_string();
                    return Ok(Piece::Broken { why });
                }
                Heard::Broken(why) => {
                    self.close(false);
                    return Ok(Piece::Broken { why });
                }
            }
        }
    }

    async fn resume(&mut self, run: &Run) -> Result<Resumed, Error> {
        if let Some((events, why)) = self.rejoined.take() {
            self.opened = Instant::now();
            let attach = None;
            self.source = Some(Source { events, attach });
            return Ok(Resumed::Unreplayed { why });
        }
        if self.search.is_none() {
            let search = self.search(run);
            self.search = Some(Searching(tokio::spawn(search.run())));
        }
        let Some(searching) = &mut self.search else {
            // Not reached: there is one now.
            return Ok(Resumed::Replayed);
        };
        let found = (&mut searching.0).await;
        self.search = None;
        let found = found.map_err(|error| Error::Protocol {
            what: format!("following run {}", self.target.run_id),
            why: error.to_string(),
        })??;
        self.opened = Instant::now();
        Ok(match found {
            Found::Attached {
                events,
                tag,
                is_last,
            } => {
                self.was_last = is_last;
                let attach = Some(tag);
                self.source = Some(Source { events, attach });
                Resumed::Replayed
            }
            Found::Rejoined { events, why } => {
                let attach = None;
                self.source = Some(Source { events, attach });
                Resumed::Unreplayed { why }
            }
            Found::Lost(loss) => Resumed::Lost(loss),
        })
    }

    fn channel(&self) -> Ears {
        Ears {
            target: Arc::clone(&self.target),
        }
    }
}
