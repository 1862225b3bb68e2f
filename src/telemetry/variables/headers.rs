//! The headers of requests. Their values are credentials: no error and no `Debug` output repeats one.

use std::str::FromStr;

use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::DestinationError;

/// Reads headers as the specification writes them: W3C Baggage without its properties.
pub(super) fn list(variable: &'static str, text: &str) -> Result<HeaderMap, DestinationError> {
    let mut headers = HeaderMap::new();
    let members = text
        .split(',')
        .enumerate()
        .filter(|(_, member)| !member.trim().is_empty());
    for (index, member) in members {
        let error = |reason| DestinationError::Headers {
            variable,
            member: index + 1,
            reason,
        };
        let (name, value) = member.split_once('=').ok_or_else(|| error("it has no ="))?;
        let name =
            HeaderName::from_str(name.trim()).map_err(|_| error("its name is no header name"))?;
        let value: Vec<u8> = percent_decode_str(value.trim()).collect();
        let mut value = HeaderValue::from_bytes(&value)
            .map_err(|_| error("its value has control characters"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    // How a request is framed and written is not the user's to say: it would garble every request.
    for name in [
        CONNECTION,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_TYPE,
        TRANSFER_ENCODING,
    ] {
        headers.remove(name);
    }
    Ok(headers)
}

/// Makes a header's value of one variable's; `variable` is blamed if it cannot be one.
pub(super) fn value(variable: &'static str, text: &str) -> Result<HeaderValue, DestinationError> {
    let unusable = |_| DestinationError::Key { variable };
    let mut value = HeaderValue::from_str(text).map_err(unusable)?;
    value.set_sensitive(true);
    Ok(value)
}
