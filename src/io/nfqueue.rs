//! NFQUEUE: packets the kernel holds until this host has decided.
//!
//! A packet that a rule sends to the queue leaves the kernel's path, and a copy
//! of its first 128 bytes comes here with a number. It waits until a verdict
//! with that number arrives, in any order. An accepted packet goes on **inside**
//! [`Queue::flush`]: when that returns, TCP has seen the SYN and sent its SYN-ACK.
//!
//! *Overrun.* Two places can fill up, and in both the packet is dropped, never
//! let through (fail-open is switched off): more than the maximum length held
//! (`queue_dropped`), or the socket's receive buffer full (`user_dropped`, and
//! one `ENOBUFS` here, counted in [`Counters::enobufs`]). A dropped SYN comes
//! again after a second. See [`overflows`].
//!
//! *Restart and shutdown.* When the socket closes, the kernel drops all packets
//! it holds and removes the queues (`nfqnl_rcv_nl_event`); a rule without
//! `bypass` then drops what would be queued: a host without its daemon does not
//! answer. A new daemon must bind before the rules are installed.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use serde::Serialize;

use super::error::attempt;
use super::message::{Attributes, Builder, Message, Messages, nfnetlink};
use super::netlink::{Batch, NetlinkSocket, busy_if_listed};

/// Bytes of each packet that are copied here: IP and TCP headers with options.
pub const COPY_RANGE: u32 = 128;
/// Receive buffer in bytes, room for about 9,000 packets.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Bytes of verdicts in one datagram. Far below the send buffer (`EMSGSIZE`),
/// small enough that the kernel need not use `vmalloc` for it.
const MAX_DATAGRAM: usize = VERDICT_MESSAGE * 256;
/// Length of one verdict message: headers 16 + 4, attribute 4 + 8.
const VERDICT_MESSAGE: usize = 32;
/// Where `nfnetlink_queue` shows its queues (`seq_show`).
const PROC: &str = "/proc/thread-self/net/netfilter/nfnetlink_queue";

const PACKET: u16 = nfnetlink(libc::NFNL_SUBSYS_QUEUE, libc::NFQNL_MSG_PACKET);
const VERDICT: u16 = nfnetlink(libc::NFNL_SUBSYS_QUEUE, libc::NFQNL_MSG_VERDICT);
const CONFIG: u16 = nfnetlink(libc::NFNL_SUBSYS_QUEUE, libc::NFQNL_MSG_CONFIG);

/// Names a held packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// The queue that holds it.
    pub queue: u16,
    /// Its number there, counted from 1 since the bind.
    pub id: u32,
}

/// A packet the kernel now holds. It must get exactly one verdict.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// To be handed back with the verdict.
    pub ticket: Ticket,
    /// Where in the path it was caught (`NF_INET_PRE_ROUTING`, ...).
    pub hook: u8,
    /// Its beginning, from the IP header on. Empty if the kernel sent none.
    pub payload: &'a [u8],
    /// When the kernel got it, since 1970, to the microsecond; only if something on this host
    /// has asked the kernel to take that time.
    pub arrived: Option<Duration>,
}

/// What becomes of a held packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on with the next hook.
    Accept,
    /// It is freed.
    Drop,
}

/// Events since the queue was bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// The receive buffer ran full: packets were dropped (how many: [`overflows`]).
    pub enobufs: u64,
    /// Verdicts on packets the kernel no longer had (`ENOENT`).
    pub stale_verdicts: u64,
    /// Verdicts the kernel refused for any other reason.
    pub refused_verdicts: u64,
    /// Messages that could not be understood.
    pub malformed: u64,
}

/// One socket that serves one or more queues.
#[derive(Debug)]
pub struct Queue {
    socket: NetlinkSocket,
    batch: Batch,
    verdicts: Builder,
    /// Packets that came while the next queue was being configured.
    early: Vec<u8>,
    /// What went wrong so far.
    pub counters: Counters,
}

impl Queue {
    /// Takes the queues `numbers`; each holds at most `max_length` packets.
    ///
    /// Fails with `EBUSY` ([`errno`](super::error::errno)) if another process has one of them, with
    /// `EPERM` without `CAP_NET_ADMIN`.
    pub fn bind(numbers: &[u16], max_length: u32) -> io::Result<Self> {
        Self::bind_with(numbers, max_length, RECEIVE_BUFFER)
    }

