//! What each tool used: CPU time and memory, of its own processes where they can be told apart, else of the whole tree.
//!
//! Claude Code gives each command a session of its own. A session that begins while exactly one tool is open that can
//! start processes is that tool's; with several open, the shell compares the leader's command line with their commands
//! ([`Action::TellApart`]). What such a process starts is the tool's too, in whatever session.
//!
//! A lone tool is charged with all CPU time of the tree but that of the others: so what was too short to be seen counts.
//! Of tools beside each other only what was seen is known, up to a quarter of a second less for each process. Memory is
//! the highest sum that a look found.
//!
//! The figures are set at every look, and there is one just before the line with a tool's result: so a tool that is
//! abandoned has them too.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use sandtrace_client::wire::{LargestProcess, LargestTool};
use serde::Deserialize;

use super::semconv::{key, value};
use super::{Action, Effects, Session, int};
use crate::agent::event::ToolUse;
use crate::resources::{ProcessUse, TreeSample};

/// How long a process may take from fork to exec, in clock ticks: longer, and a tool that looks like its parent is one.
const COPY_TICKS: u64 = 10;

/// A command may have begun so long before we read of it, in clock ticks: the agent passes the CLI's lines on.
const SLACK_TICKS: u64 = 20;
/// Tools that are followed at once: an agent that opens more without end must not take our memory. Others have no figures.
const ACCOUNTS: usize = 128;
/// A command is kept for comparison up to this length.
const LONGEST_COMMAND: usize = 16 << 10;
/// No tree is deeper, or it is none.
const DEEPEST: usize = 256;
/// Tools that work within the CLI, or whose work others do.
const WITHOUT_PROCESSES: [&str; 20] = [
    "Agent",
    "AskUserQuestion",
    "BashOutput",
    "Edit",
    "EnterPlanMode",
    "ExitPlanMode",
    "KillShell",
    "LS",
    "MultiEdit",
    "NotebookEdit",
    "NotebookRead",
    "Read",
    "Skill",
    "Task",
    "TaskOutput",
    "TodoRead",
    "TodoWrite",
    "WebFetch",
    "WebSearch",
    "Write",
];

/// A process, for good: its pid and its start.
type Identity = (u32, u64);

fn identity(process: &ProcessUse) -> Identity {
    (process.pid, process.start_ticks)
}

fn total(process: &ProcessUse) -> Duration {
    process.cpu + process.children_cpu
}

/// Seconds from one to the other; negative where time is on its way from a dead child to its parent.
fn change(from: Duration, to: Duration) -> f64 {
    to.as_secs_f64() - from.as_secs_f64()
}

/// Whose a session of processes is.
#[derive(Debug, Clone, PartialEq)]
enum Owner {
    Nobody,
    Tool(String),
    /// One of these tools'; the shell has been asked.
    Unclear(Vec<String>),
}

/// A process as the last look found it.
#[derive(Debug)]
struct Seen {
    cpu: Duration,
    total: Duration,
    parent: u32,
    owner: Option<String>,
}

/// The account of one tool.
#[derive(Debug, Default)]
struct Account {
    name: String,
    command: Option<String>,
    opened_ticks: u64,
    opened_cpu: Duration,
    starts_processes: bool,
    tree_cpu: Duration,
    tree_peak: u64,
    own_cpu: f64,
    own_peak: u64,
    /// A look found a session of its own.
    owns: bool,
    /// Another tool that can start processes was open with it.
    had_company: bool,
    /// A session ended that may have been its.
    is_contested: bool,
    /// Processes appeared whose they are nobody knows.
    saw_strangers: bool,
    was_looked_at: bool,
}

/// What a tool used so far.
#[derive(Debug, Clone, PartialEq)]
struct Figures {
    cpu: Duration,
    /// `None` if its own processes were too short to be seen.
    memory_peak: Option<u64>,
    whose: Whose,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Own,
    Tree,
}

/// A session whose tool only its command line can tell.
#[derive(Debug, Clone, PartialEq)]
struct Question {
    leader: Identity,
    commands: Vec<(String, String)>,
}

