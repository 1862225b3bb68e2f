//! Sandboxes of the fake: made, kept, ended.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::fake_envd::{Edge, FakeEnvd};
use crate::raw::{Answer, Request, Whole, poll};

fn api(fake: &FakeEnvd, method: &'static str, path: &str, body: &Value) -> Whole {
    Request::new(method, path)
        .header("x-api-key", "fake-api-key")
        .body(match body {
            Value::Null => String::new(),
            body => body.to_string(),
        })
        .whole(fake)
}

/// A sandbox that was made for a test.
struct Made {
    id: String,
    token: String,
}

impl Made {
    fn new(fake: &FakeEnvd, timeout: u64) -> Self {
        let body = json!({"templateID": "agents", "timeout": timeout, "secure": true,
            "envVars": {"GLOBAL": "1"}, "metadata": {"run": "r1"}});
        let whole = api(fake, "POST", "/sandboxes", &body);
        assert_eq!(whole.status, 201);
        let made = whole.json();
        Self {
            id: made["sandboxID"].as_str().unwrap().to_owned(),
            token: made["envdAccessToken"].as_str().unwrap().to_owned(),
        }
    }

    fn path(&self, rest: &str) -> String {
        format!("/sandboxes/{}{rest}", self.id)
    }

    fn start(&self, fake: &FakeEnvd, command: &str) -> Answer {
        let request = Request::start(command)
            .header("e2b-sandbox-id", &self.id)
            .header("x-access-token", &self.token);
        let mut answer = request.send(fake).unwrap();
        answer.pid();
        answer
    }

    /// What the events say that it died of.
    fn kill_reason(&self, fake: &FakeEnvd) -> Value {
        let events = api(
            fake,
            "GET",
            &format!("/events/sandboxes/{}", self.id),
            &Value::Null,
        );
        let newest = events.json()[0].clone();
        assert_eq!(newest["type"], "sandbox.lifecycle.killed", "{newest}");
        newest["eventData"]["kill_reason"].clone()
    }

    /// The edge knows no such sandbox, the API neither.
    fn assert_gone(&self, fake: &FakeEnvd) {
        let health = Request::new("GET", "/health")
            .header("e2b-sandbox-id", &self.id)
            .whole(fake);
        assert_eq!(health.status, 502);
        assert_eq!(api(fake, "GET", &self.path(""), &Value::Null).status, 404);
    }
}

#[test]
fn the_api_wants_its_key_and_envd_its_token() {
    let fake = FakeEnvd::start();
    let keyless = Request::new("POST", "/sandboxes").body("{}").whole(&fake);
    assert_eq!(
        (keyless.status, &keyless.json()["code"]),
        (401, &json!(401))
    );
    assert_eq!(fake.sandboxes(), Vec::<String>::new());
    let made = Made::new(&fake, 60);
    for token in [None, Some("wrong")] {
        let mut request = Request::start("true").header("e2b-sandbox-id", &made.id);
        if let Some(token) = token {
            request = request.header("x-access-token", token);
        }
        let whole = request.whole(&fake);
        // Not Connect's "unauthenticated": a number, from in front of the service.
        assert_eq!((whole.status, &whole.json()["code"]), (401, &json!(401)));
    }
    let output = made
        .start(&fake, "echo $GLOBAL $E2B_SANDBOX_ID $E2B_TEMPLATE_ID")
        .output();
    assert_eq!(output.stdout, format!("1 {} agents\n", made.id));
    let details = api(&fake, "GET", &made.path(""), &Value::Null).json();
    assert_eq!(details["state"], "running");
    assert_eq!(details["metadata"], json!({"run": "r1"}));
    let metrics = api(&fake, "GET", &made.path("/metrics"), &Value::Null).json();
    assert!(metrics[0]["memTotal"].as_u64().unwrap() > 0);
    let list = api(&fake, "GET", "/v2/sandboxes", &Value::Null).json();
    assert_eq!(list[0]["sandboxID"], made.id.as_str());
}

#[test]
fn a_sandbox_that_times_out_takes_all_with_it_without_a_word() {
    let fake = FakeEnvd::start();
    let began = Instant::now();
    let made = Made::new(&fake, 3);
    // A child in a session of its own, deaf to what can be heard.
    let command = "trap '' TERM HUP INT; setsid sh -c 'trap \"\" TERM; sleep 1000' & sleep 1000";
    let stream = made.start(&fake, command);
    poll("all of its processes", || {
        (fake.processes().len() >= 3).then_some(())
    });
    let (bytes, end) = stream.rest();
    assert!(bytes.is_empty(), "it was not to say anything: {bytes:?}");
    assert!(end.is_err());
    assert!(began.elapsed() >= Duration::from_secs(3));
    poll("the end of its processes", || {
        fake.processes().is_empty().then_some(())
    });
    assert_eq!(made.kill_reason(&fake), "timeout");
    made.assert_gone(&fake);
}

