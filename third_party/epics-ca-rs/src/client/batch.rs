//! READ_NOTIFYs of many channels of a circuit: sent as one message, awaited as one.
//!
//! A read by itself costs a future, a oneshot channel, two frames on the heap and its entry in the registry. A batch has
//! consecutive ids, so that one entry stands for all of them, and the circuit's reader puts each reply in its slot.

use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use epics_base_rs::error::{CaError, CaResult};
use epics_base_rs::types::DbFieldType;
use parking_lot::{Mutex, RwLock};

use super::types::{CircuitKey, DirectServerWriter, InFlightOps};
use super::{CaChannel, CaClient, subscription};
use crate::protocol::{CA_PROTO_READ_NOTIFY, CaHeader, read_notify_wire_count};

/// Payloads up to this size share one buffer: no allocation for each.
const SHORT: usize = 256;

/// What the payload of a DBR_TIME scalar takes, for the first size of that buffer.
const USUAL: usize = 24;

/// The batches under way, by their first id.
pub(crate) type Batches = Arc<RwLock<BTreeMap<u32, Arc<ReadBatch>>>>;

/// The reads `first..first + count` of one circuit.
pub(crate) struct ReadBatch {
    first: u32,
    count: u32,
    state: Mutex<State>,
}

struct State {
    slots: Vec<Slot>,
    /// The payloads of the short replies, in the order in which they came.
    short: Vec<u8>,
    unanswered: usize,
    waker: Option<Waker>,
}

struct Slot {
    cid: u32,
    answer: Answer,
}

enum Answer {
    None,
    Short {
        data_type: u16,
        count: u32,
        start: u32,
        length: u32,
    },
    Long {
        data_type: u16,
        count: u32,
        data: Vec<u8>,
    },
    Failed(CaError),
}

impl State {
    /// Fill a slot that has no answer yet; the waker when it was the last.
    fn fill(&mut self, slot: usize, answer: impl FnOnce(&mut Vec<u8>) -> Answer) -> Option<Waker> {
        let slot = self.slots.get_mut(slot)?;
        if !matches!(slot.answer, Answer::None) {
            return None;
        }
        slot.answer = answer(&mut self.short);
        self.unanswered -= 1;
        if self.unanswered == 0 {
            self.waker.take()
        } else {
            None
        }
    }
}

