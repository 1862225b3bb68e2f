//! Looks at the agent's processes come from two watchers, and what they found may be handed in late, or never.

use std::sync::Arc;

use super::*;
use crate::resources::ProcessUse;

const AGENT: u32 = 42;
const SHELL: u32 = 50;

/// A look at `ticks`; processes as pid, parent, session, start, CPU ticks.
fn look(ticks: u64, cpu: u64, processes: &[(u32, u32, u32, u64, u64)]) -> TreeSample {
    let time = |ticks: u64| Duration::from_millis(ticks * 10);
    let process = |&(pid, parent, session, start_ticks, cpu)| ProcessUse {
        pid,
        start_ticks,
        parent,
        session,
        command: Arc::from("x"),
        executable: None,
        cpu: time(cpu),
        children_cpu: Duration::ZERO,
        rss_bytes: 1 << 20,
    };
    TreeSample {
        ticks,
        cpu: time(cpu),
        processes: processes.iter().map(process).collect(),
    }
}

fn uses(id: &str) -> String {
    format!(
        r#"{{"type":"assistant","message":{{"id":"m{id}","model":"claude-sonnet-5","content":[{{"type":"tool_use","id":"{id}","name":"Bash","input":{{"command":"make"}}}}]}}}}"#
    )
}

fn result(id: &str) -> String {
    format!(
        r#"{{"type":"user","message":{{"content":[{{"type":"tool_result","tool_use_id":"{id}","content":"ok"}}]}}}}"#
    )
}

fn cpu_seconds(replay: &Replay, id: &str) -> Option<f64> {
    let mut spans = replay.closed.iter();
    let span = spans
        .find(|span| attribute(span, key::GEN_AI_TOOL_CALL_ID) == Some(&id.to_owned().into()))?;
    match attribute(span, key::TOOL_CPU_SECONDS)? {
        Value::F64(seconds) => Some(*seconds),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_look_that_is_handed_in_after_a_later_one_changes_nothing() {
    let agent = (AGENT, 1, 5, 1000, 100);
    let shell = (SHELL, AGENT, SHELL, 2001, 500);
    let late = look(2600, 600, &[agent, shell]);
    let after = look(2700, 600, &[agent]);
    let mut replay = Replay::spawned();
    replay.input(1, Input::Looked(&look(2000, 100, &[agent])));
    replay.line(10, &uses("one"));
    replay.input(20, Input::Looked(&look(2700, 600, &[agent])));
    replay.line(30, &result("one"));
    replay.line(40, &uses("two"));
    // The sampler saw the first one's shell, and the loop its end, before this was read.
    replay.input(50, Input::Looked(&late));
    replay.input(60, Input::Looked(&after));
    let agent = (AGENT, 1, 5, 1000, 140);
    replay.input(70, Input::Looked(&look(2800, 700, &[agent])));
    replay.line(80, &result("two"));
    assert_eq!(cpu_seconds(&replay, "one"), Some(5.0));
    // Of the second's 100 ticks the agent itself used 40.
    assert_eq!(cpu_seconds(&replay, "two"), Some(0.6));
}

#[test]
fn what_is_kept_for_tools_ends_with_them_though_nobody_looks() {
    let mut replay = Replay::spawned();
    for number in 0..1000 {
        let id = format!("toolu_{number}");
        replay.line(10 + number, &uses(&id));
        replay.line(10 + number, &result(&id));
    }
    assert_eq!(replay.session.tool_usage.accounts(), 0);
    for number in 1000..9000 {
        replay.line(10 + number, &uses(&format!("toolu_{number}")));
    }
    let kept = replay.session.tool_usage.accounts();
    assert!(
        (64..=1024).contains(&kept),
        "{kept} open calls are followed"
    );
}

fn memory_peak(replay: &Replay, id: &str) -> Option<i64> {
    let mut spans = replay.closed.iter();
    let span = spans
        .find(|span| attribute(span, key::GEN_AI_TOOL_CALL_ID) == Some(&id.to_owned().into()))?;
    match attribute(span, key::TOOL_MEMORY_PEAK)? {
        Value::I64(bytes) => Some(*bytes),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_copy_of_the_cli_that_has_yet_to_become_the_tool_is_not_the_tool_s_memory() {
    let agent = (AGENT, 1, 5, 1000, 100);
    let shell = (SHELL, AGENT, SHELL, 2003, 0);
    let mut copied = look(2004, 100, &[agent, shell]);
    copied.processes[0].rss_bytes = 200 << 20;
    copied.processes[1].rss_bytes = 200 << 20;
    let mut works = look(2100, 150, &[agent, shell]);
    works.processes[0].rss_bytes = 200 << 20;
    works.processes[1].command = Arc::from("bash");
    works.processes[1].rss_bytes = 3 << 20;
    let mut replay = Replay::spawned();
    replay.input(1, Input::Looked(&look(2000, 100, &[agent])));
    replay.line(10, &uses("one"));
    replay.input(20, Input::Looked(&copied));
    replay.input(30, Input::Looked(&works));
    replay.line(40, &result("one"));
    assert_eq!(memory_peak(&replay, "one"), Some(3 << 20));
}

#[test]
fn the_dead_hold_nothing_so_what_was_held_at_the_beginning_counts() {
    let agent = (AGENT, 1, 5, 1000, 100);
    let mut replay = Replay::spawned();
    replay.input(1, Input::Looked(&look(2000, 100, &[agent])));
    replay.line(10, &uses("one").replace("Bash", "Read"));
    let mut dead = look(2100, 150, &[agent]);
    dead.processes[0].rss_bytes = 0;
    replay.input(20, Input::Looked(&dead));
    replay.line(30, &result("one"));
    assert_eq!(memory_peak(&replay, "one"), Some(1 << 20));
}