    fn bind_with(numbers: &[u16], max_length: u32, receive_buffer: usize) -> io::Result<Self> {
        let mut queue = Self {
            socket: NetlinkSocket::open(libc::NETLINK_NETFILTER, receive_buffer)?,
            batch: Batch::new(),
            verdicts: Builder::with_capacity(MAX_DATAGRAM),
            early: Vec::new(),
            counters: Counters::default(),
        };
        for (&number, sequence) in numbers.iter().zip(1..) {
            queue.configure(number, max_length, sequence).map_err(|error| {
                attempt(format!("bind NFQUEUE {number}"), busy_if_listed(PROC, number, error))
            })?;
        }
        Ok(queue)
    }

    /// Binds and configures one queue in one message, so that no packet meets
    /// it half configured.
    fn configure(&mut self, number: u16, max_length: u32, sequence: u32) -> io::Result<()> {
        let flags = libc::NFQA_CFG_F_GSO as u32;
        let mask = flags | (libc::NFQA_CFG_F_FAIL_OPEN | libc::NFQA_CFG_F_CONNTRACK) as u32;
        let [a, b, c, d] = COPY_RANGE.to_be_bytes();
        let mut message = Builder::default();
        message
            .begin(CONFIG, libc::NLM_F_ACK as u16, sequence)
            .nfgenmsg(libc::AF_UNSPEC, number)
            // struct nfqnl_msg_config_cmd: command, padding, protocol family
            // (which kernels ignore since 3.8).
            .attribute(libc::NFQA_CFG_CMD, &[libc::NFQNL_CFG_CMD_BIND as u8, 0, 0, 0])
            .attribute(libc::NFQA_CFG_PARAMS, &[a, b, c, d, libc::NFQNL_COPY_PACKET as u8])
            .attribute(libc::NFQA_CFG_QUEUE_MAXLEN, &max_length.to_be_bytes())
            .attribute(libc::NFQA_CFG_MASK, &mask.to_be_bytes())
            .attribute(libc::NFQA_CFG_FLAGS, &flags.to_be_bytes())
            .end();
        let early = &mut self.early;
        self.socket.request(message.bytes(), sequence, |packet| {
            early.extend_from_slice(packet.whole);
            early.resize(early.len().next_multiple_of(4), 0);
        })
    }

