//! The backends that are known by name. Each is a row of data in [`table`], made of what [`row`] has; what a row means
//! is said here, once.
//!
//! A backend is configured by its vendor's own variables and by six of ours, `NAME_OTLP_{ENDPOINT,HEADERS,PROTOCOL,
//! COMPRESSION,TIMEOUT,CERTIFICATE}`. It reads no variable of another row and none of `OTEL_EXPORTER_OTLP_*` but the
//! wish for a temporality, which is no secret: what is meant for one backend never reaches another.

mod row;
mod table;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use opentelemetry::{Key, Value};

use super::address::{Address, Schemeless};
use super::values::{first, word};
use super::{DestinationError, Lookup, headers, otlp};
use crate::telemetry::destination::{
    OtlpDestination, Protocol, Route, Semconv, Signal, Signals, TlsFiles,
};

use self::row::{Counting, Holds, Names, Need, Origin};

pub(super) use self::row::Backend;
pub(super) use self::table::{BACKENDS, PROMETHEUS_PUSH};

/// A base address, and whether it is the vendor's own.
struct Found {
    address: Address,
    at_home: bool,
}

impl Backend {
    /// Makes the destination for these signals. `chosen_by` is the variable that asks for it.
    pub(super) fn destination(
        &self,
        lookup: Lookup<'_>,
        signals: Signals,
        chosen_by: &'static str,
    ) -> Result<OtlpDestination, DestinationError> {
        let protocol = self.protocol(lookup)?;
        let found = self.place(lookup, protocol, chosen_by)?;
        let compression = match first(lookup, &[self.own.compression]) {
            Some((variable, value)) => otlp::compression(variable, value)?,
            None => self.compression,
        };
        let timeout = otlp::timeout(first(lookup, &[self.own.timeout]))?;
        let taken = [Signal::Traces, Signal::Metrics, Signal::Logs]
            .into_iter()
            .filter(|signal| signals.has(*signal) && self.signals.has(*signal));
        let routes = taken.map(|signal| {
            Ok(Route {
                signal,
                endpoint: endpoint(&found.address, signal, protocol)?,
                headers: self.headers(lookup, signal, found.at_home, chosen_by)?,
                protocol,
                compression,
                timeout,
                tls: TlsFiles {
                    authorities: lookup(self.own.certificate).map(Into::into),
                    identity: None,
                },
            })
        });
        Ok(OtlpDestination {
            name: self.name,
            dialect: self.dialect,
            semconv: Semconv::default(),
            routes: routes.collect::<Result<_, _>>()?,
            resource: self.resource(lookup),
            temporality: match self.counts {
                Counting::Only(temporality) => temporality,
                Counting::Prefers(usual) => otlp::temporality(lookup)?.unwrap_or(usual),
            },
        })
    }

