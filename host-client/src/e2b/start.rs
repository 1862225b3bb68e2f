//! The start of a run: once, or not at all.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::envd::{Unheard, is_broken};
use super::error::Error;
use super::events::{Events, Heard, Patience};
use super::http::Failed;
use super::message::start;
use super::sandbox::{Inner, Presence};
use super::search::{Found, HEARTBEAT, Journal, Search};
use super::stream::Stream;
use super::target::Target;
use crate::launch::Launch;
use crate::live::Live;
use crate::run::LossReason;

/// How long a run is looked for among the processes whose start got no answer.
const APPEARS: Duration = Duration::from_secs(3);

/// What nobody else has chosen. 128 bits, in hex.
pub(super) fn random_id() -> Result<String, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::Config(format!("no random numbers for an id: {error}")))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

pub(super) async fn started(
    sandbox: &Arc<Inner>,
    launch: Launch,
    without_journal: bool,
) -> Result<Live<Stream>, Error> {
    let (launch, run_id) = match launch.chosen_run_id() {
        Some(id) => (launch.clone(), id.to_owned()),
        None => {
            let id = random_id()?;
            (launch.run_id(id.clone()), id)
        }
    };
    let target = Arc::new(Target {
        sandbox: Arc::clone(sandbox),
        launch,
        run_id,
        without_journal,
        pid: watch::Sender::new(None),
    });
    match begin(&target).await? {
        Begun::Stream(events) => Ok(Live::new(Stream::of(target).with(events))),
        Begun::Uncertain(why) => found(target, why).await,
    }
}

/// What came of the request.
enum Begun {
    Stream(Events),
    /// It may have been carried out.
    Uncertain(String),
}

async fn begin(target: &Target) -> Result<Begun, Error> {
    let launch = &target.launch;
    let message = start(&launch.command_line(), launch.env(), &target.run_id, true);
    let config = &target.sandbox.api.config;
    let patience = Patience {
        keepalive: config.keepalive,
        heartbeat: Some(HEARTBEAT),
    };
    let until = Instant::now() + config.connect_for;
    let mut backoff = Backoff::new();
    let mut events = loop {
        let unheard = match target.envd().open("Start", &message, patience).await {
            Ok(events) => break events,
            Err(unheard) => unheard,
        };
        if unheard.is_uncertain() {
            return Ok(Begun::Uncertain(unheard.why()));
        }
        // It reached nobody: once more, if there is somebody to be reached.
        let mut again = matches!(unheard, Unheard::Failed(Failed::Connect(_)));
        if unheard.is_missing_sandbox() {
            let sandbox = target.sandbox.id.clone();
            match target.sandbox.presence().await {
                Presence::Gone(loss) => {
                    let reason = loss.provider_says;
                    return Err(Error::SandboxGone { sandbox, reason });
                }
                Presence::Paused => return Err(Error::SandboxPaused { sandbox }),
                Presence::There | Presence::Unknown => again = true,
            }
        }
        let wait = backoff.wait();
        if !again || Instant::now() + wait >= until {
            return Err(error(target, unheard));
        }
        tokio::time::sleep(wait).await;
    };
    // The first event says that it runs.
    match tokio::time::timeout(config.request_timeout, events.next()).await {
        Ok(Heard::Started(pid)) => {
            target.pid.send_replace(Some(pid));
            Ok(Begun::Stream(events))
        }
        Ok(Heard::Refused(refusal)) if !is_broken(&refusal.code) => {
            let unheard = Unheard::Refused {
                status: 200,
                refusal,
                retry_after: None,
            };
            Err(error(target, unheard))
        }
        Ok(Heard::Refused(refusal)) => Ok(Begun::Uncertain(refusal.to_string())),
        Ok(Heard::Broken(why)) => Ok(Begun::Uncertain(why)),
        // The stream was accepted, so the process may run.
        Ok(Heard::Stdout(_) | Heard::Stderr(_) | Heard::Ended(_)) => {
            let why = "the first event is not the start of the process";
            Ok(Begun::Uncertain(why.to_owned()))
        }
        Err(_) => Ok(Begun::Uncertain("no event came".to_owned())),
    }
}

fn error(target: &Target, unheard: Unheard) -> Error {
    let what = format!("starting run {}", target.run_id);
    unheard.into_error(&what, &target.envd().url())
}

/// Looks for a run that may have been started: among the processes, and then, as it may be over already, by its journal.
///
/// Where neither can be asked, it may run: the caller gets it to follow, and with it the id, and learns from
/// [`Live::next`] what becomes of it.
async fn found(target: Arc<Target>, why: String) -> Result<Live<Stream>, Error> {
    let until = Instant::now() + APPEARS;
    let mut backoff = Backoff::new();
    while Instant::now() < until {
        match target.envd().find(&target.run_id).await {
            Ok(Some(pid)) => {
                target.pid.send_replace(Some(pid));
                return Ok(Live::resuming(Stream::of(target)));
            }
            Ok(None) => {}
            Err(unheard) if unheard.is_missing_sandbox() => {
                if let Presence::Gone(loss) = target.sandbox.presence().await {
                    return Err(Error::SandboxGone {
                        sandbox: target.sandbox.id.clone(),
                        reason: loss.provider_says,
                    });
                }
            }
            Err(_) => {}
        }
        tokio::time::sleep(backoff.wait()).await;
    }
    let never = || Error::NeverStarted {
        run_id: target.run_id.clone(),
        why: why.clone(),
    };
    let search = Search {
        target: Arc::clone(&target),
        seq: 0,
        journal: match target.without_journal {
            true => Journal::Off,
            false => Journal::Below,
        },
        ended: None,
        attach_exit: None,
        was_last: false,
        since: Instant::now(),
        first_wait: Duration::ZERO,
        stale: Vec::new(),
    };
    let Ok(found) = search.run().await else {
        // Whatever it is, it is met again by who follows the run: a sandbox that is paused can be resumed, and then it is
        // followed on.
        return Ok(Live::resuming(Stream::of(target)));
    };
    match found {
        Found::Attached {
            mut events, tag, ..
        } => loop {
            match events.next().await {
                Heard::Started(_) | Heard::Stderr(_) => {}
                // A login shell speaks on stdout as well.
                Heard::Stdout(bytes) if !bytes.contains(&b'{') => {}
                heard @ Heard::Stdout(_) => {
                    let stream = Stream::of(Arc::clone(&target));
                    return Ok(Live::new(stream.with_attached(events, tag, heard)));
                }
                Heard::Ended(end) if end.exit_code != 0 => return Err(never()),
                // It is there, and the stream is to be made anew.
                Heard::Ended(_) | Heard::Refused(_) | Heard::Broken(_) => {
                    return Ok(Live::resuming(Stream::of(Arc::clone(&target))));
                }
            }
        },
        // What it said before is lost, which the caller shall hear.
        Found::Rejoined { events, why } => {
            let stream = Stream::of(Arc::clone(&target));
            Ok(Live::resuming(stream.rejoined(events, why)))
        }
        Found::Lost(loss) => match loss.reason {
            LossReason::SupervisorGone { .. } => Err(never()),
            LossReason::Unreachable => Ok(Live::resuming(Stream::of(Arc::clone(&target)))),
            LossReason::SandboxGone | LossReason::SandboxTimeout => Err(Error::SandboxGone {
                sandbox: target.sandbox.id.clone(),
                reason: loss.provider_says,
            }),
        },
    }
}
