//! Trees as tables in, figures out.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::agent::event::Text;

const AGENT: u32 = 10;
const CLI: u32 = 11;

/// A process: pid, parent, session, start, own CPU, children's CPU (both in ticks), resident MiB.
type Row = (u32, u32, u32, u64, u64, u64, u64);

fn ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 10)
}

/// A look at `at` ticks; `cpu` is the tree's, in ticks.
fn tree(at: u64, cpu: u64, rows: &[Row]) -> TreeSample {
    let processes =
        rows.iter().map(
            |&(pid, parent, session, start_ticks, own, children, mib)| ProcessUse {
                pid,
                start_ticks,
                parent,
                session,
                command: Arc::from("x"),
                executable: None,
                cpu: ticks(own),
                children_cpu: ticks(children),
                rss_bytes: mib << 20,
            },
        );
    TreeSample {
        ticks: at,
        cpu: ticks(cpu),
        processes: processes.collect(),
    }
}

/// The agent and its CLI, who have used as much in all.
fn agent(own: u64, waited: u64) -> [Row; 2] {
    [
        (AGENT, 1, 5, 1000, own, 0, 50),
        (CLI, AGENT, 5, 1010, 0, waited, 200),
    ]
}

fn with(agent: [Row; 2], rows: &[Row]) -> Vec<Row> {
    [&agent, rows].concat()
}

fn usage() -> ToolUsage {
    let mut usage = ToolUsage::default();
    usage.spawned(AGENT);
    usage.look(&tree(2000, 100, &agent(100, 0)));
    usage
}

fn open(usage: &mut ToolUsage, id: &str, name: &str, command: &str) {
    let input = serde_json::json!({ "command": command }).to_string();
    let tool = ToolUse {
        id: Text::from(id),
        name: Text::from(name),
        input: &input,
        subagent_type: None,
        description: None,
    };
    usage.opened(id, &tool);
}

fn figures(usage: &ToolUsage, id: &str) -> (u128, Option<u64>, Whose) {
    let figures = usage.figures(id).unwrap();
    (
        figures.cpu.as_millis() / 10,
        figures.memory_peak.map(|bytes| bytes >> 20),
        figures.whose,
    )
}

#[test]
fn a_lone_tool_has_what_its_session_used_and_not_what_others_did() {
    let mut usage = usage();
    open(&mut usage, "a", "Bash", "make");
    // 20 is its shell, 21 its compiler; 30 was started by the agent beside it.
    let beside = (30, AGENT, 5, 2001, 40, 0, 500);
    let rows = with(
        agent(100, 0),
        &[
            (20, CLI, 20, 2001, 1, 0, 3),
            (21, 20, 20, 2002, 50, 0, 80),
            beside,
        ],
    );
    assert_eq!(usage.look(&tree(2100, 191, &rows)), []);
    assert_eq!(figures(&usage, "a"), (51, Some(83), Whose::Own));
    // It ended since, after 9 more, and the CLI has waited for it.
    let rows = with(agent(110, 60), &[(30, AGENT, 5, 2001, 70, 0, 500)]);
    usage.look(&tree(2200, 240, &rows));
    assert_eq!(figures(&usage, "a"), (60, Some(83), Whose::Own));
}

#[test]
fn what_was_too_short_to_be_seen_counts() {
    let mut usage = usage();
    open(&mut usage, "a", "Bash", "true");
    usage.look(&tree(2005, 108, &agent(103, 5)));
    assert_eq!(figures(&usage, "a"), (5, None, Whose::Own));
}

#[test]
fn a_tool_that_starts_no_process_has_the_tree_s() {
    for name in ["Read", "Task", "mcp__db__query"] {
        let mut usage = usage();
        open(&mut usage, "a", name, "");
        usage.look(&tree(2100, 130, &agent(130, 0)));
        assert_eq!(figures(&usage, "a"), (30, Some(250), Whose::Tree), "{name}");
    }
}