/// The accounts of the tools in flight.
#[derive(Debug, Default)]
pub(super) struct ToolUsage {
    agent: Option<u32>,
    accounts: BTreeMap<String, Account>,
    /// By the leader's pid.
    sessions: BTreeMap<u32, Owner>,
    seen: HashMap<Identity, Seen>,
    /// What the dead have left to a parent, and the parent does not show yet.
    owed: HashMap<Identity, Duration>,
    /// The processes between the agent and the tools: what they have waited for was a tool's.
    chain: HashSet<Identity>,
    /// Of the last look: when, CPU time of the tree.
    last: Option<(u64, Duration)>,
    /// Of the last look, of the whole tree.
    last_rss_bytes: u64,
}

impl ToolUsage {
    pub(super) fn spawned(&mut self, agent: u32) {
        self.agent = Some(agent);
    }

    /// A tool begins with what the last look has found.
    pub(super) fn opened(&mut self, id: &str, tool: &ToolUse<'_>) {
        if self.accounts.len() >= ACCOUNTS {
            return;
        }
        let (opened_ticks, opened_cpu) = self.last.unwrap_or_default();
        let account = Account {
            name: super::clipped(&tool.name).to_owned(),
            command: command_of(tool),
            opened_ticks,
            opened_cpu,
            tree_peak: self.last_rss_bytes,
            starts_processes: starts_processes(&tool.name),
            ..Account::default()
        };
        self.accounts.insert(id.to_owned(), account);
    }

    /// Ends the accounts of tools that are over, whether or not anybody looks.
    pub(super) fn keep(&mut self, is_open: impl Fn(&str) -> bool) {
        self.accounts.retain(|id, _| is_open(id));
    }

    /// Whether a later look has been taken already. The sampler's wait in a channel, while the loop looks for itself; to
    /// compare backwards would charge a tool with processes that were gone before it began.
    pub(super) fn is_late(&self, tree: &TreeSample) -> bool {
        self.last.is_some_and(|(ticks, _)| tree.ticks < ticks)
    }

    /// How many tools are followed.
    #[cfg(test)]
    pub(super) fn accounts(&self) -> usize {
        self.accounts.len()
    }

    /// Takes a look into the accounts; asks about sessions that it cannot assign.
    fn look(&mut self, tree: &TreeSample) -> Vec<Question> {
        let by_pid: HashMap<u32, &ProcessUse> = tree
            .processes
            .iter()
            .map(|process| (process.pid, process))
            .collect();
        let questions = self.assign_sessions(tree, &by_pid);
        self.find_chain(tree, &by_pid);
        let (gains, others) = self.compare(tree, &by_pid);
        let spent = self.last.map_or(0.0, |(_, cpu)| change(cpu, tree.cpu));
        let has_strangers = self.last.is_some()
            && tree.processes.iter().any(|process| {
                !self.seen.contains_key(&identity(process)) && self.owner_of(process).is_none()
            });

        let mut memory: HashMap<String, u64> = HashMap::new();
        for process in &tree.processes {
            if let Some(id) = self.owner_of(process)
                && !is_copy(process, tree.ticks, &by_pid)
            {
                *memory.entry(id.to_owned()).or_default() += process.rss_bytes;
            }
        }
        let candidates = self.accounts.values();
        let is_lone = candidates
            .filter(|account| account.starts_processes)
            .count()
            == 1;
        let tree_rss = tree.rss_bytes();
        for (id, account) in &mut self.accounts {
            account.was_looked_at = true;
            account.tree_cpu = tree.cpu.saturating_sub(account.opened_cpu);
            account.tree_peak = account.tree_peak.max(tree_rss);
            if !account.starts_processes {
                continue;
            }
            account.had_company |= !is_lone;
            account.saw_strangers |= has_strangers;
            account.own_cpu += if is_lone {
                spent - others
            } else {
                gains.get(id).copied().unwrap_or(0.0)
            };
            if let Some(&rss) = memory.get(id) {
                account.owns = true;
                account.own_peak = account.own_peak.max(rss);
            }
        }
        self.remember(tree);
        questions
    }

    fn owner_of(&self, process: &ProcessUse) -> Option<&str> {
        match self.sessions.get(&process.session) {
            Some(Owner::Tool(id)) => Some(id),
            _ => None,
        }
    }

