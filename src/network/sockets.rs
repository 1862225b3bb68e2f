//! Which connections of the run do not get through, and whose they are.
//!
//! /proc/AGENT/net/tcp has the sockets of the agent's network namespace with the number of unanswered retransmissions
//! of each; /proc/PID/fd says which process holds one. On a connection that goes into the void the count is 1, 2, 3, 4
//! after 0.5, 1, 2 and 4 seconds (`reference/supervision.md` §4.1), so a count that is not zero is trouble, and a
//! healthy connection that lost one packet shows it for moments only.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;

use nix::unistd::{Pid, getsid};

use super::peer::Peer;
use crate::process::Process;
use crate::session::{SocketOwner, Trouble, TroubledSocket};

/// A table of sockets is read up to here: 150 bytes a line, so some 27,000 sockets.
const TABLE_BYTES: u64 = 4 << 20;
/// Processes whose files are looked at, and files of each.
const PROCESSES: usize = 512;
const FILES: usize = 4096;
/// Sockets that are told of.
const SOCKETS: usize = 16;

/// The command name of Claude Code's own process (`reference/agent-streams.md` §1).
const CLI: &str = "claude";
/// Nobody's family tree is deeper than this.
const GENERATIONS: usize = 64;

/// One line of the table that tells of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    peer: SocketAddr,
    trouble: Trouble,
    retransmits: u32,
    inode: u64,
}

/// The connections of `processes` that wait for an answer again and again, those of the agent itself to its peer first.
///
/// `processes` are the agent's tree, the agent among them. A tool of Claude's has a session of its own, while the agent
/// and the CLI share one (`reference/agent-streams.md` §0): that tells the API's connections from a tool's. What the CLI
/// started in its session all the same, an MCP server for instance, does not talk to the API either.
///
/// # Errors
///
/// Where the agent's table cannot be read, or nobody is found who holds one of these and not everybody may be asked.
pub fn troubled(agent: Pid, processes: &[Process], peer: &Peer) -> io::Result<Vec<TroubledSocket>> {
    let mut rows = parse(&table(agent, "tcp")?);
    // A kernel without IPv6 has no such table.
    rows.extend(parse(&table(agent, "tcp6").unwrap_or_default()));
    // The usual case: nothing is in trouble, and nobody's files need be looked at.
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut rows: HashMap<u64, Row> = rows.into_iter().map(|row| (row.inode, row)).collect();
    let session = getsid(Some(agent)).ok();
    let by_pid: HashMap<Pid, &Process> = processes.iter().map(|it| (it.pid, it)).collect();
    let mut sockets = Vec::new();
    let mut refused = None;
    for process in processes.iter().take(PROCESSES) {
        let inodes = match socket_inodes(process.pid) {
            Ok(inodes) => inodes,
            // Of one that is gone, or that is another user's.
            Err(error) => {
                if error.kind() == io::ErrorKind::PermissionDenied {
                    refused = Some(error);
                }
                continue;
            }
        };
        for inode in inodes {
            // Two processes may hold one socket; the first is told.
            let Some(row) = rows.remove(&inode) else {
                continue;
            };
            let same_session = session.is_some() && getsid(Some(process.pid)).ok() == session;
            let is_side = same_session && !is_below_cli(process, &by_pid);
            let owner = match process.pid == agent || is_side {
                true => SocketOwner::Agent,
                false => SocketOwner::Tool,
            };
            sockets.push(TroubledSocket {
                pid: u32::try_from(process.pid.as_raw()).unwrap_or(0),
                command: process.command.clone(),
                owner,
                peer: row.peer,
                is_known_peer: peer.is_at(row.peer),
                trouble: row.trouble,
                retransmits: row.retransmits,
            });
        }
    }
    if let (true, Some(error)) = (sockets.is_empty(), refused) {
        return Err(error);
    }
    sockets.sort_by_key(|socket| {
        (
            socket.owner,
            !socket.is_known_peer,
            Reverse(socket.retransmits),
        )
    });
    sockets.truncate(SOCKETS);
    Ok(sockets)
}

/// Whether a process was started by Claude Code's own, at whatever distance.
fn is_below_cli(process: &Process, by_pid: &HashMap<Pid, &Process>) -> bool {
    let mut child = process;
    for _ in 0..GENERATIONS {
        match by_pid.get(&child.parent) {
            Some(parent) if parent.command == CLI => return true,
            Some(parent) => child = parent,
            None => return false,
        }
    }
    false
}

