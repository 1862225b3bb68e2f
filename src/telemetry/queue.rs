//! The store-and-forward queues: one a route, with encoded requests on disk and, as far as there is room, in memory.
//!
//! A request is written to the spool before anything else becomes of it, so memory is only a cache of what is sent
//! next. Without a spool, or where its disk fails, memory is all there is. Both are bounded for all queues together;
//! beyond, the oldest request of the fullest queue goes, counted, for the newest say how the run ended. The request in
//! flight is out of its queue but still counts.
//!
//! A backend that is silent for a day leaves some sixteen thousand requests on disk, so what is known of each is small,
//! and how much all of them take is kept rather than summed.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::counts::Counts;
use super::destination::Route;
use super::home::{COPIED, Home};
use super::retry::TRIES;
use super::spool::{Address, RUN_CAP_BYTES, Spool, State};
use crate::order::by_number;

/// The most encoded bytes that wait in memory, for all routes together (DESIGN §1: with the run buffer 16 MiB).
const MEMORY_BYTES: usize = 8 << 20;

/// The most of one route's that are in memory although they are on disk: a few, for of a longer queue most wait long.
const ROUTE_CACHE_BYTES: usize = 1 << 20;
const ROUTE_CACHE_REQUESTS: usize = 8;

const FULL_MEMORY: &str = "the queue is full";
const FULL_SPOOL: &str = "the spool is full: it holds no more than 64 MiB a run";

/// All queues of a run, and what they share.
///
/// Locked rather than owned by one task because the run buffer fills the queues while the senders empty them; both live
/// on the export thread, and the lock is never held across an await.
#[derive(Debug)]
pub(super) struct Depot {
    stock: Mutex<Stock>,
}

#[derive(Debug)]
struct Stock {
    shelves: Vec<Shelf>,
    spooling: Spooling,
    home: Home,
    memory_cap: usize,
    disk_cap: u64,
    /// A failed write has been told.
    told: bool,
}

#[derive(Debug)]
enum Spooling {
    /// There is no journal, or its disk takes no directory.
    Off,
    /// In the run's directory, once the export thread runs.
    Wanted(PathBuf),
    On(Spool),
}

/// One queue's goods.
#[derive(Debug)]
struct Shelf {
    address: Address,
    counts: Arc<Counts>,
    changed: Arc<Notify>,
    idle: Arc<Notify>,
    waiting: VecDeque<Request>,
    in_flight: Option<Request>,
    /// Given up, but still on disk.
    parked: VecDeque<Request>,
    /// What all of these take.
    memory: usize,
    disk: u64,
    door: Door,
    closed: bool,
}

/// Whether requests come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Open,
    /// They come, but nothing is sent yet.
    Held,
    /// The backend does not take this signal.
    Off,
    /// Sampling has decided against the run.
    NotSampled,
    /// They are sent by the sandbox that this one was copied from.
    Copied,
}

/// One encoded request. Its bytes never change: a retry must be the same request.
#[derive(Debug)]
struct Request {
    /// Its number in the spool.
    file: Option<NonZeroU64>,
    /// In a box, for most have none, and an empty place should be small.
    body: Option<Box<Bytes>>,
    /// Of the body.
    length: u32,
    /// Of the file.
    disk: u32,
    /// Spans, log records or data points.
    items: u32,
    /// It was given up once.
    is_second_chance: bool,
    /// The original sends it.
    is_forsaken: bool,
}

// Of thousands, these are what grows.
const _: () = assert!(size_of::<Request>() <= 32);

impl Request {
    fn items(&self) -> u64 {
        u64::from(self.items)
    }

    fn memory(&self) -> usize {
        self.body.as_ref().map_or(0, |body| body.len())
    }

    fn disk(&self) -> u64 {
        u64::from(self.disk)
    }
}

/// What a sender is told of the request in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parcel {
    pub(super) items: u64,
    /// How often it may be sent.
    pub(super) tries: u32,
}

impl Shelf {
    fn add(&mut self, request: Request) {
        self.memory += request.memory();
        self.disk += request.disk();
        self.waiting.push_back(request);
    }

    /// A request has left.
    fn subtract(&mut self, request: &Request) {
        self.memory -= request.memory();
        self.disk -= request.disk();
    }

    /// The oldest request for which `is_of_use` holds; never the one in flight.
    fn take_oldest(&mut self, is_of_use: impl Fn(&Request) -> bool) -> Option<Request> {
        for requests in [&mut self.parked, &mut self.waiting] {
            if let Some(at) = requests.iter().position(&is_of_use) {
                return requests.remove(at);
            }
        }
        None
    }