#[test]
fn its_time_can_be_set_and_is_only_extended_by_connecting() {
    let fake = FakeEnvd::start();
    let made = Made::new(&fake, 1000);
    let ends = || -> i64 {
        let details = api(&fake, "GET", &made.path(""), &Value::Null).json();
        let ends: Timestamp = details["endAt"].as_str().unwrap().parse().unwrap();
        ends.duration_since(Timestamp::now()).as_secs()
    };
    assert!((900..=1000).contains(&ends()), "{}", ends());
    let status = |path: &str, timeout| {
        api(
            &fake,
            "POST",
            &made.path(path),
            &json!({"timeout": timeout}),
        )
        .status
    };
    assert_eq!(status("/connect", 10), 200);
    assert!(ends() >= 900);
    assert_eq!(status("/connect", 3000), 200);
    assert!(ends() >= 2900);
    assert_eq!(status("/timeout", 0), 204);
    poll("its end", || {
        let health = Request::new("GET", "/health")
            .header("e2b-sandbox-id", &made.id)
            .whole(&fake);
        (health.status == 502).then_some(())
    });
    assert_eq!(made.kill_reason(&fake), "timeout");
}

#[test]
fn who_killed_it_stands_in_the_events_alone() {
    let fake = FakeEnvd::start();
    let asked = Made::new(&fake, 60);
    assert_eq!(
        api(&fake, "DELETE", &asked.path(""), &Value::Null).status,
        204
    );
    assert_eq!(asked.kill_reason(&fake), "request");
    asked.assert_gone(&fake);
    assert_eq!(
        api(&fake, "DELETE", &asked.path(""), &Value::Null).status,
        404
    );

    let orphaned = Made::new(&fake, 60);
    let stream = orphaned.start(&fake, "sleep 1000");
    fake.kill_sandbox(&orphaned.id, "orphaned");
    assert!(stream.rest().1.is_err());
    assert_eq!(orphaned.kill_reason(&fake), "orphaned");

    // An edge that says something says no more than this.
    fake.faults(|faults| faults.edge = Edge::Unavailable);
    let told = Made::new(&fake, 60);
    let mut stream = told.start(&fake, "sleep 1000");
    fake.kill_sandbox(&told.id, "admin");
    let error = stream.output().error.unwrap();
    assert_eq!(error["code"], "unavailable");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("ended before the stream completed"),
        "{message}"
    );
    assert!(fake.processes().is_empty());
}

#[test]
fn a_pause_stops_everything_and_connecting_goes_on() {
    let fake = FakeEnvd::start();
    let made = Made::new(&fake, 60);
    let stream = made.start(
        &fake,
        "while :; do date +%s%N >$HOME/clock; sleep 0.01; done",
    );
    let clock = || std::fs::read_to_string(fake.home().join("clock")).unwrap_or_default();
    poll("the first tick", || (!clock().is_empty()).then_some(()));
    let pause = || api(&fake, "POST", &made.path("/pause"), &Value::Null).status;
    assert_eq!(pause(), 204);
    assert_eq!(pause(), 409);
    assert!(stream.rest().1.is_err(), "no connection outlives a pause");
    let before = clock();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(clock(), before);
    let details = api(&fake, "GET", &made.path(""), &Value::Null).json();
    assert_eq!(details["state"], "paused");
    let health = || {
        Request::new("GET", "/health")
            .header("e2b-sandbox-id", &made.id)
            .whole(&fake)
            .status
    };
    assert_eq!(health(), 502);
    let resumed = api(
        &fake,
        "POST",
        &made.path("/connect"),
        &json!({"timeout": 60}),
    );
    assert_eq!(resumed.status, 201);
    assert_eq!(health(), 204);
    poll("the next tick", || (clock() != before).then_some(()));
    // Without its memory a sandbox wakes as after a reboot.
    let pause = api(
        &fake,
        "POST",
        &made.path("/pause"),
        &json!({"memory": false}),
    );
    assert_eq!(pause.status, 204);
    assert!(fake.processes().is_empty());
}

#[test]
fn a_rate_limit_says_when_to_come_again() {
    let fake = FakeEnvd::start();
    fake.faults(|faults| {
        faults.rate_limits = 1;
        faults.retry_after = Duration::from_secs(3);
    });
    let limited = api(&fake, "POST", "/sandboxes", &json!({}));
    assert_eq!(
        (limited.status, limited.headers["retry-after"].as_str()),
        (429, "3")
    );
    assert_eq!(api(&fake, "POST", "/sandboxes", &json!({})).status, 201);
}

#[test]
fn a_fake_that_is_dropped_leaves_nothing_behind() {
    let fake = FakeEnvd::start();
    let made = Made::new(&fake, 60);
    let _stream = made.start(&fake, "setsid sleep 1000 & exec sleep 1000");
    let pids = poll("both", || {
        let pids = fake.processes();
        (pids.len() == 2).then_some(pids)
    });
    let address = fake.address();
    drop(fake);
    for pid in pids {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z"), "{stat}");
    }
    assert!(std::net::TcpStream::connect(address).is_err());
}
