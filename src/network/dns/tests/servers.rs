use super::*;

/// A record of the question's name, or of the name at `owner` in the message.
fn record(owner: usize, kind: u16, data: &[u8]) -> Vec<u8> {
    let mut record = vec![0xc0, u8::try_from(owner).unwrap()];
    record.extend_from_slice(&kind.to_be_bytes());
    record.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
    record.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
    record.extend_from_slice(data);
    record
}

const QUESTION: usize = 12;
const CNAME: u16 = 5;

/// "other", below what the question's name has after its first label.
fn other(question: &Question) -> Vec<u8> {
    let parent = QUESTION + 1 + usize::from(question.bytes[QUESTION]);
    [
        b"\x05other\xc0".as_slice(),
        &[u8::try_from(parent).unwrap()],
    ]
    .concat()
}

fn answer(question: &Question, records: &[Vec<u8>]) -> Vec<u8> {
    let mut answer = question.answer(FOUND, &[]);
    answer[7] = u8::try_from(records.len()).unwrap();
    answer.extend(records.concat());
    answer
}

/// Servers on 127.0.0.1, 127.0.0.2 and so on, all at one port, in the order in which they are to be asked.
fn machine(scripts: &[Script]) -> Machine {
    let sockets = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        let bound: Vec<_> = (1..=scripts.len())
            .filter_map(|last| {
                let at = format!("127.0.0.{last}:{port}");
                let udp = match last {
                    1 => udp.try_clone(),
                    _ => UdpSocket::bind(&at),
                };
                Some((udp.ok()?, TcpListener::bind(&at).ok()?))
            })
            .collect();
        if bound.len() == scripts.len() {
            break bound;
        }
    };
    let mut conf = "options timeout:1\n".to_owned();
    let mut port = 0;
    for ((udp, tcp), script) in sockets.into_iter().zip(scripts) {
        conf.push_str(&format!("nameserver {}\n", udp.local_addr().unwrap().ip()));
        port = serve_with(udp, tcp, *script);
    }
    let machine = Machine {
        directory: tempfile::tempdir().unwrap(),
        port,
    };
    machine.file("resolv.conf", &conf)
}

#[test]
fn an_alias_in_the_answer_is_followed() {
    let machine = machine(&[|question| {
        let alias = record(QUESTION, CNAME, &other(question));
        // Its data is the name that the alias stands for, and begins after the record's own 12 bytes.
        let target = question.bytes.len() + 12;
        let forged = record(QUESTION, A, V4);
        let kept = match question.kind {
            A => record(target, A, &[10, 0, 0, 3]),
            _ => return vec![answer(question, &[])],
        };
        vec![answer(question, &[alias, kept, forged])]
    }]);
    // What stands beside the alias under the same name is not its address.
    assert_eq!(
        machine.resolve("collector.test").unwrap(),
        [IpAddr::from([10, 0, 0, 3])]
    );
}

#[test]
fn an_alias_that_the_server_leaves_open_is_asked_for() {
    let machine = machine(&[|question| {
        let records = match question.name.as_str() {
            "other.test." => return vec![good(question)],
            _ => [record(QUESTION, CNAME, &other(question))],
        };
        vec![answer(question, &records)]
    }]);
    machine.finds("collector.test");
}

#[test]
fn aliases_without_end_are_given_up() {
    let circle = machine(&[|question| {
        let alias = record(QUESTION, CNAME, &[0xc0, u8::try_from(QUESTION).unwrap()]);
        vec![answer(question, &[alias])]
    }]);
    let error = circle.resolve("collector.test").unwrap_err();
    assert!(matches!(error, DnsError::Broken), "{error:?}");

    let endless = machine(&[|question| {
        let longer = [b"\x01a\xc0".as_slice(), &[u8::try_from(QUESTION).unwrap()]].concat();
        vec![answer(question, &[record(QUESTION, CNAME, &longer)])]
    }]);
    let error = endless.resolve("collector.test").unwrap_err();
    assert!(matches!(error, DnsError::NoAddress), "{error:?}");
}

#[test]
fn a_server_that_fails_makes_room_for_the_next() {
    const FAILED: Script = |question| vec![question.answer(0x8182, &[])];
    const REFUSED: Script = |question| vec![question.answer(0x8185, &[])];
    const SILENT: Script = |_| Vec::new();
    const GOOD: Script = |question| vec![good(question)];
    for scripts in [
        [FAILED, REFUSED, GOOD],
        [SILENT, FAILED, GOOD],
        [SILENT, GOOD, FAILED],
    ] {
        let machine = machine(&scripts).file(
            "resolv.conf",
            "nameserver 127.0.0.1\nnameserver 127.0.0.2\nnameserver 127.0.0.3\noptions timeout:10\n",
        );
        let started = Instant::now();
        machine.finds("collector.test");
        // Nobody waits for the end of the round, which the silent one would draw out.
        assert!(started.elapsed() < Duration::from_secs(9));
    }
}

