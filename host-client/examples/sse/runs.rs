//! The runs that this server has started.
//!
//! Each has two tasks: one reads its events into its feed, one carries out what the page orders. Each open page has one
//! more, which reads the feed at the speed of its connection.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use http_body_util::channel::{Channel as Pipe, Sender};
use sandtrace_client::live::{Channel, Live, LiveError, Transport, Voice};
use sandtrace_client::run::{Loss, LossReason};
use sandtrace_client::sse::{self, Feed, Last, Names, Reader, Reading};
use sandtrace_client::{Body as Line, Content, Launch, local};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};

use crate::arguments::Arguments;

/// What is kept of each run for pages that come late or come back.
const KEPT_BYTES: usize = 4 << 20;
/// Runs that are kept, the oldest are forgotten first.
const KEPT_RUNS: usize = 32;
/// What a page is sent at once.
const PIECE_BYTES: usize = 64 << 10;
/// A page hears something at least this often.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
/// How long a page waits before it comes back.
const COME_BACK_AFTER: Duration = Duration::from_secs(1);
/// How long a sandbox lives.
#[cfg(feature = "e2b")]
const SANDBOX_LIVES: Duration = Duration::from_secs(3600);
/// Before a transport that could not go on is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How often it is asked.
const ASKED: u32 = 5;

/// How long the agent may take to read what is written to it.
const WRITE_FOR: Duration = Duration::from_secs(10);

/// What the page asks of a run.
#[derive(Debug)]
pub(crate) enum Order {
    Message(String),
    Approve(String),
    /// With the reason.
    Deny(String, String),
    Interrupt,
    Close,
    Cancel,
}

type Answer = oneshot::Sender<Result<(), String>>;

#[derive(Clone)]
struct Entry {
    number: u64,
    feed: watch::Sender<Feed>,
    orders: mpsc::Sender<(Order, Answer)>,
}

pub(crate) struct Runs {
    arguments: Arguments,
    /// Held for a look at the table alone, never over an await: requests come from many tasks.
    table: Mutex<HashMap<String, Entry>>,
}

impl Runs {
    pub(crate) fn new(arguments: Arguments) -> Self {
        Self {
            arguments,
            table: Mutex::default(),
        }
    }

    /// Starts a run and says its first message. Gives its id.
    pub(crate) async fn start(self: &Arc<Self>, prompt: String) -> Result<String, String> {
        let run_id = new_id();
        let mut launch = Launch::new(&self.arguments.command).run_id(&run_id);
        if let Some(path) = &self.arguments.sandtrace {
            launch = launch.program(path);
        }
        if let Some(template) = &self.arguments.e2b {
            self.start_in_sandbox(template, &launch, &run_id).await?;
        } else {
            let live = local::start(&launch).await;
            self.follow(&run_id, live.map_err(|error| error.to_string())?);
        }
        match self.order(&run_id, Order::Message(prompt)).await {
            Some(Err(why)) => Err(why),
            _ => Ok(run_id),
        }
    }

    /// A sandbox of its own for each run, which ends by its timeout.
    #[cfg(feature = "e2b")]
    async fn start_in_sandbox(
        &self,
        template: &str,
        launch: &Launch,
        run_id: &str,
    ) -> Result<(), String> {
        use sandtrace_client::e2b::{Client, Error};
        let begun = async {
            let sandbox = Client::from_env()?
                .create(template)
                .timeout(SANDBOX_LIVES)
                .send()
                .await?;
            sandbox.start(launch).await
        };
        let live = begun.await.map_err(|error: Error| error.to_string())?;
        self.follow(run_id, live);
        Ok(())
    }

    #[cfg(not(feature = "e2b"))]
    #[expect(clippy::unused_async, reason = "as it is with the feature")]
    async fn start_in_sandbox(&self, _: &str, _: &Launch, _: &str) -> Result<(), String> {
        Err("this server was built without the feature e2b".to_owned())
    }

    fn follow<T: Transport + 'static>(&self, run_id: &str, live: Live<T>)
    where
        T::Channel: 'static,
    {
        let feed = watch::Sender::new(Feed::new(KEPT_BYTES).names(Names::Unnamed));
        let (orders, ordered) = mpsc::channel(8);
        tokio::spawn(speak(live.voice().by("page"), ordered));
        tokio::spawn(read(live, feed.clone()));
        let mut table = self.table();
        let number = table.values().map(|entry| entry.number + 1).max();
        let entry = Entry {
            number: number.unwrap_or(0),
            feed,
            orders,
        };
        table.insert(run_id.to_owned(), entry);
        while table.len() > KEPT_RUNS {
            let oldest = table.iter().min_by_key(|(_, entry)| entry.number);
            let Some(oldest) = oldest.map(|(run_id, _)| run_id.clone()) else {
                break;
            };
            table.remove(&oldest);
        }
    }