    fn state(&self) -> State {
        match self.door {
            Door::Held => State::Held,
            Door::Open | Door::Off | Door::NotSampled | Door::Copied => State::Ready,
        }
    }
}

impl Depot {
    /// `run` is the run's directory, where there is a journal; `ask` says which sandbox this is.
    pub(super) fn new(run: Option<PathBuf>, ask: fn() -> Option<String>) -> Self {
        Self {
            stock: Mutex::new(Stock {
                shelves: Vec::new(),
                spooling: run.map_or(Spooling::Off, Spooling::Wanted),
                home: Home::new(ask),
                memory_cap: MEMORY_BYTES,
                disk_cap: RUN_CAP_BYTES,
                told: false,
            }),
        }
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A queue for this route.
    pub(super) fn queue(
        self: &Arc<Self>,
        destination: &str,
        route: &Route,
        counts: &Arc<Counts>,
    ) -> Queue {
        let address = Address::new(destination, route);
        let changed = Arc::new(Notify::new());
        let idle = Arc::new(Notify::new());
        let mut stock = self.stock();
        stock.shelves.push(Shelf {
            address: address.clone(),
            counts: Arc::clone(counts),
            changed: Arc::clone(&changed),
            idle: Arc::clone(&idle),
            waiting: VecDeque::new(),
            in_flight: None,
            parked: VecDeque::new(),
            memory: 0,
            disk: 0,
            door: Door::Open,
            closed: false,
        });
        Queue {
            depot: Arc::clone(self),
            index: stock.shelves.len() - 1,
            address,
            changed,
            idle,
        }
    }

    /// Makes the spool, unless there is nothing to spool.
    pub(super) fn open(&self) {
        let mut stock = self.stock();
        let Spooling::Wanted(run) = &stock.spooling else {
            return;
        };
        if stock.shelves.is_empty() {
            return;
        }
        let created = Spool::create(run, stock.home.id());
        stock.spooling = match created {
            Ok(spool) => Spooling::On(spool),
            Err(error) => {
                for shelf in &stock.shelves {
                    shelf.counts.error(&format!(
                        "there is no spool, so what waits is in memory alone: {error}"
                    ));
                }
                Spooling::Off
            }
        };
    }

    /// Whether this is a copy whose run does not know it yet.
    pub(super) fn is_copy(&self) -> bool {
        self.stock().is_copy()
    }

    /// The run knows that this is a copy: what waits is the original's to send.
    pub(super) fn copied(&self) {
        let mut stock = self.stock();
        stock.home.copied();
        stock.forsake();
    }

    /// The run goes on in the copy, as one of its own.
    pub(super) fn settle(&self) {
        let mut stock = self.stock();
        let stock = &mut *stock;
        stock.home.settle();
        if let Spooling::On(spool) = &mut stock.spooling {
            spool.move_to(stock.home.id());
        }
    }

    /// Removes the spool if it is empty.
    pub(super) fn finish(&self) {
        let stock = self.stock();
        if let Spooling::On(spool) = &stock.spooling
            && stock.shelves.iter().all(|shelf| shelf.disk == 0)
        {
            spool.remove_if_empty();
        }
    }
}

impl Stock {
    fn memory(&self) -> usize {
        self.shelves.iter().map(|shelf| shelf.memory).sum()
    }

    fn disk(&self) -> u64 {
        self.shelves.iter().map(|shelf| shelf.disk).sum()
    }

    /// Looks where we are, and forgets what waits if that is a copy.
    fn is_copy(&mut self) -> bool {
        if self.home.has_learned()
            && let Spooling::On(spool) = &mut self.spooling
        {
            spool.move_to(self.home.id());
        }
        if self.home.has_become_copy() {
            self.forsake();
        }
        self.home.is_copy()
    }

    /// Leaves everything to the original. What is in flight may still be answered, but has no further try.
    fn forsake(&mut self) {
        for index in 0..self.shelves.len() {
            let items = self.clear(index);
            let shelf = &mut self.shelves[index];
            if let Some(request) = &mut shelf.in_flight {
                request.is_forsaken = true;
            }
            if items > 0 {
                shelf.counts.dropped(items, COPIED);
            }
        }
    }