    /// The variables whose values are credentials.
    #[cfg(test)]
    pub(super) fn secrets(&self) -> Vec<&'static str> {
        let keys = self.headers.iter().flat_map(|header| match header.is {
            Holds::Fixed(_) | Holds::Plain(..) => Vec::new(),
            Holds::Raw(names, _) | Holds::Bearer(names, _) => names.to_vec(),
            Holds::Basic(_, password, _) => password.to_vec(),
        });
        let lists = self.lists.iter().copied();
        keys.chain(lists).chain([self.own.headers]).collect()
    }

    fn protocol(&self, lookup: Lookup<'_>) -> Result<Protocol, DestinationError> {
        let Some((variable, value)) = first(lookup, &[self.own.protocol]) else {
            return Ok(Protocol::HttpProtobuf);
        };
        let all = [
            ("http/protobuf", Protocol::HttpProtobuf),
            ("http/json", Protocol::HttpJson),
            ("grpc", Protocol::Grpc),
        ];
        let spoken =
            all.map(|(word, protocol)| (word, self.speaks.has(protocol).then_some(protocol)));
        let spoken: Vec<_> = spoken
            .into_iter()
            .filter_map(|(word, protocol)| Some((word, protocol?)))
            .collect();
        word(variable, value, &spoken, self.speaks.allowed())
    }

    fn place(
        &self,
        lookup: Lookup<'_>,
        protocol: Protocol,
        chosen_by: &'static str,
    ) -> Result<Found, DestinationError> {
        let path = self.place.path;
        if let Some((variable, text)) = first(lookup, &[self.own.endpoint]) {
            let address = Address::read(variable, &text, Schemeless::Vendor)?;
            let address = if address.has_path() {
                address
            } else {
                address.below(path)
            };
            return Ok(Found {
                address,
                at_home: false,
            });
        }
        if let Some((variable, text)) = first(lookup, self.place.sites) {
            let site = Address::read(variable, &text, Schemeless::Vendor)?;
            return Ok(Found {
                address: site.below(path),
                at_home: false,
            });
        }
        let site = self.origin(lookup, protocol, chosen_by)?;
        // A mistake in here is one of the table's, which its test finds.
        let site = Address::read(self.own.endpoint, &site, Schemeless::Vendor)?;
        Ok(Found {
            address: site.below(path),
            at_home: true,
        })
    }

    fn origin(
        &self,
        lookup: Lookup<'_>,
        protocol: Protocol,
        chosen_by: &'static str,
    ) -> Result<String, DestinationError> {
        let missing = |variables: String| DestinationError::Missing {
            chosen_by,
            destination: self.name,
            what: "an address",
            variables,
        };
        match self.place.origin {
            Origin::Site(site) => Ok(site.to_owned()),
            Origin::Local { http, grpc } => {
                let port = if protocol == Protocol::Grpc {
                    grpc
                } else {
                    http
                };
                Ok(format!("http://localhost:{port}"))
            }
            Origin::Part {
                before,
                variables,
                usual,
                after,
                example,
            } => {
                let part = match (first(lookup, variables), usual) {
                    (Some((variable, part)), _) => {
                        let part = part.trim().to_owned();
                        if !is_host_part(&part) {
                            return Err(DestinationError::HostPart { variable, example });
                        }
                        part
                    }
                    (None, Some(usual)) => usual.to_owned(),
                    (None, None) => {
                        let ask = variables.first().copied().unwrap_or_default();
                        let endpoint = self.own.endpoint;
                        let ask = format!("{ask}, for instance to {example}, or {endpoint}");
                        return Err(missing(ask));
                    }
                };
                Ok(format!("{before}{part}{after}"))
            }
            Origin::Region {
                before,
                token,
                regions,
                after,
            } => {
                let token = lookup(token).unwrap_or_default();
                let named = token.trim().split('_').nth(2);
                let region = regions.iter().find(|region| named == Some(**region));
                let region = region.or(regions.first()).copied().unwrap_or_default();
                Ok(format!("{before}{region}{after}"))
            }
            Origin::Said(ask) => Err(missing(ask.to_owned())),
        }
    }

    fn headers(
        &self,
        lookup: Lookup<'_>,
        signal: Signal,
        at_home: bool,
        chosen_by: &'static str,
    ) -> Result<HeaderMap, DestinationError> {
        // What the user writes out as a header wins over what we would make of a key.
        let mut written = HeaderMap::new();
        for variable in self.lists.iter().copied().chain([self.own.headers]) {
            if let Some(text) = lookup(variable) {
                written.extend(headers::list(variable, &text)?);
            }
        }
        let mut all = HeaderMap::new();
        let mine = self.headers.iter();
        for header in mine.filter(|header| header.signals.has(signal)) {
            let name = HeaderName::from_static(header.name);
            if written.contains_key(&name) {
                continue;
            }
            let need = |need| match need {
                Need::Always => true,
                Need::Never => false,
                Need::AtHome => at_home,
            };
            let replaced = |need| need == Need::AtHome && !written.is_empty();
            let value = match &header.is {
                Holds::Fixed(text) => Some(HeaderValue::from_static(text)),
                Holds::Plain(names, usual) => match first(lookup, names) {
                    Some((variable, text)) => Some(headers::value(variable, text.trim())?),
                    None => usual.map(HeaderValue::from_static),
                },
                Holds::Raw(_, when) | Holds::Bearer(_, when) | Holds::Basic(_, _, when)
                    if replaced(*when) =>
                {
                    None
                }
                Holds::Raw(names, when) => {
                    let keys = self.keys(lookup, [*names], need(*when), chosen_by)?;
                    credential(keys, |[key]| key)?
                }
                Holds::Bearer(names, when) => {
                    let keys = self.keys(lookup, [*names], need(*when), chosen_by)?;
                    credential(keys, |[key]| format!("Bearer {key}"))?
                }
                Holds::Basic(user, password, when) => {
                    let both = [*user, *password];
                    let keys = self.keys(lookup, both, need(*when), chosen_by)?;
                    credential(keys, |[user, password]| {
                        let encoded = STANDARD.encode(format!("{user}:{password}"));
                        format!("Basic {encoded}")
                    })?
                }
            };
            if let Some(value) = value {
                all.insert(name, value);
            }
        }
        all.extend(written);
        Ok(all)
    }

    /// Each of these keys, with its variable; nothing if one of them is neither there nor needed.
    fn keys<const N: usize>(
        &self,
        lookup: Lookup<'_>,
        wanted: [Names; N],
        needed: bool,
        chosen_by: &'static str,
    ) -> Result<Option<[(&'static str, String); N]>, DestinationError> {
        let keys = wanted.map(|names| {
            let (variable, key) = first(lookup, names)?;
            // Keys are often read from files, which end in a line feed.
            let key = key.trim().to_owned();
            (!key.is_empty()).then_some((variable, key))
        });
        let missing = keys.iter().zip(wanted);
        let missing: Vec<_> = missing
            .filter(|(key, _)| key.is_none())
            .map(|(_, names)| names.join(" or "))
            .collect();
        if missing.is_empty() {
            return Ok(Some(keys.map(Option::unwrap_or_default)));
        }
        let is_half = missing.len() < N;
        if !needed && !is_half {
            return Ok(None);
        }
        Err(DestinationError::Missing {
            chosen_by,
            destination: self.name,
            what: if is_half {
                "half of its key"
            } else {
                "its key"
            },
            variables: missing.join(" and "),
        })
    }

    fn resource(&self, lookup: Lookup<'_>) -> Vec<(Key, Value)> {
        let attributes = self.resource.iter();
        let set = attributes.filter_map(|(key, names)| {
            let (_, value) = first(lookup, names)?;
            Some((Key::from_static_str(key), Value::from(value)))
        });
        set.collect()
    }
}

/// Makes a header's value of keys. The first of their variables is blamed if it cannot be one.
fn credential<const N: usize>(
    keys: Option<[(&'static str, String); N]>,
    text: impl FnOnce([String; N]) -> String,
) -> Result<Option<HeaderValue>, DestinationError> {
    let Some(keys) = keys else {
        return Ok(None);
    };
    for (variable, key) in &keys {
        // Base64 would hide what is wrong with a half.
        headers::value(variable, key)?;
    }
    let variable = keys
        .first()
        .map(|(variable, _)| *variable)
        .unwrap_or_default();
    headers::value(variable, &text(keys.map(|(_, key)| key))).map(Some)
}

fn endpoint(
    address: &Address,
    signal: Signal,
    protocol: Protocol,
) -> Result<Uri, DestinationError> {
    match protocol {
        Protocol::Grpc => address.grpc(),
        Protocol::HttpProtobuf | Protocol::HttpJson => address.http(signal),
    }
}

fn is_host_part(text: &str) -> bool {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.');
    !text.is_empty() && text.chars().all(fits) && !text.starts_with('.') && !text.ends_with('.')
}

#[cfg(test)]
mod tests;
