//! E2B's own SDKs, published and unmodified, in debug mode: what their users see of `sandtrace`, and that what docs/ tells
//! them is so. The programs are those of the pages; tests/e2b_sdk drives them.
//!
//! `scripts/sdk-check` installs the SDKs and says where they are. Without it these tests say so and pass.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::fake_envd::Cuts;
use crate::pages::{self, lay_out, programs};
use crate::raw::poll;
use crate::stage::{Stage, agent_python, repository};

/// The caller's span in every scene.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Python,
    JavaScript,
}

/// An SDK that is installed here.
struct Sdk {
    language: Language,
    /// Its python, or the directory that its `node_modules` is in.
    place: PathBuf,
    agent_python: PathBuf,
}

/// The SDKs that there are; says what is missing.
fn sdks() -> Vec<Sdk> {
    let variables = [
        (Language::Python, "SANDTRACE_TEST_E2B_PYTHON"),
        (Language::JavaScript, "SANDTRACE_TEST_E2B_NODE"),
    ];
    let mut sdks = Vec::new();
    for (language, variable) in variables {
        match (env::var_os(variable), agent_python()) {
            (Some(place), Some(agent_python)) => sdks.push(Sdk {
                language,
                place: place.into(),
                agent_python,
            }),
            (place, _) => {
                let missing = if place.is_none() {
                    variable
                } else {
                    "SANDTRACE_TEST_PYTHON"
                };
                // Past libtest, which would swallow it.
                let mut stderr = std::io::stderr().lock();
                writeln!(stderr, "skipped: E2B's {language:?} SDK: {missing} is not set; scripts/sdk-check sets it").unwrap();
            }
        }
    }
    sdks
}

/// A scene with an SDK: the page's programs, laid out for one sandbox.
struct Play {
    language: Language,
    stage: Stage,
    directory: tempfile::TempDir,
    program: OsString,
}

impl Play {
    fn new(sdk: &Sdk, scenario: &str) -> Self {
        let stage = Stage::playing(scenario, &sdk.agent_python);
        let (program, directory) = match sdk.language {
            Language::Python => (
                sdk.place.clone().into_os_string(),
                tempfile::tempdir().unwrap(),
            ),
            // Where node looks for packages: in a directory above.
            Language::JavaScript => ("node".into(), tempfile::tempdir_in(&sdk.place).unwrap()),
        };
        let play = Self {
            language: sdk.language,
            stage,
            directory,
            program,
        };
        play.lay_out(&sdk.place);
        play
    }

    fn lay_out(&self, place: &Path) {
        let (directory, prefix) = (self.directory.path(), self.stage.prefix());
        let drivers = repository().join("tests/e2b_sdk");
        match self.language {
            Language::Python => {
                lay_out(&programs(pages::PYTHON, "python", "# "), &prefix, directory);
                fs::copy(drivers.join("drive.py"), directory.join("drive.py")).unwrap();
            }
            Language::JavaScript => {
                lay_out(
                    &programs(pages::JAVASCRIPT, "ts", "// "),
                    &prefix,
                    directory,
                );
                fs::copy(drivers.join("drive.ts"), directory.join("drive.ts")).unwrap();
                fs::write(directory.join("package.json"), "{\"type\":\"module\"}").unwrap();
                let compiler = place.join("node_modules/typescript/bin/tsc");
                let output = Command::new("node")
                    .arg(compiler)
                    .args(["--strict", "--noUncheckedIndexedAccess", "--skipLibCheck"])
                    .args([
                        "--target", "es2022", "--module", "nodenext", "--types", "node",
                    ])
                    .args(["main.ts", "drive.ts"])
                    .current_dir(directory)
                    .stdin(Stdio::null())
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(output.status.success(), "{said}");
            }
        }
    }

