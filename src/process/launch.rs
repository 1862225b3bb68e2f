//! The agent's start, with the cgroup of its own where there can be one.

use super::cgroup::{Leaf, NoLeaf};
use super::spawn::{Command, SpawnError, Spawned, spawn_into};
use super::tree::Tree;

/// What came of the start.
#[derive(Debug)]
pub struct Launched {
    pub spawned: Result<Spawned, SpawnError>,
    /// The processes of the run.
    pub tree: Tree,
    /// Whether the agent has a cgroup of its own; without an agent, whether it would have had one.
    pub own_cgroup: Result<(), NoLeaf>,
}

/// Starts `command`, in a cgroup of its own if possible; see [`spawn_into`] for what holds before.
#[must_use]
pub fn launch(command: &Command) -> Launched {
    let tree = Tree::from_now();
    let leaf = Leaf::make();
    let spawned = spawn_into(command, leaf.as_ref().ok());
    let refused = spawned.as_ref().ok().and_then(|agent| agent.not_in_leaf);
    // A leaf that the agent is not in is removed here.
    let (leaf, own_cgroup) = match (leaf, refused) {
        (Ok(_), Some(errno)) => (None, Err(NoLeaf::Enter(errno))),
        (Ok(leaf), None) => (Some(leaf), Ok(())),
        (Err(why), _) => (None, Err(why)),
    };
    let tree = match &spawned {
        Ok(agent) => tree.with_agent(agent, leaf),
        Err(_) => tree,
    };
    Launched {
        spawned,
        tree,
        own_cgroup,
    }
}
