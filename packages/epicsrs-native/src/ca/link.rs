//! One Channel Access channel.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use epics_base_rs::error::{CaError, eca};
use epics_base_rs::server::snapshot::Snapshot;
use epics_base_rs::types::DbFieldType;
use epics_ca_rs::client::{CaChannel, ConnectionEvent, MonitorHandle, ReqCount};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::CaContext;
use super::asked::{Answer, Asked};
use super::failure::{Refusal, failure, type_name, write_refusal};
use super::gate::{self, Gate};
use super::line::Line;
use super::properties::{News, Properties};
use super::value::{self, Sent};
use crate::error::Error;
use crate::events::Events;
use crate::feed::{Feed, Feeds};
use crate::link::Info;
use crate::value::{Choices, Form, Reading, Value};

/// Elements that are copied sooner than a future is made for them. Of longer arrays each is decoded as it comes, while the
/// server sends the next.
const SHORT: u32 = 32;

pub struct CaLink {
    name: String,
    context: Arc<CaContext>,
    channel: OnceLock<CaChannel>,
    searching: Notify,
    /// Whether it has been connected before.
    answered: AtomicBool,
    events: Events,
    feeds: Feeds,
    properties: Mutex<Properties>,
    /// Whether the record of the present connection holds few elements.
    short: AtomicBool,
    /// Whether property events are subscribed to: of an enum from its connection on, of others since a monitor wants them.
    watching: AtomicBool,
    watch: Mutex<Option<MonitorHandle>>,
    /// Counts the losses, and so names the present connection.
    connection: AtomicU64,
    gate: Mutex<Option<Arc<Gate>>>,
    waiting: Line,
}

impl Drop for CaLink {
    fn drop(&mut self) {
        let mut links = self.context.links.lock();
        if links.get(&self.name).is_some_and(|weak| weak.strong_count() == 0) {
            links.remove(&self.name);
        }
    }
}

impl CaLink {
    /// A new channel; it starts to search at once, or when the searches before it are answered.
    pub fn open(context: &Arc<CaContext>, name: &str) -> Arc<Self> {
        let link = Arc::new(Self {
            name: name.to_owned(),
            context: context.clone(),
            channel: OnceLock::new(),
            searching: Notify::new(),
            answered: AtomicBool::new(false),
            events: Events::default(),
            feeds: Feeds::default(),
            properties: Mutex::default(),
            short: AtomicBool::new(false),
            watching: AtomicBool::new(false),
            watch: Mutex::default(),
            connection: AtomicU64::new(0),
            gate: Mutex::default(),
            waiting: Line::default(),
        });
        context.pacer.enter(&context.handle, &link);
        link
    }

    /// Start to search for its server.
    pub fn search(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        let sink = Arc::new(move |event| {
            if let Some(link) = weak.upgrade() {
                link.happened(event);
            }
        });
        let channel = self.context.client.create_channel_with_sink(&self.name, sink);
        let _ = self.channel.set(channel);
        self.searching.notify_waiters();
    }

    /// The channel, when it is this link's turn to search.
    async fn searched(&self) -> &CaChannel {
        loop {
            let searching = self.searching.notified();
            if let Some(channel) = self.channel.get() {
                return channel;
            }
            searching.await;
        }
    }

    pub fn events(&self) -> &Events {
        &self.events
    }

    pub fn feeds(&self) -> &Feeds {
        &self.feeds
    }

