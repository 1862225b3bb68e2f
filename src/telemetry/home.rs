//! Which sandbox this is, for what may be sent from one sandbox alone.
//!
//! A sandbox can be copied as it runs, memory and disk, and then whatever waits to be sent waits twice. The original
//! sends it; the copy, which is known by its new id, must not. So each spooled request says in which sandbox it was
//! made, and is sent in no other; and a run that finds itself in another sandbox forgets what it had to send, counted.
//! The id is looked at before each request, for the supervisor's own look comes up to some seconds late. E2B writes it
//! as it starts the copy (`reference/e2b.md` §4, the files under `/run/e2b`); until then nobody can know, and a request
//! whose answer the copying cut off may come twice, as after any lost answer.

use std::time::Duration;
use std::{fs, thread};

/// Written by E2B whenever a sandbox starts, as itself or as a copy; the environment stays the original's.
const SANDBOX_ID: &str = "/run/e2b/.E2B_SANDBOX_ID";

/// Between the two looks that must agree before another id is believed: a file that is being written may be read in part.
const PAUSE: Duration = Duration::from_millis(5);
/// How often two such looks are tried before what is sent next is believed to be ours.
const TRIES: u32 = 3;

/// What is told of what the original sends.
pub(super) const COPIED: &str =
    "this sandbox is a copy: what waited when it was made is sent by the original";

/// Which sandbox this is, as the sandbox itself says; `None` outside of one.
#[must_use]
pub fn sandbox_id() -> Option<String> {
    let text = fs::read_to_string(SANDBOX_ID).ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

/// Whether what was made in one sandbox may be sent in another. Outside of sandboxes nobody is a copy.
pub(super) fn may_send(made_in: Option<&str>, here: Option<&str>) -> bool {
    match (made_in, here) {
        (Some(made_in), Some(here)) => made_in == here,
        _ => true,
    }
}

/// Where a run lives.
#[derive(Debug)]
pub(super) struct Home {
    ask: fn() -> Option<String>,
    id: Option<String>,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Original,
    /// Until the run says that it goes on as another.
    Copy,
}

impl Home {
    /// `ask` says which sandbox this is, whenever it is called.
    pub(super) fn new(ask: fn() -> Option<String>) -> Self {
        Self {
            ask,
            id: ask(),
            place: Place::Original,
        }
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether this is a copy that has not said yet who it is. `true` once for each time that it turns into one.
    pub(super) fn has_become_copy(&mut self) -> bool {
        let here = self.id.as_deref();
        let is_new = self.place == Place::Original
            && here.is_some()
            && !may_send(here, (self.ask)().as_deref())
            && !may_send(here, (0..TRIES).find_map(|_| self.sure()).as_deref());
        if is_new {
            self.place = Place::Copy;
        }
        is_new
    }

    /// Whether it is known only now where we are. A first id tells nothing of a copy.
    pub(super) fn has_learned(&mut self) -> bool {
        if self.id.is_some() {
            return false;
        }
        self.id = self.sure();
        self.id.is_some()
    }

    /// What two looks agree on.
    fn sure(&self) -> Option<String> {
        let seen = (self.ask)()?;
        thread::sleep(PAUSE);
        (self.ask)().filter(|again| *again == seen)
    }

    pub(super) fn is_copy(&self) -> bool {
        self.place == Place::Copy
    }

    /// The run has noticed by itself.
    pub(super) fn copied(&mut self) {
        self.place = Place::Copy;
    }

    /// The run goes on here, as another. If nobody says where that is, it is learned later: with the original's id we
    /// would be a copy at the next look, and this time the run would not notice.
    pub(super) fn settle(&mut self) {
        self.id = self.sure();
        self.place = Place::Original;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        /// What is read next; the last one again and again.
        static READ: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    }

    fn ask() -> Option<String> {
        READ.with_borrow_mut(|read| {
            let id = if read.len() > 1 {
                read.remove(0)
            } else {
                read[0]
            };
            Some(id.to_owned()).filter(|id| !id.is_empty())
        })
    }

    fn reads(ids: &[&'static str]) {
        READ.set(ids.to_vec());
    }

    #[test]
    fn an_id_that_is_read_in_part_or_not_at_all_makes_no_copy() {
        reads(&["original"]);
        let mut home = Home::new(ask);
        for ids in [
            ["orig", "original", "original"],
            ["orig", "", "original"],
            ["", "orig", "original"],
            ["orig", "origin", "original"],
        ] {
            reads(&ids);
            assert!(!home.has_become_copy(), "{ids:?}");
            assert!(!home.has_become_copy(), "{ids:?}");
        }
        reads(&["co", "", "co", "copy"]);
        assert!(home.has_become_copy(), "before anything is sent");
        assert!(!home.has_become_copy() && home.is_copy());
    }

    #[test]
    fn a_copy_that_settles_while_nobody_says_where_it_is_learns_it_later() {
        reads(&["original"]);
        let mut home = Home::new(ask);
        home.copied();
        reads(&[""]);
        home.settle();
        assert!(!home.has_learned() && !home.has_become_copy());
        reads(&["co", "copy"]);
        assert!(!home.has_learned() && home.has_learned());
        assert_eq!(home.id(), Some("copy"));
        assert!(!home.has_become_copy() && !home.is_copy());
        reads(&["another"]);
        assert!(home.has_become_copy());
    }
}
