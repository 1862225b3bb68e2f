use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::sync::Mutex;
use std::time::Instant;

use tempfile::TempDir;

use super::*;

/// Several servers, and those whose answers depend on what was asked before.
mod servers;

const A: u16 = 1;
const AAAA: u16 = 28;

/// What the server sends back over UDP, datagram by datagram; over TCP it sends the last.
type Script = fn(&Question) -> Vec<Vec<u8>>;

struct Question {
    /// The query as it came, up to the end of its one question.
    bytes: Vec<u8>,
    name: String,
    kind: u16,
    tcp: bool,
}

impl Question {
    fn parse(query: &[u8], tcp: bool) -> Self {
        let mut name = String::new();
        let mut at = 12;
        while query[at] != 0 {
            let end = at + 1 + usize::from(query[at]);
            name.push_str(&String::from_utf8_lossy(&query[at + 1..end]));
            name.push('.');
            at = end;
        }
        let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
        Self {
            bytes: query[..at + 5].to_vec(),
            name,
            kind,
            tcp,
        }
    }

    /// An answer with the given flags, and one record for each piece of data.
    fn answer(&self, flags: u16, records: &[&[u8]]) -> Vec<u8> {
        let mut answer = self.bytes.clone();
        answer[2..4].copy_from_slice(&flags.to_be_bytes());
        answer[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        answer[7] = u8::try_from(records.len()).unwrap();
        for record in records {
            answer.extend_from_slice(&[0xc0, 12]);
            answer.extend_from_slice(&self.kind.to_be_bytes());
            answer.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
            answer.extend_from_slice(&u16::try_from(record.len()).unwrap().to_be_bytes());
            answer.extend_from_slice(record);
        }
        answer
    }
}

const FOUND: u16 = 0x8180;
const TRUNCATED: u16 = 0x8380;
const NO_SUCH_NAME: u16 = 0x8183;
const V4: &[u8] = &[192, 0, 2, 7];
const V6: &[u8] = &[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];

fn good(question: &Question) -> Vec<u8> {
    match question.kind {
        A => question.answer(FOUND, &[V4]),
        AAAA => question.answer(FOUND, &[V6]),
        _ => question.answer(FOUND, &[]),
    }
}

fn addresses() -> Vec<IpAddr> {
    vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()]
}

/// Starts a server on 127.0.0.1 whose threads end with the test process.
fn serve(script: Script) -> u16 {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            return serve_with(udp, tcp, script);
        }
    }
}

fn serve_with(udp: UdpSocket, tcp: TcpListener, script: Script) -> u16 {
    let port = udp.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut query = [0; 1500];
        while let Ok((length, from)) = udp.recv_from(&mut query) {
            for datagram in script(&Question::parse(&query[..length], false)) {
                udp.send_to(&datagram, from).unwrap();
            }
        }
    });
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = tcp.accept() {
            std::thread::spawn(move || {
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut query).unwrap();
                    let answer = script(&Question::parse(&query, true)).pop().unwrap();
                    let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                    stream.write_all(&[&length[..], &answer].concat()).unwrap();
                }
            });
        }
    });
    port
}

struct Machine {
    directory: TempDir,
    port: u16,
}

impl Machine {
    fn new(script: Script) -> Self {
        let machine = Self {
            directory: tempfile::tempdir().unwrap(),
            port: serve(script),
        };
        machine.file("resolv.conf", "nameserver 127.0.0.1\noptions timeout:1\n")
    }

