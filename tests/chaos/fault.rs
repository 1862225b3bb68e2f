//! What may go wrong, and a random choice of it.

use std::fmt;

/// Random numbers from a seed (splitmix64).
struct Dice {
    state: u64,
}

impl Dice {
    fn new(seed: u64, index: usize) -> Self {
        let mut dice = Self {
            state: seed ^ (index as u64).wrapping_mul(0xd134_2543_de82_ef95),
        };
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 1 to `most`, small ones as often as large ones.
    fn size(&mut self, most: u64) -> u64 {
        let bits = u64::from(most.ilog2()) + 1;
        let scale = self.next() % bits;
        (1 + self.next() % (2 << scale)).min(most)
    }

    fn one_of<T: Copy>(&mut self, choice: &[T]) -> T {
        let sides = choice.len() as u64;
        choice[usize::try_from(self.next() % sides).unwrap()]
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EchoMode {
    Enriched,
    Raw,
    Off,
}

/// What happens to the run from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outside {
    Nothing,
    /// Nobody reads stdout for a while.
    HostSleeps,
    HostGone,
    StderrSleeps,
    /// SIGTERM, to an agent that answers with its last words.
    Term,
    /// SIGTERM, and again, to an agent that is deaf to it.
    TermTwice,
    /// SIGTSTP and SIGCONT, as typed on a terminal.
    StopAndContinue,
    /// SIGSTOP of the supervisor alone, while the agent goes on.
    SupervisorStopped,
    JournalDeleted,
    /// The journal is on a disk of 1 MiB.
    TinyDisk,
    Collector(Collector),
    StdinHeld,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collector {
    Healthy,
    Dead,
    Silent,
    Resets,
    Refuses,
    Slow,
}

/// What the agent leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leaves {
    Nothing,
    Daemon,
    HeldPipe,
    /// It goes on to print where the agent printed.
    ChattyPipe,
    Storm,
}

/// One fault: what the agent does wrong, how it is supervised, and what happens meanwhile.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) index: usize,
    pub(crate) settings: Vec<String>,
    /// Steps of the agent before and after what happens from outside.
    pub(crate) before: Vec<String>,
    pub(crate) after: Vec<String>,
    pub(crate) leaves: Leaves,
    pub(crate) stops_itself: bool,
    pub(crate) echo: EchoMode,
    pub(crate) journal: bool,
    pub(crate) stdin: u64,
    pub(crate) outside: Outside,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let journal = if self.journal {
            "journal"
        } else {
            "no journal"
        };
        write!(
            f,
            "{:?}, echo {:?}, {journal}, stdin {}: ",
            self.outside, self.echo, self.stdin
        )?;
        let words = [&self.settings, &self.before, &self.after];
        let words: Vec<&str> = words.into_iter().flatten().map(String::as_str).collect();
        f.write_str(&words.join(" "))
    }
}

impl Fault {
    /// The fault with this number, of all that come from this seed.
    pub(crate) fn random(seed: u64, index: usize) -> Self {
        let mut dice = Dice::new(seed, index);
        let outside = match dice.next() % 24 {
            0..8 => Outside::Nothing,
            8..10 => Outside::HostSleeps,
            10..12 => Outside::HostGone,
            12 => Outside::StderrSleeps,
            13..15 => Outside::Term,
            15 => Outside::TermTwice,
            16 => Outside::StopAndContinue,
            17 => Outside::SupervisorStopped,
            18 => Outside::JournalDeleted,
            19 => Outside::TinyDisk,
            20..23 => Outside::Collector(dice.one_of(&[
                Collector::Healthy,
                Collector::Dead,
                Collector::Silent,
                Collector::Resets,
                Collector::Refuses,
                Collector::Slow,
            ])),
            _ => Outside::StdinHeld,
        };
        let needs_journal = matches!(outside, Outside::JournalDeleted | Outside::TinyDisk);
        let mut fault = Self {
            index,
            settings: vec!["--seed".to_owned(), (dice.next() % 1000).to_string()],
            before: Vec::new(),
            after: Vec::new(),
            leaves: Leaves::Nothing,
            stops_itself: false,
            echo: dice.one_of(&[
                EchoMode::Enriched,
                EchoMode::Enriched,
                EchoMode::Raw,
                EchoMode::Off,
            ]),
            journal: needs_journal || dice.chance(80),
            stdin: if dice.chance(30) {
                dice.size(300_000)
            } else {
                0
            },
            outside,
        };
        if needs_journal && fault.echo == EchoMode::Off {
            fault.echo = EchoMode::Enriched;
        }
        if dice.chance(30) {
            fault.setting("--chunk", "random");
        } else if dice.chance(20) {
            fault.setting("--chunk", &dice.size(5000).to_string());
        }
        fault.setting("--line-length", &(40 + dice.size(6000)).to_string());
        match outside {
            Outside::Term => fault.before.push("--last-words".to_owned()),
            Outside::TermTwice => fault.before.push("--ignore-term".to_owned()),
            _ => {}
        }
        for _ in 0..dice.size(3) {
            let step = fault.step(&mut dice);
            fault.before.extend(step);
        }
        match outside {
            Outside::Term | Outside::TermTwice => {
                fault.after = vec!["--sleep".to_owned(), "60".to_owned()]
            }
            _ => {
                for _ in 0..dice.size(3) {
                    let step = fault.step(&mut dice);
                    fault.after.extend(step);
                }
                fault.after.extend(Self::end(&mut dice));
            }
        }
        fault
    }

