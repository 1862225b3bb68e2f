//! Failures of the network, with real connections: who is to blame for them, how sure, and that the one probe is
//! bounded. Cases 47 to 49 of `reference/supervision.md` §5.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::supervised::{Finished, Supervised, python, sh, skipped};

/// Talks to the API as the CLI does, and reports as the CLI does: an `init`, a call over a connection of its own, and a
/// result with the errno in its words. `TRIES` calls are made, each within `WAIT` seconds.
const CALLER: &str = r#"
import errno, json, os, socket, sys, time
from urllib.parse import urlsplit
def say(line):
    print(json.dumps(line), flush=True)
url = urlsplit(os.environ['ANTHROPIC_BASE_URL'])
tries, wait = int(os.environ.get('TRIES', 1)), float(os.environ.get('WAIT', 1))
say({'type': 'system', 'subtype': 'init', 'session_id': 's1', 'model': 'claude-sonnet-5'})
words, error, api_error = '', 'server_error', 'connection_failed'
for attempt in range(1, tries + 1):
    connection = None
    try:
        connection = socket.create_connection((url.hostname, url.port), timeout=wait)
        if 'LULL' in os.environ:
            connection.recv(1)
            while not os.path.exists('gone'):
                time.sleep(0.01)
        connection.sendall(b'POST /v1/messages HTTP/1.1\r\n\r\n')
        answer = connection.recv(4096)
        words = 'reset (ECONNRESET)' if not answer else 'answered'
    except socket.gaierror as failure:
        words = '(EAI_AGAIN)' if failure.errno == socket.EAI_AGAIN else '(ENOTFOUND)'
    except TimeoutError:
        words, api_error = 'Request timed out', None
    except OSError as failure:
        words = f'({errno.errorcode[failure.errno]})'
    if attempt < tries:
        say({'type': 'system', 'subtype': 'api_retry', 'attempt': attempt, 'max_retries': tries - 1,
             'retry_delay_ms': 10, 'error_status': None, 'error': 'unknown'})
    # What is stuck stays so until somebody has looked.
    time.sleep(float(os.environ.get('HOLD', 0)))
    if connection:
        connection.close()
say({'type': 'assistant', 'message': {'id': 'm1', 'model': '<synthetic>', 'content': [{'type': 'text', 'text': words}]},
     'error': error, 'api_error': api_error, 'is_api_error_message': True})
say({'type': 'result', 'subtype': 'success', 'is_error': True, 'terminal_reason': 'api_error', 'result': words,
     'api_error_status': None, 'session_id': 's1'})
sys.exit(1)
"#;

fn caller(base_url: &str) -> Supervised {
    probed(python(CALLER), base_url)
}

/// The usual tests probe nobody; here everybody talks to this machine.
fn probed(agent: Supervised, base_url: &str) -> Supervised {
    agent
        .env("ANTHROPIC_BASE_URL", base_url)
        .env("SANDTRACE_PROBE", "on")
}

/// What a run says of its failure.
struct Verdict {
    name: String,
    failure: Value,
}

impl Verdict {
    fn of(run: &Finished) -> Self {
        run.assert_sound();
        let transcript = run.transcript();
        Self {
            name: transcript.verdict(),
            failure: transcript.finished()["failure"].clone(),
        }
    }

    fn confidence(&self) -> f64 {
        self.failure["confidence"].as_f64().unwrap()
    }

    /// The facts of one source.
    fn facts(&self, source: &str) -> Vec<&str> {
        let evidence = self.failure["evidence"].as_array().unwrap().iter();
        evidence
            .filter(|item| item["source"] == source)
            .map(|item| item["fact"].as_str().unwrap())
            .collect()
    }

    #[track_caller]
    fn assert_fact(&self, source: &str, words: &str) {
        let facts = self.facts(source);
        assert!(
            facts.iter().any(|fact| fact.contains(words)),
            "no {source} says {words:?}: {}",
            self.failure
        );
    }
}

/// A port of an address apart, where nobody listens and nobody will: others are given ports on 127.0.0.1.
fn deserted() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.78:0").unwrap();
    listener.local_addr().unwrap()
}

/// A listener that is deaf: its queue is full, and attempts to connect go unanswered.
struct Blackhole {
    address: SocketAddr,
    _listener: Socket,
    _queue: Vec<Socket>,
}

impl Blackhole {
    /// `None` where the kernel answers all the same.
    fn dig() -> Option<Self> {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.79:0".parse().unwrap();
        listener.bind(&SockAddr::from(any)).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queue = Vec::new();
        for _ in 0..64 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let timeout = Duration::from_millis(200);
            if socket
                .connect_timeout(&SockAddr::from(address), timeout)
                .is_err()
            {
                return Some(Self {
                    address,
                    _listener: listener,
                    _queue: queue,
                });
            }
            queue.push(socket);
        }
        None
    }
}

