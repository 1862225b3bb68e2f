//! The way out of a network that only a proxy leaves: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY, in either case.
//!
//! What is encrypted, and gRPC, goes through a tunnel (CONNECT); plain HTTP is handed to the proxy as it is. The rules
//! for NO_PROXY are those that most programs share: names match their subdomains, addresses may be networks, a port
//! narrows, `*` is everything. Loopback is never proxied. hyper-util has a matcher of its own, but it would bring two
//! crates for what is a page here.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::network::dns::Dns;

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Which requests go through a proxy.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    except: Vec<Except>,
    unusable: Vec<&'static str>,
}

/// A proxy and what it wants to hear from us.
#[derive(Clone)]
pub(super) struct Proxy {
    address: Uri,
    /// For `proxy-authorization`; marked sensitive.
    pub(super) credentials: Option<HeaderValue>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.address)
    }
}

/// One member of NO_PROXY.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Except {
    host: Hosts,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    All,
    /// In lower case. With a dot before it, its subdomains alone are meant.
    Domain(String),
    /// A network, by the number of its leading bits.
    Network(IpAddr, u32),
}

impl Proxies {
    /// Reads the variables, given by a function that knows their values.
    #[must_use]
    pub fn from_env(lookup: Lookup<'_>) -> Self {
        let mut proxies = Self::default();
        // To a CGI program HTTP_PROXY is what a stranger's request says.
        let http = if lookup("REQUEST_METHOD").is_some() {
            "http_proxy"
        } else {
            "HTTP_PROXY"
        };
        proxies.http = proxies.first(lookup, &["http_proxy", http, "all_proxy", "ALL_PROXY"]);
        proxies.https = proxies.first(
            lookup,
            &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        );
        let except = lookup("no_proxy").or_else(|| lookup("NO_PROXY"));
        let except = except.unwrap_or_default();
        proxies.except = except.split([',', ' ']).filter_map(Except::parse).collect();
        proxies
    }

    /// The variables that hold something which is no address of an HTTP proxy. They are passed over.
    #[must_use]
    pub fn unusable(&self) -> &[&'static str] {
        &self.unusable
    }

    fn first(&mut self, lookup: Lookup<'_>, variables: &[&'static str]) -> Option<Proxy> {
        let set = variables
            .iter()
            .find_map(|name| Some((*name, lookup(name)?)));
        let (variable, value) = set?;
        let proxy = Proxy::parse(value.trim());
        if proxy.is_none() && !self.unusable.contains(&variable) {
            self.unusable.push(variable);
        }
        proxy
    }

    /// The proxy on the way to an endpoint.
    pub(super) fn to(&self, endpoint: &Uri) -> Option<Proxy> {
        let proxy = match endpoint.scheme_str()? {
            "https" => self.https.as_ref()?,
            _ => self.http.as_ref()?,
        };
        let host = endpoint.host()?.trim_matches(['[', ']']).to_lowercase();
        let is_near = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        let excepted = || {
            self.except
                .iter()
                .any(|except| except.covers(&host, port(endpoint)))
        };
        (!is_near && !excepted()).then(|| proxy.clone())
    }
}

fn port(uri: &Uri) -> u16 {
    let usual = if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    uri.port_u16().unwrap_or(usual)
}

impl Proxy {
    fn parse(text: &str) -> Option<Self> {
        let uri: Uri = match text.contains("://") {
            true => text.parse().ok()?,
            false => format!("http://{text}").parse().ok()?,
        };
        if uri.scheme_str() != Some("http") {
            return None;
        }
        let authority = uri.authority()?.as_str();
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let credentials = match user {
            Some(user) => Some(basic(user)?),
            None => None,
        };
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(host.parse::<Authority>().ok()?);
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
        Some(Self {
            address: Uri::from_parts(parts).ok()?,
            credentials,
        })
    }
}

fn basic(user: &str) -> Option<HeaderValue> {
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let decoded = |text| percent_decode_str(text).decode_utf8().ok();
    let plain = format!("{}:{}", decoded(user)?, decoded(password)?);
    let encoded = format!("Basic {}", BASE64_STANDARD.encode(plain));
    let mut value = HeaderValue::try_from(encoded).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Except {
    fn parse(member: &str) -> Option<Self> {
        let member = member.trim().to_lowercase();
        if let Some(network) = network(member.trim_matches(['[', ']'])) {
            return Some(Self {
                host: network,
                port: None,
            });
        }
        let (host, port) = match member.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (member.as_str(), None),
        };
        let host = match host {
            "" => return None,
            "*" => Hosts::All,
            host => network(host.trim_matches(['[', ']'])).unwrap_or_else(|| {
                // `*.example.com` is `.example.com` to most.
                Hosts::Domain(host.trim_start_matches('*').to_owned())
            }),
        };
        Some(Self { host, port })
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        if self.port.is_some_and(|own| own != port) {
            return false;
        }
        match &self.host {
            Hosts::All => true,
            Hosts::Network(network, bits) => {
                host.parse().is_ok_and(|ip| within(ip, *network, *bits))
            }
            Hosts::Domain(domain) => {
                let parent = domain.trim_start_matches('.');
                let below = host
                    .strip_suffix(parent)
                    .is_some_and(|rest| rest.ends_with('.'));
                below || host == parent
            }
        }
    }
}