    /// Runs a program of the page, or the driver, outside of the sandbox.
    fn command(&self, arguments: &[&str]) -> Output {
        let mut arguments = arguments.to_vec();
        let file = match self.language {
            Language::Python => format!("{}.py", arguments.remove(0)),
            Language::JavaScript => format!("{}.js", arguments.remove(0)),
        };
        Command::new(&self.program)
            .arg(file)
            .args(arguments)
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.directory.path())
            .env("NO_PROXY", "127.0.0.1")
            .env("E2B_DEBUG", "true")
            .env("E2B_SANDBOX_URL", self.stage.fake.url())
            .env("ANTHROPIC_API_KEY", "fake-key")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn scene(&self, scene: &str) -> Facts {
        let output = self.command(&["drive", scene]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{:?}: {errors}", self.language);
        let json = serde_json::from_slice(&output.stdout);
        Facts {
            json: json.unwrap_or_else(|error| panic!("{error}: {output:?}")),
            language: self.language,
        }
    }

    /// What was started through envd.
    fn started(&self) -> Vec<String> {
        let starts = self.stage.fake.seen_at("/process.Process/Start");
        let commands = starts.iter().map(|start| {
            let command = &start.message["process"]["args"][2];
            command.as_str().unwrap_or_default().to_owned()
        });
        commands.collect()
    }
}

/// What the driver saw.
struct Facts {
    json: Value,
    language: Language,
}

impl Facts {
    fn events(&self) -> &[Value] {
        self.json["events"].as_array().unwrap()
    }

    #[track_caller]
    fn assert_raised(&self, python: &str, javascript: &str) {
        let expected = match self.language {
            Language::Python => python,
            Language::JavaScript => javascript,
        };
        assert_eq!(self.json["exception"], expected, "{}", self.json["message"]);
    }

    /// The data of the last event, which is the last of the run.
    fn finished(&self) -> &Value {
        let last = self.events().last().unwrap();
        assert_eq!(last["type"], "sandtrace.run.finished", "{last}");
        &last["data"]
    }

    /// Each line of the journal was told, once and in order, and in the caller's trace.
    fn assert_all(&self, stage: &Stage) {
        assert_told(self.events(), &stage.journaled());
        let started = &self.events()[0]["data"];
        assert_eq!(started["trace_id"], TRACE);
        assert_eq!(started["parent_span_id"], PARENT);
        assert_eq!(started["limits"]["deadline_ms"], 25 * 60_000);
        assert!(
            started["limits"]["sandbox_ends_at"].is_string(),
            "{started}"
        );
    }
}

fn assert_told(told: &[Value], journaled: &[Value]) {
    let seqs: Vec<u64> = told
        .iter()
        .map(|event| event["sandtrace"]["seq"].as_u64().unwrap())
        .collect();
    let expected: Vec<u64> = (1..=journaled.len() as u64).collect();
    assert_eq!(seqs, expected);
    for (event, line) in told.iter().zip(journaled) {
        assert_eq!(
            with_one_kind_of_number(event),
            with_one_kind_of_number(line)
        );
    }
}

/// JavaScript says 1 where 1.0 was written.
fn with_one_kind_of_number(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().into(),
        Value::Array(items) => items.iter().map(with_one_kind_of_number).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), with_one_kind_of_number(value)))
            .collect(),
        other => other.clone(),
    }
}

#[test]
fn lines_come_in_any_pieces_and_each_event_once() {
    for sdk in sdks() {
        let play = Play::new(&sdk, "plain_text");
        let facts = play.scene("pieces");
        let expected = json!([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]]);
        assert_eq!(facts.json["sequences"], expected, "{:?}", sdk.language);
    }
}

#[test]
fn the_program_of_the_page_runs_an_agent_and_prints_its_outcome() {
    for sdk in sdks() {
        let play = Play::new(&sdk, "bash_tool");
        let output = match sdk.language {
            Language::Python => play.command(&["run_agent", "Count the 'files'."]),
            Language::JavaScript => play.command(&["main", "Count the 'files'."]),
        };
        let said = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{errors}");
        let journaled = play.stage.journaled();
        let types: Vec<&str> = journaled
            .iter()
            .map(|line| line["type"].as_str().unwrap())
            .collect();
        let mut printed: Vec<&str> = said.lines().collect();
        let outcome = printed.pop().unwrap();
        assert_eq!(printed, types, "every line once");
        let none = if sdk.language == Language::Python {
            "None"
        } else {
            "null"
        };
        assert!(
            outcome.starts_with(&format!("success {none} {{")),
            "{outcome}"
        );
        // As the page promises: no limit of E2B's, stdin off, and not a word of the prompt to a telemetry backend.
        let start = play.stage.fake.seen_at("/process.Process/Start").remove(0);
        assert_eq!(start.headers.get("connect-timeout-ms"), None);
        assert_eq!(start.message["stdin"], false);
        let command = start.message["process"]["args"][2].as_str().unwrap();
        assert!(command.starts_with("sandtrace run -- "), "{command}");
        play.stage.assert_nothing_left();
    }
}

