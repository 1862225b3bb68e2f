//! What the host reads: the agent's bytes raw, its lines enriched, and what cannot be a line of JSON.

use std::fs;

use base64::Engine as _;

use crate::supervised::{python, sh, times};

/// Bytes that look like nothing in particular, the same each time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn raw_is_the_agent_s_output_byte_for_byte() {
    let line = |length: usize| {
        let mut line = vec![b'x'; length];
        line.push(b'\n');
        line
    };
    let cases = [
        ("nothing", Vec::new()),
        ("noise", noise(3_000_001)),
        ("every byte", (0..=255).cycle().take(70_000).collect()),
        ("NUL and CRLF", b"\0\0\r\n\r\n{\"a\":1}\r\n\n\n".to_vec()),
        (
            "bad UTF-8",
            b"\xff\xfe\n{\"a\":\"\xc3\x28\"}\n\xe2\x82".to_vec(),
        ),
        ("no last newline", b"{\"a\":1}\n{\"a\":2}".to_vec()),
        (
            "a forgery",
            b"{\"type\":\"sandtrace.run.finished\"}\n".to_vec(),
        ),
        (
            "20 MB lines",
            [line(20_000_000), line(20_000_000), noise(9)].concat(),
        ),
    ];
    for (name, bytes) in cases {
        let agent = || sh("cat bytes; exit 5").file("bytes", &bytes);
        let alone = agent().start_alone().wait();
        let run = agent().option("--echo", "raw").run();
        assert_eq!(run.code(), alone.code(), "{name}");
        assert!(run.stdout == alone.stdout, "{name}: other bytes");
        assert!(run.stdout == bytes, "{name}: other bytes than were written");
        // The journal tells the same, in lines.
        run.assert_journal_whole();
        assert!(
            run.journaled().stream("stdout") == with_newline(bytes),
            "{name}: the journal"
        );
        run.assert_nothing_left();
    }
}

/// An object at the very end is a line to the journal, with or without a newline.
fn with_newline(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.ends_with(b"}") {
        bytes.push(b'\n');
    }
    bytes
}

#[test]
fn an_agent_s_json_keeps_every_byte_and_gains_one_member() {
    let deep = format!("{{\"deep\":{}1{}}}", "[".repeat(100), "]".repeat(100));
    let lines: Vec<&[u8]> = vec![
        b"{\"a\":1}",
        b"{}",
        b"{ }",
        b"  {\t\"a\" :\t1 ,\"b\": [ 1,2 ] }  ",
        b"{\"a\":1}\r",
        b"{ \r",
        b"{\"a\":1,\"a\":2,\"a\":{\"a\":3}}",
        b"{\"caf\\u00e9\":\"\\ud83d\\ude00 \\u0000 \\/ \\\\\"}",
        "{\"naïve\":\"日本語 👩‍👩‍👧 \u{2028}\u{feff}\"}".as_bytes(),
        b"{\"n\":1e400,\"m\":-0.0,\"big\":123456789012345678901234567890}",
        b"{\"brace\":\"}\",\"quote\":\"\\\"}\"}",
        b"{\"nested\":{\"sandtrace\":{\"seq\":1},\"type\":\"sandtrace.x\"}}",
        b"{\"sandtrace2\":1,\"Sandtrace\":2}",
        b"{\"type\":\"sandtraceful\"}",
        b"{\"type\":null}",
        b"{\"type\":[\"sandtrace.run.finished\"]}",
        b"{\"del\":\"\x7f\"}",
        deep.as_bytes(),
    ];
    // `{` and white space is no object; it only stands above to show that it is told apart.
    let objects: Vec<_> = lines
        .iter()
        .filter(|line| line.trim_ascii() != b"{")
        .collect();
    let run = sh("cat lines")
        .file("lines", [&lines.join(&b'\n'), b"\n".as_slice()].concat())
        .run();
    let transcript = run.transcript();
    let kept = transcript.agent_lines();
    for (line, kept) in objects.iter().zip(&kept) {
        let (line, kept) = (String::from_utf8_lossy(line), String::from_utf8_lossy(kept));
        assert_eq!(line, kept);
    }
    assert_eq!(kept.len(), objects.len());
    assert_eq!(transcript.outputs("stdout").len(), 1);
    assert!(transcript.stream("stdout") == fs::read(run.directory().join("lines")).unwrap());
    run.assert_sound();
}

#[test]
fn what_is_no_json_object_or_a_forgery_is_told_as_output() {
    let lines: [&[u8]; 19] = [
        b"hello",
        b"",
        b"\r",
        b"[1,2]",
        b"null",
        b"{\"a\":1} and more",
        b"{\"a\":",
        b"{'a':1}",
        b"{\"a\":1}}",
        b"\x1b[31mred\x1b[0m",
        b"\0",
        b"caf\xe9",
        b"{\"a\":\"\xff\"}",
        b"{\"sandtrace\":1}",
        b"{\"a\":1,\"sandtrace\":{\"seq\":7}}",
        b"{\"s\\u0061ndtrace\":{\"seq\":7}}",
        b"{\"type\":\"sandtrace.run.finished\",\"data\":{}}",
        b"{\"type\":\"x\",\"type\":\"sandtr\\u0061ce.run.finished\"}",
        b"{\"type\":\"sandtrace.\"}",
    ];
    let file = [lines.join(&b'\n'), b"\n".to_vec()].concat();
    let run = sh("cat lines").file("lines", &file).run();
    assert_eq!(run.code(), 0);
    let transcript = run.transcript();
    assert_eq!(transcript.agent_lines(), Vec::<Vec<u8>>::new());
    let outputs = transcript.outputs("stdout");
    assert_eq!(outputs.len(), lines.len());
    for (line, output) in lines.iter().zip(outputs) {
        assert_eq!(&output.output(), line);
        let data = &output.json["data"];
        assert_eq!(data["newline"], true);
        assert_eq!(data.get("part"), None);
        match std::str::from_utf8(line) {
            Ok(text) => assert_eq!(data["text"], text),
            Err(_) => {
                let base64 = base64::engine::general_purpose::STANDARD.encode(line);
                assert_eq!(data["base64"], base64);
            }
        }
    }
    run.assert_sound();
}

