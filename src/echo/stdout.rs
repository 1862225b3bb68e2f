//! The host's end: the real stdout, which somebody else may have shaped, and whose reader may be slow or gone.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd as _;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::process::pending_bytes;

/// How long the last bytes may sit in the pipe before we leave: envd reads on, but cuts the tail when we exit
/// (`reference/e2b.md` §0).
const LINGER: Duration = Duration::from_millis(250);
/// How often it is looked whether they were read.
const LINGER_STEP: Duration = Duration::from_millis(5);

/// The real stdout.
#[derive(Debug)]
pub struct Stdout(File);

impl Stdout {
    #[must_use]
    pub fn new(file: File) -> Self {
        Self(file)
    }

    /// Waits for so long, or until whoever read has left, and says whether there still is a reader.
    pub fn is_read_after(&self, wait: Duration) -> bool {
        let wait = PollTimeout::try_from(wait.as_millis()).unwrap_or(PollTimeout::MAX);
        // With nothing asked for the kernel still tells of errors and hang-ups.
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        !matches!(poll(&mut fds, wait), Ok(1..))
    }

    /// Stays until the reader has taken the last bytes out of the pipe, but not longer than it takes envd.
    pub fn linger(&self) {
        let mut waited = Duration::ZERO;
        while waited < LINGER && pending_bytes(&self.0).is_some_and(|pending| pending > 0) {
            thread::sleep(LINGER_STEP);
            waited += LINGER_STEP;
        }
    }
}

impl Write for Stdout {
    /// Blocks until some of it is written. Somebody who shares the pipe may have made it non-blocking, so EAGAIN is
    /// waited out.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
                    match poll(&mut fds, PollTimeout::NONE) {
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                }
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