#[test]
fn the_program_of_the_page_tells_why_an_agent_failed() {
    for sdk in sdks() {
        let play = Play::new(&sdk, "api_401");
        let program = match sdk.language {
            Language::Python => "run_agent",
            Language::JavaScript => "main",
        };
        let output = play.command(&[program, "Do the thing."]);
        let said = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{errors}");
        // Over several lines in JavaScript.
        let (_, outcome) = said.split_once("sandtrace.run.finished\n").unwrap();
        assert!(outcome.starts_with("failure {"), "{outcome}");
        assert!(outcome.contains("'auth'"), "{outcome}");
        play.stage.assert_nothing_left();
    }
}

#[test]
fn a_failed_run_raises_with_its_exit_code_and_tells_why_in_its_last_line() {
    for sdk in sdks() {
        let play = Play::new(&sdk, "api_401");
        let facts = play.scene("failure");
        facts.assert_raised("CommandExitException", "CommandExitError");
        assert_eq!(facts.json["exit_code"], 1);
        let finished = facts.finished();
        assert_eq!(finished["outcome"], "failure");
        assert_eq!(finished["failure"]["class"], "api", "{finished}");
        assert_eq!(finished["failure"]["reason"], "auth", "{finished}");
        assert_eq!(finished["exit"]["reported_code"], 1);
        facts.assert_all(&play.stage);
        play.stage.assert_nothing_left();
    }
}

#[test]
fn an_agent_that_is_killed_is_told_as_one_by_who_outlives_it() {
    for sdk in sdks() {
        let play = Play::new(&sdk, "long_tool");
        let facts = play.scene("kill");
        facts.assert_raised("CommandExitException", "CommandExitError");
        assert_eq!(facts.json["exit_code"], 137);
        let finished = facts.finished();
        assert_eq!(finished["failure"]["class"], "crash", "{finished}");
        assert_eq!(finished["failure"]["reason"], "signal", "{finished}");
        facts.assert_all(&play.stage);
        play.stage.assert_nothing_left();
    }
}

#[test]
fn a_run_that_is_stopped_is_cancelled() {
    for sdk in sdks() {
        let play = Play::new(&sdk, "long_tool");
        let facts = play.scene("stop");
        facts.assert_raised("CommandExitException", "CommandExitError");
        let finished = facts.finished();
        assert_eq!(finished["outcome"], "cancelled", "{finished}");
        facts.assert_all(&play.stage);
        play.stage.assert_nothing_left();
    }
}

#[test]
fn a_timeout_of_the_sdk_kills_without_a_last_word_and_the_journal_has_the_rest() {
    for sdk in sdks() {
        let play = Play::new(&sdk, "long_tool");
        let facts = play.scene("timeout");
        let first = &facts.json["first"];
        let expected = match sdk.language {
            Language::Python => "TimeoutException",
            Language::JavaScript => "TimeoutError",
        };
        assert_eq!(first["exception"], expected, "{first}");
        let start = play.stage.fake.seen_at("/process.Process/Start").remove(0);
        assert_eq!(start.headers["connect-timeout-ms"], "4000");
        let told = first["events"].as_array().unwrap();
        assert!(told.len() >= 2, "it was to get as far as this: {told:?}");
        // attach tells all that was, and that nothing will come.
        assert_eq!(facts.json["exit_code"], 3);
        assert_told(facts.events(), &play.stage.journaled());
        let is_last = |event: &Value| event["type"] == "sandtrace.run.finished";
        assert!(!facts.events().iter().any(is_last));
        assert_eq!(told[..], facts.events()[..told.len()]);
        // Nothing outlives the supervisor but what was nobody's child any more: the agent does not.
        let pid = facts.events()[0]["data"]["pid"].as_u64().unwrap();
        poll("the agent's end", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z")).then_some(())
        });
    }
}

