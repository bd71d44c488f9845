//! One pvAccess channel.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use epics_pva_rs::client_native::channel::Channel;
use epics_pva_rs::client_native::ops_v2::op_get_field;
use epics_pva_rs::client_native::server_conn::ServerConn;
use epics_pva_rs::error::PvaError;
use epics_pva_rs::proto::{Command, PvaHeader, WriteExt};
use epics_pva_rs::pvdata::FieldDesc;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::monitor::{Watching, watch};
use super::operation::{Operation, failure, said};
use super::put::shape;
use super::request::Request;
use super::selection::Selection;
use super::type_name::{described, type_name};
use super::{PvaContext, normative};
use crate::error::{Error, Kind};
use crate::events::Events;
use crate::feed::{Feed, Feeds};
use crate::link::Info;
use crate::value::{Fetch, Form, Reading, Value};

/// For calls of the crate that want a deadline: ours ends them.
const NEVER: Duration = Duration::from_secs(1 << 30);
/// Puts of one channel that are on the wire at once, each with an operation of its own at the server.
const MOST_PUTS: usize = 64;
/// Between the loss of a circuit and the search for the next.
const BREATH: Duration = Duration::from_millis(5);
/// Who has not been answered by then makes room for others, and searches on.
const PATIENCE: Duration = Duration::from_millis(20);
/// Between two attempts to connect that failed at once.
const PAUSE: Duration = Duration::from_millis(100);

pub struct PvaLink {
    name: String,
    context: Arc<PvaContext>,
    pub channel: Arc<Channel>,
    keeper: OnceLock<AbortHandle>,
    events: Events,
    feeds: Feeds,
    /// Held until a request is on the wire: requests of one channel leave in the order of the calls.
    turn: tokio::sync::Mutex<()>,
    idle: Mutex<HashMap<Request, Vec<Operation>>>,
    monitors: Mutex<Vec<(Arc<Feed>, Watching)>>,
    putting: Semaphore,
    /// Whether only the whole structure makes a reading, on the present connection.
    whole: Mutex<Option<bool>>,
}

impl Drop for PvaLink {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.abort();
        }
        self.idle.get_mut().clear();
        let active = self.channel.try_get_active();
        // Closed before the server is told: its answer would pass for a destruction of its own.
        self.channel.close();
        if let Some((server, sid)) = active {
            server.try_send(destroy_channel(&server, sid, self.channel.cid));
        }
        let mut links = self.context.links.lock();
        if links.get(&self.name).is_some_and(|weak| weak.strong_count() == 0) {
            links.remove(&self.name);
        }
    }
}

/// CMD_DESTROY_CHANNEL, which the crate leaves to the end of the circuit.
fn destroy_channel(server: &ServerConn, sid: u32, cid: u32) -> Vec<u8> {
    let order = server.byte_order();
    let mut frame = Vec::new();
    PvaHeader::application(false, order, Command::DestroyChannel.code(), 8).write_into(&mut frame);
    frame.put_u32(sid, order);
    frame.put_u32(cid, order);
    frame
}

impl PvaLink {
    /// A new channel; it starts to search at once.
    pub fn open(context: &Arc<PvaContext>, name: &str) -> Arc<Self> {
        let link = Arc::new(Self {
            name: name.to_owned(),
            context: context.clone(),
            keeper: OnceLock::new(),
            channel: context.channel(name),
            events: Events::default(),
            feeds: Feeds::default(),
            turn: tokio::sync::Mutex::default(),
            idle: Mutex::default(),
            monitors: Mutex::default(),
            putting: Semaphore::new(MOST_PUTS),
            whole: Mutex::default(),
        });
        // Not before the link is whole: a connection that comes at once would find nobody.
        let keeper = keep_connected(link.channel.clone(), context.searching.clone(), Arc::downgrade(&link));
        let _ = link.keeper.set(context.handle.spawn(keeper).abort_handle());
        link
    }

    pub fn events(&self) -> &Events {
        &self.events
    }

