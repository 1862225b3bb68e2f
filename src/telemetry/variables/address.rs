//! Addresses as people write them: with or without the path of a signal, and sometimes without a scheme.

use std::str::FromStr;

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

use super::DestinationError;
use crate::telemetry::destination::Signal;

/// What an address without a scheme means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Schemeless {
    /// It is a mistake: over HTTP the specification asks for a scheme.
    Refused,
    /// A gRPC target, secure unless OTEL_EXPORTER_OTLP_INSECURE says otherwise (specification, protocol/exporter.md).
    Grpc { insecure: bool },
    /// As vendors print them (`ingest.eu.signoz.cloud:443`): secure, unless it is this machine.
    Vendor,
}

/// A checked address without the path of a signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    variable: &'static str,
    scheme: Scheme,
    authority: Authority,
    /// Without a slash at its end; empty for none.
    path: String,
    query: Option<String>,
    /// It came with the path of a signal, so what stands before that is the whole base.
    complete: bool,
}

const SIGNALS: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];

/// The request's path for a signal, which a base address lacks.
const fn signal_path(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/v1/traces",
        Signal::Metrics => "/v1/metrics",
        Signal::Logs => "/v1/logs",
    }
}

/// Reads an address that is to be used exactly as it stands.
pub(super) fn exact(variable: &'static str, text: &str) -> Result<Uri, DestinationError> {
    checked(variable, text, Schemeless::Refused)
}

impl Address {
    /// Reads a base address. An error never repeats it, for it may hold a token.
    pub(super) fn read(
        variable: &'static str,
        text: &str,
        schemeless: Schemeless,
    ) -> Result<Self, DestinationError> {
        let uri = checked(variable, text, schemeless)?;
        let path = uri.path().trim_end_matches('/');
        let stripped = SIGNALS
            .into_iter()
            .find_map(|signal| path.strip_suffix(signal_path(signal)));
        let address = Self {
            variable,
            path: stripped.unwrap_or(path).to_owned(),
            complete: stripped.is_some(),
            query: uri.query().map(str::to_owned),
            scheme: uri.scheme().cloned().unwrap_or(Scheme::HTTP),
            authority: uri
                .authority()
                .cloned()
                .ok_or_else(|| error(variable, "it has no host"))?,
        };
        Ok(address)
    }

    /// Whether it is more than a host.
    pub(super) fn has_path(&self) -> bool {
        self.complete || !self.path.is_empty()
    }

    /// Goes on below the site: unless it leads there already.
    pub(super) fn below(mut self, path: &str) -> Self {
        if !self.complete && !self.path.ends_with(path) {
            self.path.push_str(path);
        }
        self
    }

    /// Where to POST a signal's requests over HTTP.
    pub(super) fn http(&self, signal: Signal) -> Result<Uri, DestinationError> {
        let query = self.query.as_ref();
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        self.uri(&format!("{}{}{query}", self.path, signal_path(signal)))
    }

    /// Where to connect for gRPC, which has no paths of its own.
    pub(super) fn grpc(&self) -> Result<Uri, DestinationError> {
        self.uri("/")
    }

    fn uri(&self, path: &str) -> Result<Uri, DestinationError> {
        let path = PathAndQuery::from_str(path)
            .map_err(|_| error(self.variable, "its path is malformed"))?;
        let whole = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path);
        whole
            .build()
            .map_err(|_| error(self.variable, "it does not parse"))
    }
}

fn error(variable: &'static str, reason: &'static str) -> DestinationError {
    DestinationError::Endpoint { variable, reason }
}

fn checked(
    variable: &'static str,
    text: &str,
    schemeless: Schemeless,
) -> Result<Uri, DestinationError> {
    let error = |reason| error(variable, reason);
    let text = text.trim();
    let text = match schemeless {
        _ if text.contains("://") || text.starts_with('/') => text.to_owned(),
        Schemeless::Refused => text.to_owned(),
        Schemeless::Grpc { insecure } => {
            let scheme = if insecure { "http" } else { "https" };
            // The port that OTLP over gRPC is known by; `[::1]` has colons of its own.
            let has_port = text.rsplit(']').next().unwrap_or(text).contains(':');
            let port = if has_port { "" } else { ":4317" };
            format!("{scheme}://{text}{port}")
        }
        Schemeless::Vendor => {
            let here = ["localhost", "127.", "[::1]"];
            let is_here = here.iter().any(|host| text.starts_with(host));
            let scheme = if is_here { "http" } else { "https" };
            format!("{scheme}://{text}")
        }
    };
    let uri = Uri::from_str(&text).map_err(|_| error("it does not parse"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(error("it does not start with http:// or https://"));
    }
    let authority = uri.authority().ok_or_else(|| error("it has no host"))?;
    if authority.host().is_empty() {
        return Err(error("it has no host"));
    }
    if authority.as_str().contains('@') {
        return Err(error(
            "it holds credentials: put them into the variables for keys or headers instead",
        ));
    }
    if authority.port().is_none() && authority.as_str() != authority.host() {
        return Err(error("its port is no number up to 65535"));
    }
    Ok(uri)
}
