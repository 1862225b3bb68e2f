//! The spool: requests on disk, from before they are sent until they are settled.
//!
//! ```text
//! ROOT/RUN_ID/spool/   0700
//!   lock               flock(2)ed as long as the run's supervisor lives
//!   0000000001.otlp    one request each, 0600; see `request`
//! ```
//!
//! A request is written before the first try and removed as soon as a backend has acknowledged or refused it, before
//! anything else happens. So whatever is in a spool whose lock is free is what a run has left, however it ended, and
//! [`left`] finds it for the next run or for `doctor --resend`. Whoever sends from a spool holds its lock, so nothing is
//! sent twice; what the copy of a sandbox finds is the original's to send (see [`super::home`]). But a process that is killed between the answer and the removal leaves one request a route that was
//! delivered, and it will be sent again. Nothing here is synced: what is written survives our death, and a sandbox that
//! is destroyed takes its disk with it.

pub(crate) mod left;
mod request;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

pub(crate) use self::request::{Address, Damage, Header, State, decode, head, line, word};

/// The most bytes of one run's spool, of all destinations together (DESIGN §1).
pub(super) const RUN_CAP_BYTES: u64 = 64 << 20;

/// What the smallest file takes on usual disks.
const BLOCK_BYTES: u64 = 4 << 10;

/// The directory in the run's.
pub(crate) const DIRECTORY: &str = "spool";
pub(crate) const LOCK: &str = "lock";
const NEW_LOCK: &str = "lock.new";
/// How a request's file ends.
pub(crate) const ENDING: &str = ".otlp";
/// The largest file that is read: far more than a request of ours has.
pub(crate) const LARGEST_FILE: u64 = 32 << 20;

/// Why a request that was spooled cannot be read back.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpoolError {
    #[error("it cannot be read: {0}")]
    Read(io::Error),
    #[error(transparent)]
    Damage(#[from] Damage),
}

/// The run's own spool, locked. Its directory may be renamed, as that of a forked run is.
#[derive(Debug)]
pub(super) struct Spool {
    run: OwnedFd,
    directory: OwnedFd,
    _lock: Flock<OwnedFd>,
    next: u64,
    /// Where its requests are made.
    sandbox: Option<String>,
}

impl Spool {
    /// Makes and locks the spool of the run with this directory.
    pub(super) fn create(run: &Path, sandbox: Option<&str>) -> io::Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let run = nix::fcntl::open(run, flags, Mode::empty())?;
        mkdirat(&run, DIRECTORY, Mode::S_IRWXU)?;
        let directory = openat(&run, DIRECTORY, flags, Mode::empty())?;
        // It gets its name once it is locked, so that nobody takes a spool that has only just begun.
        let lock = new_file(&directory, NEW_LOCK)?;
        let lock =
            Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
        renameat(&directory, NEW_LOCK, &directory, LOCK)?;
        Ok(Self {
            run,
            directory,
            _lock: lock,
            next: 1,
            sandbox: sandbox.map(str::to_owned),
        })
    }

    /// From here on requests are made in another sandbox.
    pub(super) fn move_to(&mut self, sandbox: Option<&str>) {
        self.sandbox = sandbox.map(str::to_owned);
    }

    /// Writes a request, whole or not at all, and gives its number and the bytes it takes.
    pub(super) fn write(
        &mut self,
        address: &Address,
        items: u64,
        state: State,
        body: &[u8],
    ) -> io::Result<(u64, u64)> {
        let number = self.next;
        self.next += 1;
        let name = name(number);
        let head = head(address, items, state, self.sandbox.as_deref(), body);
        let mut file = File::from(new_file(&self.directory, name.as_str())?);
        match file.write_all(&head).and_then(|()| file.write_all(body)) {
            Ok(()) => {
                let bytes = (head.len() + body.len()) as u64;
                Ok((number, bytes.next_multiple_of(BLOCK_BYTES)))
            }
            Err(error) => {
                // A torn file would never be sent, but it takes room where there is none.
                self.remove(number).ok();
                Err(error)
            }
        }
    }

    /// Reads a request's body back.
    pub(super) fn read(&self, number: u64) -> Result<Bytes, SpoolError> {
        // A pipe that the agent put in its place must not hold the export thread.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = openat(&self.directory, name(number).as_str(), flags, Mode::empty());
        let file = file.map_err(|errno| SpoolError::Read(errno.into()))?;
        let mut bytes = Vec::new();
        let mut file = File::from(file).take(LARGEST_FILE);
        file.read_to_end(&mut bytes).map_err(SpoolError::Read)?;
        let (_, body) = decode(bytes)?;
        Ok(body)
    }

    /// Forgets a request.
    pub(super) fn remove(&self, number: u64) -> io::Result<()> {
        let name = name(number);
        match unlinkat(&self.directory, name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Leaves nothing behind if there is nothing in it.
    pub(super) fn remove_if_empty(&self) {
        // The lock's file goes first; should a request still be there, the directory stays, and its lock must too.
        // Therefore this is asked only of a spool whose queues are empty.
        unlinkat(&self.directory, LOCK, UnlinkatFlags::NoRemoveDir).ok();
        unlinkat(&self.run, DIRECTORY, UnlinkatFlags::RemoveDir).ok();
    }
}

/// The name of a request's file; names sort as the requests were made.
fn name(number: u64) -> String {
    format!("{number:010}{ENDING}")
}

/// A new file for its owner alone. `O_EXCL` follows no link that somebody left there.
fn new_file(directory: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    Ok(openat(
        directory,
        name,
        flags,
        Mode::S_IRUSR | Mode::S_IWUSR,
    )?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderMap;

    use super::super::destination::{Compression, Protocol, Route, Signal, TlsFiles};
    use super::*;

    #[test]
    fn a_pipe_in_the_place_of_a_request_holds_nobody() {
        let run = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(run.path(), None).unwrap();
        let route = Route {
            signal: Signal::Traces,
            endpoint: "http://127.0.0.1:1/v1/traces".parse().unwrap(),
            headers: HeaderMap::new(),
            protocol: Protocol::HttpProtobuf,
            compression: Compression::None,
            timeout: Duration::from_secs(1),
            tls: TlsFiles::default(),
        };
        let address = Address::new("otlp", &route);
        let (number, _) = spool.write(&address, 1, State::Ready, b"body").unwrap();
        assert_eq!(spool.read(number).unwrap(), "body");
        spool.remove(number).unwrap();
        let pipe = run.path().join(DIRECTORY).join(name(number));
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        let (answer, answered) = std::sync::mpsc::channel();
        std::thread::spawn(move || answer.send(spool.read(number).is_err()));
        let refused = answered.recv_timeout(Duration::from_secs(10));
        assert!(refused.unwrap(), "a pipe is no request");
    }
}
