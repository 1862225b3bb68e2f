//! The open spans of a run, and the three rules that hold for every one of them.
//!
//! A span id opens at most once and closes exactly once; a child starts inside its parent; a child ends inside its
//! parent unless it runs in the background. Whoever closes a span closes what is still open below it.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};

use opentelemetry::trace::{SpanId, SpanKind};
use opentelemetry::{Key, Value};

use super::id::forked_span_id;
use super::semconv::{key, value};
use super::span::{
    Attribute, Content, FinishedSpan, SpanEvent, SpanLink, SpanStatus, TraceContext,
};
use crate::order::by_number;
use crate::time::UnixNanos;

/// How many closed span ids are remembered, so that a late line cannot open one of them again.
const CLOSED_MEMORY: usize = 1 << 16;

/// Events of one span beyond this are counted and dropped, as the OpenTelemetry SDK would.
const MAX_EVENTS: usize = 128;

/// How a span relates to its parent's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attachment {
    /// It ends before its parent does.
    Awaited,
    /// Its work goes on by itself.
    Background,
}

/// Why a span closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    /// It is over.
    Finished,
    /// The run or its parent ended without it.
    Abandoned,
}

/// A span that is not over yet.
#[derive(Debug, Clone)]
pub(super) struct OpenSpan {
    pub(super) span_id: SpanId,
    pub(super) parent_span_id: SpanId,
    pub(super) name: Cow<'static, str>,
    pub(super) kind: SpanKind,
    pub(super) start: UnixNanos,
    pub(super) status: SpanStatus,
    pub(super) attributes: Vec<Attribute>,
    pub(super) events: Vec<SpanEvent>,
    content: Vec<Content>,
    dropped_events: u32,
    attachment: Attachment,
    /// The latest end of a child that was awaited.
    children_end: UnixNanos,
}

impl OpenSpan {
    /// Sets an attribute, replacing an earlier value.
    pub(super) fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        let value = value.into();
        match self
            .attributes
            .iter_mut()
            .find(|(known, _)| known.as_str() == key)
        {
            Some((_, slot)) => *slot = value,
            None => self.attributes.push((Key::from_static_str(key), value)),
        }
    }

    pub(super) fn set_opt(&mut self, key: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }

    /// Adds what somebody wrote, replacing what stood under its key.
    pub(super) fn add(&mut self, content: Option<Content>) {
        let Some(content) = content else { return };
        self.content.retain(|known| known.key != content.key);
        self.content.push(content);
    }

    pub(super) fn has_content(&self, key: &str) -> bool {
        self.content.iter().any(|content| content.key == key)
    }

    /// Records an event, up to the limit of the OpenTelemetry SDK.
    pub(super) fn event(&mut self, event: SpanEvent) {
        if self.events.len() < MAX_EVENTS {
            self.events.push(event);
        } else {
            self.dropped_events = self.dropped_events.saturating_add(1);
        }
    }

    /// Marks the span as failed.
    pub(super) fn fail(
        &mut self,
        error_type: impl Into<Value>,
        message: impl Into<Cow<'static, str>>,
    ) {
        self.set(key::ERROR_TYPE, error_type);
        self.status = SpanStatus::Error {
            message: message.into(),
        };
    }

    /// From now on the parent's end does not end this span.
    pub(super) fn put_in_background(&mut self) {
        self.attachment = Attachment::Background;
        self.set(key::BACKGROUND, true);
    }

    pub(super) fn is_background(&self) -> bool {
        self.attachment == Attachment::Background
    }
}

/// What a span says of itself when it opens.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenedSpan {
    pub span_id: SpanId,
    pub parent_span_id: Option<SpanId>,
    pub name: Cow<'static, str>,
    pub kind: SpanKind,
    pub start: UnixNanos,
    pub attributes: Vec<Attribute>,
}

/// What one input did to the spans. The shell owns it, empties it, and hands it in again.
#[derive(Debug, Default)]
pub struct SpanChanges {
    /// To be echoed before the line that caused them.
    pub opened: Vec<OpenedSpan>,
    /// To be echoed after it, and exported.
    pub closed: Vec<FinishedSpan>,
}

/// All open spans.
#[derive(Debug)]
pub(super) struct SpanTree {
    context: TraceContext,
    /// The run id that the sandbox's fork got, and the root of the trace before.
    fork: Option<(String, SpanLink)>,
    root: SpanId,
    open: HashMap<SpanId, OpenSpan>,
    closed: HashSet<SpanId>,
    closed_order: VecDeque<SpanId>,
    /// On every span: the user's attributes, agent name, session, user.
    pub(super) common: Vec<Attribute>,
    pub(super) finished: u64,
}

