//! Channel Access: the only user of the CA crate.

mod gate;
mod value;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, Weak};

use epics_base_rs::error::{CaError, eca};
use epics_base_rs::server::snapshot::Snapshot;
use epics_base_rs::types::DbFieldType;
use epics_ca_rs::client::{CaChannel, CaClient, CaException, ConnectionEvent, ReqCount};
use epics_ca_rs::protocol::{DBE_ALARM, DBE_LOG, DBE_VALUE};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::error::{Error, Kind};
use crate::events::Events;
use crate::feed::Feed;
use crate::link::Info;
use crate::value::{Choices, Form, Reading, Value};
use gate::Gate;

/// The server's answer to a request that has been sent.
type Answer<T> = Pin<Box<dyn Future<Output = Result<T, CaError>> + Send>>;

/// The process's Channel Access client.
pub struct CaContext {
    client: CaClient,
    handle: Handle,
    gates: Mutex<HashMap<SocketAddr, Arc<Gate>>>,
    links: Arc<Mutex<HashMap<String, Weak<CaLink>>>>,
}

impl CaContext {
    pub async fn open(handle: Handle) -> Result<Self, Error> {
        let client = CaClient::new()
            .await
            .map_err(|e| Error::new(Kind::Other, format!("Channel Access: {e}")))?;
        let links = Arc::<Mutex<HashMap<String, Weak<CaLink>>>>::default();
        // The CA crate would print what nobody waits for; it belongs to the channel.
        let for_handler = links.clone();
        client.set_exception_handler(move |exception| refused(&for_handler, exception));
        Ok(Self {
            client,
            handle,
            gates: Mutex::default(),
            links,
        })
    }

    /// The one link to this PV; a new one starts to search at once.
    pub fn link(self: &Arc<Self>, name: &str) -> Arc<CaLink> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(name).and_then(Weak::upgrade) {
            return link;
        }
        let link = Arc::new(CaLink {
            name: name.to_owned(),
            context: self.clone(),
            channel: OnceLock::new(),
            events: Events::default(),
            feed: Feed::default(),
            choices: Mutex::default(),
            gate: Mutex::default(),
        });
        let weak = Arc::downgrade(&link);
        let sink = Arc::new(move |event| {
            if let Some(link) = weak.upgrade() {
                link.happened(event);
            }
        });
        // The sink may be called before this line is through: it only needs the link.
        let _ = link.channel.set(self.client.create_channel_with_sink(name, sink));
        links.insert(name.to_owned(), Arc::downgrade(&link));
        link
    }
}

/// An error that the server sent to nobody in particular: a put without wait that it refused.
fn refused(links: &Mutex<HashMap<String, Weak<CaLink>>>, exception: &CaException) {
    let Some(name) = &exception.pv_name else { return };
    let link = links.lock().get(name.as_str_lossy().as_ref()).and_then(Weak::upgrade);
    if let Some(link) = link {
        let reason = exception.status.map_or_else(
            || String::from_utf8_lossy(&exception.message).into_owned(),
            |status| eca::eca_message(status).to_owned(),
        );
        let kind = kind_of(exception.status.unwrap_or_default());
        link.events
            .refuse(Error::new(kind, format!("the server refused a put: {reason}")));
    }
}

fn kind_of(status: u32) -> Kind {
    if status == eca::ECA_NORDACCESS || status == eca::ECA_NOWTACCESS {
        Kind::AccessDenied
    } else {
        Kind::Remote
    }
}

pub struct CaLink {
    name: String,
    context: Arc<CaContext>,
    channel: OnceLock<CaChannel>,
    events: Events,
    feed: Feed,
    choices: Mutex<Labels>,
    gate: Mutex<Option<Arc<Gate>>>,
}

