//! A live run over streams that break anywhere.
#![expect(
    clippy::unwrap_used,
    reason = "a test may panic, its functions included"
)]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use sandtrace_client::live::{Channel, Live, LiveError, Piece, Resumed, Signal, Transport};
use sandtrace_client::run::{Loss, LossReason, Run};
use sandtrace_client::{Event, FailureKind, Outcome};

/// What becomes of one of the streams.
#[derive(Debug, Clone)]
struct Plan {
    /// How many lines it repeats that were read already.
    repeats: Index,
    /// What a login shell says first.
    noise: bool,
    /// Where it ends; a stream without goes to the end of the run.
    cut: Option<Index>,
    /// The lengths of its chunks, over and over.
    chunks: Vec<usize>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let cut = proptest::option::weighted(0.9, any::<Index>());
    let chunks = vec(1_usize..200, 1..5);
    (any::<Index>(), any::<bool>(), cut, chunks).prop_map(|(repeats, noise, cut, chunks)| Plan {
        repeats,
        noise,
        cut,
        chunks,
    })
}

/// A run whose lines are all known, and streams of it that break where they are told to.
struct Broken {
    lines: Vec<String>,
    plans: VecDeque<Plan>,
    stream: VecDeque<Piece>,
    /// Whether the next future is to be polled twice, so that whoever drops it after the first loses its work.
    hesitant: VecDeque<bool>,
    /// What is found in the end instead of a stream.
    lost: Option<LossReason>,
    unreplayed: bool,
}

impl Broken {
    fn new(lines: Vec<String>, plans: Vec<Plan>) -> Self {
        let mut broken = Self {
            lines,
            plans: plans.into(),
            stream: VecDeque::new(),
            hesitant: VecDeque::new(),
            lost: None,
            unreplayed: false,
        };
        broken.connect(0);
        broken
    }

    /// A stream of the lines after `seq`, and of some before.
    fn connect(&mut self, seq: u64) {
        let plan = self.plans.pop_front();
        let read = usize::try_from(seq).unwrap();
        let repeats = plan.as_ref().map_or(0, |plan| plan.repeats.index(read + 1));
        let mut text = String::new();
        if plan.as_ref().is_some_and(|plan| plan.noise) {
            text.push_str("Welcome!\n{\"type\":\"sandtrace.run.finished\"}\n");
        }
        for line in &self.lines[read - repeats..] {
            text.push_str(line);
            text.push('\n');
        }
        let mut text = text.as_bytes();
        let cut = plan.as_ref().and_then(|plan| plan.cut);
        if let Some(cut) = cut {
            text = &text[..cut.index(text.len() + 1)];
        }
        let chunks = plan.map_or(vec![4096], |plan| plan.chunks);
        for length in chunks.iter().cycle() {
            if text.is_empty() {
                break;
            }
            let (chunk, rest) = text.split_at((*length).min(text.len()));
            let bytes = Bytes::copy_from_slice(chunk);
            self.stream.push_back(Piece::Stdout(bytes));
            text = rest;
        }
        self.stream.push_back(match cut {
            Some(_) => Piece::Broken { why: "cut".into() },
            None => Piece::Ended {
                status: "exit status 0".into(),
            },
        });
    }

    async fn hesitate(&mut self) {
        if self.hesitant.pop_front() == Some(true) {
            let mut polled = false;
            std::future::poll_fn(|context| {
                context.waker().wake_by_ref();
                match std::mem::replace(&mut polled, true) {
                    false => Poll::Pending,
                    true => Poll::Ready(()),
                }
            })
            .await;
        }
    }
}

impl Transport for Broken {
    type Error = Infallible;
    type Channel = Nobody;

    async fn read(&mut self) -> Result<Piece, Infallible> {
        self.hesitate().await;
        Ok(self.stream.pop_front().unwrap())
    }

    async fn resume(&mut self, run: &Run) -> Result<Resumed, Infallible> {
        self.hesitate().await;
        assert!(self.stream.is_empty(), "it was not read to its end");
        if let (true, Some(reason)) = (self.plans.is_empty(), self.lost.take()) {
            return Ok(Resumed::Lost(Box::new(Loss::new(reason))));
        }
        if std::mem::take(&mut self.unreplayed) {
            self.lines.drain(..10);
            self.lines.splice(0..0, (0..10).map(|_| String::new()));
            self.connect(10);
            return Ok(Resumed::Unreplayed {
                why: "no journal".into(),
            });
        }
        self.connect(run.last_seq());
        Ok(Resumed::Replayed)
    }

    fn channel(&self) -> Nobody {
        Nobody
    }
}

#[derive(Clone)]
struct Nobody;

impl Channel for Nobody {
    type Error = Infallible;

    async fn write(&self, _: Vec<u8>) -> Result<(), Infallible> {
        Ok(())
    }

    async fn close(&self) -> Result<(), Infallible> {
        Ok(())
    }

    async fn signal(&self, _: Signal) -> Result<(), Infallible> {
        Ok(())
    }
}