impl SpanTree {
    pub(super) fn new(context: TraceContext, root: SpanId, common: Vec<Attribute>) -> Self {
        Self {
            context,
            fork: None,
            root,
            open: HashMap::new(),
            closed: HashSet::new(),
            closed_order: VecDeque::new(),
            common,
            finished: 0,
        }
    }

    /// Sets an attribute of every span that closes from now on.
    pub(super) fn set_common(&mut self, key: &'static str, value: impl Into<Value>) {
        let value = value.into();
        match self
            .common
            .iter_mut()
            .find(|(known, _)| known.as_str() == key)
        {
            Some((_, slot)) => *slot = value,
            None => self.common.push((Key::from_static_str(key), value)),
        }
    }

    /// Opens the run's own span, whose parent is the caller's.
    pub(super) fn open_root(
        &mut self,
        name: &'static str,
        start: UnixNanos,
        changes: &mut SpanChanges,
    ) {
        let span = OpenSpan {
            span_id: self.root,
            parent_span_id: self.context.parent_span_id.unwrap_or(SpanId::INVALID),
            name: Cow::Borrowed(name),
            kind: SpanKind::Internal,
            start,
            status: SpanStatus::Unset,
            attributes: Vec::new(),
            events: Vec::new(),
            content: Vec::new(),
            dropped_events: 0,
            attachment: Attachment::Awaited,
            children_end: start,
        };
        changes.opened.push(self.announce(&span));
        self.open.insert(self.root, span);
    }

    /// Opens a span unless its id was used before. A parent that is not open is replaced by the run's span, and a start
    /// before the parent's is moved to it.
    pub(super) fn open(
        &mut self,
        draft: Draft,
        changes: &mut SpanChanges,
    ) -> Option<&mut OpenSpan> {
        if self.open.contains_key(&draft.span_id) || self.closed.contains(&draft.span_id) {
            return None;
        }
        let (parent, earliest) = match self.open.get(&draft.parent) {
            Some(parent) => (draft.parent, parent.start),
            None => (self.root, self.open.get(&self.root)?.start),
        };
        let start = draft.start.max(earliest);
        let span = OpenSpan {
            span_id: draft.span_id,
            parent_span_id: parent,
            name: draft.name,
            kind: draft.kind,
            start,
            status: SpanStatus::Unset,
            attributes: draft
                .attributes
                .into_iter()
                .map(|(key, value)| (Key::from_static_str(key), value))
                .collect(),
            events: Vec::new(),
            content: Vec::new(),
            dropped_events: 0,
            attachment: Attachment::Awaited,
            children_end: start,
        };
        changes.opened.push(self.announce(&span));
        Some(self.open.entry(draft.span_id).or_insert(span))
    }

    /// The id by which the world knows a span. In here a span keeps its id for good, whatever becomes of the run's.
    pub(super) fn told(&self, id: SpanId) -> SpanId {
        match &self.fork {
            Some((run_id, _)) => forked_span_id(run_id, id),
            None => id,
        }
    }

    fn told_parent(&self, span: &OpenSpan) -> Option<SpanId> {
        if span.span_id == self.root {
            self.context.parent_span_id
        } else {
            Some(self.told(span.parent_span_id))
        }
    }

    /// Moves into the trace of a fork. The open spans of the old trace are its original's to close; here they open anew,
    /// parents first, with what is known of them but their past.
    pub(super) fn fork(
        &mut self,
        run_id: &str,
        context: TraceContext,
        now: UnixNanos,
        changes: &mut SpanChanges,
    ) {
        let link = SpanLink {
            trace_id: self.context.trace_id,
            span_id: self.told(self.root),
        };
        self.context = context;
        self.fork = Some((run_id.to_owned(), link));
        // What runs in the background may have outlived its parent, which the new trace never had.
        let orphans: Vec<_> = self
            .open
            .values()
            .filter(|span| span.span_id != self.root)
            .filter(|span| !self.open.contains_key(&span.parent_span_id))
            .map(|span| span.span_id)
            .collect();
        for id in &by_number(orphans, |id| number(*id).into()) {
            if let Some(span) = self.open.get_mut(id) {
                span.parent_span_id = self.root;
            }
        }
        let mut order = vec![self.root];
        let mut next = 0;
        while let Some(id) = order.get(next) {
            order.extend(self.children_of(*id));
            next += 1;
        }
        for id in order {
            let Some(span) = self.open.get_mut(&id) else {
                continue;
            };
            span.start = now;
            span.children_end = now;
            span.events.clear();
            span.dropped_events = 0;
            if let Some(span) = self.open.get(&id) {
                changes.opened.push(self.announce(span));
            }
        }
    }

    fn announce(&self, span: &OpenSpan) -> OpenedSpan {
        OpenedSpan {
            span_id: self.told(span.span_id),
            parent_span_id: self.told_parent(span),
            name: span.name.clone(),
            kind: span.kind.clone(),
            start: span.start,
            attributes: span.attributes.clone(),
        }
    }