#[test]
fn a_server_s_no_is_not_asked_about_elsewhere() {
    static ASKED: Mutex<usize> = Mutex::new(0);
    let machine = machine(&[
        |question| vec![question.answer(NO_SUCH_NAME, &[])],
        |_| Vec::new(),
        |question| {
            *ASKED.lock().unwrap() += 1;
            vec![good(question)]
        },
    ]);
    let error = machine.resolve("collector.test").unwrap_err();
    assert!(matches!(error, DnsError::NoSuchName), "{error:?}");
    assert_eq!(*ASKED.lock().unwrap(), 0);
}

#[test]
fn a_datagram_that_is_lost_is_sent_again() {
    static SEEN: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    let machine = machine(&[|question| {
        let mut seen = SEEN.lock().unwrap();
        match seen.contains(&question.bytes) {
            true => vec![good(question)],
            false => {
                seen.push(question.bytes.clone());
                Vec::new()
            }
        }
    }]);
    machine.finds("collector.test");
}

#[test]
fn a_server_that_says_nothing_is_asked_as_often_as_the_machine_says() {
    static NUMBERS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    let machine = machine(&[|question| {
        if question.kind == A {
            let mut numbers = NUMBERS.lock().unwrap();
            numbers.push(question.bytes[..2].to_vec());
            numbers.dedup();
        }
        Vec::new()
    }]);
    let started = Instant::now();
    let machine = machine.file(
        "resolv.conf",
        "nameserver 127.0.0.1\noptions timeout:1 attempts:3\n",
    );
    let error = machine.resolve("collector.test").unwrap_err();
    assert!(matches!(error, DnsError::Timeout), "{error:?}");
    assert!(started.elapsed() >= Duration::from_secs(3));
    assert_eq!(NUMBERS.lock().unwrap().len(), 3);
}

#[test]
fn the_number_of_a_query_cannot_be_guessed() {
    static NUMBERS: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let machine = machine(&[|question| {
        let number = u16::from_be_bytes([question.bytes[0], question.bytes[1]]);
        NUMBERS.lock().unwrap().push(number);
        vec![good(question)]
    }]);
    for _ in 0..16 {
        machine.finds("collector.test");
    }
    let mut numbers = NUMBERS.lock().unwrap().clone();
    let steps = numbers.windows(2).map(|two| two[1].wrapping_sub(two[0]));
    let mut steps: Vec<_> = steps.collect();
    for list in [&mut numbers, &mut steps] {
        list.sort_unstable();
        list.dedup();
        assert!(list.len() > 24, "{list:?}");
    }
}

#[test]
fn an_old_server_is_asked_in_the_old_way() {
    let machine = machine(&[|question| match question.bytes[11] {
        0 => vec![good(question)],
        _ => vec![question.answer(0x8181, &[])],
    }]);
    machine.finds("collector.test");
}

#[test]
fn an_answer_that_is_cut_off_even_over_tcp_is_broken() {
    let machine = machine(&[|question| vec![question.answer(TRUNCATED, &[V4])]]);
    let error = machine.resolve("collector.test").unwrap_err();
    assert!(matches!(error, DnsError::Broken), "{error:?}");
}

#[test]
fn a_name_with_few_dots_is_looked_for_nearby_first() {
    static ASKED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let machine = machine(&[|question| {
        if question.kind == A {
            ASKED.lock().unwrap().push(question.name.clone());
        }
        vec![question.answer(NO_SUCH_NAME, &[])]
    }])
    .file(
        "resolv.conf",
        "nameserver 127.0.0.1\nsearch one.test . two.test\noptions ndots:2\n",
    );
    for (name, expected) in [
        ("a", "a.one.test. a.two.test. a."),
        ("a.b", "a.b.one.test. a.b.two.test. a.b."),
        ("a.b.c", "a.b.c. a.b.c.one.test. a.b.c.two.test."),
        ("a.b.", "a.b."),
    ] {
        machine.resolve(name).unwrap_err();
        let asked = std::mem::take(&mut *ASKED.lock().unwrap());
        assert_eq!(asked.join(" "), expected, "{name}");
    }
}
