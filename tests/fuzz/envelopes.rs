//! What the reader of Connect's envelopes must do with any body, in any pieces: the same, and without a loss.

use sandtrace_client::e2b::envelope::{EnvelopeError, Envelopes, Part, enclosed};

/// The first byte is the length of the pieces.
pub(crate) fn check(input: &[u8]) {
    let Some((length, body)) = input.split_first() else {
        return;
    };
    let whole = read(body, usize::MAX);
    assert_eq!(read(body, usize::from(*length).max(1)), whole);

    // What was read, written again, is how the body begins.
    let mut written = Vec::new();
    for part in &whole.0 {
        match part {
            Part::Message(message) => written.extend(enclosed(message)),
            Part::End(_) => break,
        }
    }
    assert!(body.starts_with(&written));
    let ends = whole.0.iter().filter(|part| matches!(part, Part::End(_)));
    let ends = ends.count();
    assert!(ends <= 1, "there is one end");
    if whole.1.is_ok() {
        assert_eq!(ends, 1, "a body without an end was cut");
    }
}

fn read(body: &[u8], length: usize) -> (Vec<Part>, Result<(), EnvelopeError>) {
    let mut envelopes = Envelopes::new();
    let mut parts = Vec::new();
    for piece in body.chunks(length.min(body.len().max(1))) {
        envelopes.feed(piece);
        loop {
            match envelopes.next() {
                Ok(Some(part)) => parts.push(part),
                Ok(None) => break,
                Err(error) => return (parts, Err(error)),
            }
        }
    }
    let end = envelopes.finish();
    (parts, end)
}
