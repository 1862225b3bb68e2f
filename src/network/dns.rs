//! Names to addresses without glibc.
//!
//! In a static binary `getaddrinfo` loads the image's own name service modules into our process and crashes on some of
//! them, so it must not be linked at all. What it would do is done here: `localhost` is this machine, `/etc/hosts` is
//! asked first, and then the servers that `/etc/resolv.conf` names, over plain DNS. Nobody's public server is ever asked.
//!
//! The two files are read anew for each lookup, and nothing is cached: a lookup happens only when a connection is
//! opened, connections are reused, and a sandbox that was paused may wake up in another network.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::dns::Name as ConnectorName;
use tower_service::Service;

use self::host_name::HostName;
use self::message::Family;
use self::servers::Servers;
use super::resolv_conf::ResolvConf;

pub(super) mod host_name;
mod hosts;
mod message;
mod servers;

/// How long an IPv4 answer waits for its IPv6 sibling, which some servers never send (RFC 8305 calls it the resolution
/// delay).
const SIBLING_WAIT: Duration = Duration::from_millis(50);

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DnsError {
    #[error("the name is no host name")]
    Name,
    #[error("no name server knows the name")]
    NoSuchName,
    #[error("the name has no address")]
    NoAddress,
    #[error("no name server answered in time")]
    Timeout,
    /// The code is that of RFC 1035 §4.1.1: 2 for a server's own failure, 5 for one that will not answer us.
    #[error("the name server answered with error {0}")]
    Refused(u8),
    #[error("the name server's answer is broken")]
    Broken,
    #[error("failed to ask the name servers")]
    Io(#[from] io::Error),
}

impl DnsError {
    /// Whether a server has said so, and another would say the same.
    fn is_an_answer(&self) -> bool {
        matches!(self, Self::NoSuchName | Self::NoAddress)
    }
}

/// Resolves names as this machine is told to.
#[derive(Debug, Clone)]
pub(crate) struct Dns(Arc<Files>);

#[derive(Debug)]
struct Files {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    /// 53, but for tests.
    port: u16,
}

impl Dns {
    pub(crate) fn system() -> Self {
        Self(Arc::new(Files {
            hosts: PathBuf::from("/etc/hosts"),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            port: 53,
        }))
    }

    /// Every address of a host name.
    pub(crate) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, DnsError> {
        self.0.resolve(name).await
    }
}

impl Service<ConnectorName> for Dns {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = DnsError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DnsError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DnsError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: ConnectorName) -> Self::Future {
        let files = Arc::clone(&self.0);
        Box::pin(async move {
            let addresses = files.resolve(name.as_str()).await?;
            // The connector puts the port in.
            let addresses: Vec<_> = addresses
                .into_iter()
                .map(|ip| SocketAddr::new(ip, 0))
                .collect();
            Ok(addresses.into_iter())
        })
    }
}

impl Files {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, DnsError> {
        let host = HostName::parse(name).ok_or(DnsError::Name)?;
        if host.is_localhost() {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let addresses = hosts::addresses(&read(&self.hosts).unwrap_or_default(), &host);
        if !addresses.is_empty() {
            return Ok(addresses);
        }
        let conf = ResolvConf::parse(&read(&self.resolv_conf).unwrap_or_default());
        let names = match name.ends_with('.') {
            true => vec![host],
            false => names_to_try(host, &conf),
        };
        let servers = Servers {
            addresses: conf
                .servers
                .into_iter()
                .map(|ip| SocketAddr::new(ip, self.port))
                .collect(),
            timeout: conf.timeout,
            rounds: conf.attempts,
        };
        let mut error = DnsError::NoSuchName;
        for name in names {
            match ask(&servers, &name).await {
                Ok(addresses) => return Ok(addresses),
                Err(found) => error = found,
            }
        }
        Err(error)
    }
}

/// A file of an image may hold any bytes and any amount of them.
fn read(path: &Path) -> io::Result<String> {
    use io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(1 << 20)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A name with few dots is looked for in the search list first, others as they are.
fn names_to_try(host: HostName, conf: &ResolvConf) -> Vec<HostName> {
    let mut names: Vec<HostName> = conf
        .search
        .iter()
        .filter_map(|domain| host.within(domain))
        .collect();
    let first = match host.dots() >= conf.ndots {
        true => 0,
        false => names.len(),
    };
    names.insert(first, host);
    names
}

/// Every address of exactly this name.
async fn ask(servers: &Servers, host: &HostName) -> Result<Vec<IpAddr>, DnsError> {
    if host.is_never_asked_for() {
        return Err(DnsError::NoSuchName);
    }
    let mut v4 = std::pin::pin!(servers.ask(host, Family::V4));
    let mut v6 = std::pin::pin!(servers.ask(host, Family::V6));
    let (v4, v6) = tokio::select! {
        v4 = &mut v4 => {
            let v6 = match v4 {
                Ok(_) => tokio::time::timeout(SIBLING_WAIT, v6).await.ok(),
                Err(_) => Some(v6.await),
            };
            (v4, v6)
        }
        v6 = &mut v6 => (v4.await, Some(v6)),
    };
    match (v4, v6) {
        (Ok(mut addresses), v6) => {
            addresses.extend(v6.and_then(Result::ok).into_iter().flatten());
            Ok(addresses)
        }
        (Err(_), Some(Ok(addresses))) => Ok(addresses),
        (Err(error), _) => Err(error),
    }
}

#[cfg(test)]
mod tests;
