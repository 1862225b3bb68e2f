//! The agent as a tree of POSIX processes.
//!
//! # Theory of operation
//!
//! `main` first calls [`keep_stdout`] and [`Protection::begin`], then [`become_subreaper`] and [`Signals::install`], and
//! only then [`spawn()`], all on the main thread: the kernel ties the agent's life to the thread that forked it. Then
//! [`Protection::complete`] does what the agent must not inherit.
//!
//! The agent gets our fd 0 as it is, pipes of ours as 1 and 2, and what else we were started with, as it would without
//! us; but no file of our own, all of which are close-on-exec. As 1 and 2 are pipes of ours, no daemon that it leaves
//! behind can hold the host's streams open, for which envd would wait. Signals, limits and working directory are what it
//! would have had without us: ignored signals stay ignored, everything else is default.
//!
//! Two facts end a run, in either order: the agent's death, which [`reap`] reports, and the end of its output, which
//! [`Pipe::read`] reports. A daemon may hold the pipe long after the agent is gone, and an agent may close its output and
//! work on. Neither is taken for the other here; the session joins them.
//!
//! There is one reaper. As child subreaper this process adopts every orphan among its descendants, so [`Tree`], the
//! processes below us, is everything of the run, whatever sessions and groups it has put itself in. It also means that
//! nobody else in this program may wait for a child. Where we may make a cgroup, the agent is also born in one of its own
//! ([`Leaf`]), and `cgroup.kill` comes before any sweep.
//!
//! What is *not* here: deciding. When to ask for an end, when to insist and what it all means is the session's to say;
//! these modules carry it out and report.

pub mod cgroup;
mod disposition;
mod exec;
pub mod exit;
mod launch;
mod pidfd;
pub mod pipe;
pub mod protection;
pub mod reaper;
pub mod signal;
pub mod spawn;
mod stat;
pub mod stdio;
pub mod tree;

pub use cgroup::{Leaf, NoLeaf};
pub use disposition::IgnoredSignals;
pub use exit::Termination;
pub use launch::{Launched, launch};
pub use pidfd::{Sent, signal_exactly};
pub use pipe::{Pipe, pending_bytes};
pub use protection::{Abilities, Protection};
pub use reaper::{Reaped, Usage, become_subreaper, reap};
pub use signal::{Signalled, Signals, unblock_signals};
pub use spawn::{Command, Group, SpawnError, Spawned, spawn, spawn_into};
pub use stat::{
    Presence, Process, State, is_stopped, own_start_ticks, parent_and_command, presence,
    sees_processes, start_ticks,
};
pub use stdio::{Stderr, keep_stdout};
pub use tree::{Sweep, Tree};
