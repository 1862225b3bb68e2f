//! `/etc/resolv.conf`: which name servers to ask, and how.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::dns::host_name::HostName;

/// What `/etc/resolv.conf` says, as far as it concerns us.
#[derive(Debug, PartialEq)]
pub(super) struct ResolvConf {
    pub(super) servers: Vec<IpAddr>,
    pub(super) search: Vec<HostName>,
    pub(super) ndots: usize,
    pub(super) timeout: Duration,
    pub(super) attempts: usize,
}

impl ResolvConf {
    /// Lines that make no sense are passed over, as glibc does; so are limits beyond glibc's own.
    pub(super) fn parse(text: &str) -> Self {
        let mut conf = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            // glibc waits 5 s; a request of ours has 10 s in all, and a second try or server must fit in.
            timeout: Duration::from_secs(2),
            attempts: 2,
        };
        for line in text.lines() {
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if conf.servers.len() < 3 => {
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    conf.servers.extend(address);
                }
                // The last of these lines counts.
                Some("search" | "domain") => {
                    conf.search = words.filter_map(HostName::parse).take(6).collect();
                }
                Some("options") => words.for_each(|word| conf.option(word)),
                _ => {}
            }
        }
        if conf.servers.is_empty() {
            conf.servers.push(Ipv4Addr::LOCALHOST.into());
        }
        conf
    }

    fn option(&mut self, word: &str) {
        let Some((name, value)) = word.split_once(':') else {
            return;
        };
        let Ok(value) = value.parse::<u8>() else {
            return;
        };
        match name {
            "ndots" => self.ndots = usize::from(value.min(15)),
            "timeout" => self.timeout = Duration::from_secs(u64::from(value.clamp(1, 30))),
            "attempts" => self.attempts = usize::from(value.clamp(1, 5)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn resolv_conf_is_read_as_glibc_reads_it() {
        let conf = ResolvConf::parse(
            "# comment\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver ::1\n\
             domain old.test\nsearch a.test b.test\noptions ndots:99 timeout:0 attempts:9 rotate\nnonsense\n",
        );
        assert_eq!(
            conf.servers,
            [
                "192.0.2.1".parse::<IpAddr>().unwrap(),
                Ipv6Addr::LOCALHOST.into()
            ]
        );
        assert_eq!(conf.search.len(), 2);
        assert_eq!(
            (conf.ndots, conf.timeout, conf.attempts),
            (15, Duration::from_secs(1), 5)
        );
        assert_eq!(
            ResolvConf::parse("").servers,
            [IpAddr::from(Ipv4Addr::LOCALHOST)]
        );
    }
}