    /// Decides whose each session is; what was decided stays.
    fn assign_sessions(
        &mut self,
        tree: &TreeSample,
        by_pid: &HashMap<u32, &ProcessUse>,
    ) -> Vec<Question> {
        let mut began: BTreeMap<u32, u64> = BTreeMap::new();
        for process in &tree.processes {
            let first = began.entry(process.session).or_insert(u64::MAX);
            *first = (*first).min(process.start_ticks);
        }
        let accounts = &mut self.accounts;
        self.sessions.retain(|session, owner| {
            let lives = began.contains_key(session);
            if let (false, Owner::Unclear(candidates)) = (lives, owner) {
                for id in candidates {
                    if let Some(account) = accounts.get_mut(id) {
                        account.is_contested = true;
                    }
                }
            }
            lives
        });
        let agent = self.agent.and_then(|pid| by_pid.get(&pid));
        let agents_session = agent.map(|agent| agent.session);
        let mut questions = Vec::new();
        for (session, began) in began {
            let known = self.sessions.get(&session);
            let owner = match known {
                Some(owner @ (Owner::Tool(_) | Owner::Unclear(_))) => owner.clone(),
                _ if agents_session == Some(session) => Owner::Nobody,
                _ => self
                    .inherited(session, by_pid)
                    .unwrap_or_else(|| self.candidates(began)),
            };
            if let (Owner::Unclear(candidates), Some(leader)) = (&owner, by_pid.get(&session)) {
                questions.push(self.question(leader, candidates));
            }
            self.sessions.insert(session, owner);
        }
        questions
    }

    /// Whoever a tool's process starts is the tool's.
    fn inherited(&self, session: u32, by_pid: &HashMap<u32, &ProcessUse>) -> Option<Owner> {
        let mut process = by_pid.get(&session)?;
        for _ in 0..DEEPEST {
            process = by_pid.get(&process.parent)?;
            if let Some(id) = self.owner_of(process) {
                return Some(Owner::Tool(id.to_owned()));
            }
        }
        None
    }

    /// The tools that may have started a session that began then.
    fn candidates(&self, began: u64) -> Owner {
        let open = self.accounts.iter().filter(|(_, account)| {
            account.starts_processes && began.saturating_add(SLACK_TICKS) >= account.opened_ticks
        });
        let mut ids: Vec<String> = open.map(|(id, _)| id.clone()).collect();
        match (ids.len(), ids.pop()) {
            (1, Some(id)) => Owner::Tool(id),
            (_, Some(last)) => {
                ids.push(last);
                Owner::Unclear(ids)
            }
            (_, None) => Owner::Nobody,
        }
    }

    fn question(&self, leader: &ProcessUse, candidates: &[String]) -> Question {
        let commands = candidates.iter().filter_map(|id| {
            let command = self.accounts.get(id)?.command.clone()?;
            Some((id.clone(), command))
        });
        Question {
            leader: identity(leader),
            commands: commands.collect(),
        }
    }

    /// The shell has found the command of one of the candidates. Of two that run the same command, each gets one.
    fn told_apart(&mut self, leader: u32, id: &str) {
        let Some(Owner::Unclear(candidates)) = self.sessions.get(&leader) else {
            return;
        };
        let command = |id: &str| self.accounts.get(id).map(|account| &account.command);
        let has_one = |id: &str| {
            self.sessions
                .values()
                .any(|owner| matches!(owner, Owner::Tool(owner) if owner == id))
        };
        let twin = candidates
            .iter()
            .find(|twin| command(twin) == command(id) && !has_one(twin));
        let id = twin.map_or(id, String::as_str).to_owned();
        self.sessions.insert(leader, Owner::Tool(id));
    }

    /// Who stands between the agent and the tools.
    fn find_chain(&mut self, tree: &TreeSample, by_pid: &HashMap<u32, &ProcessUse>) {
        let mut found = Vec::new();
        for process in &tree.processes {
            if self.owner_of(process).is_none() {
                continue;
            }
            let mut child = process;
            for _ in 0..DEEPEST {
                let Some(parent) = by_pid.get(&child.parent) else {
                    break;
                };
                if self.owner_of(parent).is_none() {
                    found.push(identity(parent));
                }
                child = parent;
            }
        }
        self.chain.extend(found);
        self.chain
            .retain(|(pid, start)| by_pid.get(pid).is_some_and(|it| it.start_ticks == *start));
    }

