//! Lines to the host: one writer thread, which alone may block on stdout.
//!
//! The loop puts finished bytes into a ring of at most 8 MiB. While a journal exists a full ring costs nothing: the
//! loop notes which bytes of the journal the host has yet to get, and the writer reads them from there once it comes
//! to them. Without a journal, or with `--echo raw`, a full ring makes the loop stop reading from the agent, which then
//! feels what it would feel without us: a full pipe.
//!
//! A host that is gone (EPIPE) stops the writing and nothing else.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::{Notify, oneshot};

use crate::process::pending_bytes;

/// Bytes that may wait in memory; half of the program's budget (DESIGN §1).
const RING_BYTES: usize = 8 << 20;
/// Bytes read from the journal at a time.
const CATCH_UP_CHUNK: usize = 64 << 10;
/// How long a host may take nothing at the end before the run ends without it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the last bytes may sit in the pipe before we leave: envd reads on, but cuts the tail when we exit
/// (`reference/e2b.md` §0).
const LINGER: Duration = Duration::from_millis(250);

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
    finished: Option<oneshot::Receiver<()>>,
}

/// What became of the host's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Everything was written.
    Complete,
    /// The host closed its end.
    Gone,
    /// The host took nothing for five seconds.
    Stalled,
}

impl Echo {
    /// Starts the writer on the real stdout.
    pub fn start(stdout: File) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (done, finished) = oneshot::channel();
        let writer = Writer {
            stdout,
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
        self.is_gone() || self.shared.ring().bytes < RING_BYTES
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

    /// Writes what is left, as long as the host takes some of it every five seconds.
    pub async fn finish(mut self) -> Delivery {
        self.shared.ring().closed = true;
        self.shared.filled.notify_one();
        let Some(mut finished) = self.finished.take() else {
            return Delivery::Complete;
        };
        loop {
            let before = self.shared.written.load(Ordering::Relaxed);
            if tokio::time::timeout(PATIENCE, &mut finished).await.is_ok() {
                break;
            }
            if self.shared.written.load(Ordering::Relaxed) == before {
                return Delivery::Stalled;
            }
        }
        if self.is_gone() {
            Delivery::Gone
        } else {
            Delivery::Complete
        }
    }
}

/// The writer thread.
struct Writer {
    stdout: File,
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
        self.linger();
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

    fn catch_up(&mut self, file: &File, mut from: u64, to: u64) -> io::Result<()> {
        let mut chunk = vec![0; CATCH_UP_CHUNK];
        while from < to {
            let wanted =
                usize::try_from(to - from).map_or(chunk.len(), |left| left.min(chunk.len()));
            let read = match file.read_at(&mut chunk[..wanted], from) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.write(&chunk[..read])?;
            from += read as u64;
        }
        Ok(())
    }

    /// Writes everything. Somebody who shares the pipe may have made it non-blocking, so EAGAIN is waited out.
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.stdout.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.shared
                        .written
                        .fetch_add(written as u64, Ordering::Relaxed);
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(self.stdout.as_fd(), PollFlags::POLLOUT)];
                    match poll(&mut fds, PollTimeout::NONE) {
                        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Stays until the reader has taken the last bytes out of the pipe, but not longer than it takes envd.
    fn linger(&self) {
        let step = Duration::from_millis(5);
        let mut waited = Duration::ZERO;
        while waited < LINGER && !self.shared.gone.load(Ordering::Relaxed) {
            match pending_bytes(&self.stdout) {
                Some(pending) if pending > 0 => thread::sleep(step),
                _ => return,
            }
            waited += step;
        }
    }
}
