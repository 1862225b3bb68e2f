//! The network as the sandbox has it: which of the run's sockets get through, and whether the API's host can be reached.
//!
//! Two looks, both for the classifier and neither of which sends anything to anybody: [`sockets`] reads what the
//! kernel counts of the run's connections, and [`mod@probe`] opens one connection to the host that [`peer`] names and
//! closes it. What they mean is [`crate::session`]'s to say. `dns` is how any name is looked up in this program.

pub(crate) mod dns;
pub mod peer;
pub mod probe;
mod resolv_conf;
pub mod sockets;

pub use peer::Peer;
pub use probe::probe;
pub use sockets::troubled;
