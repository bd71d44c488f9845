//! pvAccess: the only user of the PVA crate.

mod operation;
mod value;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use epics_base_rs::runtime::task::Reactor;
use epics_base_rs::types::PvString;
use epics_pva_rs::auth::{authnz_default_host, authnz_default_user};
use epics_pva_rs::client_native::channel::{Channel, ConnectionPool};
use epics_pva_rs::client_native::ops_v2::{MonitorConnEvent, MonitorTermination, op_get_field, op_monitor_handle};
use epics_pva_rs::client_native::search_engine::{ClientSearchConfig, SearchEngine};
use epics_pva_rs::client_native::server_conn::ServerConn;
use epics_pva_rs::config::env::Config;
use epics_pva_rs::proto::{BitSet, ByteOrder, Command, PvaHeader, WriteExt};
use epics_pva_rs::pv_request::{PvRequestExpr, build_pv_request, build_pv_request_fields, build_pv_request_value_only};
use epics_pva_rs::pvdata::encode::default_value_for;
use epics_pva_rs::pvdata::{FieldDesc, PvField, PvStructure, ScalarType, ScalarValue, TypedScalarArray};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::error::{Error, Kind};
use crate::events::Events;
use crate::feed::Feed;
use crate::link::Info;
use crate::value::{Form, Reading, Value};
use operation::{Operation, failure};

/// One attempt to open a circuit and a channel on it; the next follows by itself.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Between two attempts that failed at once.
const PAUSE: Duration = Duration::from_millis(100);
/// For calls of the crate that want a deadline: ours ends them.
const NEVER: Duration = Duration::from_secs(1 << 30);
/// Puts of one channel that are on the wire at once, each with an operation of its own at the server.
const MOST_PUTS: usize = 64;
/// Updates that a server may send ahead of our acknowledgement.
const WINDOW: u32 = 512;
/// No message may be larger; a circuit that announces one is closed.
const MOST_BYTES: usize = 256 << 20;

/// The process's pvAccess client.
pub struct PvaContext {
    handle: Handle,
    reactor: Reactor,
    search: SearchEngine,
    pool: Arc<ConnectionPool>,
    user: PvString,
    host: PvString,
    tcp_timeout: Duration,
    links: Mutex<HashMap<String, Weak<PvaLink>>>,
}

impl PvaContext {
    pub async fn open(handle: Handle) -> Result<Self, Error> {
        let reactor =
            Reactor::current().ok_or_else(|| Error::new(Kind::Other, "pvAccess: opened outside of the runtime"))?;
        let config = Config::from_client_env();
        let (user, host) = (authnz_default_user(), authnz_default_host());
        let tcp_timeout = config.enforced_tcp_timeout();
        let search = SearchEngine::spawn_with_config(
            &reactor,
            ClientSearchConfig::from_config(&config),
            Vec::new(),
            config.name_servers.clone(),
            user.clone(),
            host.clone(),
            tcp_timeout,
        )
        .await
        .map_err(|e| Error::new(Kind::Other, format!("pvAccess: {e}")))?;
        let pool = ConnectionPool::new();
        pool.set_max_message_size(Some(MOST_BYTES));
        Ok(Self {
            handle,
            reactor,
            search,
            pool,
            user,
            host,
            tcp_timeout,
            links: Mutex::default(),
        })
    }

    /// The one link to this PV; a new one starts to search at once.
    pub fn link(self: &Arc<Self>, name: &str) -> Arc<PvaLink> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(name).and_then(Weak::upgrade) {
            return link;
        }
        let channel = Arc::new(Channel::new(
            self.reactor.clone(),
            name.to_owned(),
            self.user.clone(),
            self.host.clone(),
            ATTEMPT,
            self.tcp_timeout,
            self.pool.clone(),
            self.search.clone(),
        ));
        let link = Arc::new_cyclic(|weak| PvaLink {
            name: name.to_owned(),
            context: self.clone(),
            keeper: self
                .handle
                .spawn(keep_connected(channel.clone(), weak.clone()))
                .abort_handle(),
            channel,
            events: Events::default(),
            feed: Feed::default(),
            turn: tokio::sync::Mutex::default(),
            idle: Mutex::default(),
            putting: tokio::sync::Semaphore::new(MOST_PUTS),
            whole: Mutex::default(),
        });
        links.insert(name.to_owned(), Arc::downgrade(&link));
        link
    }
}