/// An enum's choices on the present connection, and the updates that wait for them.
#[derive(Default)]
enum Labels {
    #[default]
    Unknown,
    Asked(Vec<Reading>),
    Known(Choices),
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
    pub fn events(&self) -> &Events {
        &self.events
    }

    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// In the coordinator's turn: connection events in order with the updates around them.
    fn happened(self: &Arc<Self>, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Connected => {
                let access = self.channel().access_rights();
                self.find_gate();
                self.ask_labels();
                self.events.came_up((Some(access.read), Some(access.write)));
            }
            ConnectionEvent::Disconnected => {
                *self.choices.lock() = Labels::Unknown;
                self.feed.went_down();
                self.events.went_down();
            }
            ConnectionEvent::AccessRightsChanged { read, write } => {
                self.events.access_changed((Some(read), Some(write)));
            }
            ConnectionEvent::NativeTypeChanged { .. } => {}
        }
    }

    fn channel(&self) -> &CaChannel {
        // The first events may come before `link` has stored the channel, which it is about to do.
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

    /// Ask for an enum's choices once per connection: DBR_TIME_ENUM carries the index only.
    fn ask_labels(self: &Arc<Self>) {
        let channel = self.channel();
        if !matches!(channel.native_field_type(), Ok(DbFieldType::Enum)) {
            return;
        }
        *self.choices.lock() = Labels::Asked(Vec::new());
        let Ok(answer) = channel.get_callback(DbFieldType::Enum.ctrl_dbr_type(), ReqCount::Fixed(1)) else {
            *self.choices.lock() = Labels::Known(Arc::from([]));
            return;
        };
        let link = self.clone();
        self.context.handle.spawn(async move {
            let choices = answer.await.ok().as_ref().and_then(value::choices);
            link.know(choices.unwrap_or_else(|| Arc::from([])));
        });
    }

    /// The choices are known: the updates that waited for them go out, in order.
    fn know(&self, choices: Choices) {
        let mut labels = self.choices.lock();
        let waited = std::mem::replace(&mut *labels, Labels::Known(choices.clone()));
        if let Labels::Asked(waited) = waited {
            for reading in waited {
                self.feed.update(labelled(reading, &choices));
            }
        }
    }

    fn known_choices(&self) -> Option<Choices> {
        match &*self.choices.lock() {
            Labels::Known(choices) => Some(choices.clone()),
            _ => None,
        }
    }

    /// Do `issue` as soon as the channel is up and its circuit has room, in the order of the calls to one circuit.
    async fn send<T>(&self, issue: impl Fn(&CaChannel) -> Result<T, Refusal>) -> Result<T, Error> {
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

    pub async fn get(&self, form: Form, count: Option<u32>) -> Result<Reading, Error> {
        let (native, array, plain, time, ctrl) = self
            .send(|channel| {
                let native = channel.native_field_type()?;
                let most = channel.element_count()?;
                let count = count.map_or(ReqCount::Autosize(0), |n| ReqCount::Fixed(n.min(most)));
                let label = native == DbFieldType::Enum && self.known_choices().is_none();
                let ask = |dbr, count| match channel.get_callback(dbr, count) {
                    Ok(answer) => Ok(Box::pin(answer) as Answer<Snapshot>),
                    Err(error) => Err(read_refusal(channel, error)),
                };
                // DBR_CTRL has no time: value, alarm and time come from DBR_TIME, both in one flush.
                let plain = (form == Form::Value).then(|| ask(native as u16, count)).transpose()?;
                let time = (form != Form::Value)
                    .then(|| ask(native.time_dbr_type(), count))
                    .transpose()?;
                let ctrl = (form == Form::Ctrl || label)
                    .then(|| ask(native.ctrl_dbr_type(), ReqCount::Fixed(1)))
                    .transpose()?;
                Ok((native, most > 1, plain, time, ctrl))
            })
            .await?;
        let plain = match plain {
            Some(answer) => Some(answer.await.map_err(failure)?),
            None => None,
        };
        let time = match time {
            Some(answer) => Some(answer.await.map_err(failure)?),
            None => None,
        };
        let ctrl = match ctrl {
            Some(answer) => Some(answer.await.map_err(failure)?),
            None => None,
        };
        let choices = ctrl.as_ref().and_then(value::choices).or_else(|| self.known_choices());
        let choices = choices.filter(|_| native == DbFieldType::Enum);
        let mut reading = match (plain, time) {
            (_, Some(time)) => value::reading(time, array, choices),
            (Some(plain), None) => Reading::bare(value::from_dbr(plain.value, array, choices)),
            (None, None) => Reading::bare(Value::Nothing),
        };
        if form == Form::Ctrl {
            reading.metadata = ctrl.as_ref().map(|ctrl| value::metadata(ctrl, native));
        }
        Ok(reading)
    }

    pub async fn put(&self, value: Value, wait: bool) -> Result<(), Error> {
        let completion = self
            .send(|channel| {
                let native = channel.native_field_type()?;
                let most = channel.element_count()?;
                let choices = self.known_choices();
                let (dbr, data) = value::to_dbr(value.clone(), native, most, choices.as_ref())?;
                let sent = if wait {
                    channel
                        .put_as_dbr_callback(dbr, &data)
                        .map(|answer| Some(Box::pin(answer) as Answer<()>))
                } else {
                    channel.put_as_dbr_no_callback(dbr, &data).map(|()| None)
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
        self.send(|channel| {
            let native = channel.native_field_type()?;
            let count = channel.element_count()?;
            let rights = channel.access_rights();
            Ok(Info {
                address: self.address().map(|a| a.to_string()).unwrap_or_default(),
                type_name: type_name(native).to_owned(),
                count: Some(u64::from(count)),
                readable: Some(rights.read),
                writable: Some(rights.write),
            })
        })
        .await
    }

    pub fn subscribe(self: &Arc<Self>) {
        let link = self.clone();
        self.context.handle.spawn(async move {
            let weak = Arc::downgrade(&link);
            let sink = Arc::new(move |update| {
                if let Some(link) = weak.upgrade() {
                    link.updated(update);
                }
            });
            match link
                .channel()
                .subscribe_with_sink(DBE_VALUE | DBE_LOG | DBE_ALARM, sink)
                .await
            {
                Ok(wire) => link.feed.opened(Box::new(wire)),
                Err(error) => link.feed.fail(&failure(error)),
            }
        });
    }

    /// In the coordinator's turn.
    fn updated(&self, update: Result<Snapshot, CaError>) {
        match update {
            Ok(snapshot) => {
                let array = self.channel().element_count().is_ok_and(|n| n > 1);
                let mut labels = self.choices.lock();
                match &mut *labels {
                    Labels::Asked(waiting) => waiting.push(value::reading(snapshot, array, None)),
                    Labels::Known(choices) => self.feed.update(value::reading(snapshot, array, Some(choices.clone()))),
                    Labels::Unknown => self.feed.update(value::reading(snapshot, array, None)),
                }
            }
            Err(CaError::ServerError(status)) if status == eca::ECA_DISCONN => {}
            Err(error) => self.feed.fail(&failure(error)),
        }
    }
}

fn labelled(mut reading: Reading, known: &Choices) -> Reading {
    if let Value::Enum { choices, .. } = &mut reading.value {
        *choices = Some(known.clone());
    }
    reading
}

/// Why a request was not sent.
enum Refusal {
    Down,
    Error(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<CaError> for Refusal {
    fn from(error: CaError) -> Self {
        match error {
            CaError::Disconnected => Self::Down,
            other => Self::Error(failure(other)),
        }
    }
}

fn read_refusal(channel: &CaChannel, error: CaError) -> Refusal {
    denied(
        error,
        channel.access_rights().read,
        "the server does not let this client read it",
    )
}

fn write_refusal(channel: &CaChannel, error: CaError) -> Refusal {
    denied(
        error,
        channel.access_rights().write,
        "the server does not let this client write it",
    )
}

/// The crate checks the rights before it sends, and says so in words only.
fn denied(error: CaError, allowed: bool, text: &str) -> Refusal {
    match error {
        CaError::Protocol(_) if !allowed => Error::new(Kind::AccessDenied, text).into(),
        other => other.into(),
    }
}

fn failure(error: CaError) -> Error {
    match error {
        CaError::Disconnected | CaError::Shutdown | CaError::Io(_) => Error::lost(),
        CaError::ServerError(status) | CaError::WriteFailed(status) => match status {
            eca::ECA_DISCONN => Error::lost(),
            _ => Error::new(
                kind_of(status),
                format!("the server refused: {}", eca::eca_message(status)),
            ),
        },
        other => Error::new(Kind::Other, other.to_string()),
    }
}

/// The DBF names of db_access.h.
fn type_name(native: DbFieldType) -> &'static str {
    match native {
        DbFieldType::String => "string",
        DbFieldType::Short => "short",
        DbFieldType::Float => "float",
        DbFieldType::Enum => "enum",
        DbFieldType::Char => "char",
        DbFieldType::Long => "long",
        DbFieldType::Double => "double",
        _ => "unknown",
    }
}
