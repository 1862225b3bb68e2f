//! Asking name servers: over UDP, again when a datagram seems lost, over TCP when the answer is too large for one; two
//! servers at once, so that a dead one costs nothing, and all of them again if none has said anything of use.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{interval, timeout};

use super::DnsError;
use super::host_name::HostName;
use super::message::{Extension, Family, Query, Reply};

/// A datagram that is not answered so long may be lost. It is sent this often in all.
const RESEND: Duration = Duration::from_millis(333);
const SENDS: u32 = 3;
const AT_ONCE: usize = 2;
/// How many names may stand for one another before an address is found.
const ALIASES: usize = 8;
/// More than a server may send in a datagram, for those that do not care.
const DATAGRAM_BYTES: usize = 4096;
/// RFC 1035 §4.1.1: the server did not understand the query.
const FORMAT_ERROR: u8 = 1;

type Asked<'a> = Pin<Box<dyn Future<Output = Result<Reply, DnsError>> + Send + 'a>>;

/// The name servers of this machine.
#[derive(Debug)]
pub(super) struct Servers {
    /// At least one, in the order in which they are preferred.
    pub(super) addresses: Vec<SocketAddr>,
    /// For one round of all servers.
    pub(super) timeout: Duration,
    /// At least 1.
    pub(super) rounds: usize,
}

impl Servers {
    /// The addresses of a host, at least one, whatever names it stands for.
    pub(super) async fn ask(
        &self,
        host: &HostName,
        family: Family,
    ) -> Result<Vec<IpAddr>, DnsError> {
        let mut host = host.clone();
        for _ in 0..ALIASES {
            match self.reply(&host, family).await? {
                Reply::Addresses(addresses) => return Ok(addresses),
                Reply::Alias(other) => host = other,
                Reply::Truncated => return Err(DnsError::Broken),
            }
        }
        Err(DnsError::NoAddress)
    }

    async fn reply(&self, host: &HostName, family: Family) -> Result<Reply, DnsError> {
        let mut error = DnsError::Timeout;
        for _ in 0..self.rounds {
            error = match timeout(self.timeout, self.round(host, family)).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(error)) if error.is_an_answer() => return Err(error),
                Ok(Err(error)) => error,
                Err(_) => DnsError::Timeout,
            };
        }
        Err(error)
    }

    /// The first answer of any server. A server that has none makes room for the next.
    async fn round(&self, host: &HostName, family: Family) -> Result<Reply, DnsError> {
        let mut servers = self.addresses.iter();
        let ask = |server: &SocketAddr| -> Asked<'_> { Box::pin(exchange(*server, host, family)) };
        let mut asked: Vec<Asked<'_>> = servers.by_ref().take(AT_ONCE).map(ask).collect();
        let mut last = DnsError::Timeout;
        poll_fn(|context| {
            let mut index = 0;
            while let Some(one) = asked.get_mut(index) {
                let Poll::Ready(result) = one.as_mut().poll(context) else {
                    index += 1;
                    continue;
                };
                drop(asked.swap_remove(index));
                match result {
                    Err(error) if !error.is_an_answer() => last = error,
                    answer => return Poll::Ready(answer),
                }
                asked.extend(servers.next().map(ask));
            }
            match asked.is_empty() {
                true => Poll::Ready(Err(std::mem::replace(&mut last, DnsError::Timeout))),
                false => Poll::Pending,
            }
        })
        .await
    }
}

async fn exchange(server: SocketAddr, host: &HostName, family: Family) -> Result<Reply, DnsError> {
    let query = Query::new(host, family, Extension::Edns)?;
    match converse(server, &query).await {
        Err(DnsError::Refused(FORMAT_ERROR)) => {
            converse(server, &Query::new(host, family, Extension::Plain)?).await
        }
        other => other,
    }
}

async fn converse(server: SocketAddr, query: &Query) -> Result<Reply, DnsError> {
    match over_udp(server, query).await? {
        Reply::Truncated => over_tcp(server, query).await,
        reply => Ok(reply),
    }
}

/// The kernel chooses a port at random, and passes on only what comes from this server.
async fn over_udp(server: SocketAddr, query: &Query) -> Result<Reply, DnsError> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    let mut datagram = vec![0; DATAGRAM_BYTES];
    let mut again = interval(RESEND);
    let mut sent = 0;
    loop {
        tokio::select! {
            received = socket.recv(&mut datagram) => {
                let length = received?;
                // Anything else may be forged: the answer may still come.
                if let Some(reply) = query.reply(&datagram[..length]) {
                    return reply;
                }
            }
            _ = again.tick(), if sent < SENDS => {
                socket.send(query.as_bytes()).await?;
                sent += 1;
            }
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &Query) -> Result<Reply, DnsError> {
    let mut stream = TcpStream::connect(server).await?;
    let bytes = query.as_bytes();
    let length = u16::try_from(bytes.len()).map_err(|_| DnsError::Name)?;
    stream
        .write_all(&[&length.to_be_bytes(), bytes].concat())
        .await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    query.reply(&answer).ok_or(DnsError::Broken)?
}