#[test]
fn a_connection_that_breaks_at_any_byte_costs_no_event() {
    for sdk in sdks() {
        let play = Play::new(&sdk, "bash_tool");
        play.stage.fake.faults(|faults| {
            // In a head, between messages, in the first line, in later ones; the answer to a Start is lost as well.
            faults.cuts = Cuts::next([3000, 3, 5, 60, 20_000, 700]);
            faults.pieces = Some(11);
        });
        let facts = play.scene("follow");
        assert_eq!(facts.finished()["outcome"], "success");
        facts.assert_all(&play.stage);
        let started = play.started();
        let runs = started
            .iter()
            .filter(|command| command.contains("sandtrace run"));
        assert_eq!(runs.count(), 1, "{started:?}");
        let attached = started
            .iter()
            .filter(|command| command.contains("sandtrace attach"));
        assert!(attached.count() >= 5, "{started:?}");
        play.stage.assert_nothing_left();
    }
}

#[test]
fn a_start_whose_answer_is_lost_is_not_repeated() {
    for sdk in sdks() {
        let play = Play::new(&sdk, "plain_text");
        play.stage.fake.faults(|faults| faults.lose_starts = 1);
        let facts = play.scene("follow");
        assert_eq!(facts.finished()["outcome"], "success");
        facts.assert_all(&play.stage);
        let started = play.started();
        let runs = started
            .iter()
            .filter(|command| command.contains("sandtrace run"));
        assert_eq!(runs.count(), 1, "{started:?}");
        play.stage.assert_nothing_left();
    }
}

#[test]
fn a_supervisor_that_is_killed_is_a_lost_run_and_not_an_endless_one() {
    for sdk in sdks() {
        let play = Play::new(&sdk, "long_tool");
        let facts = play.scene("lost");
        facts.assert_raised("Lost", "Lost");
        assert!(!facts.events().is_empty());
        poll("the end of the agent", || {
            let started = &facts.events()[0]["data"];
            let pid = started["pid"].as_u64().unwrap();
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z")).then_some(())
        });
    }
}

#[test]
fn a_person_says_yes_and_no_through_stdin() {
    for sdk in sdks() {
        let play = Play::new(&sdk, "permissions");
        let facts = play.scene("approve");
        let asked = facts.json["asked"].as_array().unwrap();
        let commands: Vec<&str> = asked.iter().map(|one| one[1].as_str().unwrap()).collect();
        assert_eq!(commands, ["touch allowed.txt", "rm -f seed.txt"]);
        let decisions: Vec<&Value> = facts
            .events()
            .iter()
            .filter(|event| event["type"] == "approval_decision")
            .map(|event| &event["data"])
            .collect();
        assert_eq!(decisions[0]["decision"], "approve");
        assert_eq!(decisions[1]["decision"], "deny");
        assert_eq!(decisions[1]["by"], "human");
        assert!(play.stage.home().join("allowed.txt").exists());
        assert!(play.stage.home().join("seed.txt").exists());
        assert_eq!(
            facts.finished()["outcome"],
            "success",
            "{}",
            facts.finished()
        );
        facts.assert_all(&play.stage);
        play.stage.assert_nothing_left();
    }
}

#[test]
fn the_python_programs_are_as_typed_as_the_page_says() {
    for sdk in sdks() {
        if sdk.language == Language::JavaScript {
            continue;
        }
        let play = Play::new(&sdk, "plain_text");
        let output = Command::new(&sdk.place)
            .args([
                "-m",
                "mypy",
                "--strict",
                "--follow-imports=silent",
                "--cache-dir=/dev/null",
                "drive.py",
            ])
            .args([
                "sandtrace_events.py",
                "run_agent.py",
                "follow_agent.py",
                "approve.py",
            ])
            .current_dir(play.directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
    }
}
