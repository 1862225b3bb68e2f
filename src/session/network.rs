//! What the agent's sockets and a probe say about the network, gathered while the run goes on.

/// What became of the one probe at the time of failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    /// The API's host takes connections.
    Reachable,
}

/// A socket of the run that does not get through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TroubledSocket {
    /// Whose it is.
    pub pid: u32,
}

/// What a verdict may rest on.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Network {
    sockets: Vec<TroubledSocket>,
    probed: Option<Probed>,
}

impl Network {
    pub(super) fn looked(&mut self, sockets: Vec<TroubledSocket>) {
        self.sockets = sockets;
    }

    pub(super) fn probed(&mut self, probed: Probed) {
        self.probed = Some(probed);
    }
}
