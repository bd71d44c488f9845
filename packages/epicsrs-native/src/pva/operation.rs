//! One GET or PUT on the wire: initialised once, then executed as often as the channel stays up.
//!
//! The server keeps the type and the request with the operation's id (pvAccess specification, channelGet and channelPut),
//! so a second execution is one message each way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use epics_pva_rs::client_native::server_conn::ServerConn;
use epics_pva_rs::codec::PvaCodec;
use epics_pva_rs::decode::{Frame, OpResponse, decode_op_response};
use epics_pva_rs::error::PvaError;
use epics_pva_rs::proto::{BitSet, ByteOrder, Command, PvaHeader, Status, WriteExt};
use epics_pva_rs::pvdata::encode::encode_pv_field_with_bitset;
use epics_pva_rs::pvdata::{FieldDesc, PvField};
use tokio::sync::mpsc;

use crate::error::{Error, Kind};

/// Away from the ids that the crate gives its monitors, which start at 0x1000_2000.
static NEXT: AtomicU32 = AtomicU32::new(0x4000_0000);

pub struct Operation {
    server: Arc<ServerConn>,
    sid: u32,
    ioid: u32,
    replies: mpsc::UnboundedReceiver<Frame>,
    pub desc: Arc<FieldDesc>,
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.server
            .try_send(codec(&self.server).build_destroy_request(self.sid, self.ioid));
        self.server.unregister_ioid(self.ioid);
    }
}

fn codec(server: &ServerConn) -> PvaCodec {
    PvaCodec {
        big_endian: matches!(server.byte_order(), ByteOrder::Big),
    }
}

impl Operation {
    /// Initialise; `request` is an encoded pvRequest in the circuit's byte order.
    pub async fn open(server: Arc<ServerConn>, sid: u32, command: Command, request: &[u8]) -> Result<Self, Error> {
        let ioid = NEXT.fetch_add(1, Ordering::Relaxed);
        let replies = server.register_ioid_stream(sid, ioid, command.code());
        let mut operation = Self {
            server,
            sid,
            ioid,
            replies,
            desc: Arc::new(FieldDesc::Variant),
        };
        let codec = codec(&operation.server);
        operation.send(match command {
            Command::Put => codec.build_put_init(sid, ioid, request),
            _ => codec.build_get_init(sid, ioid, request),
        })?;
        match operation.reply().await? {
            OpResponse::Init(init) if init.status.is_success() => {
                operation.desc = Arc::new(init.introspection);
                Ok(operation)
            }
            OpResponse::Init(init) => Err(refused(&init.status)),
            _ => Err(operation.unexpected()),
        }
    }

    /// Whether it lives on this connection.
    pub fn is_on(&self, server: &Arc<ServerConn>, sid: u32) -> bool {
        Arc::ptr_eq(&self.server, server) && self.sid == sid && server.is_alive()
    }

    pub fn execute_get(&mut self) -> Result<(), Error> {
        // A second answer to the last request is none to this one.
        while self.replies.try_recv().is_ok() {}
        self.send(codec(&self.server).build_get(self.sid, self.ioid))
    }

    /// Ask a PUT for the present value.
    pub fn execute_put_get(&self) -> Result<(), Error> {
        self.send(codec(&self.server).build_put_get(self.sid, self.ioid))
    }

    pub fn execute_put(&self, value: &PvField, changed: &BitSet) -> Result<(), Error> {
        let order = self.server.byte_order();
        let header = |length| PvaHeader::application(false, order, Command::Put.code(), length).encode();
        // The whole message in one buffer: an array is copied into it once.
        let mut message = header(0).to_vec();
        message.put_u32(self.sid, order);
        message.put_u32(self.ioid, order);
        message.put_u8(0);
        changed.write_into(order, &mut message);
        encode_pv_field_with_bitset(value, &self.desc, changed, 0, order, &mut message);
        let length = message.len() - PvaHeader::SIZE;
        let length = u32::try_from(length).map_err(|_| Error::value("more than a message holds"))?;
        if let Some(start) = message.first_chunk_mut() {
            *start = header(length);
        }
        self.send(message)
    }

    pub async fn value(&mut self) -> Result<PvField, Error> {
        match self.reply().await? {
            OpResponse::Data(data) if data.status.is_success() => Ok(data.value),
            OpResponse::Data(data) => Err(refused(&data.status)),
            OpResponse::Status(status) => Err(refused(&status.status)),
            OpResponse::Init(_) => Err(self.unexpected()),
        }
    }

    pub async fn completion(&mut self) -> Result<(), Error> {
        match self.reply().await? {
            OpResponse::Status(status) if status.status.is_success() => Ok(()),
            OpResponse::Status(status) => Err(refused(&status.status)),
            OpResponse::Init(_) | OpResponse::Data(_) => Err(self.unexpected()),
        }
    }

    fn send(&self, frame: Vec<u8>) -> Result<(), Error> {
        self.server.send_for_channel_sync(self.sid, frame).map_err(failure)
    }

    async fn reply(&mut self) -> Result<OpResponse, Error> {
        let frame = tokio::select! {
            biased;
            frame = self.replies.recv() => frame.ok_or_else(Error::lost)?,
            // A circuit that ends by a broken message leaves its waiters registered.
            () = self.server.wait_closed() => return Err(Error::lost()),
        };
        // What cannot be decoded leaves the circuit's state unknown (pvxs closes it too, clientget.cpp:456).
        decode_op_response(&frame, Some(&self.desc))
            .map_err(failure)
            .inspect_err(|_| self.server.close())
    }

    fn unexpected(&self) -> Error {
        self.server.close();
        Error::new(
            Kind::Other,
            "the server broke the protocol: a reply that was not asked for",
        )
    }
}

/// The server's own words.
pub fn said(status: &Status) -> &str {
    status.message().unwrap_or("no reason given").trim()
}

/// QSRV and p4p tell access security's refusal in words only.
fn refused(status: &Status) -> Error {
    let reason = said(status);
    let lower = reason.to_lowercase();
    let denied = [
        "not permitted",
        "permission denied",
        "access denied",
        "no access",
        "not allowed",
    ];
    let kind = if denied.iter().any(|words| lower.contains(words)) {
        Kind::AccessDenied
    } else {
        Kind::Remote
    };
    Error::refused(kind, "", reason)
}

pub fn failure(error: PvaError) -> Error {
    match error {
        PvaError::Disconnected | PvaError::Io(_) | PvaError::ConnectionRefused => Error::lost(),
        PvaError::RemoteError(status) => refused(&status),
        other => Error::new(Kind::Other, other.to_string()),
    }
}