    /// In the coordinator's turn: connection events in order with the updates around them.
    fn happened(self: &Arc<Self>, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Connected => {
                if !self.answered.swap(true, Ordering::AcqRel) {
                    self.context.pacer.answered();
                }
                self.find_gate();
                let short = self.channel().element_count().is_ok_and(|n| n <= SHORT);
                self.short.store(short, Ordering::Release);
                // Another thread may have asked since the channel went down; that says nothing of this connection.
                self.forget_properties();
                // An enum is up when its choices are known, so that no label has to wait or be guessed.
                if self.is_enum() {
                    self.ask_properties();
                } else {
                    self.came_up();
                    // Up before the look: a monitor that comes behind it asks by itself.
                    if self.feeds.open().iter().any(|feed| feed.wish.form == Form::Ctrl) {
                        self.ask_properties();
                    }
                }
            }
            ConnectionEvent::Disconnected => {
                self.forget_properties();
                self.feeds.went_down();
                self.events.went_down();
            }
            ConnectionEvent::AccessRightsChanged { read, write } => {
                self.events.access_changed((Some(read), Some(write)));
            }
            ConnectionEvent::NativeTypeChanged { .. } => {}
        }
    }

    fn channel(&self) -> &CaChannel {
        // The first events may come before `search` has stored the channel, which it is about to do.
        self.channel.wait()
    }

    fn find_gate(&self) {
        let address = self.address();
        *self.gate.lock() = address.map(|a| self.context.gates.lock().entry(a).or_default().clone());
    }

    fn address(&self) -> Option<SocketAddr> {
        // The crate's `info` is ready at once: it reads the published snapshot.
        let mut info = std::pin::pin!(self.channel().info());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match info.as_mut().poll(&mut context) {
            std::task::Poll::Ready(Ok(info)) => Some(info.server_addr),
            _ => None,
        }
    }

    /// What keeps the channel down, where something is known of it.
    pub fn trouble(&self) -> Option<String> {
        match self.silent_server() {
            Some(server) => Some(format!("its server {server} does not answer")),
            None if self.channel.get()?.create_refused() => Some("the server refused the channel".to_owned()),
            None => None,
        }
    }

    /// The server of a circuit that is open and does not answer (libca's unresponsive circuit): its channels are down.
    fn silent_server(&self) -> Option<SocketAddr> {
        self.channel.get()?;
        // A circuit that is being made has an address already: its properties are asked for, or it is the first.
        let made = self.answered.load(Ordering::Acquire) && matches!(*self.properties.lock(), Properties::Unknown);
        self.address().filter(|_| made && !self.events.connected())
    }

    fn is_enum(&self) -> bool {
        matches!(self.channel().native_field_type(), Ok(DbFieldType::Enum))
    }

    fn came_up(&self) {
        let access = self.channel().access_rights();
        self.events.came_up((Some(access.read), Some(access.write)));
    }

    /// What was known or asked for belongs to another connection than the present one.
    fn forget_properties(&self) {
        self.connection.fetch_add(1, Ordering::SeqCst);
        *self.properties.lock() = Properties::Unknown;
    }

    /// Ask for the properties of the present connection: DBR_TIME carries none, and of an enum the index only.
    fn ask_properties(self: &Arc<Self>) {
        {
            let mut properties = self.properties.lock();
            // Somebody else has asked: updates may wait for the answer already.
            if !matches!(*properties, Properties::Unknown) {
                return;
            }
            *properties = Properties::Asked(Vec::new());
        }
        let connection = self.connection.load(Ordering::SeqCst);
        let asked = self.request_properties();
        let link = self.clone();
        self.context.handle.spawn(async move {
            let mut asked = asked;
            // What the crate says of a full queue too.
            while matches!(asked, Err(CaError::Disconnected)) && link.connection.load(Ordering::SeqCst) == connection {
                tokio::time::sleep(gate::PAUSE).await;
                asked = link.request_properties();
            }
            let answer = match asked {
                Ok(answer) => answer.await,
                Err(error) => Err(error),
            };
            // An answer of a connection that is no more says nothing of this one.
            if link.connection.load(Ordering::SeqCst) == connection {
                link.properties_came(answer);
            }
        });
        self.watch_properties();
    }

    fn request_properties(&self) -> Result<Answer<Snapshot>, CaError> {
        let native = self.channel().native_field_type()?;
        let answer = self
            .channel()
            .get_callback(native.ctrl_dbr_type(), ReqCount::Fixed(1))?;
        Ok(Box::pin(answer))
    }

    /// Have the server tell whenever they change (DBE_PROPERTY), from now on and with each connection.
    fn watch_properties(self: &Arc<Self>) {
        if self.watching.swap(true, Ordering::AcqRel) {
            return;
        }
        let link = self.clone();
        self.context.handle.spawn(async move {
            let weak = Arc::downgrade(&link);
            let sink = Arc::new(move |update: Result<Snapshot, CaError>| {
                // What was asked for has an answer already; a server need not know of property events.
                if let Some(link) = weak.upgrade().filter(|_| update.is_ok()) {
                    link.properties_came(update);
                }
            });
            let opened = link.searched().await.subscribe_properties_with_sink(sink).await;
            *link.watch.lock() = opened.ok();
        });
    }

    fn properties_came(&self, update: Result<Snapshot, CaError>) {
        let Ok(native) = self.channel().native_field_type() else {
            return;
        };
        let metadata = match update {
            Ok(snapshot) => Arc::new(value::metadata(&snapshot, native)),
            Err(CaError::Disconnected) => return,
            Err(CaError::ServerError(status)) if status == eca::ECA_DISCONN => return,
            // A server that refuses to tell them still serves the value.
            Err(_) => Arc::default(),
        };
        let mut properties = self.properties.lock();
        match properties.know(metadata.clone()) {
            News::First => {
                drop(properties);
                self.came_up();
                return;
            }
            News::None => return,
            News::Changed => {}
        }
        for feed in self.feeds.open().iter().filter(|feed| feed.wish.form == Form::Ctrl) {
            feed.refresh(&metadata);
        }
    }

    pub fn context(&self) -> &CaContext {
        &self.context
    }

    pub fn known_choices(&self) -> Option<Choices> {
        self.properties.lock().choices()
    }

    /// Do `issue` as soon as the channel is up and its circuit has room, in the order of the calls to one circuit.
    async fn send<T>(&self, issue: impl Fn(&CaChannel) -> Result<T, Refusal>) -> Result<T, Error> {
        match self.send_at_once(&issue) {
            Some(sent) => sent,
            // On the heap: a bulk call moves thousands of these futures, most of which have nothing to wait for.
            None => Box::pin(self.send_in_turn(issue)).await,
        }
    }

    async fn send_in_turn<T>(&self, issue: impl Fn(&CaChannel) -> Result<T, Refusal>) -> Result<T, Error> {
        // Held until it is sent: what waits for the connection goes before what comes after it.
        let _place = self.waiting.join(|| self.events.connected()).await;
        loop {
            self.events.wait_connected().await;
            let channel = self.channel();
            let gate = self.gate.lock().clone();
            let _turn = match &gate {
                Some(gate) => gate.pass(|| channel.queued_frames()).await,
                None => None,
            };
            match issue(channel) {
                Ok(sent) => return Ok(sent),
                // Nothing was sent: the channel fell in this moment.
                Err(Refusal::Down) => tokio::task::yield_now().await,
                Err(Refusal::Error(error)) => return Err(error),
            }
        }
    }

    /// The channel, where a request can be sent at once: it is up, its circuit has room, and nobody waits who came before.
    pub fn free(&self) -> Option<&CaChannel> {
        if !self.waiting.is_empty() || !self.events.connected() {
            return None;
        }
        let channel = self.channel();
        let gate = self.gate.lock();
        let open = gate
            .as_ref()
            .is_none_or(|gate| gate.is_open(|| channel.queued_frames()));
        open.then_some(channel)
    }

    /// Whether it is better read with others than by itself.
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Acquire)
    }

    /// None where something has to be waited for.
    fn send_at_once<T>(&self, issue: impl Fn(&CaChannel) -> Result<T, Refusal>) -> Option<Result<T, Error>> {
        match issue(self.free()?) {
            Ok(sent) => Some(Ok(sent)),
            Err(Refusal::Down) => None,
            Err(Refusal::Error(error)) => Some(Err(error)),
        }
    }

    pub async fn get(&self, form: Form, count: Option<u32>) -> Result<Reading, Error> {
        let asked = self.send(|channel| Asked::of(channel, form, count)).await?;
        let reading = asked.answered(form, || self.known_choices()).await?;
        match count {
            None => Ok(reading),
            Some(count) => Box::pin(self.cut(reading, form, count)).await,
        }
    }

    /// The first `count` elements. A server fills up with zeros what the record does not hold: where they end in zero, only
    /// all of them tell how many there are.
    async fn cut(&self, mut reading: Reading, form: Form, count: u32) -> Result<Reading, Error> {
        if count > 0 && matches!(&reading.value, Value::Array(array) if array.ends_in_zero()) {
            reading = self.get(form, None).await?;
        }
        reading.value = reading.value.first(count as usize);
        Ok(reading)
    }

    pub async fn put(&self, value: Value, wait: bool) -> Result<(), Error> {
        let completion = self
            .send(|channel| {
                let native = channel.native_field_type()?;
                let most = channel.element_count()?;
                let choices = self.known_choices();
                let (dbr, sent) = value::to_dbr(value.clone(), native, most, choices.as_ref())?;
                let sent = match (sent, wait) {
                    (Sent::Value(data), true) => channel
                        .put_as_dbr_callback(dbr, &data)
                        .map(|answer| Some(Box::pin(answer) as Answer<()>)),
                    (Sent::Value(data), false) => channel.put_as_dbr_no_callback(dbr, &data).map(|()| None),
                    (Sent::Elements(count, body), true) => channel
                        .put_body_callback(dbr, count, body)
                        .map(|answer| Some(Box::pin(answer) as Answer<()>)),
                    (Sent::Elements(count, body), false) => {
                        channel.put_body_no_callback(dbr, count, body).map(|()| None)
                    }
                };
                sent.map_err(|error| write_refusal(channel, error))
            })
            .await?;
        match completion {
            Some(completion) => completion.await.map_err(failure),
            None => Ok(()),
        }
    }

    pub async fn info(&self) -> Result<Info, Error> {
        if self.silent_server().is_some()
            && let Ok(info) = self.described("unresponsive")
        {
            return Ok(info);
        }
        self.send(|_| self.described("connected")).await
    }

    fn described(&self, circuit: &'static str) -> Result<Info, Refusal> {
        let channel = self.channel();
        let native = channel.native_field_type()?;
        let (read, write) = self.events.access();
        Ok(Info {
            address: self.address().map(|a| a.to_string()).unwrap_or_default(),
            type_name: type_name(native).to_owned(),
            count: Some(u64::from(channel.element_count()?)),
            readable: read,
            writable: write,
            circuit,
            structure: None,
        })
    }

    pub fn subscribe(self: &Arc<Self>, feed: Arc<Feed>) {
        if feed.wish.form == Form::Ctrl && self.events.connected() {
            self.ask_properties();
        }
        let link = self.clone();
        self.context.handle.spawn(async move {
            let weak = Arc::downgrade(&link);
            let for_sink = feed.clone();
            let sink = Arc::new(move |update| {
                if let Some(link) = weak.upgrade() {
                    link.updated(&for_sink, update);
                }
            });
            let channel = link.searched().await;
            match channel.subscribe_with_sink(feed.wish.mask, sink).await {
                Ok(wire) => feed.opened(Box::new(wire)),
                Err(error) => feed.fail(&failure(error)),
            }
        });
    }

    /// In the coordinator's turn.
    fn updated(&self, feed: &Arc<Feed>, update: Result<Snapshot, CaError>) {
        match update {
            Ok(snapshot) => {
                let array = self.channel().element_count().is_ok_and(|n| n > 1);
                let reading = value::reading(snapshot, array, None);
                self.properties.lock().pass(feed, reading, self.is_enum());
            }
            Err(CaError::ServerError(status)) if status == eca::ECA_DISCONN => {}
            Err(error) => feed.fail(&failure(error)),
        }
    }
}
