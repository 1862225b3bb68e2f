//! `/etc/hosts`: the names that this machine knows without asking anybody.

use std::net::IpAddr;

use super::host_name::HostName;
use crate::order::by_number;

/// Every address that the file's text gives a host, IPv4 first. Lines that make no sense are passed over.
pub(super) fn addresses(text: &str, host: &HostName) -> Vec<IpAddr> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let found: Vec<IpAddr> = text
        .lines()
        .filter_map(|line| {
            let line = line.split_once('#').map_or(line, |(before, _)| before);
            let mut words = line.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words
                .any(|word| HostName::parse(word).as_ref() == Some(host))
                .then_some(address)
        })
        .collect();
    by_number(found, |address: &IpAddr| address.is_ipv6().into())
}