    /// Hands waiting packets to `on_packet`, at most `budget`; returns how many
    /// there were. Fewer than `budget`: no more at that moment.
    pub fn recv(
        &mut self,
        budget: usize,
        mut on_packet: impl FnMut(Packet<'_>),
    ) -> io::Result<usize> {
        let mut packets = 0;
        if !self.early.is_empty() {
            packets = deliver(&std::mem::take(&mut self.early), &mut self.counters, &mut on_packet);
        }
        while packets < budget {
            let wanted = (budget - packets).min(Batch::SLOTS);
            let received = match self.socket.recv_batch(&mut self.batch, wanted) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.counters.enobufs += 1;
                    continue;
                }
                Err(error) => return Err(attempt("receive queued packets", error)),
            };
            for datagram in self.batch.datagrams(received) {
                packets += deliver(datagram, &mut self.counters, &mut on_packet);
            }
            if received < wanted {
                break;
            }
        }
        Ok(packets)
    }

    /// Notes a verdict; [`Queue::flush`] carries it out.
    pub fn verdict(&mut self, ticket: Ticket, verdict: Verdict) {
        let verdict = match verdict {
            Verdict::Accept => libc::NF_ACCEPT,
            Verdict::Drop => libc::NF_DROP,
        };
        let [a, b, c, d] = (verdict as u32).to_be_bytes();
        let [e, f, g, h] = ticket.id.to_be_bytes();
        self.verdicts
            .begin(VERDICT, 0, 0)
            .nfgenmsg(libc::AF_UNSPEC, ticket.queue)
            .attribute(libc::NFQA_VERDICT_HDR, &[a, b, c, d, e, f, g, h])
            .end();
    }

    /// Carries out the noted verdicts, normally with one system call. The
    /// packets are on their way, or gone, when this returns. On an error the
    /// verdicts not yet carried out stay noted for the next call.
    pub fn flush(&mut self) -> io::Result<()> {
        let mut sent = 0;
        let mut result = Ok(());
        for datagram in self.verdicts.bytes().chunks(MAX_DATAGRAM) {
            result = self.socket.send(datagram);
            if result.is_err() {
                break;
            }
            sent += datagram.len();
        }
        self.verdicts.discard(sent);
        result.map_err(|error| attempt("send verdicts", error))
    }
}

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Hands the packets in `datagram` on and counts refused verdicts.
fn deliver(
    datagram: &[u8],
    counters: &mut Counters,
    on_packet: &mut impl FnMut(Packet<'_>),
) -> usize {
    let mut packets = 0;
    let mut messages = 0;
    for message in Messages(datagram) {
        messages += 1;
        if let Some(code) = message.error() {
            match code {
                0 => {}
                libc::ENOENT => counters.stale_verdicts += 1,
                _ => counters.refused_verdicts += 1,
            }
        } else if let Some(packet) = packet(message) {
            packets += 1;
            on_packet(packet);
        } else {
            counters.malformed += 1;
        }
    }
    counters.malformed += u64::from(messages == 0);
    packets
}

fn packet(message: Message<'_>) -> Option<Packet<'_>> {
    if message.kind != PACKET {
        return None;
    }
    let (&[_, _, high, low], attributes) = message.payload.split_first_chunk()?;
    let mut header = None;
    let mut payload = &[][..];
    let mut arrived = None;
    for (kind, value) in Attributes(attributes) {
        match kind {
            libc::NFQA_PACKET_HDR => header = value.first_chunk::<7>(),
            libc::NFQA_PAYLOAD => payload = value,
            libc::NFQA_TIMESTAMP => arrived = timestamp(value),
            _ => {}
        }
    }
    // struct nfqnl_msg_packet_hdr: id, protocol of the link layer, hook.
    let &[a, b, c, d, _, _, hook] = header?;
    let ticket =
        Ticket { queue: u16::from_be_bytes([high, low]), id: u32::from_be_bytes([a, b, c, d]) };
    Some(Packet { ticket, hook, payload, arrived })
}

/// struct nfqnl_msg_packet_timestamp: seconds and microseconds, each of 64 bits.
fn timestamp(value: &[u8]) -> Option<Duration> {
    let (seconds, rest) = value.split_first_chunk()?;
    let microseconds = u64::from_be_bytes(*rest.first_chunk()?);
    Some(Duration::from_secs(u64::from_be_bytes(*seconds)) + Duration::from_micros(microseconds))
}

/// What the kernel counts for a set of queues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Overflows {
    /// Packets held at the moment.
    pub held: u64,
    /// Packets dropped because the queue was at its maximum length.
    pub queue_dropped: u64,
    /// Packets dropped because the receive buffer was full.
    pub user_dropped: u64,
}

impl Overflows {
    /// Packets dropped for want of room.
    pub fn dropped(&self) -> u64 {
        self.queue_dropped + self.user_dropped
    }
}

/// Adds up the kernel's counters of the queues `numbers` in the network
/// namespace of the calling thread. They start at 0 with each bind. Reads a
/// file (some 20 microseconds): not for the hot loop.
pub fn overflows(numbers: &[u16]) -> io::Result<Overflows> {
    let mut sum = Overflows::default();
    for row in rows()?.lines().filter_map(row) {
        if numbers.iter().any(|&number| u64::from(number) == row[0]) {
            sum.held += row[2];
            sum.queue_dropped += row[5];
            sum.user_dropped += row[6];
        }
    }
    Ok(sum)
}

fn rows() -> io::Result<String> {
    fs::read_to_string(PROC).map_err(|error| attempt(format!("read {PROC}"), error))
}

/// Queue, port, packets held, copy mode, copy range, queue_dropped,
/// user_dropped; what follows is of no use here.
fn row(line: &str) -> Option<[u64; 7]> {
    let mut fields = line.split_ascii_whitespace().map(str::parse);
    let mut row = [0; 7];
    for field in &mut row {
        *field = fields.next()?.ok()?;
    }
    Some(row)
}

#[cfg(test)]
mod tests;
