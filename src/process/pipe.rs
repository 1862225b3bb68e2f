//! Pipes, seen from the loop.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{SFlag, fstat};
use tokio::net::unix::pipe::Receiver;

/// Our end of a pipe that the agent writes to.
#[derive(Debug)]
pub struct Pipe {
    receiver: Receiver,
}

impl Pipe {
    /// Registers the pipe with the runtime.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let receiver = Receiver::from_owned_fd(fd)?;
        Ok(Self { receiver })
    }

    /// Reads what is there, waiting for at least a byte; 0 is the end. Dropping the future loses nothing.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.receiver.readable().await?;
            match self.receiver.try_read(buffer) {
                Err(error) if is_passing(error.kind()) => {}
                result => return result,
            }
        }
    }

    /// Reads without waiting; `WouldBlock` when nothing is there.
    ///
    /// Asks the kernel, for the runtime may not have heard yet of the bytes that the agent wrote last.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match nix::unistd::read(&self.receiver, buffer) {
                Err(Errno::EINTR) => {}
                result => return Ok(result?),
            }
        }
    }
}

fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// How many bytes written to this pipe its reader has not taken yet; `None` for anything but a pipe.
///
/// It works from the writing end, too: so the last line can be seen to have left.
#[expect(unsafe_code, reason = "an ioctl")]
pub fn pending_bytes(fd: impl AsFd) -> Option<usize> {
    let fd = fd.as_fd();
    // For a file or a terminal the number would mean something else.
    let kind = SFlag::from_bits_truncate(fstat(fd).ok()?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFIFO {
        return None;
    }
    let mut count = MaybeUninit::<libc::c_int>::uninit();
    // SAFETY: on a pipe FIONREAD writes one int, for which `count` has room, or fails.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, count.as_mut_ptr()) };
    Errno::result(result).ok()?;
    // SAFETY: the call has succeeded.
    usize::try_from(unsafe { count.assume_init() }).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;

    use super::*;

    fn pipe() -> (Pipe, std::fs::File) {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
        (Pipe::new(ours).unwrap(), theirs.into())
    }

    #[tokio::test]
    async fn bytes_come_as_they_are_and_then_the_end() {
        let (mut pipe, mut writer) = pipe();
        let mut buffer = [0; 16];
        assert_eq!(
            pipe.try_read(&mut buffer).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        writer.write_all(b"a\0\xff\r\n").unwrap();
        assert_eq!(pipe.read(&mut buffer).await.unwrap(), 5);
        assert_eq!(&buffer[..5], b"a\0\xff\r\n");
        drop(writer);
        assert_eq!(pipe.read(&mut buffer).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn the_writer_sees_what_is_not_read() {
        let (mut pipe, mut writer) = pipe();
        writer.write_all(b"12345").unwrap();
        assert_eq!(pending_bytes(&writer), Some(5));
        assert_eq!(pipe.read(&mut [0; 3]).await.unwrap(), 3);
        assert_eq!(pending_bytes(&writer), Some(2));
        assert_eq!(pipe.read(&mut [0; 3]).await.unwrap(), 2);
        assert_eq!(pending_bytes(&writer), Some(0));
    }

    #[test]
    fn only_a_pipe_has_pending_bytes() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(7).unwrap();
        assert_eq!(pending_bytes(&file), None);
    }
}
