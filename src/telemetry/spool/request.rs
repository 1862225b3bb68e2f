//! One request as a file: a line of JSON that says what it is, then the body exactly as it is sent.
//!
//! ```text
//! {"spool":1,"destination":"otlp","signal":"traces",…,"bytes":4711,"sha256":"…"}
//! <4711 bytes>
//! ```
//!
//! The checksum is SHA-256 of the line as far as it goes before the checksum, and of the body: a file that a crash tore
//! or that somebody altered, in its body or in its address, is never sent. What a request needs besides (headers, with
//! their credentials, and the query of the address) is not in the file; whoever sends it takes that from its own
//! configuration.

use std::fmt::Write as _;

use bytes::Bytes;
use http::Uri;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::super::destination::{Protocol, Route, Signal};
use super::super::encode::is_gzip;

/// The first version of the file.
const VERSION: u32 = 1;
/// Between the line's other members and its checksum.
const CHECKSUM: &str = ",\"sha256\":\"";
const CHECKSUM_END: &str = "\"}";
/// A SHA-256 in hexadecimal digits.
const DIGITS: usize = 64;
/// The longest first line that is read; ours have some 300 bytes and an address.
const LONGEST_LINE: usize = 8 << 10;

/// What every version's first line says, within [`LONGEST_LINE`]: by this a reader knows that a file is not for it.
#[derive(Debug, Deserialize)]
struct Version {
    spool: u32,
}

/// Where a request is to go. It says nothing secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Address {
    pub(crate) destination: String,
    signal: String,
    protocol: String,
    /// Scheme, host, port and path.
    pub(crate) endpoint: String,
}

impl Address {
    pub(crate) fn new(destination: &str, route: &Route) -> Self {
        let protocol = match route.protocol {
            Protocol::HttpProtobuf => "http/protobuf",
            Protocol::HttpJson => "http/json",
            Protocol::Grpc => "grpc",
        };
        Self {
            destination: destination.to_owned(),
            signal: word(route.signal).to_owned(),
            protocol: protocol.to_owned(),
            endpoint: without_secrets(&route.endpoint),
        }
    }

    /// The signal, as it stands in an address.
    pub(crate) fn signal(&self) -> &str {
        &self.signal
    }
}

/// The signal's name in files and messages.
pub(crate) fn word(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "traces",
        Signal::Metrics => "metrics",
        Signal::Logs => "logs",
    }
}

/// An address without its query, where some backends take their token, and without a user's name and password.
fn without_secrets(endpoint: &Uri) -> String {
    let scheme = endpoint.scheme_str().unwrap_or("http");
    let authority = endpoint
        .authority()
        .map_or("", |authority| authority.as_str());
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{}", endpoint.path())
}

/// Whether a request waits for its turn or for the run's end, as of when it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Ready,
    /// The run is not sampled: it is sent if the run fails or is slow, or if its supervisor was killed.
    Held,
}

/// What the first line says, but for the checksum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    spool: u32,
    #[serde(flatten)]
    pub(crate) address: Address,
    /// Spans, log records or data points.
    pub(crate) items: u64,
    encoding: String,
    pub(crate) state: State,
    /// Where it was made, and from where alone it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sandbox: Option<String>,
    bytes: u64,
}

/// Why a file is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    #[error("it is torn")]
    Torn,
    #[error("it was altered")]
    Altered,
    #[error("its first line says nothing that is known")]
    Unknown,
    /// No damage at all: whoever wrote it can send it.
    #[error("a newer sandtrace wrote it, in version {version} of the format")]
    Newer { version: u32 },
}

/// What stands in a file before its body.
pub(crate) fn head(
    address: &Address,
    items: u64,
    state: State,
    sandbox: Option<&str>,
    body: &[u8],
) -> Vec<u8> {
    let encoding = if is_gzip(body) { "gzip" } else { "identity" };
    let header = Header {
        spool: VERSION,
        address: address.clone(),
        items,
        encoding: encoding.to_owned(),
        state,
        sandbox: sandbox.map(str::to_owned),
        bytes: body.len() as u64,
    };
    // Strings and numbers always serialize; a line that could not would be found out by its checksum.
    let mut line = serde_json::to_string(&header).unwrap_or_default();
    line.pop();
    let checksum = checksum(line.as_bytes(), body);
    line.push_str(CHECKSUM);
    line.push_str(&checksum);
    line.push_str(CHECKSUM_END);
    line.push('\n');
    line.into_bytes()
}

/// Reads a whole file; the body is as it was written, or there is none.
pub(crate) fn decode(file: Vec<u8>) -> Result<(Header, Bytes), Damage> {
    let (header, start) = line(&file)?;
    let present = (file.len() - start) as u64;
    match present.cmp(&header.bytes) {
        std::cmp::Ordering::Less => return Err(Damage::Torn),
        std::cmp::Ordering::Greater => return Err(Damage::Altered),
        std::cmp::Ordering::Equal => {}
    }
    let end = start - 1 - CHECKSUM_END.len();
    let said = &file[end - DIGITS..end];
    let covered = end - DIGITS - CHECKSUM.len();
    if checksum(&file[..covered], &file[start..]).as_bytes() != said {
        return Err(Damage::Altered);
    }
    Ok((header, Bytes::from(file).slice(start..)))
}