    pub fn feeds(&self) -> &Feeds {
        &self.feeds
    }

    /// The words in which a server refused to create the channel, until one creates it.
    pub fn refusal(&self) -> Option<String> {
        self.channel.refusal().map(|status| said(&status).to_owned())
    }

    fn came_up(self: &Arc<Self>) {
        // pvAccess tells no access rights.
        self.events.came_up((None, None));
        for feed in self.feeds.open() {
            self.start_monitor(&feed);
        }
    }

    fn went_down(&self) {
        self.monitors.lock().clear();
        self.feeds.went_down();
        self.idle.lock().clear();
        *self.whole.lock() = None;
        self.events.went_down();
    }

    async fn active(&self) -> Result<(Arc<ServerConn>, u32), Error> {
        loop {
            self.events.wait_connected().await;
            if let Some(active) = self.channel.try_get_active() {
                return Ok(active);
            }
            // Lost in this moment: the keeper is about to say so.
            tokio::task::yield_now().await;
        }
    }

    /// An operation that nobody uses, or a new one.
    async fn operation(&self, request: &Request) -> Result<Operation, Error> {
        let (server, sid) = self.active().await?;
        loop {
            let idle = self.idle.lock().get_mut(request).and_then(Vec::pop);
            match idle {
                Some(operation) if operation.is_on(&server, sid) => return Ok(operation),
                Some(stale) => drop(stale),
                None => break,
            }
        }
        let encoded = request.encode(&server)?;
        Operation::open(server, sid, request.command(), &encoded).await
    }

    fn keep(&self, request: Request, operation: Operation) {
        if self.events.connected() {
            self.idle.lock().entry(request).or_default().push(operation);
        }
    }

    pub async fn get(&self, fetch: Fetch) -> Result<Reading, Error> {
        let mut reading = match fetch.request {
            Some(text) => {
                let selection = Selection::of(Some(&text))?;
                self.get_as(Request::GetAs(text), &selection, fetch.form).await?
            }
            None => self.get_form(fetch.form).await?,
        };
        if let Some(count) = fetch.count {
            reading.value = reading.value.first(count as usize);
        }
        Ok(reading)
    }

    /// Without a plain value, only the whole structure is a reading.
    async fn get_form(&self, form: Form) -> Result<Reading, Error> {
        let whole = self.whole.lock().unwrap_or(false);
        let all = Selection::of(None)?;
        match self.get_as(Request::Get { form, whole }, &all, form).await {
            // A server refuses to initialise for fields that it does not have.
            Err(error) if error.kind == Kind::Remote && !whole => {
                *self.whole.lock() = Some(true);
                self.get_as(Request::Get { form, whole: true }, &all, form).await
            }
            other => other,
        }
    }

    async fn get_as(&self, request: Request, selection: &Selection, form: Form) -> Result<Reading, Error> {
        let turn = self.turn.lock().await;
        let mut operation = self.operation(&request).await?;
        let plain = normative::has_plain_value(&operation.desc);
        if !plain && matches!(request, Request::Get { whole: false, .. }) {
            return Err(Error::new(Kind::Remote, "its structure has no plain value"));
        }
        operation.execute_get()?;
        drop(turn);
        let field = operation.value().await?;
        let reading = selection.reading(&operation.desc, &field, form);
        self.keep(request, operation);
        Ok(reading)
    }

    pub async fn put(&self, value: Value, wait: bool, request: Option<Arc<str>>) -> Result<(), Error> {
        let whole = self.whole.lock().unwrap_or(false);
        let mut request = request.map_or(Request::Put { block: wait, whole }, Request::PutAs);
        let turn = self.turn.lock().await;
        let putting = self.putting.acquire().await.map_err(|_| Error::lost())?;
        let mut operation = match (self.operation(&request).await, request.widened()) {
            // Refused before anything was put: a structure without a value is put to by its own fields.
            (Err(error), Some(widened)) if error.kind == Kind::Remote => {
                request = widened;
                self.operation(&request).await?
            }
            (opened, _) => opened?,
        };
        let (field, changed) = shape(value, &mut operation).await?;
        operation.execute_put(&field, &changed)?;
        drop(turn);
        operation.completion().await?;
        self.keep(request, operation);
        drop(putting);
        Ok(())
    }

