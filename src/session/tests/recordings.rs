//! Every shared recording, in both dialects: its span tree as a snapshot, and its verdict against the table.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::*;
use crate::agent::{Fragment, Lines};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/recordings")
}

/// Plays one stream: its lines at their times, its stderr, its end.
fn play(directory: &Path, mode: &str) -> Option<Replay> {
    let stream = fs::read(directory.join(format!("{mode}.jsonl"))).ok()?;
    let times = fs::read_to_string(directory.join(format!("{mode}.times.txt"))).unwrap_or_default();
    let times: Vec<u64> = times
        .lines()
        .map(|time| time.trim().parse().unwrap())
        .collect();
    let meta: Json =
        serde_json::from_slice(&fs::read(directory.join("meta.json")).unwrap()).unwrap();
    let meta = &meta[mode];
    let mut replay = Replay::spawned();
    let mut count = 0;
    let mut sink = |fragment: Fragment<'_>| {
        let time = times.get(count).or(times.last()).copied().unwrap_or(0);
        replay.input(time, Input::Line(&decode(fragment.bytes)));
        count += 1;
    };
    let mut lines = Lines::default();
    lines.push(&stream, &mut sink);
    lines.finish(&mut sink);
    for line in meta["stderr_head"].as_str().unwrap_or_default().lines() {
        replay.input(0, Input::Stderr(line.as_bytes()));
    }
    let code = i32::try_from(meta["exit_code"].as_i64().unwrap()).unwrap();
    let termination = match code {
        0.. => Termination::Exited(code),
        _ => Termination::Signaled {
            signal: -code,
            core_dumped: false,
        },
    };
    replay.exit(meta["duration_ms"].as_u64().unwrap(), termination);
    Some(replay)
}

fn scenarios() -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    assert!(found.len() > 60, "the recordings are missing");
    found
}

#[test]
fn every_recording_gives_its_tree() {
    for directory in scenarios() {
        let mut text = String::new();
        for mode in ["cli", "sdk"] {
            let Some(replay) = play(&directory, mode) else {
                continue;
            };
            replay.check();
            writeln!(text, "--- {mode}\n{}{}", replay.tree(), replay.failure()).unwrap();
        }
        let name = directory.file_name().unwrap().to_str().unwrap().to_owned();
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, text);
        });
    }
}

/// The table's rows: scenario to the verdicts that are right.
fn expected() -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(fixtures().join("VERDICTS.md")).unwrap();
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
        let (scenario, verdicts) = (cells.next()?, cells.next()?);
        Some((
            scenario.to_owned(),
            verdicts.split(" or ").map(str::to_owned).collect(),
        ))
    });
    let mut rows: BTreeMap<_, _> = rows.collect();
    rows.remove("scenario");
    assert!(rows.len() > 60, "the table of verdicts was not understood");
    rows
}

#[test]
fn every_recording_gets_its_verdict() {
    let mut wrong = Vec::new();
    for (scenario, right) in expected() {
        for mode in ["cli", "sdk"] {
            let Some(replay) = play(&fixtures().join(&scenario), mode) else {
                continue;
            };
            let verdict = replay.failure();
            if !right.contains(&verdict) {
                wrong.push(format!(
                    "{scenario}/{mode}: {verdict}, not {}",
                    right.join(" or ")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_replay_makes_the_same_trace() {
    for scenario in [
        "subagent_background",
        "partial_messages",
        "permissions_state_events",
    ] {
        let first = play(&fixtures().join(scenario), "sdk").unwrap();
        let second = play(&fixtures().join(scenario), "sdk").unwrap();
        assert_eq!(first.closed, second.closed, "{scenario}");
    }
}

#[test]
fn the_two_dialects_of_one_scenario_agree_on_the_run() {
    // Recorded twice, so times differ; the shape and the sums do not.
    for scenario in [
        "bash_tool",
        "parallel_tools",
        "partial_messages",
        "thinking",
        "max_turns",
        "subagent",
    ] {
        let directory = fixtures().join(scenario);
        let (cli, sdk) = (
            play(&directory, "cli").unwrap(),
            play(&directory, "sdk").unwrap(),
        );
        let (cli, sdk) = (cli.finished(), sdk.finished());
        assert_eq!(cli.usage, sdk.usage, "{scenario}");
        assert_eq!(cli.cost, sdk.cost, "{scenario}");
        assert_eq!(cli.outcome, sdk.outcome, "{scenario}");
        let counts = |run: &RunFinished| {
            (
                run.counts.turns,
                run.counts.chats,
                run.counts.tools,
                run.counts.subagents,
            )
        };
        assert_eq!(counts(&cli), counts(&sdk), "{scenario}");
    }
}
