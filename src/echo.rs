//! Lines to the host: one writer thread, which alone may block on stdout.
//!
//! The loop puts finished bytes into a ring of at most 8 MiB. While a journal exists a full ring costs nothing: the
//! loop notes which bytes of the journal the host has yet to get, and the writer reads them from there once it comes
//! to them. Without a journal, or with `--echo raw`, a full ring makes the loop stop reading from the agent, which then
//! feels what it would feel without us: a full pipe.
//!
//! A journal that reaches its cap is written anew, and [`Echo::rebase`] turns what waits in the ring to the new file. The
//! writer ends the one range it is at with the old file: so at most one old file stays on the disk, however long a host
//! sleeps. What the journal dropped before the host came to it is missing from its lines.
//!
//! A host that is gone (EPIPE) stops the writing and nothing else. At the end a host that reads at all is waited for,
//! within `LONGEST_END`; one that is slower has the journal.

mod stdout;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use crate::journal::Moved;
use crate::process::pending_bytes;

pub use self::stdout::Stdout;

/// Bytes that may wait in memory; half of the program's budget (DESIGN §1).
const RING_BYTES: usize = 8 << 20;
/// Bytes read from the journal at a time.
const CATCH_UP_CHUNK: usize = 64 << 10;
/// Bytes written at a time. A write counts once it is done, so this much a slow host must read to be seen reading.
const WRITE: usize = 16 << 10;
/// As [`WRITE`], at the end: what any free page of the pipe takes.
const LAST_WRITE: usize = 4 << 10;
/// How long a host may take nothing at the end before the run ends without it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the end may last with a host that takes all its time.
const LONGEST_END: Duration = Duration::from_secs(30);
/// How often it is looked whether the host has read something.
const GLANCE: Duration = Duration::from_millis(100);

/// Something for the host.
#[derive(Debug)]
enum Item {
    Bytes(Vec<u8>),
    /// Bytes `from..to` of the journal's events.
    Journal {
        file: Arc<File>,
        from: u64,
        to: u64,
    },
}

#[derive(Debug, Default)]
struct Ring {
    items: VecDeque<Item>,
    bytes: usize,
    closed: bool,
}

/// What loop and writer share. The lock is held to move a pointer in or out, never during I/O; a channel would do but
/// for joining neighbouring journal ranges, which is what keeps the ring bounded while a host sleeps.
#[derive(Debug, Default)]
struct Shared {
    ring: Mutex<Ring>,
    filled: Condvar,
    emptied: Notify,
    written: AtomicU64,
    gone: AtomicBool,
    /// Nothing comes after what is in the ring.
    ending: AtomicBool,
    /// Bytes of the journal that could not be read back.
    lost: AtomicU64,
}

impl Shared {
    /// A panic of the writer leaves a ring that is still a ring.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The loop's end of the ring.
#[derive(Debug)]
pub struct Echo {
    shared: Arc<Shared>,
    /// A second handle, to see whether the reader empties the pipe.
    stdout: Option<File>,
    finished: Option<oneshot::Receiver<()>>,
}

/// What became of the host's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Everything was written.
    Complete,
    /// The host closed its end.
    Gone,
    /// The host took nothing for five seconds, or not everything in thirty.
    Stalled,
    /// Everything but what could not be read back from the journal.
    Torn,
}