    fn push(&mut self, index: usize, items: u64, body: Bytes) {
        let length = body.len();
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let mut request = Request {
            file: None,
            body: None,
            length: small(length),
            disk: 0,
            items: u32::try_from(items).unwrap_or(u32::MAX),
            is_second_chance: false,
            is_forsaken: false,
        };
        let room_on_disk =
            !matches!(self.spooling, Spooling::On(_)) || self.make_room_on_disk(length);
        let Some(shelf) = self.shelves.get_mut(index) else {
            return;
        };
        if !room_on_disk {
            shelf.counts.dropped(items, FULL_SPOOL);
            return;
        }
        if let Spooling::On(spool) = &mut self.spooling {
            match spool.write(&shelf.address, items, shelf.state(), &body) {
                Ok((number, bytes)) => {
                    request.file = NonZeroU64::new(number);
                    request.disk = u32::try_from(bytes).unwrap_or(u32::MAX);
                    shelf.counts.spooled(items);
                }
                Err(error) if !self.told => {
                    self.told = true;
                    shelf.counts.error(&format!(
                        "the spool cannot be written, so what waits is in memory alone: {error}"
                    ));
                }
                Err(_) => {}
            }
        }
        if request.file.is_some() {
            let is_next = shelf.waiting.len() < ROUTE_CACHE_REQUESTS;
            let is_cached = is_next
                && shelf.memory + length <= ROUTE_CACHE_BYTES
                && self.memory() + length <= self.memory_cap;
            request.body = is_cached.then(|| Box::new(body));
        } else if self.make_room_in_memory(length) {
            request.body = Some(Box::new(body));
        } else {
            self.shelves[index].counts.dropped(items, FULL_MEMORY);
            return;
        }
        let shelf = &mut self.shelves[index];
        shelf.add(request);
        shelf.changed.notify_one();
    }

    fn make_room_on_disk(&mut self, length: usize) -> bool {
        // With some room for the file's first line.
        let wanted = length as u64 + 512;
        while self.disk() + wanted > self.disk_cap {
            if !self.drop_oldest(
                |shelf| shelf.disk,
                |request| request.file.is_some(),
                FULL_SPOOL,
            ) {
                return false;
            }
        }
        true
    }

    fn make_room_in_memory(&mut self, length: usize) -> bool {
        if self.memory() + length > self.memory_cap {
            // Whatever is on disk as well need not be here.
            for shelf in &mut self.shelves {
                for request in &mut shelf.waiting {
                    if request.file.is_some() {
                        shelf.memory -= request.memory();
                        request.body = None;
                    }
                }
            }
        }
        while self.memory() + length > self.memory_cap {
            let is_of_use = |request: &Request| request.body.is_some();
            if !self.drop_oldest(|shelf| shelf.memory as u64, is_of_use, FULL_MEMORY) {
                return false;
            }
        }
        true
    }

    /// Drops the oldest request of the fullest queue; `false` if there is none.
    fn drop_oldest(
        &mut self,
        fullness: impl Fn(&Shelf) -> u64,
        is_of_use: impl Fn(&Request) -> bool,
        reason: &str,
    ) -> bool {
        let fullest_first = |index: &usize| u128::MAX - u128::from(fullness(&self.shelves[*index]));
        let order = by_number((0..self.shelves.len()).collect(), fullest_first);
        for index in order {
            if let Some(oldest) = self.shelves[index].take_oldest(&is_of_use) {
                self.forget(index, &oldest);
                self.shelves[index].counts.dropped(oldest.items(), reason);
                return true;
            }
        }
        false
    }

    /// A request is gone from its queue, and now from the disk.
    fn forget(&mut self, index: usize, request: &Request) {
        self.shelves[index].subtract(request);
        let (Spooling::On(spool), Some(number)) = (&self.spooling, request.file) else {
            return;
        };
        let counts = &self.shelves[index].counts;
        counts.unspooled(request.items());
        if let Err(error) = spool.remove(number.get()) {
            counts.error(&format!(
                "a request that is settled cannot be removed from the spool, and may be sent again: {error}"
            ));
        }
    }

    /// Removes everything that waits, and says how many items that were.
    fn clear(&mut self, index: usize) -> u64 {
        let shelf = &mut self.shelves[index];
        let waiting = std::mem::take(&mut shelf.waiting);
        let parked = std::mem::take(&mut shelf.parked);
        let mut items = 0;
        for request in parked.into_iter().chain(waiting) {
            items += request.items();
            self.forget(index, &request);
        }
        items
    }
}

/// One route's queue.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    depot: Arc<Depot>,
    index: usize,
    address: Address,
    changed: Arc<Notify>,
    idle: Arc<Notify>,
}

impl Queue {
    /// Where its requests go, as the spool knows it.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Adds a request, at the cost of older ones if it must be.
    pub(super) fn push(&self, body: Bytes, items: u64) {
        self.depot.stock().push(self.index, items, body);
    }

    /// Whether requests come and go. There is no use in encoding what will not be let in.
    pub(super) fn door(&self) -> Door {
        let mut stock = self.depot.stock();
        let is_copy = stock.is_copy();
        match stock.shelves[self.index].door {
            Door::Open | Door::Held if is_copy => Door::Copied,
            door => door,
        }
    }

