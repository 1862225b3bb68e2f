//! Names to addresses without glibc.
//!
//! In a static binary `getaddrinfo` loads the image's own name service modules into our process and crashes on some of
//! them, so it must not be linked at all. hickory-resolver speaks DNS instead. Around it stand the three things that
//! `getaddrinfo` would do: `localhost` is this machine, `/etc/hosts` is asked first, and the servers come from
//! `/etc/resolv.conf`. Nobody's public server is ever asked.
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

use hickory_resolver::config::{
    NameServerConfig, ResolveHosts, ResolverConfig, ServerOrderingStrategy,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, Resolver};
use hyper_util::client::legacy::connect::dns::Name as HostName;
use tower_service::Service;

use super::resolv_conf::ResolvConf;

/// How long an IPv4 answer waits for its IPv6 sibling, which some servers never send (RFC 8305 calls it the resolution
/// delay).
const SIBLING_WAIT: Duration = Duration::from_millis(50);

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DnsError {
    #[error("the name is no host name")]
    Name,
    #[error("the name has no address")]
    NoAddress,
    #[error("failed to ask the name servers")]
    Lookup(#[from] NetError),
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

impl Service<HostName> for Dns {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = DnsError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DnsError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DnsError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: HostName) -> Self::Future {
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
        if is_localhost(name) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        // Not every name is a host name by the book: those of compose services may have underscores, which only the
        // rules for international names refuse.
        let host = Name::from_ascii(name)
            .or_else(|_| Name::from_utf8(name))
            .map_err(|_| DnsError::Name)?;
        let addresses = from_hosts(&self.hosts, &host);
        if !addresses.is_empty() {
            return Ok(addresses);
        }
        let text = read(&self.resolv_conf).unwrap_or_default();
        ask(ResolvConf::parse(&text), self.port, host).await
    }
}

/// RFC 6761: these names are this machine, whatever any server says.
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
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

fn from_hosts(path: &Path, host: &Name) -> Vec<IpAddr> {
    let mut hosts = Hosts::default();
    let Ok(text) = read(path) else {
        return Vec::new();
    };
    if hosts.read_hosts_conf(text.as_bytes()).is_err() {
        return Vec::new();
    }
    let found = [RecordType::A, RecordType::AAAA]
        .into_iter()
        .filter_map(|kind| hosts.lookup_static_host(&Query::query(host.clone(), kind)));
    found
        .flat_map(|lookup| {
            lookup
                .answers()
                .iter()
                .filter_map(|record| record.data.ip_addr())
                .collect::<Vec<_>>()
        })
        .collect()
}

async fn ask(conf: ResolvConf, port: u16, host: Name) -> Result<Vec<IpAddr>, DnsError> {
    let servers = conf.servers.into_iter().map(|ip| {
        let mut server = NameServerConfig::udp_and_tcp(ip);
        for connection in &mut server.connections {
            connection.port = port;
        }
        server
    });
    let config = ResolverConfig::from_parts(None, conf.search, servers.collect());
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.ndots = conf.ndots;
    options.timeout = conf.timeout;
    options.attempts = conf.attempts;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    let resolver = builder.build()?;

    let mut v4 = std::pin::pin!(resolver.ipv4_lookup(host.clone()));
    let mut v6 = std::pin::pin!(resolver.ipv6_lookup(host.clone()));
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
    let mut addresses = Vec::new();
    let mut error = None;
    for answer in [Some(v4), v6].into_iter().flatten() {
        match answer {
            Ok(lookup) => addresses.extend(
                lookup
                    .answers()
                    .iter()
                    .filter_map(|record| record.data.ip_addr()),
            ),
            Err(found) => error = error.or(Some(found)),
        }
    }
    match error {
        Some(error) if addresses.is_empty() => Err(error.into()),
        _ if addresses.is_empty() => Err(DnsError::NoAddress),
        _ => Ok(addresses),
    }
}

#[cfg(test)]
mod tests;
