//! Our own files 0, 1 and 2.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::{dup2_stdout, write};

/// Takes the real stdout away to a private file, and points file 1 at what file 2 is: whatever a library may print,
/// it cannot reach the protocol.
///
/// The first act of `main`: a file opened while 0, 1 or 2 is closed would take that number.
pub fn keep_stdout() -> io::Result<File> {
    for standard in [
        io::stdin().as_fd(),
        io::stdout().as_fd(),
        io::stderr().as_fd(),
    ] {
        if fcntl(standard, FcntlArg::F_GETFD) == Err(Errno::EBADF) {
            // The lowest number that is free is this one. It stays open for the life of the process.
            let null = open("/dev/null", OFlag::O_RDWR, Mode::empty())?;
            std::mem::forget(null);
        }
    }
    // The standard library duplicates to 3 or above, close-on-exec.
    let stdout = io::stdout().as_fd().try_clone_to_owned()?;
    dup2_stdout(io::stderr())?;
    Ok(stdout.into())
}

/// Bytes that stderr does not take yet wait here.
const BACKLOG_BYTES: usize = 256 * 1024;
/// How long a write waits for a reader that has just fallen behind.
const PATIENCE: Duration = Duration::from_millis(20);
/// A pipe that polls as writable has room for this much, so even a blocking one does not block.
const ROOM: usize = 4096;

/// Our stderr: the agent's, byte for byte, and our own lines for people.
///
/// Never an error and never a panic, for nobody's fate hangs on it. The file is shared with other processes, so it cannot
/// be made non-blocking (and someone else may have made it so); it is polled instead. A reader that stands still costs one
/// short wait, then a bounded backlog, then bytes, which are counted.
#[derive(Debug)]
pub struct Stderr {
    fd: OwnedFd,
    backlog: VecDeque<u8>,
    dropped: u64,
    broken: bool,
}

impl Stderr {
    /// File 2.
    pub fn open() -> io::Result<Self> {
        Ok(Self::to(io::stderr().as_fd().try_clone_to_owned()?))
    }

    fn to(fd: OwnedFd) -> Self {
        Self {
            fd,
            backlog: VecDeque::new(),
            dropped: 0,
            broken: false,
        }
    }

    /// Writes `bytes` as they are.
    pub fn write(&mut self, bytes: &[u8]) {
        // Whoever is behind already has had the wait; from then on the loop does not pay for it again.
        let patience = if self.backlog.is_empty() {
            PATIENCE
        } else {
            Duration::ZERO
        };
        let mut rest = bytes;
        if self.flush(Duration::ZERO) && !self.broken {
            let written = self.send(Bytes::New(bytes), patience);
            rest = &bytes[written..];
        }
        let room = if self.broken {
            0
        } else {
            BACKLOG_BYTES.saturating_sub(self.backlog.len())
        };
        let (kept, lost) = rest.split_at(rest.len().min(room));
        self.backlog.extend(kept);
        self.count_dropped(lost.len());
    }

    /// Takes `bytes` whatever waits already: for the last of a stream, which the caller bounds.
    pub fn write_last(&mut self, bytes: &[u8]) {
        self.backlog.extend(bytes);
        self.flush(Duration::ZERO);
    }