/// Runs the supervisor in a network namespace of its own, in which not even loopback is up.
fn without_network(agent: Supervised) -> Option<Finished> {
    let possible = Command::new("unshare").args(["-n", "true"]).status();
    if !possible.is_ok_and(|status| status.success()) {
        skipped("no network namespace can be made here: needs root and unshare");
        return None;
    }
    Some(agent.start_under(&["unshare", "-n"]).wait())
}

#[test]
fn a_refused_connection_is_confirmed_by_the_probe_without_delay() {
    let address = deserted();
    let run = caller(&format!("http://{address}")).run();
    assert_eq!(run.code(), 1);
    let verdict = Verdict::of(&run);
    assert_eq!(verdict.name, "network.connect");
    assert!(verdict.confidence() > 0.95, "{}", verdict.failure);
    verdict.assert_fact(
        "probe",
        &format!("the API's host {address} refuses connections"),
    );
    verdict.assert_fact("message", "ECONNREFUSED");

    let finished = run.transcript().finished().clone();
    let wait =
        finished["duration_ms"].as_f64().unwrap() - finished["phases"]["exit_ms"].as_f64().unwrap();
    assert!(wait < 1000.0, "the end was delayed by {wait} ms");
}

#[test]
fn a_connection_that_is_reset_by_a_host_that_lives_is_transient() {
    let listener = TcpListener::bind("127.0.0.80:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = std::thread::spawn(move || {
        let (call, _) = listener.accept().unwrap();
        // RST instead of FIN.
        socket2::SockRef::from(&call)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(call);
        // The probe is taken; one that is broken off as well would confirm the reset.
        let (mut probe, _) = listener.accept().unwrap();
        let mut heard = Vec::new();
        probe.read_to_end(&mut heard).unwrap();
        heard
    });
    let run = caller(&format!("http://{address}")).run();
    let verdict = Verdict::of(&run);
    assert_eq!(verdict.name, "network.reset");
    assert!(verdict.confidence() <= 0.5, "{}", verdict.failure);
    verdict.assert_fact("probe", "takes connections now");
    assert_eq!(accepted.join().unwrap(), b"", "nothing is sent on it");
}

#[test]
fn nobody_is_probed_when_probes_are_off() {
    let listener = TcpListener::bind("127.0.0.81:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = std::thread::spawn(move || {
        let (connection, _) = listener.accept().unwrap();
        socket2::SockRef::from(&connection)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(connection);
        listener
    });
    let run = caller(&format!("http://{address}"))
        .option("--probe", "off")
        .run();
    let listener = accepted.join().unwrap();
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "somebody else came");
    let verdict = Verdict::of(&run);
    assert_eq!(verdict.name, "network.reset");
    assert!(verdict.confidence() > 0.5, "{}", verdict.failure);
    assert!(verdict.facts("probe").is_empty());
}

#[test]
fn an_api_that_takes_the_request_and_is_silent_has_timed_out_itself() {
    let listener = TcpListener::bind("127.0.0.82:0").unwrap();
    let address = listener.local_addr().unwrap();
    let run = caller(&format!("http://{address}")).run();
    drop(listener);
    let verdict = Verdict::of(&run);
    assert_eq!(verdict.name, "timeout.api");
    verdict.assert_fact("probe", "takes connections now");
}

#[test]
fn attempts_to_connect_that_go_into_the_void_are_seen_in_the_agent_s_socket() {
    let Some(hole) = Blackhole::dig() else {
        skipped("a full queue of connections answers here");
        return;
    };
    // After ten seconds of silence the sockets are looked at.
    let run = caller(&format!("http://{}", hole.address))
        .env("WAIT", "12")
        .run();
    let verdict = Verdict::of(&run);
    assert_eq!(verdict.name, "network.connect", "{}", verdict.failure);
    verdict.assert_fact("socket", &format!("got no answer from {}", hole.address));
    verdict.assert_fact("socket", "python3 (pid");
    verdict.assert_fact("probe", "does not answer an attempt to connect");
    assert!(verdict.confidence() > 0.8, "{}", verdict.failure);
}

/// The host at the other end of a cable: it takes one connection, says a byte, and is gone from the network, so that
/// nothing that is sent to it is answered, not even by a refusal.
const VANISHING_HOST: &str = r#"
import os, socket, subprocess, sys, time
parent, directory = int(sys.argv[1]), sys.argv[2]
def ip(*words):
    return subprocess.run(['ip', *words], stderr=subprocess.DEVNULL).returncode
while ip('link', 'show', 'v1') != 0:
    time.sleep(0.01)