impl InFlightOps {
    /// Whether `ioid` is of a batch; then its answer has been put there.
    fn answer_in_batch(
        &self,
        ioid: u32,
        answer: impl FnOnce(&mut Vec<u8>) -> Answer,
    ) -> bool {
        let waker = {
            let batches = self.batches.read();
            let Some((first, batch)) = batches.range(..=ioid).next_back() else {
                return false;
            };
            let slot = ioid - first;
            if slot >= batch.count {
                return false;
            }
            batch.state.lock().fill(slot as usize, answer)
        };
        // A waker may drop what it wakes, and that takes its batch out of the registry.
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Whether `ioid` is of a batch; then `data` has been put there.
    pub(crate) fn reply_in_batch(
        &self,
        ioid: u32,
        data_type: u16,
        count: u32,
        data: &[u8],
    ) -> bool {
        self.answer_in_batch(ioid, |short| {
            match (u32::try_from(short.len()), u32::try_from(data.len())) {
                (Ok(start), Ok(length)) if data.len() <= SHORT => {
                    short.extend_from_slice(data);
                    Answer::Short {
                        data_type,
                        count,
                        start,
                        length,
                    }
                }
                _ => Answer::Long {
                    data_type,
                    count,
                    data: data.to_vec(),
                },
            }
        })
    }

    /// Whether `ioid` is of a batch; then the error has been put there.
    pub(crate) fn fail_in_batch(&self, ioid: u32, error: CaError) -> Result<(), CaError> {
        let mut error = Some(error);
        self.answer_in_batch(ioid, |_| error.take().map_or(Answer::None, Answer::Failed));
        error.map_or(Ok(()), Err)
    }

    /// Fail what is unanswered of these channels.
    pub(crate) fn disconnect_in_batches(&self, gone: impl Fn(u32) -> bool) {
        let batches: Vec<_> = self.batches.read().values().cloned().collect();
        for batch in batches {
            let waker = {
                let mut state = batch.state.lock();
                let mut waker = None;
                for slot in 0..state.slots.len() {
                    if state.slots.get(slot).is_some_and(|slot| gone(slot.cid)) {
                        waker = state
                            .fill(slot, |_| Answer::Failed(CaError::Disconnected))
                            .or(waker);
                    }
                }
                waker
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Whether a batch under way has one of the ids `first..end`.
    pub(crate) fn overlaps_a_batch(&self, first: u32, end: u32) -> bool {
        let batches = self.batches.read();
        let before = batches.range(..end).next_back();
        before.is_some_and(|(other, batch)| first < other.saturating_add(batch.count))
    }
}

/// One channel's read, of what was asked.
struct Asked {
    place: usize,
    native: DbFieldType,
    element_count: u32,
    data_type: u16,
    wire_count: u16,
    sid: u32,
    cid: u32,
}

/// The server's reply to one read of a batch.
pub struct BatchReply<'a> {
    pub data_type: u16,
    pub count: u32,
    pub data: &'a [u8],
    /// The channel's own type and most elements, when it was asked.
    pub native: DbFieldType,
    pub element_count: u32,
}

/// Reads of one circuit that have been sent. Dropping it withdraws them: a reply that comes later is ignored.
pub struct BatchRead {
    in_flight: InFlightOps,
    batch: Arc<ReadBatch>,
    asked: Vec<Asked>,
}

impl Drop for BatchRead {
    fn drop(&mut self) {
        self.in_flight.batches.write().remove(&self.batch.first);
    }
}

impl BatchRead {
    /// Register and send the reads of one circuit; None where the circuit takes nothing.
    fn send(
        in_flight: &InFlightOps,
        writer: &DirectServerWriter,
        asked: Vec<Asked>,
    ) -> Option<Self> {
        let count = u32::try_from(asked.len()).ok()?;
        let slots = asked.iter().map(|asked| Slot {
            cid: asked.cid,
            answer: Answer::None,
        });
        let state = State {
            slots: slots.collect(),
            short: Vec::with_capacity(asked.len() * USUAL),
            unanswered: asked.len(),
            waker: None,
        };
        let batch = in_flight.register_batch(count, state)?;
        let first = batch.first;
        let read = Self {
            in_flight: in_flight.clone(),
            batch,
            asked,
        };
        let mut frames = Vec::with_capacity(read.asked.len() * 16);
        for (ioid, asked) in (first..).zip(&read.asked) {
            let mut header = CaHeader::new(CA_PROTO_READ_NOTIFY);
            header.data_type = asked.data_type;
            header.count = asked.wire_count;
            header.cid = asked.sid;
            header.available = ioid;
            frames.extend_from_slice(&header.to_bytes());
        }
        writer.send_frame(frames).ok()?;
        Some(read)
    }

    /// Which of the channels that were given to [`CaClient::send_reads`] are asked here.
    pub fn places(&self) -> impl Iterator<Item = usize> {
        self.asked.iter().map(|asked| asked.place)
    }

    /// Resolves when every read has its reply or its error; a disconnect is one.
    pub async fn answered(&self) {
        poll_fn(|context| {
            let mut state = self.batch.state.lock();
            if state.unanswered == 0 {
                return Poll::Ready(());
            }
            if !state
                .waker
                .as_ref()
                .is_some_and(|waker| waker.will_wake(context.waker()))
            {
                state.waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Give each reply, or the error in its place, with its place to `take`; nothing for a read that has no answer yet.
    pub fn replies(self, mut take: impl FnMut(usize, CaResult<BatchReply<'_>>)) {
        let (slots, short) = {
            let mut state = self.batch.state.lock();
            (
                std::mem::take(&mut state.slots),
                std::mem::take(&mut state.short),
            )
        };
        for (slot, asked) in slots.into_iter().zip(&self.asked) {
            let reply = |data_type, count, data| {
                subscription::check_reply(asked.data_type, data_type, count, data)?;
                Ok(BatchReply {
                    data_type,
                    count,
                    data,
                    native: asked.native,
                    element_count: asked.element_count,
                })
            };
            match slot.answer {
                Answer::None => {}
                Answer::Short {
                    data_type,
                    count,
                    start,
                    length,
                } => {
                    let data = short
                        .get(start as usize..)
                        .and_then(|rest| rest.get(..length as usize));
                    take(
                        asked.place,
                        reply(data_type, count, data.unwrap_or_default()),
                    );
                }
                Answer::Long {
                    data_type,
                    count,
                    data,
                } => take(asked.place, reply(data_type, count, &data)),
                Answer::Failed(error) => take(asked.place, Err(error)),
            }
        }
    }
}

impl InFlightOps {
    fn register_batch(&self, count: u32, state: State) -> Option<Arc<ReadBatch>> {
        let first = self.alloc_ioids(count)?;
        let batch = Arc::new(ReadBatch {
            first,
            count,
            state: Mutex::new(state),
        });
        self.batches.write().insert(first, batch.clone());
        Some(batch)
    }
}

/// What goes to one circuit.
struct Group {
    circuit: CircuitKey,
    writer: DirectServerWriter,
    asked: Vec<Asked>,
}

impl CaClient {
    /// Ask channels for all that they hold, with alarm and time (`DBR_TIME`) or without, in one message for each circuit;
    /// all of it is queued when this returns, in the order of the channels of a circuit.
    ///
    /// A channel that cannot be asked so at this moment — it is down, denies reading, is of another client, or its circuit
    /// takes nothing — is in none of the batches: a read of its own says why.
    pub fn send_reads<'a>(
        &self,
        channels: impl Iterator<Item = (usize, &'a CaChannel)>,
        time: bool,
    ) -> Vec<BatchRead> {
        let mut groups: Vec<Group> = Vec::new();
        let mut by_circuit: HashMap<CircuitKey, usize> = HashMap::new();
        let mut last = 0;
        for (place, channel) in channels {
            let Some((circuit, asked)) = self.asked(place, channel, time) else {
                continue;
            };
            if groups
                .get(last)
                .is_none_or(|group| group.circuit != circuit)
            {
                last = match by_circuit.get(&circuit) {
                    Some(known) => *known,
                    None => {
                        let Some(writer) = channel.direct_writer(circuit.0) else {
                            continue;
                        };
                        by_circuit.insert(circuit, groups.len());
                        groups.push(Group {
                            circuit,
                            writer,
                            asked: Vec::new(),
                        });
                        groups.len() - 1
                    }
                };
            }
            if let Some(group) = groups.get_mut(last) {
                group.asked.push(asked);
            }
        }
        let sent = groups
            .into_iter()
            .filter_map(|group| BatchRead::send(&self.in_flight, &group.writer, group.asked));
        sent.collect()
    }

    fn asked(&self, place: usize, channel: &CaChannel, time: bool) -> Option<(CircuitKey, Asked)> {
        if !Arc::ptr_eq(&channel.in_flight.reads, &self.in_flight.reads) {
            return None;
        }
        let snap = channel.snapshots.get(&channel.cid)?;
        if !snap.state.is_operational() || !snap.access_rights.read {
            return None;
        }
        let data_type = if time {
            snap.native_type.time_dbr_type()
        } else {
            snap.native_type as u16
        };
        let count =
            read_notify_wire_count(0, snap.element_count, data_type, snap.server_minor).ok()?;
        // From 0xFFFF on a header is a longer one (`comQueSend.cpp:285`).
        let wire_count = u16::try_from(count).ok().filter(|count| *count < u16::MAX)?;
        let asked = Asked {
            place,
            native: snap.native_type,
            element_count: snap.element_count,
            data_type,
            wire_count,
            sid: snap.sid,
            cid: channel.cid,
        };
        Some(((snap.server_addr, channel.priority), asked))
    }
}