    /// The events after `last`. `None`: no such run; `Some(None)`: there are none and will be none.
    pub(crate) fn events(&self, run_id: &str, last: Last) -> Option<Option<Body>> {
        let feed = self.table().get(run_id)?.feed.subscribe();
        let reader = feed.borrow().reader(last);
        if matches!(reader.clone().read(&feed.borrow(), 0), Reading::Over) {
            return Some(None);
        }
        let (sender, pipe) = Pipe::<Bytes, std::convert::Infallible>::new(1);
        tokio::spawn(send(feed, reader, sender));
        Some(Some(Body::new(pipe)))
    }

    /// Has an order carried out. `None`: no such run.
    pub(crate) async fn order(&self, run_id: &str, order: Order) -> Option<Result<(), String>> {
        let orders = self.table().get(run_id)?.orders.clone();
        let (answer, answered) = oneshot::channel();
        let over = || Err("the run is over".to_owned());
        if orders.send((order, answer)).await.is_err() {
            return Some(over());
        }
        Some(answered.await.unwrap_or_else(|_| over()))
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a run's events into its feed. The reader is never held up by a page.
async fn read<T: Transport>(mut live: Live<T>, feed: watch::Sender<Feed>) {
    let mut asked = 0;
    loop {
        match live.next().await {
            Ok(Some(event)) => {
                asked = 0;
                feed.send_modify(|feed| match event.content() {
                    // Telemetry on its way through the host is nothing for a page.
                    Content::Supervisor(Line::Otlp(_)) => feed.pass_over(&event),
                    _ => feed.push(&event),
                });
            }
            Ok(None) => break,
            // The page is told by a gap.
            Err(LiveError::Unreplayed { .. }) => {}
            Err(error) => {
                _ = writeln!(std::io::stderr(), "sse: {error}");
                asked += 1;
                if asked > ASKED || matches!(error, LiveError::NeverStarted { .. }) {
                    break;
                }
                sleep(ASK_AGAIN_AFTER).await;
            }
        }
    }
    let mut run = live.run().clone();
    let conclusion = run.lose(Loss::new(LossReason::Unreachable));
    feed.send_modify(|feed| feed.conclude(conclusion));
}

/// Carries out what pages order. A cancel needs no stdin, so it waits for no order before it.
async fn speak<C: Channel + 'static>(voice: Voice<C>, mut orders: mpsc::Receiver<(Order, Answer)>) {
    let voice = Arc::new(voice);
    let (lines, in_turn) = mpsc::channel(8);
    tokio::spawn(write(Arc::clone(&voice), in_turn));
    while let Some((order, answer)) = orders.recv().await {
        if matches!(order, Order::Cancel) {
            let voice = Arc::clone(&voice);
            tokio::spawn(async move {
                let result = voice.cancel().await;
                _ = answer.send(result.map_err(|error| error.to_string()));
            });
        } else if let Err(full) = lines.try_send((order, answer)) {
            let (_, answer) = full.into_inner();
            _ = answer.send(Err("too many orders wait for the agent to read".to_owned()));
        }
    }
}

/// Writes to the agent, one line after the other. A write that takes too long is given up here, not in the sandbox.
async fn write<C: Channel>(voice: Arc<Voice<C>>, mut orders: mpsc::Receiver<(Order, Answer)>) {
    while let Some((order, answer)) = orders.recv().await {
        let written = async {
            match order {
                Order::Message(text) => voice.send_message(text).await,
                Order::Approve(id) => voice.approve(id).await,
                Order::Deny(id, reason) => voice.deny(id, reason).await,
                Order::Interrupt => voice.interrupt().await,
                Order::Close => voice.close().await,
                Order::Cancel => voice.cancel().await,
            }
        };
        let result = match timeout(WRITE_FOR, written).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err(format!(
                "the agent has not read its stdin for {} s; cancel the run, or wait: it may read this yet",
                WRITE_FOR.as_secs()
            )),
        };
        // Nobody waits for the answer to a request that was given up.
        _ = answer.send(result);
    }
}

/// Sends a feed to one page, at the page's speed.
async fn send(
    mut feed: watch::Receiver<Feed>,
    mut reader: Reader,
    mut page: Sender<Bytes, std::convert::Infallible>,
) {
    let mut text = sse::retry(COME_BACK_AFTER);
    loop {
        if page.send_data(Bytes::from(text)).await.is_err() {
            return;
        }
        text = loop {
            match reader.read(&feed.borrow_and_update(), PIECE_BYTES) {
                Reading::Text(text) => break text,
                Reading::Over => return,
                Reading::Nothing => {}
            }
            match timeout(KEEPALIVE_EVERY, feed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => break sse::KEEPALIVE.to_owned(),
            }
        };
    }
}

fn new_id() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    format!("page-{:x}", now.unwrap_or_default().as_nanos())
}