ip('addr', 'add', '10.77.0.2/24', 'dev', 'v1')
ip('link', 'set', 'v1', 'up')
listener = socket.create_server(('10.77.0.2', 80))
open(os.path.join(directory, 'up'), 'w').close()
connection, _ = listener.accept()
connection.sendall(b'.')
time.sleep(0.1)
ip('addr', 'del', '10.77.0.2/24', 'dev', 'v1')
open(os.path.join(directory, 'gone'), 'w').close()
while os.getppid() == parent:
    time.sleep(0.05)
"#;

/// Two network namespaces with a cable between, and the supervisor in one of them. The host is none of the run's.
const CABLE: &str = r#"
    env -i PATH="$PATH" unshare -n python3 host.py $$ "$DIR" > /dev/null 2>&1 &
    host=$!
    until [ "$(readlink /proc/$host/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
    ip link set lo up
    ip link add v0 type veth peer name v1
    ip link set v1 netns $host
    ip addr add 10.77.0.1/24 dev v0
    ip link set v0 up
    until [ -e up ]; do sleep 0.01; done
    exec "$@"
"#;

#[test]
fn a_connection_on_which_nothing_is_acknowledged_is_the_network_s_fault_and_not_the_api_s() {
    let cable = [
        "-n", "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1",
    ];
    let possible = Command::new("unshare").args(cable).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        skipped("no cable between network namespaces here: needs root, unshare, ip and veth");
        return;
    }
    let run = caller("http://10.77.0.2:80")
        .file("host.py", VANISHING_HOST)
        .env("LULL", "1")
        .env("WAIT", "12")
        .start_under(&["unshare", "-n", "sh", "-c", CABLE, "sh"])
        .wait();
    let verdict = Verdict::of(&run);
    assert_eq!(verdict.name, "network.timeout", "{}", verdict.failure);
    assert!(verdict.confidence() > 0.8, "{}", verdict.failure);
    verdict.assert_fact("message", "Request timed out");
    verdict.assert_fact("socket", "had a connection to 10.77.0.2:80, the host that");
    verdict.assert_fact("probe", "10.77.0.2:80");
}

#[test]
fn probe_bounded() {
    let Some(hole) = Blackhole::dig() else {
        skipped("a full queue of connections answers here");
        return;
    };
    let run = caller(&format!("http://{}", hole.address)).run();
    let finished = run.transcript().finished().clone();
    let verdict = Verdict::of(&run);
    // Without an answer within a second, nothing of the agent's own says what was wrong; the probe does.
    assert_eq!(verdict.name, "network.connect", "{}", verdict.failure);
    verdict.assert_fact("probe", "does not answer an attempt to connect");
    let (end, exit) = (&finished["duration_ms"], &finished["phases"]["exit_ms"]);
    let last = run.transcript().lines.last().unwrap().time();
    let first = run.transcript().lines.first().unwrap().time();
    let total = Duration::try_from(last.duration_since(first)).unwrap();
    let exit = Duration::from_secs_f64(exit.as_f64().unwrap() / 1e3);
    assert!(exit >= Duration::from_secs(1), "{end}");
    // 2.5 s of the probe, and what a busy machine adds; the kernel by itself would try for two minutes.
    assert!(
        total - exit <= Duration::from_millis(3500),
        "{:?} after the exit",
        total - exit
    );
}

#[test]
fn a_name_that_cannot_be_resolved_is_dns() {
    let agent = caller("http://api.sandtrace.test:80");
    let Some(run) = without_network(agent) else {
        return;
    };
    let verdict = Verdict::of(&run);
    assert_eq!(verdict.name, "network.dns", "{}", verdict.failure);
    assert!(verdict.confidence() > 0.95, "{}", verdict.failure);
    verdict.assert_fact("probe", "the API's host api.sandtrace.test:80");
}

#[test]
fn a_host_without_a_route_is_unreachable() {
    let Some(run) = without_network(caller("http://192.0.2.1:443")) else {
        return;
    };
    let verdict = Verdict::of(&run);
    assert_eq!(verdict.name, "network.connect", "{}", verdict.failure);
    verdict.assert_fact("message", "ENETUNREACH");
    verdict.assert_fact("probe", "there is no way to the API's host 192.0.2.1:443");
}

#[test]
fn the_proxy_is_probed_where_there_is_one_and_its_password_is_never_told() {
    let address = deserted();
    let run = caller("http://127.0.0.83:9")
        .env("ALL_PROXY", format!("http://user:hunter2@{address}"))
        .run();
    let verdict = Verdict::of(&run);
    assert_eq!(verdict.name, "network.connect");
    verdict.assert_fact("probe", &format!("the proxy {address} refuses connections"));
    assert!(!String::from_utf8_lossy(&run.stdout).contains("hunter2"));
}