    pub(super) fn get_mut(&mut self, id: SpanId) -> Option<&mut OpenSpan> {
        self.open.get_mut(&id)
    }

    pub(super) fn is_open(&self, id: SpanId) -> bool {
        self.open.contains_key(&id)
    }

    /// Closes a span at `end`, and first what is open below it. Nothing happens if it is not open.
    pub(super) fn close(
        &mut self,
        id: SpanId,
        end: UnixNanos,
        closing: Closing,
        changes: &mut SpanChanges,
    ) {
        if !self.open.contains_key(&id) {
            return;
        }
        for child in self.children_of(id) {
            let Some(span) = self.open.get(&child) else {
                continue;
            };
            if span.is_background() && id != self.root {
                continue;
            }
            self.close(child, end, Closing::Abandoned, changes);
        }
        let Some(mut span) = self.open.remove(&id) else {
            return;
        };
        if closing == Closing::Abandoned {
            span.set(key::ABANDONED, true);
            if span.status == SpanStatus::Unset {
                span.fail(
                    value::ABANDONED,
                    "still open when its parent or the run ended",
                );
            }
        }
        let end = end.max(span.start).max(span.children_end);
        if span.attachment == Attachment::Awaited
            && let Some(parent) = self.open.get_mut(&span.parent_span_id)
        {
            parent.children_end = parent.children_end.max(end);
        }
        self.remember(id);
        self.finished += 1;
        for (key, value) in &self.common {
            if !span.attributes.iter().any(|(known, _)| known == key) {
                span.attributes.push((key.clone(), value.clone()));
            }
        }
        let is_root = id == self.root;
        changes.closed.push(FinishedSpan {
            trace_id: self.context.trace_id,
            span_id: self.told(id),
            parent_span_id: self.told_parent(&span),
            parent_is_remote: is_root && self.context.parent_span_id.is_some(),
            name: span.name,
            kind: span.kind,
            start: span.start,
            end,
            status: span.status,
            attributes: span.attributes,
            events: span.events,
            content: span.content,
            dropped_events: span.dropped_events,
            link: self
                .fork
                .as_ref()
                .filter(|_| is_root)
                .map(|(_, link)| *link),
        });
    }

    /// The open children in the order they started, so that a replay closes them in the same order.
    fn children_of(&self, id: SpanId) -> Vec<SpanId> {
        let children: Vec<_> = self
            .open
            .values()
            .filter(|span| span.parent_span_id == id && span.span_id != id)
            .map(|span| (span.start, span.span_id))
            .collect();
        let children = by_number(children, by_start);
        children.into_iter().map(|(_, id)| id).collect()
    }

    /// Everything open below a span that ends when it does, the deepest first.
    pub(super) fn awaited_below(&self, id: SpanId) -> Vec<SpanId> {
        let mut found = Vec::new();
        for child in self.children_of(id) {
            if self
                .open
                .get(&child)
                .is_some_and(|span| !span.is_background())
            {
                found.extend(self.awaited_below(child));
                found.push(child);
            }
        }
        found
    }

    /// Everything open but the run's span.
    pub(super) fn all_below_root(&self) -> Vec<SpanId> {
        self.open
            .keys()
            .filter(|id| **id != self.root)
            .copied()
            .collect()
    }

    /// Closes every span but the run's, background ones included.
    pub(super) fn abandon_all(&mut self, end: UnixNanos, changes: &mut SpanChanges) {
        for child in self.children_of(self.root) {
            self.close(child, end, Closing::Abandoned, changes);
        }
        // Background spans whose parents are long closed hang below no open span.
        let rest: Vec<_> = self
            .open
            .values()
            .filter(|span| span.span_id != self.root)
            .map(|span| (span.start, span.span_id))
            .collect();
        for (_, id) in by_number(rest, by_start) {
            self.close(id, end, Closing::Abandoned, changes);
        }
    }

    fn remember(&mut self, id: SpanId) {
        if self.closed_order.len() == CLOSED_MEMORY
            && let Some(oldest) = self.closed_order.pop_front()
        {
            self.closed.remove(&oldest);
        }
        self.closed_order.push_back(id);
        self.closed.insert(id);
    }
}

/// A span about to open.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) span_id: SpanId,
    pub(super) parent: SpanId,
    pub(super) name: Cow<'static, str>,
    pub(super) kind: SpanKind,
    pub(super) start: UnixNanos,
    pub(super) attributes: Vec<(&'static str, Value)>,
}

fn number(id: SpanId) -> u64 {
    u64::from_be_bytes(id.to_bytes())
}

/// By start, and where that is the same by id, so that a replay has the same order.
fn by_start((start, id): &(UnixNanos, SpanId)) -> u128 {
    u128::from(start.0) << 64 | u128::from(number(*id))
}
