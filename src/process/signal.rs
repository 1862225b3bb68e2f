//! Signals that reach us, and signals that we send to the agent.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use super::disposition::IgnoredSignals;

/// Passed on to the agent. Not the faults, which are our own; not CHLD, PIPE and ALRM, which are about us; not TTIN and
/// TTOU, which stop whoever used the terminal.
const FORWARDED: [Signal; 9] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCONT,
    Signal::SIGTSTP,
];

/// Lets those signals through that this process listens to, whatever mask it was started with.
///
/// Blocked, a request to stop would never be heard, and deaths only at the next beat. Before any thread is started, for
/// threads inherit the mask. The agent gets an empty one in any case.
pub fn unblock_signals() -> Result<(), Errno> {
    let mut heard = SigSet::empty();
    heard.add(Signal::SIGCHLD);
    heard.extend(FORWARDED);
    heard.thread_unblock()
}

/// What a signal asks of the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signalled {
    /// A child ended: reap.
    Child,
    /// The agent is meant.
    Forward(Signal),
}

/// The signals this process listens to.
#[derive(Debug)]
pub struct Signals {
    streams: Vec<(Signalled, tokio::signal::unix::Signal)>,
}

impl Signals {
    /// Installs the handlers; needs the runtime, and comes before the spawn so that no SIGCHLD is missed.
    ///
    /// A signal that we were started to ignore stays ignored: with `nohup`, a hangup must end neither us nor the agent.
    pub fn install() -> io::Result<Self> {
        let ignored = IgnoredSignals::at_entry();
        // Even when it was ignored on entry: the kernel would otherwise reap in our place and drop the exit status.
        let child = (Signalled::Child, signal(SignalKind::child())?);
        let forwarded = FORWARDED
            .into_iter()
            .filter(|&number| !ignored.contains(number as i32))
            .map(|number| {
                let stream = signal(SignalKind::from_raw(number as i32))?;
                Ok((Signalled::Forward(number), stream))
            });
        let streams = forwarded
            .chain([Ok(child)])
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self { streams })
    }

    /// The next signal; the request to stop before the news of a death. Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Signalled {
        poll_fn(|context| {
            for (signalled, stream) in &mut self.streams {
                if let Poll::Ready(Some(())) = stream.poll_recv(context) {
                    return Poll::Ready(*signalled);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Sends a signal to the agent itself, whose own handlers do the orderly stop; its tools are the agent's to tell.
///
/// Only while the agent is not reaped: until then the pid is its own, afterwards it may be anybody's.
pub fn send(agent: Pid, signal: Signal) -> Result<(), Errno> {
    kill(agent, signal)
}

/// Stops this process as SIGTSTP would have; returns when someone continues it.
///
/// By SIGSTOP, because the kernel ignores a SIGTSTP in an orphaned process group.
pub fn raise_stop() -> Result<(), Errno> {
    raise(Signal::SIGSTOP)
}