fn stamp(seq: usize) -> String {
    let ids = r#""trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","span_id":"00f067aa0ba902b7""#;
    format!(r#""sandtrace":{{"seq":{seq},"time":"2026-01-31T12:00:00.000000Z",{ids}}}"#)
}

/// A run of `count` lines, the last of which says how it ended.
fn lines(count: usize) -> Vec<String> {
    let mut lines: Vec<String> = (1..count)
        .map(|seq| {
            let text = "é".repeat(seq * 7 % 40);
            format!(r#"{{"type":"text","data":"{text}",{}}}"#, stamp(seq))
        })
        .collect();
    let usage = r#"{"input_tokens":1,"output_tokens":2,"cache_read_input_tokens":0,"cache_creation_input_tokens":0}"#;
    let counts =
        r#"{"turns":1,"chats":1,"tools":0,"subagents":0,"retries":0,"events":1,"unrecognised":0}"#;
    let telemetry = r#"{"spans":1,"spans_dropped":0,"destinations":[]}"#;
    let phases = r#"{"spawn_ms":1,"first_line_ms":2,"first_token_ms":3,"tools_ms":0,"result_ms":4,"exit_ms":5}"#;
    let data = format!(
        r#"{{"outcome":"success","failure":null,"exit":null,"duration_ms":5,"usage":{usage},"cost":null,"cache_hit_ratio":null,"phases":{phases},"counts":{counts},"resources":null,"telemetry":{telemetry},"survivors":[]}}"#
    );
    lines.push(format!(
        r#"{{"type":"sandtrace.run.finished","data":{data},{}}}"#,
        stamp(count)
    ));
    lines
}

/// Polls once, and drops the future if that was not enough.
fn once<F: Future>(future: F) -> Option<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn next<T: Transport>(live: &mut Live<T>) -> Result<Option<Event>, LiveError<T::Error>> {
    loop {
        if let Some(next) = once(live.next()) {
            return next;
        }
    }
}

fn rest<T: Transport>(live: &mut Live<T>) -> Vec<String> {
    let mut seen = Vec::new();
    while let Some(event) = next(live).unwrap() {
        assert_eq!(
            live.run().last_seq(),
            event.seq(),
            "the run is as far as its reader"
        );
        seen.push(event.raw().to_owned());
    }
    seen
}

proptest! {
    #[test]
    fn every_event_comes_once_and_in_order_wherever_streams_are_cut(
        count in 1_usize..60,
        plans in vec(plan(), 0..12),
        hesitant in vec(any::<bool>(), 0..200),
    ) {
        let lines = lines(count);
        let breaks = plans.iter().position(|plan| plan.cut.is_none()).unwrap_or(plans.len());
        let mut transport = Broken::new(lines.clone(), plans);
        transport.hesitant = hesitant.into();
        let mut live = Live::new(transport);
        prop_assert_eq!(rest(&mut live), lines);
        prop_assert!(live.breaks() <= breaks as u64);
        prop_assert_eq!(live.run().missing(), 0);
        prop_assert_eq!(live.run().conclusion().unwrap().outcome, Outcome::Success);
        prop_assert!(next(&mut live).unwrap().is_none(), "and it stays over");
    }

    #[test]
    fn a_run_that_is_lost_gives_every_event_before_and_then_says_so(
        count in 2_usize..30,
        cut in any::<Index>(),
    ) {
        let lines = lines(count);
        let plan = Plan { repeats: cut, noise: false, cut: Some(cut), chunks: vec![7] };
        let mut transport = Broken::new(lines.clone(), vec![plan]);
        transport.lost = Some(LossReason::SandboxTimeout);
        let mut live = Live::new(transport);
        let seen = rest(&mut live);
        prop_assert_eq!(&seen[..], &lines[..seen.len()]);
        let conclusion = live.run().conclusion().unwrap();
        if seen.len() < count {
            prop_assert_eq!(&conclusion.failure.as_ref().unwrap().kind, &FailureKind::TimeoutSandboxEnd);
        } else {
            prop_assert_eq!(conclusion.outcome, Outcome::Success);
        }
    }
}

/// A transport whose first stream is these lines, and then breaks.
fn broken_after(lines: &[String], count: usize) -> Broken {
    let mut transport = Broken::new(lines.to_owned(), Vec::new());
    let text = lines[..count].iter().map(|line| format!("{line}\n"));
    let broken = Piece::Broken { why: "cut".into() };
    let bytes = Bytes::from(text.collect::<String>());
    transport.stream = [Piece::Stdout(bytes), broken].into();
    transport
}

#[test]
fn what_cannot_be_replayed_is_told_before_what_follows() {
    let lines = lines(20);
    let mut transport = broken_after(&lines, 3);
    transport.unreplayed = true;
    let mut live = Live::new(transport);
    for line in &lines[..3] {
        assert_eq!(next(&mut live).unwrap().unwrap().raw(), line);
    }
    match next(&mut live) {
        Err(LiveError::Unreplayed { after: 3, why }) => assert_eq!(why, "no journal"),
        other => panic!("{other:?}"),
    }
    assert_eq!(rest(&mut live), lines[10..]);
    assert_eq!(live.run().missing(), 7);
}

#[test]
fn a_supervisor_that_never_spoke_is_told_with_what_was_printed_in_its_stead() {
    let mut transport = broken_after(&lines(2), 0);
    let said = Bytes::from_static(b"sh: sandtrace: command not found\n");
    transport.stream.push_front(Piece::Stderr(said));
    let status = Some("exit status 127".to_owned());
    transport.lost = Some(LossReason::SupervisorGone { status });
    let mut live = Live::new(transport);
    let error = next(&mut live).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the supervisor never started its run (exit status 127); what was printed instead: sh: sandtrace: command not found"
    );
    assert!(next(&mut live).unwrap().is_none());
    assert_eq!(live.run().conclusion().unwrap().outcome, Outcome::Failure);
}