/// Search, connect, watch, and again; ends with its link.
async fn keep_connected(channel: Arc<Channel>, link: Weak<PvaLink>) {
    loop {
        match channel.ensure_active().await {
            Ok((server, _)) => {
                let Some(up) = link.upgrade() else { return };
                // pvAccess tells no access rights.
                up.events.came_up((None, None));
                drop(up);
                tokio::select! {
                    () = server.wait_closed() => {}
                    () = channel.wait_until_inactive() => {}
                }
                let Some(down) = link.upgrade() else { return };
                down.went_down();
            }
            Err(error) => {
                tracing::debug!(pv = %channel.pv_name, %error, "no connection yet");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

pub struct PvaLink {
    name: String,
    context: Arc<PvaContext>,
    channel: Arc<Channel>,
    keeper: AbortHandle,
    events: Events,
    feed: Feed,
    /// Held until a request is on the wire: requests of one channel leave in the order of the calls.
    turn: tokio::sync::Mutex<()>,
    idle: Mutex<HashMap<Request, Vec<Operation>>>,
    putting: tokio::sync::Semaphore,
    /// Whether only the whole structure makes a reading, on the present connection.
    whole: Mutex<Option<bool>>,
}

/// What an operation was initialised for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Request {
    Get { form: Form, whole: bool },
    Put { block: bool },
}

impl Drop for PvaLink {
    fn drop(&mut self) {
        self.keeper.abort();
        self.idle.get_mut().clear();
        if let Some((server, sid)) = self.channel.try_get_active() {
            server.try_send(destroy_channel(&server, sid, self.channel.cid));
        }
        self.channel.close();
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

impl Request {
    fn command(self) -> Command {
        match self {
            Self::Get { .. } => Command::Get,
            Self::Put { .. } => Command::Put,
        }
    }

    fn encode(self, server: &ServerConn) -> Result<Vec<u8>, Error> {
        let big_endian = matches!(server.byte_order(), ByteOrder::Big);
        Ok(match self {
            Self::Get {
                form: Form::Value,
                whole: false,
            }
            | Self::Put { block: false } => build_pv_request_value_only(big_endian),
            Self::Get {
                form: Form::Time,
                whole: false,
            } => build_pv_request(big_endian),
            Self::Get { .. } => build_pv_request_fields(&[], big_endian),
            Self::Put { block: true } => PvRequestExpr::parse("record[block=true]field(value)")
                .map_err(|e| Error::new(Kind::Other, format!("{e:?}")))?
                .encode(big_endian),
        })
    }
}

impl PvaLink {
    pub fn events(&self) -> &Events {
        &self.events
    }

    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    fn went_down(&self) {
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
    async fn operation(&self, request: Request) -> Result<Operation, Error> {
        let (server, sid) = self.active().await?;
        loop {
            let idle = self.idle.lock().get_mut(&request).and_then(Vec::pop);
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

    pub async fn get(&self, form: Form, count: Option<u32>) -> Result<Reading, Error> {
        let whole = self.whole.lock().unwrap_or(false);
        match self.get_as(form, whole).await {
            Ok(Some(reading)) => Ok(counted(reading, count)),
            // The structure has no plain value: only all of it is a reading.
            Ok(None) => {
                *self.whole.lock() = Some(true);
                let reading = self.get_as(form, true).await?;
                Ok(counted(reading.unwrap_or_else(|| Reading::bare(Value::Nothing)), count))
            }
            Err(error) => Err(error),
        }
    }

    /// None where the server has no plain value to the fields that were asked for.
    async fn get_as(&self, form: Form, whole: bool) -> Result<Option<Reading>, Error> {
        let request = Request::Get { form, whole };
        let turn = self.turn.lock().await;
        let mut operation = match self.operation(request).await {
            Ok(operation) => operation,
            // A server refuses to initialise for fields that it does not have.
            Err(error) if error.kind == Kind::Remote && !whole => return Ok(None),
            Err(error) => return Err(error),
        };
        if !whole && !value::has_plain_value(&operation.desc) {
            return Ok(None);
        }
        operation.execute_get()?;
        drop(turn);
        let field = operation.value().await?;
        let reading = value::reading(&field, value::has_plain_value(&operation.desc), form);
        self.keep(request, operation);
        Ok(Some(reading))
    }

    pub async fn put(&self, value: Value, wait: bool) -> Result<(), Error> {
        let request = Request::Put { block: wait };
        let turn = self.turn.lock().await;
        let putting = self.putting.acquire().await.map_err(|_| Error::lost())?;
        let mut operation = self.operation(request).await?;
        let (field, changed) = shape(value, &mut operation).await?;
        operation.execute_put(&field, &changed)?;
        drop(turn);
        operation.completion().await?;
        self.keep(request, operation);
        drop(putting);
        Ok(())
    }

    /// The type of the whole channel.
    async fn description(&self) -> Result<FieldDesc, Error> {
        self.active().await?;
        op_get_field(&self.channel, "", NEVER).await.map_err(failure)
    }

    pub async fn info(&self) -> Result<Info, Error> {
        let (server, _) = self.active().await?;
        let desc = self.description().await?;
        let of_value = match &desc {
            FieldDesc::Structure { fields, .. } if value::has_plain_value(&desc) => fields
                .iter()
                .find(|(name, _)| name == "value")
                .map(|(_, desc)| value::type_name(desc)),
            _ => None,
        };
        Ok(Info {
            address: server.addr.to_string(),
            type_name: of_value.unwrap_or_else(|| value::type_name(&desc)),
            count: None,
            readable: None,
            writable: None,
        })
    }

    pub fn subscribe(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        let task = self.context.handle.spawn(async move {
            let Some(link) = weak.upgrade() else { return };
            match link.description().await {
                Ok(desc) => watch(link, value::has_plain_value(&desc)).await,
                Err(error) => link.feed.fail(&error),
            }
        });
        self.feed.opened(Box::new(Watching(task.abort_handle())));
    }
}

/// Ends the monitor with the feed.
struct Watching(AbortHandle);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Run the monitor, over reconnects, until the feed is closed or the server ends it.
async fn watch(link: Arc<PvaLink>, plain: bool) {
    let fields: &[&str] = if plain { &["value", "alarm", "timeStamp"] } else { &[] };
    let (updated, moved) = (Arc::downgrade(&link), Arc::downgrade(&link));
    let handle = op_monitor_handle(
        link.channel.clone(),
        fields,
        WINDOW,
        move |_, field| {
            if let Some(link) = updated.upgrade() {
                link.feed.update(value::reading(field, plain, Form::Time));
            }
        },
        move |event| {
            if let (MonitorConnEvent::Disconnected, Some(link)) = (event, moved.upgrade()) {
                link.feed.went_down();
            }
        },
    );
    let weak = Arc::downgrade(&link);
    drop(link);
    let end = handle.wait_terminal().await;
    if let Some(link) = weak.upgrade() {
        link.feed.fail(&match end {
            MonitorTermination::Failed(error) => failure(error),
            MonitorTermination::Ended => Error::new(Kind::Remote, "the server ended the monitor"),
        });
    }
}

fn counted(mut reading: Reading, count: Option<u32>) -> Reading {
    if let Some(count) = count {
        reading.value = value::first(reading.value, count as usize);
    }
    reading
}

/// The structure that a put sends, with the field that it sets.
async fn shape(value: Value, operation: &mut Operation) -> Result<(PvField, BitSet), Error> {
    let desc = operation.desc.clone();
    let FieldDesc::Structure { fields, .. } = &*desc else {
        let mut changed = BitSet::new();
        changed.set(0);
        return Ok((value::to_field(value, &desc)?, changed));
    };
    let Some((_, of_value)) = fields.iter().find(|(name, _)| name == "value") else {
        return Err(Error::wrong_type("the server's structure has no value to put to"));
    };
    let (path, field) = match of_value {
        FieldDesc::Structure { struct_id, fields } if struct_id == "enum_t" => {
            ("value.index", index(value, fields, operation).await?)
        }
        plain => ("value", value::to_field(value, plain)?),
    };
    let mut top = default_value_for(&desc);
    set(&mut top, path, field);
    let mut changed = BitSet::new();
    if let Some(bit) = desc.bit_for_path(path) {
        changed.set(bit);
    }
    Ok((top, changed))
}

fn set(top: &mut PvField, path: &str, field: PvField) {
    let mut at = top;
    for name in path.split('.') {
        let PvField::Structure(structure) = at else { return };
        let Some(inner) = structure.get_field_mut(name) else {
            return;
        };
        at = inner;
    }
    *at = field;
}

/// An enum's index: a label is looked up in the choices that the server has now.
async fn index(value: Value, fields: &[(String, FieldDesc)], operation: &mut Operation) -> Result<PvField, Error> {
    let of_index = fields
        .iter()
        .find(|(name, _)| name == "index")
        .map_or(FieldDesc::Scalar(ScalarType::Int), |(_, desc)| desc.clone());
    let Value::Text(label) = value else {
        return value::to_field(value, &of_index);
    };
    operation.execute_put_get()?;
    let present = operation.value().await?;
    let choices = match present {
        PvField::Structure(top) => labels(&top),
        _ => Vec::new(),
    };
    let found = choices.iter().position(|choice| *choice == label).ok_or_else(|| {
        Error::value(format!(
            "{:?} is none of its choices {:?}",
            String::from_utf8_lossy(&label),
            choices.iter().map(|c| String::from_utf8_lossy(c)).collect::<Vec<_>>()
        ))
    })?;
    let found = i32::try_from(found).map_err(|_| Error::value("an enum has at most 2^31 choices"))?;
    Ok(PvField::Scalar(ScalarValue::Int(found)))
}

fn labels(top: &PvStructure) -> Vec<Vec<u8>> {
    let Some(PvField::Structure(value)) = top.get_field("value") else {
        return Vec::new();
    };
    match value.get_field("choices") {
        Some(PvField::ScalarArrayTyped(TypedScalarArray::String(labels))) => {
            labels.iter().map(|label| label.as_bytes().to_vec()).collect()
        }
        _ => Vec::new(),
    }
}