    fn setting(&mut self, flag: &str, value: &str) {
        self.settings.extend([flag.to_owned(), value.to_owned()]);
    }

    /// Whether something happens in the middle, for which the agent waits.
    pub(crate) fn has_middle(&self) -> bool {
        !matches!(
            self.outside,
            Outside::Nothing | Outside::TinyDisk | Outside::Collector(_) | Outside::StdinHeld
        )
    }

    /// The agent's arguments.
    pub(crate) fn script(&self) -> Vec<String> {
        let mut script = [self.settings.clone(), self.before.clone()].concat();
        let middle: &[&str] = match self.outside {
            // Both end the agent while it sleeps.
            Outside::Term | Outside::TermTwice => &["--touch", "half"],
            _ if self.has_middle() => &["--touch", "half", "--wait-for", "go"],
            _ => &[],
        };
        script.extend(middle.iter().map(|word| (*word).to_owned()));
        script.extend(self.after.clone());
        script
    }

    fn step(&mut self, dice: &mut Dice) -> Vec<String> {
        let words: Vec<String> = match dice.next() % 24 {
            0..3 => vec!["--events".to_owned(), dice.size(200).to_string()],
            3 => vec!["--init".to_owned(), "--tool".to_owned(), "0.03".to_owned()],
            4..7 => vec!["--lines".to_owned(), dice.size(2000).to_string()],
            7 => vec!["--line-bytes".to_owned(), dice.size(9_000_000).to_string()],
            8..10 => vec!["--random-bytes".to_owned(), dice.size(400_000).to_string()],
            10 => split("--all-bytes --bad-utf8"),
            11 => split("--forge --ansi"),
            12 => vec![
                "--to".to_owned(),
                "stderr".to_owned(),
                "--lines".to_owned(),
                dice.size(300).to_string(),
                "--to".to_owned(),
                "stdout".to_owned(),
            ],
            13 => vec!["--stderr-bytes".to_owned(), dice.size(200_000).to_string()],
            14 => split("--no-newline"),
            15 => split("--nonblock"),
            16 => split("--read-stdin"),
            17 => vec!["--orphans".to_owned(), dice.size(40).to_string()],
            18 => vec!["--eat-memory".to_owned(), dice.size(30_000_000).to_string()],
            19 => split("--burn-cpu 0.03"),
            20 => split("--connect 127.0.0.1:1"),
            21 => split("--close-stdin"),
            22 => self.leave(dice),
            _ => {
                // Only once: who continues it looks for one that has stopped.
                if self.stops_itself || self.outside != Outside::Nothing {
                    Vec::new()
                } else {
                    self.stops_itself = true;
                    split("--stop-self")
                }
            }
        };
        // Its end comes with that of stdin, which does not.
        if self.outside == Outside::StdinHeld && words == ["--read-stdin"] {
            return Vec::new();
        }
        words
    }

    fn leave(&mut self, dice: &mut Dice) -> Vec<String> {
        if self.leaves != Leaves::Nothing {
            return Vec::new();
        }
        let (leaves, words) = dice.one_of(&[
            (Leaves::Daemon, "--daemon"),
            (Leaves::HeldPipe, "--leak-pipe quiet"),
            (Leaves::ChattyPipe, "--leak-pipe chatty"),
            (Leaves::Storm, "--fork-storm 3"),
        ]);
        self.leaves = leaves;
        split(words)
    }

    fn end(dice: &mut Dice) -> Vec<String> {
        match dice.next() % 12 {
            0..5 => Vec::new(),
            5 => vec!["--exit".to_owned(), (dice.next() % 256).to_string()],
            6 => split("--close-stdout --to stderr --lines 3 --exit 4"),
            7 => split("--close-stderr --lines 3"),
            8 => split("--memory-error"),
            9 => split("--heap-error"),
            _ => {
                let signal =
                    dice.one_of(&["KILL", "SEGV", "ABRT", "TERM", "INT", "PIPE", "BUS", "XCPU"]);
                vec!["--signal".to_owned(), signal.to_owned()]
            }
        }
    }
}

fn split(words: &str) -> Vec<String> {
    words.split(' ').map(str::to_owned).collect()
}
