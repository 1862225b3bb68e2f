//! The secrets that we know by heart: values of variables whose name says that they are secret, and the forms in which
//! such a value turns up in texts.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::Value;

use super::needles::{Case, Needles};
use crate::telemetry::secrets::is_exporter_secret;

/// A shorter value may be any word, and would be taken out of everything.
const SHORTEST: usize = 8;
/// A longer value is no key but a document; it is looked for as it is, not in other spellings.
const LONGEST_SPELLED: usize = 4 << 10;
/// A line of a value of several lines that is a secret by itself, as those of a private key are.
const SHORTEST_LINE: usize = 20;

/// What variables of secret names hold in every other example, and nobody keeps secret.
const WORDS: &[&str] = &[
    "anonymous",
    "changeit",
    "changeme",
    "disabled",
    "localhost",
    "optional",
    "password",
    "postgres",
    "postgresql",
    "required",
    "undefined",
    "username",
];

/// A name's segment that makes its value a secret.
const SECRET_SEGMENTS: &[&str] = &[
    "ACCESSKEY",
    "APIKEY",
    "APIKEYS",
    "AUTH",
    "AUTHKEY",
    "AUTHORIZATION",
    "AUTHTOKEN",
    "BEARER",
    "COOKIE",
    "COOKIES",
    "CREDENTIAL",
    "CREDENTIALS",
    "CREDS",
    "DSN",
    "JWT",
    "KEY",
    "KEYS",
    "PASS",
    "PASSPHRASE",
    "PASSWD",
    "PASSWORD",
    "PASSWORDS",
    "PAT",
    "PRIVATE",
    "PRIVATEKEY",
    "PWD",
    "SAS",
    "SECRET",
    "SECRETKEY",
    "SECRETS",
    "SIGNATURE",
    "TOKEN",
    "TOKENS",
    "WEBHOOK",
];

/// The end of a segment that does, as in PGPASSWORD.
const SECRET_ENDINGS: &[&str] = &[
    "PASSWORD",
    "PASSWD",
    "TOKEN",
    "SECRET",
    "APIKEY",
    "SECRETKEY",
];

/// A name's last segment that says that the value is not the secret but something about it.
const ABOUT: &[&str] = &[
    "ADDR",
    "ALGORITHM",
    "AUDIENCE",
    "BACKEND",
    "CLASS",
    "COUNT",
    "DIR",
    "DIRECTORY",
    "DOMAIN",
    "DRIVER",
    "ENABLED",
    "ENDPOINT",
    "EXPIRY",
    "FD",
    "FILE",
    "FORMAT",
    "HELPER",
    "HOST",
    "ID",
    "ISSUER",
    "LENGTH",
    "LIMIT",
    "METHOD",
    "MODE",
    "NAME",
    "PATH",
    "PLUGIN",
    "PORT",
    "PROVIDER",
    "REALM",
    "REGION",
    "REGISTRY",
    "SCHEME",
    "SIZE",
    "SOCK",
    "SOCKET",
    "SOURCE",
    "STORE",
    "TIMEOUT",
    "TTL",
    "TYPE",
    "URI",
    "URL",
    "USER",
    "USERNAME",
    "VERSION",
];

/// A header of a list of headers that holds no secret.
const HARMLESS_HEADERS: &[&str] = &[
    "accept",
    "agent",
    "dataset",
    "encoding",
    "environment",
    "host",
    "language",
    "length",
    "name",
    "project",
    "region",
    "service",
    "source",
    "tenant",
    "type",
    "version",
];

/// Whether a variable's name says that its value is secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    if is_exporter_secret(name) {
        return true;
    }
    let name = name.to_ascii_uppercase();
    let segments = name.split(['_', '-', '.']);
    let segments: Vec<&str> = segments.filter(|part| !part.is_empty()).collect();
    // Our own directory, and the shell's last one.
    if matches!(segments[..], [] | ["PWD"] | ["OLDPWD"]) {
        return false;
    }
    let is_secret = |segment: &&str| {
        SECRET_SEGMENTS.contains(segment)
            || SECRET_ENDINGS
                .iter()
                .any(|ending| segment.ends_with(ending))
    };
    let is_connection = segments.ends_with(&["CONNECTION", "STRING"]);
    let is_about =
        segments.last().is_some_and(|last| ABOUT.contains(last)) && !segments.contains(&"WEBHOOK");
    let is_public = segments
        .iter()
        .any(|part| matches!(*part, "PUBLIC" | "PUB" | "PUBKEY"));
    (segments.iter().any(is_secret) || is_connection) && !is_about && !is_public
}

/// Whether a member of a JSON object is secret by its name. Stricter: `key` is anything there.
pub(super) fn is_secret_member(name: &str) -> bool {
    let mut spelled = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() && spelled.ends_with(|last: char| last.is_ascii_lowercase()) {
            spelled.push('_');
        }
        spelled.push(c);
    }
    let bare = ["key", "keys", "auth", "private", "pass", "pat", "signature"];
    !bare.iter().any(|word| spelled.eq_ignore_ascii_case(word)) && is_secret_name(&spelled)
}

