//! Every recording of a real agent, played under the real supervisor: `tests/fixtures/recordings/SCENARIO`, by
//! `tests/player.py`. What each must be called stands in VERDICTS.md there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use crate::supervised::{Finished, agent};

/// How many are played at a time.
const PLAYERS: usize = 4;

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

struct Recording {
    scenario: String,
    /// `cli` or `sdk`.
    kind: &'static str,
    directory: PathBuf,
}

impl Recording {
    fn stream(&self) -> Vec<u8> {
        fs::read(self.directory.join(format!("{}.jsonl", self.kind))).unwrap()
    }

    fn play(&self) -> Finished {
        let player = tests().join("player.py");
        let words = [
            "python3".as_ref(),
            player.as_os_str(),
            self.directory.as_os_str(),
            self.kind.as_ref(),
        ];
        agent(words).run()
    }

    /// What is wrong with the run, each in a line.
    fn problems(&self, verdicts: Option<&[String]>) -> Vec<String> {
        let run = self.play();
        let transcript = run.transcript();
        let mut problems = transcript.problems();
        if run.journal_file("events.ndjson") != run.stdout {
            problems.push("the journal is not what the host read".to_owned());
        }
        let mut stream = self.stream();
        if !stream.is_empty() && !stream.ends_with(b"\n") && stream.ends_with(b"}") {
            stream.push(b'\n');
        }
        if transcript.stream("stdout") != stream {
            problems.push("stdout is not what the agent wrote".to_owned());
        }
        if transcript.stream("stderr") != run.stderr {
            problems.push("stderr is not what was relayed".to_owned());
        }
        let exit = &transcript.finished()["exit"]["reported_code"];
        if *exit != run.code() {
            problems.push(format!("exit code {}, but {exit} was told", run.code()));
        }
        if *exit != self.exit_code() {
            problems.push(format!("exit code {exit}, not {}", self.exit_code()));
        }
        let verdict = match transcript.finished()["failure"].is_null() {
            true => "-".to_owned(),
            false => transcript.verdict(),
        };
        if let Some(verdicts) = verdicts
            && !verdicts.contains(&verdict)
        {
            problems.push(format!("called {verdict}, not {}", verdicts.join(" or ")));
        }
        if !run.processes().is_empty() {
            problems.push("a process is left".to_owned());
        }
        problems
    }

    /// The code for the recording's wait status.
    fn exit_code(&self) -> i64 {
        let meta = fs::read(self.directory.join("meta.json")).unwrap();
        let meta: serde_json::Value = serde_json::from_slice(&meta).unwrap();
        match meta[self.kind]["exit_code"].as_i64().unwrap() {
            code @ 0.. => code,
            signal => 128 - signal,
        }
    }
}

fn recordings() -> Vec<Recording> {
    let root = tests().join("fixtures/recordings");
    let mut recordings = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let directory = entry.unwrap().path();
        let scenario = directory.file_name().unwrap().to_str().unwrap().to_owned();
        for kind in ["cli", "sdk"] {
            if directory.join(format!("{kind}.jsonl")).is_file() {
                recordings.push(Recording {
                    scenario: scenario.clone(),
                    kind,
                    directory: directory.clone(),
                });
            }
        }
    }
    recordings.sort_by_key(|recording| (recording.scenario.clone(), recording.kind));
    recordings
}

/// The table of VERDICTS.md: what a scenario may be called.
fn verdicts() -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(tests().join("fixtures/recordings/VERDICTS.md")).unwrap();
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let (scenario, verdicts) = (cells.next()?, cells.next()?);
        let is_row = scenario != "scenario" && !scenario.starts_with('-');
        is_row.then(|| {
            let verdicts = verdicts.split(" or ").map(str::to_owned).collect();
            (scenario.to_owned(), verdicts)
        })
    });
    rows.collect()
}

#[test]
fn every_recording_is_told_whole_and_called_by_its_name() {
    let recordings = recordings();
    let verdicts = verdicts();
    assert!(
        recordings.len() >= 100,
        "only {} recordings",
        recordings.len()
    );
    assert!(verdicts.len() >= 50, "only {} verdicts", verdicts.len());
    for scenario in verdicts.keys() {
        assert!(
            recordings
                .iter()
                .any(|recording| recording.scenario == *scenario),
            "a verdict for {scenario}, which nobody recorded"
        );
    }
    let waiting = Mutex::new(recordings.iter());
    let mismatches = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..PLAYERS {
            scope.spawn(|| {
                loop {
                    let Some(recording) = waiting.lock().unwrap().next() else {
                        return;
                    };
                    let verdicts = verdicts.get(&recording.scenario).map(Vec::as_slice);
                    let problems = recording.problems(verdicts);
                    if !problems.is_empty() {
                        let name = format!("{}/{}", recording.scenario, recording.kind);
                        mismatches.lock().unwrap().insert(name, problems);
                    }
                }
            });
        }
    });
    let mismatches = mismatches.into_inner().unwrap();
    let report: String = mismatches
        .iter()
        .map(|(name, problems)| format!("{name}\n    {}\n", problems.join("\n    ")))
        .collect();
    assert!(
        mismatches.is_empty(),
        "{} of {} recordings:\n{report}",
        mismatches.len(),
        recordings.len()
    );
}

#[test]
fn the_player_keeps_the_recorded_times() {
    let directory = tests().join("fixtures/recordings/bash_tool");
    let times = fs::read_to_string(directory.join("sdk.times.txt")).unwrap();
    let last: f64 = times.lines().last().unwrap().parse().unwrap();
    let player = tests().join("player.py");
    let words = [
        "python3".as_ref(),
        player.as_os_str(),
        directory.as_os_str(),
        "sdk".as_ref(),
        "4".as_ref(),
    ];
    let run = agent(words).run();
    let expected = last / 4.0;
    let finished = run.transcript().finished()["phases"].clone();
    assert!(finished["exit_ms"].as_f64().unwrap() >= expected);
    assert!(finished["tools_ms"].as_f64().unwrap() > 0.0, "{finished}");
    run.assert_sound();
}