#[test]
fn a_cloud_s_host_is_not_guessed() {
    let run = caller(&format!("http://{}", deserted()))
        .env("CLAUDE_CODE_USE_BEDROCK", "1")
        .run();
    let verdict = Verdict::of(&run);
    assert_eq!(verdict.name, "network.connect");
    verdict.assert_fact("probe", "not tried: CLAUDE_CODE_USE_BEDROCK is set");
}

#[test]
fn words_of_an_exception_are_a_failure_of_the_network_only_if_the_probe_fails_too() {
    let raises = |host: SocketAddr| {
        let agent = python(
            "import os, socket\n\
             print('{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"s\"}', flush=True)\n\
             socket.create_connection(('127.0.0.84', 9))",
        );
        probed(agent, &format!("http://{host}")).run()
    };
    let verdict = Verdict::of(&raises(deserted()));
    assert_eq!(verdict.name, "network.connect", "{}", verdict.failure);

    let listener = TcpListener::bind("127.0.0.85:0").unwrap();
    let verdict = Verdict::of(&raises(listener.local_addr().unwrap()));
    assert_eq!(verdict.name, "crash.exception", "{}", verdict.failure);
    assert_eq!(verdict.failure["alternatives"][0]["class"], "network");
}

#[test]
fn tool_curl_fails_run_ok() {
    let address = deserted();
    let agent = sh(r#"say() { printf '%s\n' "$1"; }
        say '{"type":"system","subtype":"init","session_id":"s","model":"claude-sonnet-5"}'
        say '{"type":"assistant","message":{"id":"m1","model":"claude-sonnet-5","content":[{"type":"tool_use","id":"t1","name":"Bash","input":{"command":"curl"}}]}}'
        setsid python3 -c "import socket; socket.create_connection(('127.0.0.86', 9))" 2>/dev/null
        say '{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","is_error":true,"content":"Exit code 7\ncurl: (7) Failed to connect: Connection refused"}]}}'
        say '{"type":"assistant","message":{"id":"m2","model":"claude-sonnet-5","content":[{"type":"text","text":"no"}]}}'
        say '{"type":"result","subtype":"success","is_error":false,"terminal_reason":"completed","result":"no"}'
        "#);
    let run = probed(agent, &format!("http://{address}")).run();
    assert_eq!(run.code(), 0);
    let transcript = run.transcript();
    assert_eq!(transcript.verdict(), "success");
    let tool = transcript.span("execute_tool Bash");
    assert_eq!(tool["attributes"]["error.type"], "network");
    run.assert_sound();
}

#[test]
fn a_tool_s_stuck_connection_is_not_the_run_s() {
    let Some(hole) = Blackhole::dig() else {
        skipped("a full queue of connections answers here");
        return;
    };
    // The API is slow and then times out, while a tool in a session of its own hangs in the void.
    let listener = TcpListener::bind("127.0.0.87:0").unwrap();
    let tool = format!(
        "import socket; socket.create_connection(('{}', {}), timeout=30)",
        hole.address.ip(),
        hole.address.port()
    );
    let program = format!(
        "import subprocess, sys\n\
         tool = subprocess.Popen([sys.executable, '-c', {tool:?}], start_new_session=True)\n\
         {CALLER}"
    )
    .replace("sys.exit(1)", "tool.kill()\ntool.wait()\nsys.exit(1)");
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let run = probed(python(&program), &base_url).env("WAIT", "12").run();
    let verdict = Verdict::of(&run);
    assert_eq!(verdict.name, "timeout.api", "{}", verdict.failure);
    verdict.assert_fact("socket", "no connection of the agent's was stuck");
}

#[test]
fn what_the_cli_starts_in_its_own_session_is_not_on_the_agent_s_side() {
    let Some(hole) = Blackhole::dig() else {
        skipped("a full queue of connections answers here");
        return;
    };
    // As an MCP server is: no session of its own. It hangs in the void while the API is slow.
    let listener = TcpListener::bind("127.0.0.88:0").unwrap();
    let server = format!(
        "import socket; socket.create_connection(('{}', {}), timeout=30)",
        hole.address.ip(),
        hole.address.port()
    );
    let cli = "import subprocess, sys; subprocess.run(sys.argv[1:])";
    let program = format!(
        "import os, signal, subprocess, sys\n\
         python = os.path.realpath(sys.executable)\n\
         os.symlink(python, 'claude')\n\
         cli = subprocess.Popen(['./claude', '-c', {cli:?}, python, '-c', {server:?}], preexec_fn=os.setpgrp)\n\
         {CALLER}"
    )
    .replace(
        "sys.exit(1)",
        "os.killpg(cli.pid, signal.SIGKILL)\ncli.wait()\nsys.exit(1)",
    );
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let run = probed(python(&program), &base_url).env("WAIT", "12").run();
    let verdict = Verdict::of(&run);
    assert_eq!(verdict.name, "timeout.api", "{}", verdict.failure);
    verdict.assert_fact("socket", "no connection of the agent's was stuck");
}