    fn file(self, name: &str, text: &str) -> Self {
        std::fs::write(self.directory.path().join(name), text).unwrap();
        self
    }

    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, DnsError> {
        let files = Files {
            hosts: self.directory.path().join("hosts"),
            resolv_conf: self.directory.path().join("resolv.conf"),
            port: self.port,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(files.resolve(name))
    }
}

impl Machine {
    /// The IPv4 address is there; the other one may come too late on a busy machine.
    fn finds(&self, name: &str) {
        let found = self.resolve(name).unwrap();
        assert!(
            addresses().starts_with(&found) && !found.is_empty(),
            "{found:?}"
        );
    }
}

#[test]
fn a_name_with_one_kind_of_address_has_that_one() {
    let machine = Machine::new(|question| match question.kind {
        AAAA => vec![good(question)],
        _ => vec![question.answer(FOUND, &[])],
    });
    assert_eq!(machine.resolve("collector.test").unwrap(), addresses()[1..]);
}

#[test]
fn a_name_has_the_addresses_that_its_server_gives() {
    let machine = Machine::new(|question| vec![good(question)]);
    machine.finds("collector.test");
    machine.finds("collector.test.");
}

#[test]
fn localhost_and_the_hosts_file_need_no_server() {
    let machine = Machine::new(|_| Vec::new()).file(
        "hosts",
        "# own\n10.0.0.1 one.test One\nnonsense\n10.0.0.2 two.test\n::2 two.test # both\n",
    );
    let started = Instant::now();
    for name in ["localhost", "LOCALHOST.", "otel.localhost"] {
        assert_eq!(machine.resolve(name).unwrap()[0], Ipv4Addr::LOCALHOST);
    }
    assert_eq!(
        machine.resolve("ONE.test").unwrap(),
        ["10.0.0.1".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(machine.resolve("one").unwrap().len(), 1);
    assert_eq!(machine.resolve("two.test").unwrap().len(), 2);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_sibling_that_never_comes_is_not_waited_for() {
    let machine = Machine::new(|question| match question.kind {
        A => vec![good(question)],
        _ => Vec::new(),
    });
    let started = Instant::now();
    assert_eq!(machine.resolve("collector.test").unwrap(), addresses()[..1]);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let machine = Machine::new(|question| match question.tcp {
        false => vec![question.answer(TRUNCATED, &[])],
        true => vec![good(question)],
    });
    machine.finds("collector.test");
}

#[test]
fn a_short_name_is_looked_for_where_the_machine_says() {
    let machine = Machine::new(|question| match question.name.as_str() {
        "collector.corp.test." => vec![good(question)],
        _ => vec![question.answer(NO_SUCH_NAME, &[])],
    })
    .file(
        "resolv.conf",
        "search other.test corp.test\nnameserver 127.0.0.1\n",
    );
    machine.finds("collector");
    assert!(machine.resolve("collector.").is_err());
}

#[test]
fn the_next_server_is_asked_when_one_is_dead() {
    let machine = Machine::new(|question| vec![good(question)]).file(
        "resolv.conf",
        "nameserver 127.0.0.77\nnameserver 127.0.0.1\n",
    );
    machine.finds("collector.test");
}

#[test]
fn forged_and_broken_datagrams_change_nothing() {
    const FORGED: &[u8] = &[203, 0, 113, 66];
    let machine = Machine::new(|question| {
        let mut other_id = question.answer(FOUND, &[FORGED]);
        other_id[0] ^= 0xff;
        let mut other_name = question.answer(FOUND, &[FORGED]);
        other_name[13] ^= 1;
        let mut other_kind = question.answer(FOUND, &[FORGED]);
        other_kind[question.bytes.len() - 4..][..2].copy_from_slice(&15u16.to_be_bytes());
        let mut no_answer = question.answer(FOUND, &[FORGED]);
        no_answer[2] &= 0x7f;
        vec![
            Vec::new(),
            vec![0xff; 3],
            other_id,
            other_name,
            other_kind,
            no_answer,
            good(question),
        ]
    });
    machine.finds("collector.test");
}

#[test]
fn why_a_name_has_no_address_is_known() {
    let scripts: [(&str, &str, Script); 9] = [
        ("no such name", "NoSuchName", |question| {
            vec![question.answer(NO_SUCH_NAME, &[])]
        }),
        ("no record", "NoAddress", |question| {
            vec![question.answer(FOUND, &[])]
        }),
        ("records of another kind", "NoAddress", |question| {
            let mut answer = question.answer(FOUND, &[V4]);
            answer[question.bytes.len() + 3] = 16;
            vec![answer]
        }),
        ("records of another name", "NoAddress", |question| {
            let mut answer = question.answer(FOUND, &[V4]);
            answer[question.bytes.len() + 1] += 1 + question.bytes[12];
            vec![answer]
        }),
        ("a server that fails", "Refused(2)", |question| {
            vec![question.answer(0x8182, &[])]
        }),
        ("a server that says nothing", "Timeout", |_| Vec::new()),
        ("an address of three bytes", "Broken", |question| {
            vec![question.answer(FOUND, &[&[1, 2, 3]])]
        }),
        ("a name that points to itself", "Broken", |question| {
            let mut answer = good(question);
            let name = question.bytes.len();
            answer[name + 1] = u8::try_from(name).unwrap();
            vec![answer]
        }),
        ("more records promised than sent", "Broken", |question| {
            let mut answer = good(question);
            answer[6] = 0xff;
            vec![answer]
        }),
    ];
    for (what, why, script) in scripts {
        let started = Instant::now();
        let error = Machine::new(script).resolve("collector.test").unwrap_err();
        assert_eq!(format!("{error:?}"), why, "{what}");
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
    }
    let nobody = Machine::new(|_| Vec::new()).file("resolv.conf", "nameserver 127.0.0.77\n");
    let error = nobody.resolve("collector.test").unwrap_err();
    assert!(matches!(error, DnsError::Io(_)), "{error:?}");
}

#[test]
fn names_that_no_server_knows_are_told_to_none() {
    let machine = Machine::new(|question| vec![good(question)]);
    for name in ["service.invalid", "hidden.ONION."] {
        let error = machine.resolve(name).unwrap_err();
        assert!(matches!(error, DnsError::NoSuchName), "{name}: {error:?}");
    }
    machine.finds("notinvalid");
}

#[test]
fn what_is_no_host_name_is_not_asked_for() {
    let machine = Machine::new(|question| vec![good(question)]);
    let label = "x".repeat(64);
    let long = ["x".repeat(63).as_str(); 4].join(".");
    for name in [
        "",
        ".",
        "a b",
        "a..b",
        ".a",
        "-a.test",
        "b\u{fc}cher.test",
        r"a\.b",
        &label,
        &long,
    ] {
        let error = machine.resolve(name).unwrap_err();
        assert!(matches!(error, DnsError::Name), "{name}: {error:?}");
    }
    // The comment on host names relies on this.
    assert!("https://b\u{fc}cher.test".parse::<http::Uri>().is_err());
    machine.finds(&label[1..]);
    machine.finds(&long[2..]);
}

#[test]
fn names_of_compose_services_may_have_underscores() {
    let machine = Machine::new(|question| match question.kind {
        A => vec![question.answer(FOUND, &[&[10, 0, 0, 9]])],
        _ => vec![question.answer(FOUND, &[])],
    })
    .file("hosts", "10.0.0.8 otel_collector\n");
    let resolved = |name: &str| machine.resolve(name).unwrap();
    assert_eq!(resolved("otel_collector"), [IpAddr::from([10, 0, 0, 8])]);
    assert_eq!(resolved("another_one"), [IpAddr::from([10, 0, 0, 9])]);
}
