//! What the shell found of memory, processes and the network, made of a few bytes.

use std::time::Duration;

use sandtrace::resources::{CgroupMemory, Constraint, Kinship, ProcessUse, TreeSample, Victim};
use sandtrace::session::{
    MemoryReading, Probe, ProbeOutcome, Probed, Route, SocketOwner, Trouble, TroubledSocket,
};

/// Names that mean something, and one that does not.
const COMMANDS: [&str; 4] = ["python3", "claude", "2.1.0", "x"];

fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or_default()
}

fn number(bytes: &[u8], at: usize) -> u64 {
    byte(bytes, at).into()
}

/// The agent is 42; its neighbours are near.
fn pid(byte: u8) -> u32 {
    40 + u32::from(byte % 8)
}

fn command(byte: u8) -> &'static str {
    COMMANDS[usize::from(byte) % COMMANDS.len()]
}

/// Counters that may rise, stand or fall, and a victim or none.
pub(crate) fn reading(bytes: &[u8]) -> MemoryReading {
    let flags = byte(bytes, 0);
    let cgroup = CgroupMemory {
        name: "/a".to_owned(),
        oom_kills: (flags & 1 == 0).then(|| number(bytes, 1)),
        ooms: (flags & 2 == 0).then(|| number(bytes, 2) * 100),
        used_bytes: Some(number(bytes, 3) << 20),
        limit_bytes: (flags & 4 == 0).then_some(200 << 20),
        largest_other_bytes: (flags & 8 == 0).then(|| number(bytes, 4) << 20),
        pressure_full: Some(f64::from(byte(bytes, 5))),
        ..CgroupMemory::default()
    };
    let victim = Victim {
        pid: pid(byte(bytes, 6)),
        command: command(byte(bytes, 7)).to_owned(),
        resident_bytes: number(bytes, 3) << 20,
        constraint: Constraint::Cgroup((flags & 4 == 0).then(|| "/a".to_owned())),
        task_cgroup: (flags & 64 == 0).then(|| "/a".to_owned()),
        kinship: match byte(bytes, 7) % 3 {
            0 => Kinship::Gone,
            1 => Kinship::BelowUs,
            _ => Kinship::Elsewhere,
        },
    };
    MemoryReading {
        cgroups: (flags & 16 == 0).then_some(cgroup).into_iter().collect(),
        sandbox_oom_kills: Some(number(bytes, 1)),
        sandbox_pressure_full: None,
        victims: (flags & 32 != 0).then_some(victim).into_iter().collect(),
        userspace: Vec::new(),
        reaped_rss_bytes: (flags & 128 != 0).then(|| number(bytes, 3) << 20),
    }
}

/// A look: when, the tree's CPU time, and four bytes a process.
pub(crate) fn tree(bytes: &[u8]) -> TreeSample {
    let time = |at| Duration::from_millis(number(bytes, at) * 10);
    let processes = bytes.get(2..).unwrap_or_default().chunks(4).map(|bytes| {
        let identity = byte(bytes, 0);
        ProcessUse {
            pid: pid(identity),
            start_ticks: u64::from(identity / 8),
            parent: pid(byte(bytes, 1)),
            session: pid(byte(bytes, 1) / 8),
            command: command(byte(bytes, 2)).into(),
            executable: None,
            cpu: Duration::from_millis(number(bytes, 3) * 10),
            children_cpu: Duration::from_millis(number(bytes, 2) * 10),
            rss_bytes: number(bytes, 3) << 20,
        }
    });
    TreeSample {
        ticks: number(bytes, 0),
        cpu: time(1),
        processes: processes.collect(),
    }
}

pub(crate) fn sockets(bytes: &[u8]) -> Vec<TroubledSocket> {
    let sockets = bytes.iter().map(|&byte| TroubledSocket {
        pid: pid(byte),
        command: command(byte).to_owned(),
        owner: match byte & 16 {
            0 => SocketOwner::Agent,
            _ => SocketOwner::Tool,
        },
        peer: ([192, 0, 2, byte], 443).into(),
        is_known_peer: byte & 32 == 0,
        trouble: match byte & 64 {
            0 => Trouble::Connecting,
            _ => Trouble::Silent,
        },
        retransmits: byte.into(),
    });
    sockets.collect()
}

pub(crate) fn probed(bytes: &[u8]) -> Probed {
    let outcome = match byte(bytes, 0) % 8 {
        0 => ProbeOutcome::Reachable,
        1 => ProbeOutcome::NameUnknown,
        2 => ProbeOutcome::NameTimedOut,
        3 => ProbeOutcome::Refused,
        4 => ProbeOutcome::Reset,
        5 => ProbeOutcome::Unreachable,
        6 => ProbeOutcome::ConnectTimedOut,
        _ => return Probed::NotTried("it is not known".to_owned()),
    };
    Probed::Tried(Probe {
        host: "api.test:443".to_owned(),
        route: Route::Direct,
        outcome,
        took: Duration::from_millis(7),
    })
}