#[test]
fn a_process_whose_it_may_be_leaves_only_the_tree() {
    let mut usage = usage();
    open(&mut usage, "a", "shell", "make");
    // In the agent's own session: perhaps the tool's, perhaps not.
    let rows = with(agent(100, 0), &[(30, AGENT, 5, 2001, 40, 0, 500)]);
    usage.look(&tree(2100, 140, &rows));
    assert_eq!(figures(&usage, "a"), (40, Some(750), Whose::Tree));
}

#[test]
fn a_session_that_was_there_before_is_not_the_tool_s() {
    let mut usage = ToolUsage::default();
    usage.spawned(AGENT);
    let server = |cpu| (15, CLI, 15, 1500, cpu, 0, 70);
    usage.look(&tree(2000, 110, &with(agent(100, 0), &[server(10)])));
    open(&mut usage, "a", "Bash", "make");
    let rows = with(agent(100, 0), &[server(60), (20, CLI, 20, 2010, 5, 0, 3)]);
    usage.look(&tree(2100, 165, &rows));
    assert_eq!(figures(&usage, "a"), (5, Some(3), Whose::Own));
}

#[test]
fn what_a_tool_starts_is_the_tool_s_in_any_session() {
    let mut usage = usage();
    open(&mut usage, "a", "Bash", "daemon");
    let shell = (20, CLI, 20, 2001, 1, 0, 3);
    usage.look(&tree(2050, 101, &with(agent(100, 0), &[shell])));
    open(&mut usage, "b", "Bash", "other");
    let daemon = (22, 20, 22, 2060, 7, 0, 10);
    let questions = usage.look(&tree(2100, 108, &with(agent(100, 0), &[shell, daemon])));
    assert_eq!(questions, []);
    assert_eq!(figures(&usage, "a"), (8, Some(13), Whose::Own));
    // Nothing of it was seen, and it had company.
    assert_eq!(figures(&usage, "b").2, Whose::Tree);
}

#[test]
fn tools_beside_each_other_are_told_apart_by_their_commands() {
    let mut usage = usage();
    open(&mut usage, "a", "Bash", "make a");
    open(&mut usage, "b", "Bash", "make b");
    let both = |a: u64, b: u64| {
        with(
            agent(100, 0),
            &[(20, CLI, 20, 2001, a, 0, 30), (21, CLI, 21, 2001, b, 0, 40)],
        )
    };
    let questions = usage.look(&tree(2010, 103, &both(1, 2)));
    let leaders: Vec<_> = questions.iter().map(|question| question.leader.0).collect();
    assert_eq!(leaders, [20, 21]);
    assert_eq!(questions[0].commands.len(), 2);
    assert_eq!(figures(&usage, "a"), (3, Some(320), Whose::Tree));
    usage.told_apart(20, "b");
    usage.told_apart(21, "a");
    assert_eq!(usage.look(&tree(2020, 130, &both(10, 20))), []);
    assert_eq!(figures(&usage, "a"), (20, Some(40), Whose::Own));
    assert_eq!(figures(&usage, "b"), (10, Some(30), Whose::Own));
}

#[test]
fn of_two_equal_commands_each_gets_one() {
    let mut usage = usage();
    open(&mut usage, "a", "Bash", "make");
    open(&mut usage, "b", "Bash", "make");
    let rows = with(
        agent(100, 0),
        &[(20, CLI, 20, 2001, 4, 0, 30), (21, CLI, 21, 2001, 4, 0, 40)],
    );
    usage.look(&tree(2010, 108, &rows));
    usage.told_apart(20, "b");
    usage.told_apart(21, "b");
    usage.look(&tree(2020, 108, &rows));
    let whose = ["a", "b"].map(|id| figures(&usage, id).2);
    assert_eq!(whose, [Whose::Own, Whose::Own]);
    let memory = ["a", "b"].map(|id| figures(&usage, id).1);
    assert!(
        memory == [Some(30), Some(40)] || memory == [Some(40), Some(30)],
        "{memory:?}"
    );
}

