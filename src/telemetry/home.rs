//! Which sandbox this is, for what may be sent from one sandbox alone.
//!
//! A sandbox can be copied as it runs, memory and disk, and then whatever waits to be sent waits twice. The original
//! sends it; the copy, which is known by its new id, must not. So each spooled request says in which sandbox it was
//! made, and is sent in no other; and a run that finds itself in another sandbox forgets what it had to send, counted.
//! The id is looked at before each request, for the supervisor's own look comes up to some seconds late. E2B writes it
//! as it starts the copy (`reference/e2b.md` §4, the files under `/run/e2b`); until then nobody can know, and a request
//! whose answer the copying cut off may come twice, as after any lost answer.

use std::fs;

/// Written by E2B whenever a sandbox starts, as itself or as a copy; the environment stays the original's.
const SANDBOX_ID: &str = "/run/e2b/.E2B_SANDBOX_ID";

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
        let is_new = self.place == Place::Original
            && self.id.is_some()
            && !may_send(self.id.as_deref(), (self.ask)().as_deref());
        if is_new {
            self.place = Place::Copy;
        }
        is_new
    }

    pub(super) fn is_copy(&self) -> bool {
        self.place == Place::Copy
    }

    /// The run has noticed by itself.
    pub(super) fn copied(&mut self) {
        self.place = Place::Copy;
    }

    /// The run goes on here, as another.
    pub(super) fn settle(&mut self) {
        self.id = (self.ask)();
        self.place = Place::Original;
    }
}