    /// Keeps everything until [`Self::open`] or [`Self::not_sampled`].
    pub(super) fn hold(&self) {
        self.depot.stock().shelves[self.index].door = Door::Held;
    }

    /// Sends what was held.
    pub(super) fn open(&self) {
        let mut stock = self.depot.stock();
        let shelf = &mut stock.shelves[self.index];
        if shelf.door == Door::Held {
            shelf.door = Door::Open;
            shelf.changed.notify_one();
        }
    }

    /// Removes what was held, and takes nothing more.
    pub(super) fn not_sampled(&self) {
        let mut stock = self.depot.stock();
        let items = stock.clear(self.index);
        let shelf = &mut stock.shelves[self.index];
        shelf.door = Door::NotSampled;
        shelf.counts.not_sampled(items);
        shelf.changed.notify_one();
    }

    /// Takes nothing more, for the backend would not.
    pub(super) fn switch_off(&self, reason: &str) {
        let mut stock = self.depot.stock();
        let items = stock.clear(self.index);
        let shelf = &mut stock.shelves[self.index];
        shelf.door = Door::Off;
        shelf.counts.dropped(items, reason);
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        self.depot.stock().shelves[self.index].closed = true;
        self.changed.notify_one();
    }

    /// The oldest request, which is then in flight until it is settled; `None` once closed and empty.
    pub(super) async fn next(&self) -> Option<Parcel> {
        loop {
            {
                let mut stock = self.depot.stock();
                let is_copy = stock.is_copy();
                let shelf = &mut stock.shelves[self.index];
                if shelf.door != Door::Held
                    && !is_copy
                    && let Some(request) = shelf.waiting.pop_front()
                {
                    let tries = if request.is_second_chance { 1 } else { TRIES };
                    let items = request.items();
                    shelf.in_flight = Some(request);
                    return Some(Parcel { items, tries });
                }
                if shelf.closed {
                    return None;
                }
                shelf.idle.notify_one();
            }
            self.changed.notified().await;
        }
    }

    /// The body of the request in flight, from memory or from the disk.
    pub(super) fn body(&self) -> Result<Bytes, String> {
        let mut stock = self.depot.stock();
        stock.is_copy();
        let Some(request) = &stock.shelves[self.index].in_flight else {
            return Err("nothing is in flight".to_owned());
        };
        if request.is_forsaken {
            return Err(COPIED.to_owned());
        }
        match (&request.body, request.file, &stock.spooling) {
            (Some(body), _, _) => Ok(body.as_ref().clone()),
            (None, Some(number), Spooling::On(spool)) => match spool.read(number.get()) {
                Ok(body) if body.len() == request.length as usize => Ok(body),
                Ok(_) => Err("a request in the spool is unusable: it was replaced".to_owned()),
                Err(error) => Err(format!("a request in the spool is unusable: {error}")),
            },
            (None, _, _) => Err("a request has no body".to_owned()),
        }
    }

    /// The request in flight was acknowledged, or will never be: it is removed before anything else.
    pub(super) fn settle(&self) {
        let mut stock = self.depot.stock();
        if let Some(request) = stock.shelves[self.index].in_flight.take() {
            stock.forget(self.index, &request);
        }
    }

    /// The backend is there again: what was given up has one more chance.
    pub(super) fn revive(&self) {
        let mut stock = self.depot.stock();
        let shelf = &mut stock.shelves[self.index];
        let parked = std::mem::take(&mut shelf.parked);
        for mut request in parked {
            if request.is_second_chance {
                shelf.parked.push_back(request);
            } else {
                request.is_second_chance = true;
                shelf.waiting.push_back(request);
            }
        }
    }

    /// The request in flight is given up for now; `false` if it is not on disk, and therefore lost.
    pub(super) fn park(&self) -> bool {
        let mut stock = self.depot.stock();
        let shelf = &mut stock.shelves[self.index];
        let Some(mut request) = shelf.in_flight.take() else {
            return false;
        };
        if request.is_forsaken {
            stock.forget(self.index, &request);
            return false;
        }
        shelf.subtract(&request);
        let is_on_disk = request.file.is_some();
        if is_on_disk {
            request.body = None;
            shelf.disk += request.disk();
            shelf.parked.push_back(request);
        }
        is_on_disk
    }

    /// Waits until nothing of the run's own is being sent.
    pub(super) async fn idle(&self) {
        loop {
            {
                let stock = self.depot.stock();
                let shelf = &stock.shelves[self.index];
                let is_still = shelf.waiting.is_empty() || shelf.door == Door::Held;
                if shelf.in_flight.is_none() && is_still {
                    return;
                }
            }
            self.idle.notified().await;
        }
    }
}

#[cfg(test)]
mod tests;