    /// Whether a write of so many bytes loses none, however slow the reader is.
    #[must_use]
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.broken || self.backlog.len() + bytes <= BACKLOG_BYTES
    }

    /// Whether bytes wait for a reader that has fallen behind.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Writes what waits, for `bound` at the longest; says whether nothing waits any more.
    pub fn flush(&mut self, bound: Duration) -> bool {
        let written = self.send(Bytes::Backlog, bound);
        self.backlog.drain(..written);
        if self.broken {
            let lost = self.backlog.len();
            self.backlog.clear();
            self.count_dropped(lost);
        }
        self.backlog.is_empty()
    }

    /// Writes what waits, for `bound` at the longest, gives the rest up, and says how many bytes never got out.
    pub fn finish(&mut self, bound: Duration) -> u64 {
        self.flush(bound);
        let lost = self.backlog.len();
        self.backlog.clear();
        self.count_dropped(lost);
        self.dropped
    }

    /// How many bytes never got out.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn count_dropped(&mut self, bytes: usize) {
        self.dropped = self.dropped.saturating_add(bytes as u64);
    }

    /// Writes as much as there is room for within `bound`.
    fn send(&mut self, bytes: Bytes<'_>, bound: Duration) -> usize {
        let bytes = match bytes {
            Bytes::New(bytes) => bytes,
            Bytes::Backlog => self.backlog.make_contiguous(),
        };
        let deadline = Instant::now() + bound;
        let mut written = 0;
        while written < bytes.len() && is_writable(&self.fd, deadline) {
            let chunk = &bytes[written..bytes.len().min(written + ROOM)];
            match write(&self.fd, chunk) {
                Ok(count) => written += count,
                Err(Errno::EINTR) => {}
                // Someone made the file non-blocking, and someone else was faster.
                Err(Errno::EAGAIN) => break,
                // EPIPE, EIO, ENOSPC: it would be the same with the next byte.
                Err(_) => {
                    self.broken = true;
                    break;
                }
            }
        }
        written
    }
}

/// Which bytes to write.
enum Bytes<'a> {
    Backlog,
    New(&'a [u8]),
}

fn is_writable(fd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let rest = deadline.saturating_duration_since(Instant::now());
        // Rounded up: the last fraction of a millisecond must not become a busy loop.
        let timeout =
            PollTimeout::try_from(rest.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut fds, timeout) {
            // A hang-up counts as well: the write then says what is wrong.
            Ok(count) => return count > 0,
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use nix::unistd::pipe2;

    use super::*;

    fn pipe(flags: OFlag) -> (File, Stderr) {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | flags).unwrap();
        (reader.into(), Stderr::to(writer))
    }

    /// Writes 600 KiB into a pipe that nobody reads, and returns what then comes out of it.
    fn stall(flags: OFlag) {
        let (mut reader, mut stderr) = pipe(flags);
        let bytes: Vec<u8> = (0..600 * 1024_u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let started = Instant::now();
        for chunk in bytes.chunks(10_000) {
            stderr.write(chunk);
        }
        assert!(started.elapsed() < Duration::from_secs(2), "it blocked");
        assert!(!stderr.flush(Duration::from_millis(5)));
        let dropped = usize::try_from(stderr.dropped()).unwrap();
        assert!(dropped > 0);

        let reading = std::thread::spawn(move || {
            let mut read = Vec::new();
            // A non-blocking pipe may be read before it is written.
            while let Err(error) = reader.read_to_end(&mut read) {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                std::thread::yield_now();
            }
            read
        });
        assert!(stderr.flush(Duration::from_secs(10)));
        drop(stderr);
        let read = reading.join().unwrap();
        assert_eq!(read.len() + dropped, bytes.len());
        assert!(bytes.starts_with(&read), "bytes were altered");
    }

    #[test]
    fn a_reader_that_stands_still_blocks_nothing() {
        stall(OFlag::empty());
    }

    #[test]
    fn a_file_made_non_blocking_loses_nothing_more() {
        stall(OFlag::O_NONBLOCK);
    }

    #[test]
    fn a_reader_that_is_gone_is_no_error() {
        let (reader, mut stderr) = pipe(OFlag::empty());
        stderr.write(b"read by nobody");
        drop(reader);
        stderr.write(b"12345");
        stderr.write(b"678");
        assert!(stderr.flush(Duration::ZERO));
        assert_eq!(stderr.dropped(), 8);
    }

    #[test]
    fn every_byte_gets_out_as_it_is() {
        let (mut reader, mut stderr) = pipe(OFlag::empty());
        let bytes: Vec<u8> = (0..=255).cycle().take(50_000).collect();
        stderr.write(&bytes);
        drop(stderr);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert!(read == bytes);
    }
}
