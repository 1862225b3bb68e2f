//! What the tests of the client have in common.

use std::future::Future;
use std::io::Write as _;
use std::time::{Duration, Instant};

use sandtrace_client::Event;
use sandtrace_client::live::{Live, Transport};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn async_test(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.unwrap() });
}

/// Reads to the end. Every event must be the next one, and the last one the last line.
pub(crate) async fn everything<T: Transport>(live: &mut Live<T>) -> Vec<Event> {
    let mut events = Vec::new();
    let begin = live.run().last_seq();
    while let Some(event) = live.next().await.unwrap() {
        assert_eq!(
            event.seq(),
            begin + events.len() as u64 + 1,
            "each event once, in order"
        );
        events.push(event);
    }
    assert_eq!(live.run().missing(), 0);
    assert!(live.run().conclusion().is_some());
    events
}

pub(crate) fn kinds(events: &[Event]) -> Vec<String> {
    let kind = |event: &Event| event.json()["type"].as_str().unwrap_or_default().to_owned();
    events.iter().map(kind).collect()
}

/// Waits until no process has this pid, but for one that nobody reaps.
pub(crate) async fn pid_is_gone(pid: u32) {
    until("the agent's end", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map_or("X", |(_, rest)| &rest[..1]);
        matches!(state, "Z" | "X").then_some(())
    })
    .await;
}

/// Calls `ready` until it gives something, and lets other tasks run meanwhile.
pub(crate) async fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE / 2;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "still waiting: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Says why a test cannot run here. Past libtest, which would swallow it.
pub(crate) fn skipped(why: &str) {
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "skipped: {why}").unwrap();
}