    /// The type of the whole channel.
    pub async fn description(&self) -> Result<FieldDesc, Error> {
        self.active().await?;
        op_get_field(&self.channel, "", NEVER).await.map_err(failure)
    }

    pub async fn info(&self) -> Result<Info, Error> {
        let (server, _) = self.active().await?;
        let desc = self.description().await?;
        let of_value = match &desc {
            FieldDesc::Structure { fields, .. } if normative::has_plain_value(&desc) => fields
                .iter()
                .find(|(name, _)| name == "value")
                .map(|(_, desc)| type_name(desc)),
            _ => None,
        };
        Ok(Info {
            address: server.addr.to_string(),
            type_name: of_value.unwrap_or_else(|| type_name(&desc)),
            count: None,
            readable: None,
            writable: None,
            circuit: "connected",
            structure: described(&desc),
        })
    }

    /// The monitor runs while the channel is up; the keeper starts it again with the next connection.
    pub fn subscribe(self: &Arc<Self>, feed: Arc<Feed>) {
        feed.opened(Box::new(Wanted(Arc::downgrade(self), Arc::downgrade(&feed))));
        if self.events.connected() {
            self.start_monitor(&feed);
        }
    }

    fn start_monitor(self: &Arc<Self>, feed: &Arc<Feed>) {
        let task = self.context.handle.spawn(watch(Arc::downgrade(self), feed.clone()));
        let mut monitors = self.monitors.lock();
        // A running one ends here: the keeper and a subscriber may both have seen the connection.
        monitors.retain(|(other, _)| !Arc::ptr_eq(other, feed));
        monitors.push((feed.clone(), Watching(task.abort_handle())));
    }
}

/// Held by a feed while somebody wants its updates.
struct Wanted(Weak<PvaLink>, Weak<Feed>);

impl Drop for Wanted {
    fn drop(&mut self) {
        if let (Some(link), Some(feed)) = (self.0.upgrade(), self.1.upgrade()) {
            let mut monitors = link.monitors.lock();
            // Another thread may have joined since the last one left: the monitor is that one's now.
            if !feed.is_open() {
                monitors.retain(|(other, _)| !Arc::ptr_eq(other, &feed));
            }
        }
    }
}

/// The first search, in its turn: answers to more at once would be lost in our socket, and asked for again a second later.
async fn connect_first(channel: &Arc<Channel>, searching: Arc<Semaphore>) -> Result<Arc<ServerConn>, PvaError> {
    let turn = searching.acquire_owned().await;
    let mut active = std::pin::pin!(channel.ensure_active());
    let answered = tokio::time::timeout(PATIENCE, &mut active).await;
    drop(turn);
    let (server, _) = match answered {
        Ok(active) => active?,
        Err(_) => active.await?,
    };
    Ok(server)
}

/// Search, connect, watch, and again; ends with its link.
async fn keep_connected(channel: Arc<Channel>, searching: Arc<Semaphore>, link: Weak<PvaLink>) {
    let mut first = Some(searching);
    loop {
        let connected = match first.take() {
            Some(searching) => connect_first(&channel, searching).await,
            None => channel.ensure_active().await.map(|(server, _)| server),
        };
        match connected {
            Ok(server) => {
                let Some(up) = link.upgrade() else { return };
                up.came_up();
                drop(up);
                tokio::select! {
                    () = server.wait_closed() => {}
                    () = channel.wait_until_inactive() => {}
                }
                let Some(down) = link.upgrade() else { return };
                down.went_down();
                drop(down);
                // A circuit that is closed and does not know it yet would be handed out again at once.
                tokio::time::sleep(BREATH).await;
            }
            Err(error) => {
                tracing::debug!(pv = %channel.pv_name, %error, "no connection yet");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
