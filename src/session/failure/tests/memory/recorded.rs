//! The cases of `reference/supervision.md` §3.1, as a real kernel recorded them (`tests/fixtures/memory_events`).

use super::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/memory_events")
}

/// What the supervisor would have read of a case: just before, and just after.
fn recorded(case: &str) -> Case {
    let directory = fixtures().join(case);
    let agent: serde_json::Value =
        serde_json::from_slice(&fs::read(directory.join("agent.json")).unwrap()).unwrap();
    let reading = |when: &str| {
        let place = directory.join(when);
        let (mut cgroups, sandbox_oom_kills) = reading_of(&place, case);
        if case == "kill_9_after_foreign_oom" {
            cgroups[0].largest_other_bytes = Some(MIB);
        }
        MemoryReading {
            cgroups,
            sandbox_oom_kills,
            ..MemoryReading::default()
        }
    };
    let mut memory = Memory::default();
    memory.baseline(reading("before"));
    memory.spawned(agent["pid"].as_u64().unwrap().try_into().unwrap());
    let kmsg = String::from_utf8_lossy(&fs::read(directory.join("kmsg")).unwrap()).into_owned();
    let news = news_of(&kmsg);
    // The records have the time since boot in microseconds, of the kill and of the last thing that was heard.
    let times: Vec<Duration> = kmsg
        .lines()
        .filter(|line| line.contains("Killed process"))
        .filter_map(|line| Some(Duration::from_micros(line.split(',').nth(2)?.parse().ok()?)))
        .collect();
    let seen = times.first().copied().unwrap_or_default();
    // The wait status comes with the largest that was waited for; a stranger was not.
    let held = news.victims.iter().map(|victim| victim.resident_bytes);
    let held = held.max().filter(|_| case != "kill_9_after_foreign_oom");
    memory.read(
        seen,
        MemoryReading {
            victims: news.victims,
            userspace: news.userspace,
            reaped_rss_bytes: held,
            ..reading("after")
        },
        None,
    );
    // A TERM came seven seconds after, everything else ended on it.
    let later = if case == "term_after_old_oom" { 7 } else { 0 };
    memory.exited(seen + Duration::from_secs(later));
    let ending = match (
        agent["exit"]["code"].as_i64(),
        agent["exit"]["signal"].as_str(),
    ) {
        (Some(code), _) => exit(code.try_into().unwrap()),
        (None, Some("SIGKILL")) => killed(9),
        (None, Some("SIGTERM")) => killed(15),
        other => panic!("{other:?}"),
    };
    Case { memory, ..ending }
}

#[test]
fn every_recording_of_version_2_gets_its_verdict() {
    let table: &[(&str, &str, f64)] = &[
        ("agent_hog", "oom.agent", 0.99),
        ("tool_hog_fatal", "oom.descendant_fatal", 0.7),
        ("oom_group", "oom.agent", 0.99),
        ("limit_on_parent", "oom.agent", 0.99),
        ("leaf_without_memory", "oom.agent", 0.99),
        ("high_is_max", "oom.agent", 0.99),
        ("two_hogs", "oom.agent", 0.99),
        ("global_oom", "oom.agent", 0.99),
        ("tmpfs_writer", "oom.agent", 0.99),
        ("kill_9", "crash.signal", 0.9),
        ("kill_9_after_earlier_oom", "crash.signal", 0.9),
        ("kill_9_after_foreign_oom", "crash.signal", 0.9),
        ("term_after_old_oom", "crash.signal", 0.95),
    ];
    let wrong: Vec<String> = table
        .iter()
        .filter_map(|(case, expected, confidence)| {
            let failure = recorded(case).verdict().1.unwrap();
            let fits = failure.kind.to_string() == *expected && failure.confidence == *confidence;
            (!fits).then(|| format!("{case}: {failure:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let survived = Case {
        result: exit(0).well().result,
        ..recorded("tool_hog_survived")
    };
    assert_eq!(survived.verdict(), (Outcome::Success, None));
    // Each case is in the table, or below.
    let mut cases: Vec<String> = fs::read_dir(fixtures())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md" && name != "tool_hog_survived" && name != "livelock")
        .collect();
    cases.retain(|name| table.iter().all(|(case, ..)| case != name));
    assert!(cases.is_empty(), "{cases:?}");
}

#[test]
fn the_recordings_say_whose_memory_was_short() {
    let says = |case: &str| recorded(case).verdict().1.unwrap();
    assert!(
        says("global_oom")
            .message
            .contains("the sandbox had no memory left")
    );
    let tmpfs = says("tmpfs_writer");
    assert!(
        tmpfs
            .evidence
            .iter()
            .any(|item| item.fact.contains("were files in memory")),
        "{tmpfs:?}"
    );
    let group = says("oom_group");
    assert!(group.message.contains("hog had 4"), "{group:?}");
    assert!(
        group
            .evidence
            .iter()
            .any(|item| item.fact.contains("memory.oom.group")),
        "{group:?}"
    );
    let livelock = recorded("livelock");
    assert!(
        livelock.memory.livelock().is_some(),
        "{:?}",
        livelock.memory
    );
}