#[test]
fn a_session_that_ends_before_it_is_told_leaves_the_tree_s() {
    let mut usage = usage();
    open(&mut usage, "a", "Bash", "make a");
    open(&mut usage, "b", "Bash", "make b");
    let rows = with(agent(100, 0), &[(20, CLI, 20, 2001, 4, 0, 30)]);
    usage.look(&tree(2010, 104, &rows));
    usage.look(&tree(2020, 104, &agent(100, 4)));
    assert_eq!(figures(&usage, "a").2, Whose::Tree);
    assert_eq!(figures(&usage, "b").2, Whose::Tree);
}

#[test]
fn a_child_that_its_shell_has_waited_for_counts_once() {
    let mut usage = usage();
    open(&mut usage, "a", "Bash", "make a");
    open(&mut usage, "b", "Bash", "make b");
    let shell = |waited| (20, CLI, 20, 2001, 1, waited, 3);
    usage.look(&tree(2010, 101, &with(agent(100, 0), &[shell(0)])));
    usage.told_apart(20, "a");
    usage.look(&tree(
        2020,
        151,
        &with(agent(100, 0), &[shell(0), (21, 20, 20, 2012, 50, 0, 9)]),
    ));
    usage.look(&tree(2030, 153, &with(agent(100, 0), &[shell(52)])));
    assert_eq!(figures(&usage, "a"), (53, Some(12), Whose::Own));
}

proptest! {
    /// Whatever a tree looks like, a tool's own share is no more than the tree's.
    #[test]
    fn own_is_no_more_than_the_tree_s(
        looks in proptest::collection::vec(
            proptest::collection::vec((20_u32..26, 10_u32..26, 18_u32..26, 1990_u64..2100, 0_u64..50, 0_u64..50, 0_u64..9), 0..6),
            1..8,
        ),
        steps in proptest::collection::vec(0_u64..60, 8),
    ) {
        let mut usage = usage();
        open(&mut usage, "a", "Bash", "make a");
        let mut cpu = 100;
        for (at, (rows, step)) in looks.iter().zip(steps).enumerate() {
            if at == 3 {
                open(&mut usage, "b", "Bash", "make b");
            }
            cpu += step;
            let sample = tree(2010 + at as u64 * 25, cpu, &with(agent(100, 0), rows));
            for question in usage.look(&sample) {
                usage.told_apart(question.leader.0, "b");
            }
            for id in ["a", "b"] {
                if let Some(figures) = usage.figures(id) {
                    prop_assert!(figures.cpu <= usage.accounts[id].tree_cpu);
                    prop_assert!(figures.memory_peak.unwrap_or(0) <= usage.accounts[id].tree_peak);
                }
            }
        }
    }
}

#[test]
fn a_child_that_is_gone_before_its_parent_shows_its_time_is_charged_once() {
    let bash = |waited| (20, CLI, 20, 2001, 0, waited, 3);
    let python = (21, 20, 20, 2002, 100, 0, 90);
    let other = (30, CLI, 30, 2001, 0, 0, 20);
    for shows_later in [false, true] {
        let mut usage = usage();
        open(&mut usage, "a", "Bash", "make");
        open(&mut usage, "b", "Bash", "sleep");
        let rows = with(agent(100, 0), &[bash(0), other]);
        usage.look(&tree(2010, 100, &rows));
        usage.told_apart(20, "a");
        usage.told_apart(30, "b");
        let rows = with(agent(100, 0), &[bash(0), python, other]);
        usage.look(&tree(2110, 200, &rows));
        // The shell was read before it had waited for its child, and the child was gone after.
        let rows = with(agent(100, 0), &[bash(0), other]);
        usage.look(&tree(2111, 200, &rows));
        if shows_later {
            let rows = with(agent(100, 0), &[bash(100), other]);
            usage.look(&tree(2112, 200, &rows));
        }
        let rows = with(agent(100, 100), &[other]);
        usage.look(&tree(2113, 200, &rows));
        assert_eq!(figures(&usage, "a").0, 100, "shown later: {shows_later}");
        assert_eq!(figures(&usage, "b").0, 0);
    }
}