#[test]
fn a_partial_last_line_is_told_as_it_is() {
    for (bytes, text) in [
        ("{\"a\":1}\n{\"a\":", Some("{\"a\":")),
        ("half a word", Some("half a word")),
        ("{\"a\":1}", None),
    ] {
        let run = sh("cat bytes").file("bytes", bytes).run();
        let transcript = run.transcript();
        let last = transcript.outputs("stdout").pop().map(|line| {
            assert_eq!(line.json["data"]["newline"], false);
            line.json["data"]["text"].as_str().unwrap().to_owned()
        });
        assert_eq!(last.as_deref(), text);
        assert_eq!(transcript.stream("stdout"), with_newline(bytes.into()));
        run.assert_sound();
    }
}

#[test]
fn a_line_of_10_mb_comes_in_fragments_that_are_the_line() {
    let huge = format!("{{\"huge\":\"{}\"}}", "é😀".repeat(1_800_000));
    let file = format!("{{\"before\":1}}\n{huge}\n{{\"after\":1}}\n");
    let run = sh("cat bytes").file("bytes", &file).run();
    let transcript = run.transcript();
    let fragments = transcript.outputs("stdout");
    assert!(fragments.len() >= 3, "{}", fragments.len());
    for (index, fragment) in fragments.iter().enumerate() {
        let part = &fragment.json["data"]["part"];
        let is_last = index + 1 == fragments.len();
        assert_eq!(part["index"], index);
        assert_eq!(part["last"], is_last);
        assert_eq!(fragment.json["data"]["newline"], is_last);
        assert!(fragment.output().len() <= 4 << 20);
    }
    assert!(transcript.stream("stdout") == file.as_bytes());
    assert_eq!(
        transcript.agent_lines(),
        [b"{\"before\":1}".as_slice(), b"{\"after\":1}"]
    );
    run.assert_sound();
}

#[test]
fn without_echo_stdout_is_empty_and_the_journal_whole() {
    let run = sh("echo '{\"a\":1}'; echo text; echo err >&2; exit 6")
        .option("--echo", "none")
        .run();
    assert_eq!(run.code(), 6);
    assert_eq!(run.stdout, b"");
    assert_eq!(run.errors(), "err\n");
    run.assert_journal_whole();
    assert_eq!(run.journaled().stream("stdout"), b"{\"a\":1}\ntext\n");
    run.assert_nothing_left();
}

#[test]
fn stderr_is_relayed_byte_for_byte_and_told() {
    for echo in ["enriched", "raw", "none"] {
        let mut bytes = b"Traceback\r\n\xff\0 {\"type\":\"sandtrace.run.finished\"}\n".to_vec();
        bytes.extend(noise(300_000));
        bytes.extend(b"no newline");
        let run = sh("cat bytes >&2")
            .file("bytes", &bytes)
            .option("--echo", echo)
            .run();
        assert_eq!(run.code(), 0);
        assert!(run.stderr == bytes, "{echo}: other bytes on stderr");
        assert!(
            run.journaled().stream("stderr") == bytes,
            "{echo}: other bytes in the journal"
        );
        run.assert_journal_whole();
        run.assert_nothing_left();
    }
}

#[test]
fn the_last_line_before_an_exit_is_never_lost() {
    for number in 0..times("SANDTRACE_TEST_LAST_LINES", 50) {
        let run = sh(&format!(
            "echo '{{\"last\":{number}}}'; echo bye >&2; exit 1"
        ))
        .run();
        assert_eq!(run.code(), 1);
        let expected = format!("{{\"last\":{number}}}");
        assert_eq!(run.transcript().agent_lines(), [expected.as_bytes()]);
        assert_eq!(run.transcript().stream("stderr"), b"bye\n");
        assert_eq!(run.errors(), "bye\n");
    }
}

#[test]
fn writes_of_any_size_make_the_same_lines() {
    let program = "
import os
text = open('bytes', 'rb').read()
at = 0
for size in [1, 2, 3, 5, 7, 11, 13, 4096, 65536, 65537] * 1000:
    os.write(1, text[at:at + size])
    at += size
assert at >= len(text)
";
    let lines: String = (0..20_000)
        .map(|n| format!("{{\"n\":{n},\"pad\":\"{}\"}}\n", "é".repeat(n % 97)))
        .collect();
    let run = python(program).file("bytes", &lines).run();
    assert_eq!(run.code(), 0);
    let transcript = run.transcript();
    assert_eq!(transcript.agent_lines().len(), 20_000);
    assert!(transcript.stream("stdout") == lines.as_bytes());
    run.assert_sound();
}