/// An address, or a network as `10.0.0.0/8`.
fn network(text: &str) -> Option<Hosts> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.unwrap_or(most);
    (bits <= most).then_some(Hosts::Network(address, bits))
}

fn within(ip: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (ip, network, most) = match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => {
            (u128::from(ip.to_bits()), u128::from(network.to_bits()), 32)
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) => (ip.to_bits(), network.to_bits(), 128),
        _ => return false,
    };
    // A shift by all bits there are is none: the network of no bits is everything.
    let rest = most - bits;
    ip.checked_shr(rest).unwrap_or(0) == network.checked_shr(rest).unwrap_or(0)
}

/// Opens connections on one of three ways.
#[derive(Debug, Clone)]
pub(super) enum Dialer {
    Direct(HttpConnector<Dns>),
    /// The proxy reads our requests, and sends them on.
    Forward(HttpConnector<Dns>, Uri),
    /// The proxy passes bytes on.
    Tunnel(Tunnel<HttpConnector<Dns>>, Uri),
}

impl Dialer {
    pub(super) fn new(tcp: HttpConnector<Dns>, proxy: Option<&Proxy>, forwards: bool) -> Self {
        match proxy {
            None => Self::Direct(tcp),
            Some(proxy) if forwards => Self::Forward(tcp, proxy.address.clone()),
            Some(proxy) => {
                let tunnel = Tunnel::new(proxy.address.clone(), tcp);
                let tunnel = match &proxy.credentials {
                    Some(credentials) => tunnel.with_auth(credentials.clone()),
                    None => tunnel,
                };
                Self::Tunnel(tunnel, proxy.address.clone())
            }
        }
    }
}

/// A connection that failed at, or behind, a proxy.
#[derive(Debug, thiserror::Error)]
#[error("by the proxy {proxy}")]
struct ProxyError {
    proxy: String,
    source: Box<dyn Error + Send + Sync>,
}

impl ProxyError {
    fn new(proxy: &Uri, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            proxy: proxy
                .authority()
                .map(ToString::to_string)
                .unwrap_or_default(),
            source: source.into(),
        }
    }
}

impl Service<Uri> for Dialer {
    type Response = Line;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Line, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        ready!(match self {
            Self::Direct(tcp) | Self::Forward(tcp, _) => tcp.poll_ready(context)?,
            Self::Tunnel(tunnel, _) => tunnel.poll_ready(context)?,
        });
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        match self {
            Self::Direct(tcp) => {
                let connecting = tcp.call(target);
                Box::pin(async {
                    Ok(Line {
                        io: connecting.await?,
                        forwarded: false,
                    })
                })
            }
            Self::Forward(tcp, proxy) => {
                let proxy = proxy.clone();
                let connecting = tcp.call(proxy.clone());
                Box::pin(async move {
                    let io = connecting
                        .await
                        .map_err(|error| ProxyError::new(&proxy, error))?;
                    Ok(Line {
                        io,
                        forwarded: true,
                    })
                })
            }
            Self::Tunnel(tunnel, proxy) => {
                let proxy = proxy.clone();
                let connecting = tunnel.call(with_port(target));
                Box::pin(async move {
                    let io = connecting
                        .await
                        .map_err(|error| ProxyError::new(&proxy, error))?;
                    Ok(Line {
                        io,
                        forwarded: false,
                    })
                })
            }
        }
    }
}

/// A tunnel without a port named would lead to 443, whatever the scheme.
fn with_port(target: Uri) -> Uri {
    let Some(host) = target.host() else {
        return target;
    };
    let authority = format!("{host}:{}", port(&target));
    let mut parts = target.clone().into_parts();
    parts.authority = authority.parse().ok();
    Uri::from_parts(parts).unwrap_or(target)
}

/// A connection that knows whether somebody reads along and passes on.
#[derive(Debug)]
pub(super) struct Line {
    io: TokioIo<TcpStream>,
    forwarded: bool,
}

impl Connection for Line {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.forwarded)
    }
}

