//! The looks at the network that the session asks for, each on a thread of its own: /proc and a host that does not
//! answer may both take their time, and the loop has none to spare.

use std::ffi::OsString;
use std::thread;

use tokio::sync::mpsc::{self, Receiver, Sender};

use super::Supervisor;
use crate::network::{self, Peer};
use crate::session::{Input, Probed, TroubledSocket};

/// What a look found.
#[derive(Debug)]
pub(super) enum News {
    /// `None` where they could not be seen.
    Sockets(Option<Vec<TroubledSocket>>),
    Probed(Probed),
}

/// Who the agent talks to, and the looks that are under way: at most one of each kind.
#[derive(Debug)]
pub(super) struct NetworkWatch {
    peer: Peer,
    news: Sender<News>,
    is_looking: bool,
}

impl NetworkWatch {
    /// For an agent with this environment.
    pub(super) fn new(environment: &[(OsString, OsString)]) -> (Self, Receiver<News>) {
        // One look at sockets and one probe are all that can be under way.
        let (news, receiver) = mpsc::channel(2);
        let watch = Self {
            peer: Peer::from_env(environment),
            news,
            is_looking: false,
        };
        (watch, receiver)
    }

    /// Runs `look` on a thread; `false` if there is none to be had.
    fn spawn(&self, name: &str, look: impl FnOnce(&Peer) -> News + Send + 'static) -> bool {
        let (peer, news) = (self.peer.clone(), self.news.clone());
        let work = move || {
            let found = look(&peer);
            // The run may have ended meanwhile, and then nobody wants to know.
            news.blocking_send(found).ok();
        };
        // Nobody waits for it: a look that hangs ends with the process.
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .is_ok()
    }
}

impl Supervisor {
    /// Looks which sockets of the run are in trouble, unless a look is still under way.
    pub(super) fn look_at_sockets(&mut self) {
        let Some(agent) = self.agent.filter(|_| !self.network.is_looking) else {
            return;
        };
        let tree = self.tree.clone();
        self.network.is_looking = self.network.spawn("sockets", move |peer| {
            let processes = tree.descendants();
            let sockets =
                processes.and_then(|processes| network::troubled(agent, &processes, peer));
            News::Sockets(sockets.ok())
        });
    }

    /// Tries once whether the API's host, or the proxy before it, takes connections.
    pub(super) fn probe(&mut self) {
        let is_under_way = self
            .network
            .spawn("probe", |peer| News::Probed(network::probe(peer)));
        if !is_under_way {
            let why = "no thread could be started".to_owned();
            self.take(Input::Probed(Probed::NotTried(why)));
        }
    }

    pub(super) fn network_news(&mut self, news: News) {
        match news {
            News::Sockets(sockets) => {
                self.network.is_looking = false;
                // That they could not be seen is no evidence that there was nothing.
                if let Some(sockets) = sockets {
                    self.take(Input::Sockets(sockets));
                }
            }
            News::Probed(probed) => self.take(Input::Probed(probed)),
        }
    }
}