    /// CPU seconds since the last look: of each tool's own processes, and of those that are no tool's.
    fn compare(
        &mut self,
        tree: &TreeSample,
        by_pid: &HashMap<u32, &ProcessUse>,
    ) -> (HashMap<String, f64>, f64) {
        let mut gains: HashMap<String, f64> = HashMap::new();
        let mut others = 0.0;
        if self.last.is_none() {
            return (gains, others);
        }
        for process in &tree.processes {
            let seen = self.seen.get(&identity(process));
            match self.owner_of(process) {
                Some(id) => {
                    let before = seen.filter(|seen| seen.owner.as_deref() == Some(id));
                    let before = before.map_or(Duration::ZERO, |seen| seen.total);
                    *gains.entry(id.to_owned()).or_default() += change(before, total(process));
                }
                // What it has waited for may have been a tool's.
                None if self.is_in_chain(&identity(process)) => {
                    let before = seen.map_or(Duration::ZERO, |seen| seen.cpu);
                    others += change(before, process.cpu);
                }
                None => {
                    let before = seen.map_or(Duration::ZERO, |seen| seen.total);
                    others += change(before, total(process));
                }
            }
        }
        // Whoever is gone has left his time to his parent, where it must not count again; but only once it stands there: the
        // parent may have been read before, and the child found gone after. What is still owed waits for the next look.
        let mut owed: HashMap<Identity, Duration> = HashMap::new();
        for (gone, seen) in &self.seen {
            let is_gone = by_pid
                .get(&gone.0)
                .is_none_or(|it| it.start_ticks != gone.1);
            let Some(parent) = by_pid.get(&seen.parent).filter(|_| is_gone) else {
                continue;
            };
            if seen.owner.as_deref() == self.owner_of(parent) {
                let debt = self.owed.get(gone).copied().unwrap_or_default();
                *owed.entry(identity(parent)).or_default() += seen.total + debt;
            }
        }
        for (heir, debt) in &self.owed {
            *owed.entry(*heir).or_default() += *debt;
        }
        owed.retain(|heir, debt| {
            let Some(parent) = by_pid.get(&heir.0).filter(|it| it.start_ticks == heir.1) else {
                return false;
            };
            let owner = self.owner_of(parent);
            let seen = self.seen.get(heir);
            let before = seen.filter(|seen| seen.owner.as_deref() == owner);
            let before = before.map_or(Duration::ZERO, |seen| seen.total - seen.cpu);
            let paid = parent.children_cpu.saturating_sub(before).min(*debt);
            match owner {
                Some(id) => *gains.entry(id.to_owned()).or_default() -= paid.as_secs_f64(),
                None if self.is_in_chain(heir) => return false,
                None => others -= paid.as_secs_f64(),
            }
            *debt -= paid;
            !debt.is_zero()
        });
        self.owed = owed;
        (gains, others)
    }

    /// Until a tool's process was seen, anybody may be its parent.
    fn is_in_chain(&self, process: &Identity) -> bool {
        self.chain.is_empty() || self.chain.contains(process)
    }

    fn remember(&mut self, tree: &TreeSample) {
        let seen = tree.processes.iter().map(|process| {
            let seen = Seen {
                cpu: process.cpu,
                total: total(process),
                parent: process.parent,
                owner: self.owner_of(process).map(str::to_owned),
            };
            (identity(process), seen)
        });
        self.seen = seen.collect();
        self.last_rss_bytes = tree.rss_bytes();
        self.last = Some((tree.ticks, tree.cpu));
    }

    fn figures(&self, id: &str) -> Option<Figures> {
        let account = self.accounts.get(id).filter(|it| it.was_looked_at)?;
        let is_unclear = self.sessions.values().any(
            |owner| matches!(owner, Owner::Unclear(candidates) if candidates.iter().any(|it| it == id)),
        );
        let is_alone = !account.had_company && !account.saw_strangers;
        let is_own = account.starts_processes
            && !account.is_contested
            && !is_unclear
            && (account.owns || is_alone);
        Some(if is_own {
            let cpu = Duration::try_from_secs_f64(account.own_cpu.max(0.0)).unwrap_or_default();
            Figures {
                cpu: cpu.min(account.tree_cpu),
                memory_peak: account.owns.then_some(account.own_peak),
                whose: Whose::Own,
            }
        } else {
            Figures {
                cpu: account.tree_cpu,
                // The dead hold nothing, which says nothing of what they held.
                memory_peak: (account.tree_peak > 0).then_some(account.tree_peak),
                whose: Whose::Tree,
            }
        })
    }
}