impl Read for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(pairs: &[(&str, &str)]) -> Proxies {
        let value = |name: &str| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Proxies::from_env(&value)
    }

    fn way(proxies: &Proxies, endpoint: &str) -> Option<String> {
        let proxy = proxies.to(&endpoint.parse().unwrap());
        proxy.map(|proxy| proxy.address.to_string())
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let both = proxies(&[
            ("HTTP_PROXY", "http://plain:3128"),
            ("https_proxy", "secure:8080/path"),
        ]);
        assert_eq!(
            way(&both, "http://a.test/v1/traces").as_deref(),
            Some("http://plain:3128/")
        );
        assert_eq!(
            way(&both, "https://a.test").as_deref(),
            Some("http://secure:8080/")
        );
        let all = proxies(&[("ALL_PROXY", "http://any:1")]);
        assert_eq!(way(&all, "http://a.test").as_deref(), Some("http://any:1/"));
        assert_eq!(
            way(&all, "https://a.test").as_deref(),
            Some("http://any:1/")
        );
        let lower = proxies(&[
            ("http_proxy", "http://lower:1"),
            ("HTTP_PROXY", "http://upper:1"),
        ]);
        assert_eq!(
            way(&lower, "http://a.test").as_deref(),
            Some("http://lower:1/")
        );
        let cgi = proxies(&[("REQUEST_METHOD", "GET"), ("HTTP_PROXY", "http://evil:1")]);
        assert_eq!(way(&cgi, "http://a.test"), None);
        assert_eq!(way(&proxies(&[]), "http://a.test"), None);
    }

    #[test]
    fn what_no_proxy_names_goes_directly() {
        for (except, endpoint, direct) in [
            ("", "http://a.test", false),
            ("*", "http://a.test", true),
            ("a.test", "http://a.test", true),
            ("A.Test", "http://x.a.tesT", true),
            ("a.test", "http://ba.test", false),
            (".a.test", "http://x.a.test", true),
            ("*.a.test", "http://x.a.test", true),
            ("b.test, a.test", "http://a.test", true),
            ("b.test a.test", "http://a.test", true),
            ("a.test:4318", "http://a.test:4318", true),
            ("a.test:4318", "http://a.test:4317", false),
            ("a.test:80", "http://a.test", true),
            ("10.0.0.0/8", "http://10.1.2.3:4318", true),
            ("10.0.0.0/8", "http://11.1.2.3:4318", false),
            ("10.0.0.0/8", "http://10.test", false),
            ("192.168.1.7", "http://192.168.1.7", true),
            ("192.168.1.7", "http://192.168.1.8", false),
            ("0.0.0.0/0", "http://8.8.8.8", true),
            ("0.0.0.0/0", "http://[2001:db8::1]", false),
            ("2001:db8::/32", "http://[2001:db8::1]:4318", true),
            ("[2001:db8::1]:4318", "http://[2001:db8::1]:4318", true),
            ("[2001:db8::1]:4318", "http://[2001:db8::1]:4317", false),
            ("10.0.0.0/33, ,:,a.test:x", "http://a.test", false),
            ("", "http://localhost:4318", true),
            ("", "http://127.0.0.9:4318", true),
            ("", "http://[::1]:4318", true),
        ] {
            let proxies = proxies(&[("HTTP_PROXY", "http://proxy"), ("NO_PROXY", except)]);
            assert_eq!(
                way(&proxies, endpoint).is_none(),
                direct,
                "{except:?} {endpoint}"
            );
        }
    }

    #[test]
    fn credentials_are_decoded_and_never_shown() {
        let proxies = proxies(&[("HTTP_PROXY", "http://us%65r:p%40ss@proxy:3128")]);
        let proxy = proxies.to(&"http://a.test".parse().unwrap()).unwrap();
        let credentials = proxy.credentials.clone().unwrap();
        assert_eq!(
            credentials,
            format!("Basic {}", BASE64_STANDARD.encode("user:p@ss"))
        );
        assert!(credentials.is_sensitive());
        assert_eq!(format!("{proxy:?}"), "Proxy(http://proxy:3128/)");
    }

    #[test]
    fn a_proxy_of_another_kind_is_passed_over_and_named() {
        for value in [
            "socks5://proxy:1080",
            "https://proxy:443",
            "http://",
            "not a proxy",
        ] {
            let proxies = proxies(&[("ALL_PROXY", value)]);
            assert_eq!(proxies.unusable(), ["ALL_PROXY"], "{value}");
            assert_eq!(way(&proxies, "http://a.test"), None);
        }
    }

    #[test]
    fn a_tunnel_leads_to_the_port_that_the_scheme_means() {
        for (target, expected) in [
            ("http://a.test/x", "http://a.test:80/x"),
            ("https://a.test/x", "https://a.test:443/x"),
            ("http://[::1]:4317/x", "http://[::1]:4317/x"),
        ] {
            assert_eq!(with_port(target.parse().unwrap()), expected);
        }
    }
}
