//! One Channel Access channel.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use epics_base_rs::error::{CaError, eca};
use epics_base_rs::server::snapshot::Snapshot;
use epics_base_rs::types::DbFieldType;
use epics_ca_rs::client::{CaChannel, ConnectionEvent, ReqCount};
use epics_ca_rs::protocol::{DBE_ALARM, DBE_LOG, DBE_VALUE};
use parking_lot::Mutex;

use super::CaContext;
use super::failure::{Refusal, failure, read_refusal, type_name, write_refusal};
use super::gate::Gate;
use super::line::Line;
use super::value;
use crate::error::Error;
use crate::events::Events;
use crate::feed::Feed;
use crate::link::Info;
use crate::value::{Choices, Form, Reading, Value};

/// The server's answer to a request that has been sent.
type Answer<T> = Pin<Box<dyn Future<Output = Result<T, CaError>> + Send>>;

pub struct CaLink {
    name: String,
    context: Arc<CaContext>,
    channel: OnceLock<CaChannel>,
    events: Events,
    feed: Feed,
    choices: Mutex<Labels>,
    gate: Mutex<Option<Arc<Gate>>>,
    waiting: Line,
    /// Counts the losses, and so names the present connection.
    connection: AtomicU64,
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
    /// A new channel; it starts to search at once.
    pub fn open(context: &Arc<CaContext>, name: &str) -> Arc<Self> {
        let link = Arc::new(Self {
            name: name.to_owned(),
            context: context.clone(),
            channel: OnceLock::new(),
            events: Events::default(),
            feed: Feed::default(),
            choices: Mutex::default(),
            gate: Mutex::default(),
            waiting: Line::default(),
            connection: AtomicU64::new(0),
        });
        let weak = Arc::downgrade(&link);
        let sink = Arc::new(move |event| {
            if let Some(link) = weak.upgrade() {
                link.happened(event);
            }
        });
        let _ = link.channel.set(context.client.create_channel_with_sink(name, sink));
        link
    }

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
                let rights = (Some(access.read), Some(access.write));
                if matches!(self.channel().native_field_type(), Ok(DbFieldType::Enum)) {
                    self.ask_labels(rights);
                } else {
                    self.events.came_up(rights);
                }
            }
            ConnectionEvent::Disconnected => {
                self.connection.fetch_add(1, Ordering::SeqCst);
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
        // The first events may come before `open` has stored the channel, which it is about to do.
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

    /// Ask for an enum's choices, once per connection: DBR_TIME_ENUM carries the index only. The channel is up when
    /// they are known, so that no label has to wait or be guessed.
    fn ask_labels(self: &Arc<Self>, rights: (Option<bool>, Option<bool>)) {
        *self.choices.lock() = Labels::Asked(Vec::new());
        let connection = self.connection.load(Ordering::SeqCst);
        let asked = self
            .channel()
            .get_callback(DbFieldType::Enum.ctrl_dbr_type(), ReqCount::Fixed(1))
            .map(|answer| Box::pin(answer) as Answer<Snapshot>);
        let link = self.clone();
        self.context.handle.spawn(async move {
            let answer = match asked {
                Ok(answer) => answer.await,
                Err(error) => Err(error),
            };
            // An answer of a connection that is no more says nothing of this one.
            if link.connection.load(Ordering::SeqCst) != connection || matches!(answer, Err(CaError::Disconnected)) {
                return;
            }
            // A server that refuses the choices still serves the index.
            link.know(
                answer
                    .ok()
                    .as_ref()
                    .and_then(value::choices)
                    .unwrap_or_else(|| Arc::from([])),
            );
            link.events.came_up(rights);
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
            Labels::Known(choices) if !choices.is_empty() => Some(choices.clone()),
            _ => None,
        }
    }

    /// Do `issue` as soon as the channel is up and its circuit has room, in the order of the calls to one circuit.
    async fn send<T>(&self, issue: impl Fn(&CaChannel) -> Result<T, Refusal>) -> Result<T, Error> {
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

    pub async fn get(&self, form: Form, count: Option<u32>) -> Result<Reading, Error> {
        let (native, array, answer, ctrl) = self
            .send(|channel| {
                let native = channel.native_field_type()?;
                let most = channel.element_count()?;
                // Without a value to speak of, one element is the least that can be asked.
                let count = count.filter(|n| *n < most);
                let count = count.map_or(ReqCount::Autosize(0), |n| ReqCount::Fixed(n.max(1)));
                let ask = |dbr, count| match channel.get_callback(dbr, count) {
                    Ok(answer) => Ok(Box::pin(answer) as Answer<Snapshot>),
                    Err(error) => Err(read_refusal(channel, error)),
                };
                let answer = ask(
                    if form == Form::Value {
                        native as u16
                    } else {
                        native.time_dbr_type()
                    },
                    count,
                )?;
                // DBR_CTRL has no time: value, alarm and time come from DBR_TIME, both in one flush.
                let ctrl = (form == Form::Ctrl)
                    .then(|| ask(native.ctrl_dbr_type(), ReqCount::Fixed(1)))
                    .transpose()?;
                Ok((native, most > 1, answer, ctrl))
            })
            .await?;
        let snapshot = answer.await.map_err(failure)?;
        let ctrl = match ctrl {
            Some(answer) => Some(answer.await.map_err(failure)?),
            None => None,
        };
        let choices = ctrl.as_ref().and_then(value::choices).or_else(|| self.known_choices());
        let choices = choices.filter(|_| native == DbFieldType::Enum);
        let mut reading = value::reading(snapshot, array, choices);
        if let Some(count) = count {
            // A server fills up with zeros what the record does not hold: only all of it tells how much that is.
            if count > 0 && matches!(&reading.value, Value::Array(array) if array.ends_in_zero()) {
                reading.value = Box::pin(self.get(Form::Value, None)).await?.value;
            }
            reading.value = reading.value.first(count as usize);
        }
        Ok(match form {
            Form::Value => Reading::bare(reading.value),
            Form::Time => reading,
            Form::Ctrl => Reading {
                metadata: ctrl.as_ref().map(|ctrl| value::metadata(ctrl, native)),
                ..reading
            },
        })
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