/// Whether a process has been forked and has not yet become what it is to be: its memory is still its parent's.
fn is_copy(process: &ProcessUse, ticks: u64, by_pid: &HashMap<u32, &ProcessUse>) -> bool {
    let age = ticks.saturating_sub(process.start_ticks);
    age < COPY_TICKS
        && by_pid.get(&process.parent).is_some_and(|parent| {
            parent.command == process.command
                && parent.executable == process.executable
                && parent.session != process.session
        })
}

impl Session {
    /// A look at the agent's processes.
    pub(super) fn looked(&mut self, tree: &TreeSample, effects: &mut Effects) {
        for question in self.tool_usage.look(tree) {
            let (pid, start_ticks) = question.leader;
            effects.actions.push(Action::TellApart {
                pid,
                start_ticks,
                commands: question.commands,
            });
        }
        self.peak(tree);
        for (id, tool) in &self.tools.open {
            let Some(figures) = self.tool_usage.figures(id) else {
                continue;
            };
            let Some(span) = self.tree.get_mut(tool.span_id) else {
                continue;
            };
            span.set(key::TOOL_CPU_SECONDS, rounded(figures.cpu));
            span.set_opt(key::TOOL_MEMORY_PEAK, figures.memory_peak.map(int));
            let whose = match figures.whose {
                Whose::Own => value::OWN,
                Whose::Tree => value::TREE,
            };
            span.set(key::TOOL_RESOURCES, whose);
        }
    }

    /// The command line of a session's leader holds the command of this tool.
    pub(super) fn told_apart(&mut self, leader: u32, id: &str) {
        self.tool_usage.told_apart(leader, id);
    }

    fn peak(&mut self, tree: &TreeSample) {
        let peaks = &mut self.peaks;
        peaks.tree_cpu_seconds = peaks.tree_cpu_seconds.max(rounded(tree.cpu));
        peaks.tree_processes_max = peaks.tree_processes_max.max(tree.processes.len() as u64);
        let rss = tree.rss_bytes();
        if rss > peaks.tree_rss_bytes_max {
            peaks.tree_rss_bytes_max = rss;
            let largest = tree
                .processes
                .iter()
                .max_by_key(|process| process.rss_bytes);
            peaks.largest_process = largest.map(|process| LargestProcess {
                command: process
                    .executable
                    .as_ref()
                    .unwrap_or(&process.command)
                    .to_string(),
                rss_bytes: process.rss_bytes,
            });
        }
        for (id, account) in &self.tool_usage.accounts {
            let figures = self.tool_usage.figures(id);
            let own = figures.filter(|figures| figures.whose == Whose::Own);
            let Some(memory_peak_bytes) = own.and_then(|figures| figures.memory_peak) else {
                continue;
            };
            let highest = peaks
                .largest_tool
                .as_ref()
                .map_or(0, |it| it.memory_peak_bytes);
            if memory_peak_bytes > highest {
                peaks.largest_tool = Some(LargestTool {
                    tool_use_id: id.clone(),
                    name: account.name.clone(),
                    memory_peak_bytes,
                });
            }
        }
    }
}

/// Seconds to the millisecond: the kernel's clock ticks are coarser.
fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e3).round() / 1e3
}

/// An MCP server's processes were there before, so its calls cannot be told apart either.
fn starts_processes(tool: &str) -> bool {
    !tool.starts_with("mcp__") && !WITHOUT_PROCESSES.contains(&tool)
}

/// `input.command`: never told to anybody, only compared.
fn command_of(tool: &ToolUse<'_>) -> Option<String> {
    #[derive(Deserialize)]
    struct Input {
        command: String,
    }
    (tool.input.len() <= LONGEST_COMMAND && starts_processes(&tool.name))
        .then(|| serde_json::from_str::<Input>(tool.input).ok())
        .flatten()
        .map(|input| input.command)
}

#[cfg(test)]
mod tests;
