//! One try, at the time of failure, whether the agent's peer can be reached: look the name up, open a connection, close
//! it. Nothing is sent, no request, no credentials, not even a TLS greeting (`reference/supervision.md` §4.1).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::net::TcpSocket;
use tokio::time::timeout;

use super::dns::{Dns, DnsError};
use super::peer::Peer;
use crate::order::by_number;
use crate::session::{Probe, ProbeOutcome, Probed};

/// For the name.
const DNS_BOUND: Duration = Duration::from_secs(1);
/// For the connection, all addresses together.
const CONNECT_BOUND: Duration = Duration::from_millis(1400);
/// A host of many addresses is tried at the first few.
const ADDRESSES: usize = 4;

/// Tries the peer once, on this thread, within 2.4 s: a little less than the session waits for it.
#[must_use]
pub fn probe(peer: &Peer) -> Probed {
    let (host, port, route) = match peer {
        Peer::Known { host, port, route } => (host, *port, *route),
        Peer::Unknown(why) => return Probed::NotTried(why.clone()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Probed::NotTried(format!("there is no runtime for it: {error}")),
    };
    let started = Instant::now();
    let outcome = runtime.block_on(reach(host, port));
    let took = started.elapsed();
    // A name server's socket or timer may still be there.
    runtime.shutdown_background();
    Probed::Tried(Probe {
        host: match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        },
        route,
        outcome,
        took,
    })
}

async fn reach(host: &str, port: u16) -> ProbeOutcome {
    let addresses = match host.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) => match timeout(DNS_BOUND, Dns::system().resolve(host)).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(DnsError::Timeout)) | Err(_) => return ProbeOutcome::NameTimedOut,
            Ok(Err(_)) => return ProbeOutcome::NameUnknown,
        },
    };
    connect(addresses, port).await
}

/// Connects to the first address that answers. Of several that do not, the most telling answer counts: a refusal is
/// the host's own word, while a missing route may only mean that the sandbox has no IPv6.
async fn connect(addresses: Vec<IpAddr>, port: u16) -> ProbeOutcome {
    let mut addresses = by_number(addresses, |address| address.is_ipv6().into());
    addresses.truncate(ADDRESSES);
    let until = Instant::now() + CONNECT_BOUND;
    let mut worst = ProbeOutcome::Unreachable;
    for (tried, ip) in (0u32..).zip(&addresses) {
        let left = u32::try_from(addresses.len()).unwrap_or(1) - tried;
        let bound = until.saturating_duration_since(Instant::now()) / left;
        let outcome = match timeout(bound, open(SocketAddr::new(*ip, port))).await {
            Ok(Ok(())) => return ProbeOutcome::Reachable,
            Ok(Err(error)) => outcome_of(&error),
            Err(_) => ProbeOutcome::ConnectTimedOut,
        };
        worst = match (worst, outcome) {
            (ProbeOutcome::Reset, _) | (_, ProbeOutcome::Reset) => ProbeOutcome::Reset,
            (ProbeOutcome::Refused, _) | (_, ProbeOutcome::Refused) => ProbeOutcome::Refused,
            (ProbeOutcome::Unreachable, other) | (other, _) => other,
        };
    }
    worst
}

async fn open(address: SocketAddr) -> io::Result<()> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.connect(address).await.map(drop)
}

fn outcome_of(error: &io::Error) -> ProbeOutcome {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ECONNREFUSED) => ProbeOutcome::Refused,
        Some(Errno::ECONNRESET) => ProbeOutcome::Reset,
        Some(Errno::ETIMEDOUT) => ProbeOutcome::ConnectTimedOut,
        _ => ProbeOutcome::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::session::Route;

    fn outcome(host: &str, port: u16) -> (ProbeOutcome, Duration) {
        let peer = Peer::Known {
            host: host.to_owned(),
            port,
            route: Route::Direct,
        };
        match probe(&peer) {
            Probed::Tried(probe) => (probe.outcome, probe.took),
            Probed::NotTried(why) => panic!("{why}"),
        }
    }

    #[test]
    fn a_host_that_listens_is_reachable_and_hears_nothing() {
        use std::io::Read as _;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(outcome("127.0.0.1", port).0, ProbeOutcome::Reachable);
        assert_eq!(outcome("localhost", port).0, ProbeOutcome::Reachable);
        let (mut stream, _) = listener.accept().unwrap();
        let mut heard = Vec::new();
        assert_eq!(stream.read_to_end(&mut heard).unwrap(), 0, "{heard:?}");
    }

    #[test]
    fn a_port_where_nobody_listens_is_refused_at_once() {
        let port = TcpListener::bind("127.0.0.66:0")
            .and_then(|listener| listener.local_addr())
            .unwrap()
            .port();
        let (outcome, took) = outcome("127.0.0.66", port);
        assert_eq!(outcome, ProbeOutcome::Refused);
        assert!(took < Duration::from_secs(1), "{took:?}");
    }

    #[test]
    fn a_name_that_is_none_is_unknown() {
        let (outcome, took) = outcome("not a name.test", 443);
        assert_eq!(outcome, ProbeOutcome::NameUnknown);
        assert!(took < Duration::from_millis(2400), "{took:?}");
    }

    #[test]
    fn a_peer_that_is_not_known_is_not_tried() {
        let why = "its host is a secret".to_owned();
        let probed = probe(&Peer::Unknown(why.clone()));
        assert_eq!(probed, Probed::NotTried(why));
    }
}