/// Reads the first line of a file, from its first bytes, and says where the body starts. Nothing is verified.
pub(crate) fn line(start: &[u8]) -> Result<(Header, usize), Damage> {
    let window = &start[..start.len().min(LONGEST_LINE)];
    let Some(length) = memchr::memchr(b'\n', window) else {
        return Err(if start.len() < LONGEST_LINE {
            Damage::Torn
        } else {
            Damage::Unknown
        });
    };
    let text = &start[..length];
    if let Ok(Version { spool: version }) = serde_json::from_slice(text)
        && version > VERSION
    {
        return Err(Damage::Newer { version });
    }
    let tail = CHECKSUM.len() + DIGITS + CHECKSUM_END.len();
    let is_ours = length > tail
        && text.ends_with(CHECKSUM_END.as_bytes())
        && text[length - tail..].starts_with(CHECKSUM.as_bytes());
    if !is_ours {
        return Err(Damage::Unknown);
    }
    let header: Header = serde_json::from_slice(text).map_err(|_| Damage::Unknown)?;
    if header.spool != VERSION {
        return Err(Damage::Unknown);
    }
    Ok((header, length + 1))
}

fn checksum(line: &[u8], body: &[u8]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(line);
    hasher.update(body);
    let mut text = String::with_capacity(DIGITS);
    for byte in hasher.finalize() {
        // Writing to a string cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderMap;

    use super::super::super::destination::{Compression, TlsFiles};
    use super::*;

    fn route(endpoint: &str) -> Route {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer hush".parse().unwrap());
        Route {
            signal: Signal::Traces,
            endpoint: endpoint.parse().unwrap(),
            headers,
            protocol: Protocol::HttpProtobuf,
            compression: Compression::None,
            timeout: Duration::from_secs(1),
            tls: TlsFiles::default(),
        }
    }

    fn encode(address: &Address, items: u64, state: State, body: &[u8]) -> Vec<u8> {
        let mut file = head(address, items, state, Some("here"), body);
        file.extend_from_slice(body);
        file
    }

    #[test]
    fn an_address_holds_no_credentials() {
        let route = route("https://user:hush@backend.example:4318/v1/traces?token=hush");
        let address = Address::new("otlp", &route);
        assert_eq!(address.endpoint, "https://backend.example:4318/v1/traces");
        let file = encode(&address, 1, State::Ready, b"body");
        assert!(!String::from_utf8(file).unwrap().contains("hush"));
    }

    #[test]
    fn a_file_gives_back_what_it_was_made_of() {
        let address = Address::new("otlp", &route("http://a/v1/traces"));
        for body in [&b""[..], b"{}\n", &[0x1f, 0x8b, 0, b'\n'], &[7; 70_000]] {
            let file = encode(&address, 3, State::Held, body);
            let (header, read) = decode(file).unwrap();
            assert_eq!(read, body);
            assert_eq!((header.items, header.state), (3, State::Held));
            assert_eq!(header.sandbox.as_deref(), Some("here"));
            assert_eq!(header.address, address);
        }
    }

    #[test]
    fn no_torn_or_altered_file_is_read() {
        let address = Address::new("otlp", &route("http://a/v1/traces"));
        let whole = encode(&address, 3, State::Ready, b"some bytes\nof a body");
        for length in 0..whole.len() {
            decode(whole[..length].to_vec()).unwrap_err();
        }
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 1;
            decode(altered).unwrap_err();
        }
        let mut longer = whole.clone();
        longer.push(b'x');
        assert_eq!(decode(longer), Err(Damage::Altered));
        let elsewhere = String::from_utf8(whole.clone())
            .unwrap()
            .replace("http://a/", "http://b/");
        assert_eq!(decode(elsewhere.into_bytes()), Err(Damage::Altered));
        decode(whole).unwrap();
    }

    #[test]
    fn a_newer_file_is_told_from_a_damaged_one() {
        let newer = |version| Err(Damage::Newer { version });
        for (file, expected) in [
            ("{\"spool\":2}\nwhatever", newer(2)),
            (
                "{\"checked\":[\"otherwise\"],\"spool\":3,\"sha256\":1}\n",
                newer(3),
            ),
            ("{\"spool\":1}\n", Err(Damage::Unknown)),
            ("{\"spool\":0}\n", Err(Damage::Unknown)),
            ("{\"spool\":-2}\n", Err(Damage::Unknown)),
            ("{\"spool\":\"2\"}\n", Err(Damage::Unknown)),
            ("2\n", Err(Damage::Unknown)),
            ("{\"spool\":2}", Err(Damage::Torn)),
        ] {
            let found = line(file.as_bytes()).map(|_| ());
            assert_eq!(found, expected, "{file:?}");
        }
    }
}
