//! Connect's envelopes, in any pieces, and what is none.

use proptest::collection::vec;
use proptest::prelude::*;
use sandtrace_client::e2b::envelope::{EnvelopeError, Envelopes, LONGEST, Part, enclosed};
use sandtrace_client::e2b::{Code, Refusal};

type Read = (Vec<Part>, Result<(), EnvelopeError>);

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let mut envelopes = Envelopes::new();
    let mut parts = Vec::new();
    for piece in pieces {
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

fn envelope(flags: u8, message: &[u8]) -> Vec<u8> {
    let mut envelope = enclosed(message);
    envelope[0] = flags;
    envelope
}

fn outcome(body: &[u8]) -> Result<(), EnvelopeError> {
    read([body]).1
}

fn end(json: &str) -> Option<Refusal> {
    match read([envelope(2, json.as_bytes()).as_slice()]).0.as_slice() {
        [Part::End(refusal)] => refusal.clone(),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn messages_come_out_as_they_went_in_however_the_body_is_cut(
        messages in vec(vec(any::<u8>(), 0..300), 0..8),
        lengths in vec(1_usize..40, 1..6),
        missing in 0_usize..40,
    ) {
        let mut body: Vec<u8> = messages.iter().flat_map(|message| enclosed(message)).collect();
        body.extend(envelope(2, b"{}"));
        let mut pieces = Vec::new();
        let mut rest = body.as_slice();
        for length in lengths.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*length).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        let (parts, outcome) = read(pieces);
        prop_assert_eq!(outcome, Ok(()));
        let mut expected: Vec<Part> = messages.iter().map(|it| Part::Message(it.clone().into())).collect();
        expected.push(Part::End(None));
        prop_assert_eq!(&parts, &expected);

        // Without its last bytes it was cut, and what was whole of it is there.
        let missing = missing.clamp(1, body.len());
        let (parts, outcome) = read([&body[..body.len() - missing]]);
        prop_assert_eq!(outcome, Err(EnvelopeError::Cut));
        prop_assert_eq!(&parts[..], &expected[..parts.len()]);
    }

    #[test]
    fn nothing_breaks_the_reader(pieces in vec(vec(any::<u8>(), 0..40), 0..8)) {
        drop(read(pieces.iter().map(Vec::as_slice)));
    }
}

#[test]
fn what_is_no_stream_of_envelopes_is_told_by_its_head() {
    // Of the long one no more than the head is there: it is not waited for.
    let length = u32::try_from(LONGEST).unwrap() + 1;
    let too_long = [&[0][..], &length.to_be_bytes()].concat();
    for (body, error) in [
        (envelope(1, b"x"), EnvelopeError::Compressed),
        (envelope(3, b"x"), EnvelopeError::Compressed),
        (vec![1], EnvelopeError::Compressed),
        (vec![0x80], EnvelopeError::Flags(0x80)),
        (envelope(6, b"{}"), EnvelopeError::Flags(6)),
        (too_long, EnvelopeError::TooLong(length)),
        (vec![], EnvelopeError::Cut),
        (enclosed(b"{}"), EnvelopeError::Cut),
        (
            [envelope(2, b"{}"), vec![0]].concat(),
            EnvelopeError::AfterEnd,
        ),
        (
            [envelope(2, b"{}"), envelope(2, b"{}")].concat(),
            EnvelopeError::AfterEnd,
        ),
    ] {
        assert_eq!(outcome(&body), Err(error), "{body:?}");
    }
    assert!(matches!(
        outcome(&envelope(2, b"")),
        Err(EnvelopeError::End(_))
    ));
    assert!(matches!(
        outcome(&envelope(2, b"[{]")),
        Err(EnvelopeError::End(_))
    ));
    assert_eq!(
        outcome(&envelope(2, br#"{"metadata":{"k":["v"]}}"#)),
        Ok(())
    );
}

#[test]
fn the_end_of_a_stream_says_who_ended_it() {
    assert_eq!(end("{}"), None);
    assert_eq!(end(r#"{"error":null}"#), None);
    for (json, code, text) in [
        (
            r#"{"error":{"code":"deadline_exceeded","message":"too late","details":[{"type":"x","value":"eA"}]}}"#,
            Code::DeadlineExceeded,
            "deadline_exceeded: too late",
        ),
        (
            r#"{"error":{"code":502,"message":"The sandbox was not found"}}"#,
            Code::Status(502),
            "HTTP 502: The sandbox was not found",
        ),
        (
            r#"{"error":{"code":"brand_new"}}"#,
            Code::Other("brand_new".into()),
            "brand_new",
        ),
        (r#"{"error":{}}"#, Code::Unknown, "unknown"),
    ] {
        let refusal = end(json).unwrap();
        assert_eq!((&refusal.code, refusal.to_string().as_str()), (&code, text));
    }
}
