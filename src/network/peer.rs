//! Whom the agent talks to when it talks to the model: the API's host, or the proxy before it.
//!
//! Read from the agent's environment as Claude Code reads it. What its settings files say is not looked at, so that a
//! base URL that stands only there is not known here.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};

use http::Uri;

use crate::session::Route;

/// Where Claude Code finds the API unless it is told otherwise.
const API: &str = "https://api.anthropic.com";
/// With one of these the requests go to a cloud's own host, which depends on its region and its settings.
const CLOUDS: [&str; 3] = [
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY",
];

/// The other end of the agent's connections to the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    Known {
        /// A name, or an address without brackets.
        host: String,
        port: u16,
        route: Route,
    },
    /// Why it is not known, as a clause.
    Unknown(String),
}

impl Peer {
    /// The peer of an agent with this environment.
    #[must_use]
    pub fn from_env(environment: &[(OsString, OsString)]) -> Self {
        // Of a name that stands twice, the last is what getenv finds after our own additions.
        let get = |wanted: &str| {
            let found = environment.iter().rev().find(|(name, _)| name == wanted);
            found
                .and_then(|(_, value)| value.to_str())
                .filter(|value| !value.is_empty())
        };
        if let Some(cloud) = CLOUDS
            .iter()
            .find(|name| get(name).is_some_and(is_switched_on))
        {
            return Self::Unknown(format!("{cloud} is set, and the cloud's host is not known"));
        }
        let url = get("ANTHROPIC_BASE_URL").unwrap_or(API);
        let Some((host, port)) = host_and_port(url) else {
            return Self::Unknown("ANTHROPIC_BASE_URL names no host".to_owned());
        };
        let is_plain = url.starts_with("http:");
        let proxies: [&str; 4] = if is_plain {
            ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
        } else {
            ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
        };
        let exempt = get("no_proxy")
            .or(get("NO_PROXY"))
            .is_some_and(|list| is_exempt(list, &host, port));
        let proxy = proxies.into_iter().find_map(get).filter(|_| !exempt);
        match proxy {
            None => Self::Known {
                host,
                port,
                route: Route::Direct,
            },
            Some(proxy) => match host_and_port(proxy) {
                Some((host, port)) => Self::Known {
                    host,
                    port,
                    route: Route::Proxy,
                },
                None => Self::Unknown("the proxy's URL names no host".to_owned()),
            },
        }
    }

    /// Whether a connection to `address` is one to this peer, as far as can be told without looking its name up.
    #[must_use]
    pub fn is_at(&self, address: SocketAddr) -> bool {
        match self {
            Self::Known { host, port, .. } => host
                .parse::<IpAddr>()
                .is_ok_and(|ip| SocketAddr::new(ip, *port) == address),
            Self::Unknown(_) => false,
        }
    }
}

fn is_switched_on(value: &str) -> bool {
    matches!(
        value.to_ascii_lowercase().as_str(),
        "1" | "true" | "yes" | "on"
    )
}

/// Host and port of a URL, without what may stand before an `@`.
fn host_and_port(url: &str) -> Option<(String, u16)> {
    let uri: Uri = url.trim().parse().ok()?;
    let host = uri.host().filter(|host| !host.is_empty())?;
    let usual = match uri.scheme_str() {
        Some("https") => 443,
        Some(scheme) if scheme.starts_with("socks") => 1080,
        _ => 80,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), uri.port_u16().unwrap_or(usual)))
}

/// Whether a `NO_PROXY` list covers a host: exactly, by its domain, with or without a port, or by `*`.
fn is_exempt(list: &str, host: &str, port: u16) -> bool {
    list.split([',', ' '])
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .any(|entry| {
            let with_port = format!(":{port}");
            let entry = entry.strip_suffix(with_port.as_str()).unwrap_or(entry);
            let domain = entry.trim_start_matches('*').trim_start_matches('.');
            entry == "*"
                || host.eq_ignore_ascii_case(domain)
                || (!domain.is_empty()
                    && host.len() > domain.len()
                    && host.is_char_boundary(host.len() - domain.len())
                    && host[host.len() - domain.len()..].eq_ignore_ascii_case(domain)
                    && host[..host.len() - domain.len()].ends_with('.'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(environment: &[(&str, &str)]) -> String {
        let environment: Vec<(OsString, OsString)> = environment
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        match Peer::from_env(&environment) {
            Peer::Known { host, port, route } => format!("{host} {port} {route:?}"),
            Peer::Unknown(why) => why,
        }
    }

    #[test]
    fn the_peer_is_whom_the_environment_names() {
        const PROXY: (&str, &str) = ("HTTPS_PROXY", "http://user:secret@proxy.test:3128");
        for (environment, expected) in [
            (&[][..], "api.anthropic.com 443 Direct"),
            (
                &[("ANTHROPIC_BASE_URL", "")],
                "api.anthropic.com 443 Direct",
            ),
            (
                &[("ANTHROPIC_BASE_URL", "http://127.0.0.1:8787/v1")],
                "127.0.0.1 8787 Direct",
            ),
            (
                &[("ANTHROPIC_BASE_URL", "https://[::1]:8443")],
                "::1 8443 Direct",
            ),
            (
                &[("ANTHROPIC_BASE_URL", "https://key@gateway.test/x")],
                "gateway.test 443 Direct",
            ),
            (
                &[("ANTHROPIC_BASE_URL", "/v1")],
                "ANTHROPIC_BASE_URL names no host",
            ),
            (&[PROXY], "proxy.test 3128 Proxy"),
            (
                &[("all_proxy", "socks5h://10.0.0.1")],
                "10.0.0.1 1080 Proxy",
            ),
            (&[("HTTPS_PROXY", "proxy.test:81")], "proxy.test 81 Proxy"),
            (
                &[PROXY, ("NO_PROXY", "localhost,.anthropic.com")],
                "api.anthropic.com 443 Direct",
            ),
            (
                &[PROXY, ("no_proxy", "api.anthropic.com:443")],
                "api.anthropic.com 443 Direct",
            ),
            (&[PROXY, ("no_proxy", "*")], "api.anthropic.com 443 Direct"),
            (
                &[PROXY, ("NO_PROXY", "pic.com, anthropic.co,:443")],
                "proxy.test 3128 Proxy",
            ),
            (
                &[PROXY, ("ANTHROPIC_BASE_URL", "http://10.0.0.2")],
                "10.0.0.2 80 Direct",
            ),
            (
                &[
                    ("CLAUDE_CODE_USE_VERTEX", "0"),
                    ("CLAUDE_CODE_USE_BEDROCK", "1"),
                ],
                "CLAUDE_CODE_USE_BEDROCK is set, and the cloud's host is not known",
            ),
        ] {
            assert_eq!(peer(environment), expected, "{environment:?}");
        }
    }

    #[test]
    fn a_peer_is_recognised_by_its_address() {
        let peer = Peer::from_env(&[("ANTHROPIC_BASE_URL".into(), "http://[::1]:80".into())]);
        assert!(peer.is_at("[::1]:80".parse().unwrap()));
        assert!(!peer.is_at("[::1]:81".parse().unwrap()));
        assert!(!Peer::from_env(&[]).is_at("[::1]:443".parse().unwrap()));
    }
}
