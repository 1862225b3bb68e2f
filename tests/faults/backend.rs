//! One backend with a trouble of its own, and its books: which span it took, how often, and whether it could say so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sandtrace::telemetry::{Compression, Protocol, Route};
use sha2::{Digest as _, Sha256};

use super::support::receiver::{Answer, Received, Receiver};
use super::support::spans::otlp;

/// The time one request may take: short, for some answers never come.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How a backend misbehaves. Only what it does to a request varies by chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    Slow,
    /// Asks for time.
    Throttles,
    /// Is out of order now and then.
    Unavailable,
    /// Resets connections before it takes anything.
    Resets,
    /// Takes a request, and resets the connection.
    ForgetsToAnswer,
    /// Takes a request, and answers too late.
    TooLate,
    /// Takes nothing and says nothing.
    BlackHole,
    /// Refuses some requests for good.
    Refuses,
    /// Takes only a part of some requests.
    TakesPart,
    /// Any of these.
    Everything,
}

const TROUBLES: [Trouble; 11] = [
    Trouble::None,
    Trouble::Slow,
    Trouble::Throttles,
    Trouble::Unavailable,
    Trouble::Resets,
    Trouble::ForgetsToAnswer,
    Trouble::TooLate,
    Trouble::BlackHole,
    Trouble::Refuses,
    Trouble::TakesPart,
    Trouble::Everything,
];

/// Chance from a seed.
#[derive(Debug)]
struct Chance {
    seed: u64,
    index: usize,
    drawn: u64,
}

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.drawn += 1;
        let mut hash = Sha256::new();
        for number in [self.seed, self.index as u64, self.drawn] {
            hash.update(number.to_le_bytes());
        }
        let bytes = hash.finalize();
        u64::from_le_bytes(bytes[..8].try_into().unwrap()) % limit
    }
}

/// How often a span was taken.
#[derive(Debug, Default, Clone, Copy)]
struct Taken {
    times: u32,
    /// How many of these could not be told.
    untold: u32,
}

#[derive(Debug, Default)]
struct Books {
    spans: HashMap<String, Taken>,
    faults: u64,
}

/// The books' sum.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) faults: u64,
    /// Different spans taken.
    pub(super) received: u64,
    /// Different spans taken by an answer that said so.
    pub(super) acknowledged: u64,
    /// Spans taken again although their acknowledgement had been told.
    pub(super) duplicates: u64,
    /// Spans taken again because an acknowledgement was hidden.
    pub(super) unknowable: u64,
}

pub(super) struct Backend {
    what: String,
    receiver: Receiver,
    route: Route,
    books: Arc<Mutex<Books>>,
}

impl Backend {
    pub(super) fn start(seed: u64, index: usize) -> Self {
        let mut chance = Chance {
            seed,
            index,
            drawn: 0,
        };
        // Each trouble comes before any comes again; the rest is by chance.
        let trouble = TROUBLES[index % TROUBLES.len()];
        let protocols = [Protocol::HttpProtobuf, Protocol::HttpJson, Protocol::Grpc];
        let protocol = protocols[usize::try_from(chance.below(3)).unwrap()];
        let compression = match chance.below(2) {
            0 => Compression::None,
            _ => Compression::Gzip,
        };
        let books = Arc::new(Mutex::new(Books::default()));
        let kept = Arc::clone(&books);
        let script = move |_: usize, request: &Received| {
            let mut books = kept.lock().unwrap_or_else(PoisonError::into_inner);
            answer(trouble, protocol, &mut chance, &mut books, request)
        };
        let receiver = match protocol {
            Protocol::Grpc => Receiver::grpc_scripted(None, script),
            Protocol::HttpProtobuf | Protocol::HttpJson => Receiver::scripted(script),
        };
        let route = Route {
            protocol,
            compression,
            timeout: TIMEOUT,
            ..otlp(&receiver.traces_url())
        };
        Self {
            what: format!("{index} {trouble:?} {protocol:?} {compression:?}"),
            receiver,
            route,
            books,
        }
    }

    pub(super) fn what(&self) -> &str {
        &self.what
    }

    pub(super) fn route(&self) -> Route {
        self.route.clone()
    }

    pub(super) fn tally(&self) -> Tally {
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tally = Tally {
            faults: books.faults,
            received: books.spans.len() as u64,
            ..Tally::default()
        };
        for taken in books.spans.values() {
            let told = taken.times - taken.untold;
            tally.acknowledged += u64::from(told > 0);
            tally.duplicates += u64::from(told.saturating_sub(1));
            tally.unknowable += u64::from(told.min(1) + taken.untold - 1);
        }
        // Keeps it alive until here.
        assert!(self.receiver.port() > 0);
        tally
    }
}

impl Books {
    /// Takes all spans of a request but the first few.
    fn take(&mut self, request: &Received, told: bool, but: usize) {
        for span in request.spans().into_iter().skip(but) {
            let taken = self.spans.entry(span.name).or_default();
            taken.times += 1;
            taken.untold += u32::from(!told);
        }
    }
}

fn answer(
    trouble: Trouble,
    protocol: Protocol,
    chance: &mut Chance,
    books: &mut Books,
    request: &Received,
) -> Answer {
    let trouble = match trouble {
        Trouble::Everything => TROUBLES[usize::try_from(chance.below(10)).unwrap()],
        trouble => trouble,
    };
    // The black hole is one always; the others are in the mood one time in three.
    let strikes = trouble == Trouble::BlackHole || chance.below(3) == 0;
    let is_grpc = protocol == Protocol::Grpc;
    let status = |http, code| match is_grpc {
        true => Answer::grpc(code),
        false => Answer::status(http),
    };
    let fine = || status(200, 0);
    if trouble == Trouble::None || !strikes {
        books.take(request, true, 0);
        return fine();
    }
    books.faults += 1;
    match trouble {
        Trouble::None | Trouble::Everything | Trouble::Slow => {
            books.take(request, true, 0);
            fine().after(Duration::from_millis(chance.below(200)))
        }
        // One second: what RetryInfo would say takes more to write than HTTP's header, so gRPC does without.
        Trouble::Throttles => status(429, 14).header("retry-after", "1"),
        Trouble::Unavailable => status(503, 14),
        Trouble::Resets => Answer::Reset,
        Trouble::ForgetsToAnswer => {
            books.take(request, false, 0);
            Answer::Reset
        }
        Trouble::TooLate => {
            books.take(request, false, 0);
            fine().after(2 * TIMEOUT)
        }
        Trouble::BlackHole => Answer::BlackHole,
        Trouble::Refuses => status(400, 3),
        Trouble::TakesPart => {
            let rejected = request.spans().len().min(3);
            books.take(request, true, rejected);
            match protocol {
                Protocol::HttpJson => {
                    let partial =
                        format!(r#"{{"partialSuccess":{{"rejectedSpans":"{rejected}"}}}}"#);
                    Answer::status(200).body(partial.into_bytes())
                }
                // partial_success { rejected_spans }, both field 1 of theirs.
                Protocol::HttpProtobuf => Answer::status(200).body(partial(rejected)),
                Protocol::Grpc => Answer::grpc(0).message(partial(rejected)),
            }
        }
    }
}

fn partial(rejected: usize) -> Vec<u8> {
    vec![0x0a, 2, 0x08, u8::try_from(rejected).unwrap()]
}