impl Echo {
    /// Starts the writer on the real stdout.
    pub fn start(stdout: File) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (done, finished) = oneshot::channel();
        let watched = stdout.try_clone().ok();
        let writer = Writer {
            stdout: Stdout::new(stdout),
            shared: Arc::clone(&shared),
        };
        thread::Builder::new()
            .name("echo".to_owned())
            .spawn(move || {
                writer.run();
                // The loop may have given up on us, and then nobody listens.
                done.send(()).unwrap_or_default();
            })?;
        Ok(Self {
            shared,
            stdout: watched,
            finished: Some(finished),
        })
    }

    /// Puts bytes in whatever the ring holds: for what must not be lost and has no copy in a journal.
    pub fn push(&self, bytes: &[u8]) {
        if !bytes.is_empty() && !self.is_gone() {
            let mut ring = self.shared.ring();
            ring.bytes += bytes.len();
            // Small batches share an item, so that a burst of lines is one write.
            match ring.items.back_mut() {
                Some(Item::Bytes(last)) if last.len() + bytes.len() <= CATCH_UP_CHUNK => {
                    last.extend_from_slice(bytes)
                }
                _ => ring.items.push_back(Item::Bytes(bytes.to_vec())),
            }
            drop(ring);
            self.shared.filled.notify_one();
        }
    }

    /// Puts bytes in that also stand in the journal at `from`: in the ring if there is room, else by reference.
    pub fn push_journaled(&self, bytes: &[u8], file: &Arc<File>, from: u64) {
        if bytes.is_empty() || self.is_gone() {
            return;
        }
        let mut ring = self.shared.ring();
        let to = from + bytes.len() as u64;
        let full = ring.bytes + bytes.len() > RING_BYTES;
        match ring.items.back_mut() {
            // Once the writer is behind it stays so until it has caught up, or lines would change places.
            Some(Item::Journal {
                file: known,
                to: end,
                ..
            }) if Arc::ptr_eq(known, file) && *end == from => *end = to,
            _ if full => ring.items.push_back(Item::Journal {
                file: Arc::clone(file),
                from,
                to,
            }),
            Some(Item::Bytes(last)) if last.len() + bytes.len() <= CATCH_UP_CHUNK => {
                last.extend_from_slice(bytes);
                ring.bytes += bytes.len();
            }
            _ => {
                ring.items.push_back(Item::Bytes(bytes.to_vec()));
                ring.bytes += bytes.len();
            }
        }
        drop(ring);
        self.shared.filled.notify_one();
    }

    /// Whether the ring takes more before it is full.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.free() > 0
    }

    /// How many bytes the ring takes before it is full.
    #[must_use]
    pub fn free(&self) -> usize {
        if self.is_gone() {
            RING_BYTES
        } else {
            RING_BYTES.saturating_sub(self.shared.ring().bytes)
        }
    }

    /// Bytes of the journal that could not be read back for the host.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Where the ranges of this file that wait in the ring begin and end, in ascending order.
    #[must_use]
    pub fn marks(&self, of: &Arc<File>) -> Vec<u64> {
        let ring = self.shared.ring();
        let ranges = ring.items.iter().filter_map(|item| match item {
            Item::Journal { file, from, to } if Arc::ptr_eq(file, of) => Some([*from, *to]),
            _ => None,
        });
        ranges.flatten().collect()
    }

    /// Turns the ranges that wait in the ring to the file that has replaced theirs. Its marks must have been asked for
    /// before, with nothing put in since; what the writer has taken out meanwhile, it ends with the old file.
    pub fn rebase(&self, moved: &Moved) {
        for item in &mut self.shared.ring().items {
            if let Item::Journal { file, from, to } = item
                && Arc::ptr_eq(file, &moved.from)
                && let (Some(new_from), Some(new_to)) = (moved.place(*from), moved.place(*to))
            {
                *file = Arc::clone(&moved.to);
                (*from, *to) = (new_from, new_to);
            }
        }
    }

    /// Waits until the ring has room again.
    pub async fn room(&self) {
        while !self.has_room() {
            self.shared.emptied.notified().await;
        }
    }

    fn is_gone(&self) -> bool {
        self.shared.gone.load(Ordering::Relaxed)
    }

    /// Writes what is left, as long as the host takes some of it every five seconds, and for half a minute at most.
    pub async fn finish(mut self) -> Delivery {
        self.shared.ending.store(true, Ordering::Relaxed);
        self.shared.ring().closed = true;
        self.shared.filled.notify_one();
        let Some(finished) = self.finished.take() else {
            return Delivery::Complete;
        };
        let told = tokio::time::timeout(LONGEST_END, async {
            tokio::select! {
                _ = finished => true,
                () = self.standstill() => false,
            }
        });
        if !told.await.unwrap_or(false) {
            Delivery::Stalled
        } else if self.is_gone() {
            Delivery::Gone
        } else if self.lost() > 0 {
            Delivery::Torn
        } else {
            Delivery::Complete
        }
    }

    /// Waits until the host has taken nothing for as long as our patience lasts.
    async fn standstill(&self) {
        let state = || {
            let written = self.shared.written.load(Ordering::Relaxed);
            (written, self.stdout.as_ref().and_then(pending_bytes))
        };
        let mut last = (state(), Instant::now());
        while last.1.elapsed() < PATIENCE {
            tokio::time::sleep(GLANCE).await;
            let now = state();
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
    }
}

/// The writer thread.
struct Writer {
    stdout: Stdout,
    shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self) {
        while let Some(item) = self.next() {
            let result = match &item {
                Item::Bytes(bytes) => self.write(bytes),
                Item::Journal { file, from, to } => self.catch_up(file, *from, *to),
            };
            if result.is_err() {
                // Nobody reads any more. The agent and the journal go on.
                self.shared.gone.store(true, Ordering::Relaxed);
                let mut ring = self.shared.ring();
                ring.items.clear();
                ring.bytes = 0;
            }
            self.shared.emptied.notify_one();
        }
        if !self.shared.gone.load(Ordering::Relaxed) {
            self.stdout.linger();
        }
    }

    /// The next item, or `None` once the ring is closed and empty.
    fn next(&self) -> Option<Item> {
        let mut ring = self.shared.ring();
        loop {
            if let Some(item) = ring.items.pop_front() {
                if let Item::Bytes(bytes) = &item {
                    ring.bytes -= bytes.len();
                }
                return Some(item);
            }
            if ring.closed {
                return None;
            }
            ring = self
                .shared
                .filled
                .wait(ring)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes what stands in the journal. What cannot be read back is counted and passed over: that is no fault of the
    /// host's. Only the host's end makes an error.
    fn catch_up(&mut self, file: &File, mut from: u64, to: u64) -> io::Result<()> {
        let mut chunk = vec![0; CATCH_UP_CHUNK];
        let mut ends_line = true;
        while from < to {
            let wanted =
                usize::try_from(to - from).map_or(chunk.len(), |left| left.min(chunk.len()));
            let read = match file.read_at(&mut chunk[..wanted], from) {
                Ok(read) if read > 0 => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Ok(_) | Err(_) => {
                    self.shared.lost.fetch_add(to - from, Ordering::Relaxed);
                    // A line that was begun must not run into the next.
                    return if ends_line { Ok(()) } else { self.write(b"\n") };
                }
            };
            self.write(&chunk[..read])?;
            ends_line = chunk[..read].ends_with(b"\n");
            from += read as u64;
        }
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let most = if self.shared.ending.load(Ordering::Relaxed) {
                LAST_WRITE
            } else {
                WRITE
            };
            let written = self.stdout.write(&bytes[..bytes.len().min(most)])?;
            if written == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            self.shared
                .written
                .fetch_add(written as u64, Ordering::Relaxed);
            bytes = &bytes[written..];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
