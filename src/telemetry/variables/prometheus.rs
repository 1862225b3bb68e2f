//! Where the page of metrics is served that a Prometheus scrapes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::values::{first, number};
use super::{DestinationError, Lookup};

/// The seeds' name wins over OpenTelemetry's.
const PORT: [&str; 2] = ["PROMETHEUS_EXPORTER_PORT", "OTEL_EXPORTER_PROMETHEUS_PORT"];
const HOST: &str = "OTEL_EXPORTER_PROMETHEUS_HOST";

/// localhost:9464 unless said otherwise, as the specification has it (configuration/sdk-environment-variables.md).
pub(super) fn scrape_address(lookup: Lookup<'_>) -> Result<SocketAddr, DestinationError> {
    let port = match first(lookup, &PORT) {
        Some((variable, value)) => {
            let allowed = "a port from 1 to 65535";
            number(variable, value, 1..=65_535, allowed)?
        }
        None => 9464,
    };
    let host = match lookup(HOST) {
        None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Some(name) if name.trim().eq_ignore_ascii_case("localhost") => {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        }
        // A name would have to be resolved, and which of its addresses is meant is anybody's guess.
        Some(address) => {
            let bare = address.trim().trim_matches(['[', ']']);
            bare.parse().map_err(|_| DestinationError::Value {
                variable: HOST,
                value: address.clone(),
                allowed: "localhost or an IP address, 0.0.0.0 for all",
            })?
        }
    };
    // Within a port's bounds, as was just checked.
    let port = u16::try_from(port).unwrap_or(9464);
    Ok(SocketAddr::new(host, port))
}