fn table(pid: Pid, name: &str) -> io::Result<String> {
    let mut text = String::new();
    File::open(format!("/proc/{pid}/net/{name}"))?
        .take(TABLE_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
}

fn parse(table: &str) -> Vec<Row> {
    table.lines().skip(1).filter_map(row).collect()
}

/// `sl local remote st tx:rx tr:when retrnsmt uid timeout inode …`, numbers in hex.
fn row(line: &str) -> Option<Row> {
    let mut fields = line.split_ascii_whitespace();
    let remote = fields.nth(2)?;
    let trouble = match fields.next()? {
        "01" => Trouble::Silent,
        "02" => Trouble::Connecting,
        _ => return None,
    };
    let retransmits = u32::from_str_radix(fields.nth(2)?, 16).ok()?;
    let inode = fields.nth(2)?.parse().ok()?;
    (retransmits > 0).then_some(Row {
        peer: address(remote)?,
        trouble,
        retransmits,
        inode,
    })
}

/// `0100007F:1F90`: the address as words of the machine's own byte order, the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (part, at) in bytes.chunks_mut(4).zip([0, 8, 16, 24]) {
                part.copy_from_slice(&word(at)?);
            }
            // A socket of both families shows an IPv4 peer as a mapped address.
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The inodes of a process's sockets.
fn socket_inodes(pid: Pid) -> io::Result<Vec<u64>> {
    let inodes = fs::read_dir(format!("/proc/{pid}/fd"))?
        .take(FILES)
        .filter_map(|file| {
            let target = fs::read_link(file.ok()?.path()).ok()?;
            let number = target
                .as_os_str()
                .as_bytes()
                .strip_prefix(b"socket:[")?
                .strip_suffix(b"]")?;
            std::str::from_utf8(number).ok()?.parse().ok()
        })
        .collect();
    Ok(inodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0
   1: 0200000A:A2F0 0164A8C0:01BB 01 00000040:00000000 01:00000123 00000004     0        0 12 2 0 20 4 30 10 -1
   2: 0200000A:A2F2 0164A8C0:01BB 01 00000000:00000000 02:00000123 00000000     0        0 13 2 0 20 4 30 10 -1
   3: 0200000A:A2F4 0164A8C0:01BB 02 00000001:00000000 01:00000123 00000002     0        0 14 2 0 20 4 30 10 -1
   4: 0200000A:A2F6 0164A8C0:01BB 02 00000001:00000000 01:00000123 00000000     0        0 15 2 0 20 4 30 10 -1
   5: 0200000A:A2F8 0164A8C0:01BB 04 00000001:00000000 01:00000123 00000003     0        0 0 2 0 20 4 30 10 -1
   6: torn";

    #[cfg(target_endian = "little")]
    #[test]
    fn only_what_waits_for_an_answer_again_is_trouble() {
        let row = |trouble, retransmits, inode| Row {
            peer: "192.168.100.1:443".parse().unwrap(),
            trouble,
            retransmits,
            inode,
        };
        assert_eq!(
            parse(TABLE),
            [row(Trouble::Silent, 4, 12), row(Trouble::Connecting, 2, 14)]
        );
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn addresses_of_both_families_are_read() {
        for (text, expected) in [
            ("0100007F:0050", "127.0.0.1:80"),
            ("00000000000000000000000001000000:01BB", "[::1]:443"),
            ("0000000000000000FFFF00000100007F:01BB", "127.0.0.1:443"),
            ("B80D0120000000000000000007000000:01BB", "[2001:db8::7]:443"),
        ] {
            assert_eq!(address(text), Some(expected.parse().unwrap()), "{text}");
        }
        for torn in ["", "01", "0100007F", "0100007F:", "0100007:0050", "é:0050"] {
            assert_eq!(address(torn), None, "{torn}");
        }
    }

    #[test]
    fn the_sockets_of_this_process_are_found_by_their_inodes() {
        use std::os::fd::AsRawFd as _;
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inodes = socket_inodes(Pid::this()).unwrap();
        assert!(
            inodes
                .iter()
                .any(|inode| link.as_os_str() == format!("socket:[{inode}]").as_str()),
            "{link:?} {inodes:?}"
        );
    }
}