/// The secrets that a variable's value is or holds.
pub(super) fn secrets_in(name: &str, value: &str) -> Vec<String> {
    let mut secrets = Vec::new();
    if name.to_ascii_uppercase().ends_with("_HEADERS") {
        headers(value, &mut secrets);
    } else if is_secret_name(name) {
        whole(value, &mut secrets);
    }
    secrets.extend(url_passwords(value));
    secrets.retain(|secret| is_worth(secret));
    secrets.sort_unstable();
    secrets.dedup();
    secrets
}

fn is_worth(secret: &str) -> bool {
    secret.len() >= SHORTEST && !WORDS.iter().any(|word| secret.eq_ignore_ascii_case(word))
}

/// The value, its lines, and the strings in it if it is JSON.
fn whole(value: &str, secrets: &mut Vec<String>) {
    let value = value.trim();
    secrets.push(value.to_owned());
    let lines = value.split(['\n', ',']).map(str::trim);
    secrets.extend(
        lines
            .filter(|line| line.len() >= SHORTEST_LINE && !line.starts_with("-----"))
            .map(str::to_owned),
    );
    if let Some((scheme, rest)) = value.split_once(' ')
        && ["bearer", "basic", "token"].contains(&scheme.to_ascii_lowercase().as_str())
    {
        secrets.push(rest.trim().to_owned());
    }
    if value.starts_with('{')
        && let Ok(Value::Object(members)) = serde_json::from_str(value)
    {
        for (name, member) in members {
            if let Value::String(text) = member
                && is_secret_member(&name)
                && value != text
            {
                whole(&text, secrets);
            }
        }
    }
}

/// `name=value,name=value` with percent-encoding, as OpenTelemetry has it, or `Name: value` on lines of their own.
fn headers(list: &str, secrets: &mut Vec<String>) {
    for member in list.split([',', '\n']) {
        let Some((name, value)) = member.split_once(['=', ':']) else {
            continue;
        };
        let name = name.trim().to_ascii_lowercase();
        if name
            .rsplit(['-', '_'])
            .next()
            .is_some_and(|last| HARMLESS_HEADERS.contains(&last))
        {
            continue;
        }
        let raw = value.trim();
        let value = percent_decode_str(raw).decode_utf8_lossy();
        for value in [raw, value.trim()] {
            secrets.push(value.to_owned());
            let Some((scheme, rest)) = value.split_once(' ') else {
                continue;
            };
            let rest = rest.trim();
            secrets.push(rest.to_owned());
            if scheme.eq_ignore_ascii_case("basic") {
                secrets.extend(basic_password(rest));
            }
        }
    }
}

fn basic_password(credentials: &str) -> Option<String> {
    let decoded = STANDARD_NO_PAD
        .decode(credentials.trim_end_matches('='))
        .ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    decoded
        .split_once(':')
        .map(|(_, password)| password.to_owned())
}

/// `scheme://user:password@host`, anywhere in a value; the password as it is, and decoded.
fn url_passwords(value: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in value.match_indices("://") {
        let authority = &value[at + 3..];
        let end = authority.find(['/', '?', '#', ' ', '"', '\'', '\n']);
        let authority = &authority[..end.unwrap_or(authority.len())];
        if let Some((user, _)) = authority.rsplit_once('@')
            && let Some((_, password)) = user.split_once(':')
        {
            found.push(password.to_owned());
            found.push(
                percent_decode_str(password)
                    .decode_utf8_lossy()
                    .into_owned(),
            );
        }
    }
    found
}

/// What is encoded in a URL; some encoders leave `-._~` alone, and all agree on the rest.
const URL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Puts a secret into the set in every form that it is looked for in.
pub(super) fn enlist(secret: &str, needles: &mut Needles, of: u32) {
    let mut add = |form: String| {
        if form.len() >= SHORTEST {
            needles.add(form.into_bytes(), Case::Exact, of);
        }
    };
    add(secret.to_owned());
    let json = in_json(secret);
    // Twice, as in a JSON document within another.
    add(in_json(&json));
    add(json.replace('/', "\\/"));
    add(json);
    if secret.len() > LONGEST_SPELLED {
        return;
    }
    let encoded = utf8_percent_encode(secret, URL).to_string();
    add(encoded.replace("%20", "+"));
    add(lower_escapes(&encoded));
    add(encoded);
    for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
        for before in 0..3 {
            add(base64_core(engine, secret.as_bytes(), before));
        }
    }
}

/// The characters of a base64 text that a secret alone decides, where `before` bytes of its first group of three are
/// something else's.
fn base64_core(engine: &impl base64::Engine, secret: &[u8], before: usize) -> String {
    let mut bytes = vec![0; before];
    bytes.extend_from_slice(secret);
    let text = engine.encode(&bytes);
    // Six bits a character: those that hold a bit of a neighbour's are left out at both ends.
    let from = (before * 8).div_ceil(6);
    let to = bytes.len() * 8 / 6;
    text.get(from..to).unwrap_or_default().to_owned()
}

/// A text as it stands between the quotes of a JSON string.
fn in_json(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// `%2F` as `%2f`.
fn lower_escapes(encoded: &str) -> String {
    let mut digits = 0;
    let lower = encoded.chars().map(|c| {
        let is_digit = digits > 0;
        digits = if c == '%' {
            2_u8
        } else {
            digits.saturating_sub(1)
        };
        if is_digit { c.to_ascii_lowercase() } else { c }
    });
    lower.collect()
}

#[cfg(test)]
mod tests;
