//! What went into the core of a daemon and what came out of it, in order.
//!
//! A recording begins with the line [`MAGIC`], then a [`Header`], then [`Record`]s until its end.
//! Header and records are serialised by bincode (its standard configuration: little-endian,
//! variable-length integers), each behind its length as four bytes, little-endian.
//!
//! Everything that decides the core's outputs is in it: the configuration (with node id,
//! incarnation, key of the hashes and roster) in the header, and each input with its time.
//! The core draws nothing at random and looks at no clock. So [`replay()`] must
//! find the same outputs, in the same order. The cluster's secret is not in it: frames are
//! recorded as they were decoded.

mod format;
mod replay;

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::flow::{FlowKey, ServicePort};
use crate::protocol::{Config, Instant, Listener, Load, Output, Syn, Ticket};
use crate::wire::{self, Frame};

pub use format::{MAGIC, ReadError, Reader, write_header, write_record};
pub use replay::{Difference, ReplayError, Replayed, replay};

/// What a recording begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the program that wrote it. Another one may decide otherwise.
    pub version: String,
    /// The configuration of the node, which was made at [`Instant`] 0.
    pub config: Config,
    /// When that was, since 1970 by the host's clock.
    pub started: Duration,
}

/// What the driver told the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is a method of `Node`, with its arguments")]
pub enum Input<'a> {
    Adopt { flow: FlowKey },
    Frame(Cow<'a, Frame>),
    Stranger { major: u8, header: wire::Header },
    Syn(Syn),
    Datagram { ticket: Ticket, flow: FlowKey },
    Unasked { flow: FlowKey, ticket: Ticket },
    SynAck { flow: FlowKey, client_isn: u32, isn: u32 },
    Ack { flow: FlowKey, number: u32, ticket: Option<Ticket> },
    Refusal { flow: FlowKey, client_isn: u32, rst: Ticket },
    Listener { service: ServicePort, listener: Listener },
    Load(Load),
    FlowEnded { flow: FlowKey },
    Timeout,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record<'a> {
    /// The driver asked until when it may sleep, and was told this.
    Wait(Instant),
    /// The node was told something.
    Input {
        /// The time that it was told.
        at: Instant,
        /// When the kernel got the packet or frame that this is about, if it said so. That
        /// decides nothing.
        arrived: Option<Instant>,
        /// What.
        input: Input<'a>,
    },
    /// The node gave an output.
    Output(Cow<'a, Output>),
    /// The node had no more outputs and was asked for a frame to send then.
    Send {
        /// The time that it was told.
        at: Instant,
        /// What it gave.
        frame: Option<Cow<'a, Frame>>,
    },
    /// The driver asked whether the node has let a SYN of this attempt through.
    HasAccepted {
        /// The flow.
        flow: FlowKey,
        /// The client's sequence number.
        isn: u32,
        /// What it was told.
        accepted: bool,
    },
    /// The node was told to leave and gave this frame, the last of all.
    Leave(Cow<'a, Frame>),
    /// A turn of the driver has ended. That decides nothing.
    Turn(Turn),
}

/// A turn of the driver, and what it spent its time on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// When it began to wait.
    pub slept: Instant,
    /// When it was woken.
    pub woke: Instant,
    /// Nothing was there to read: a timer has woken it.
    pub timer: bool,
    /// When it began to give the first verdict to accept.
    pub answering: Option<Instant>,
    /// When it was done.
    pub ended: Instant,
    /// Reading frames.
    pub frames: Work,
    /// Reading held packets and the log.
    pub packets: Work,
    /// Giving verdicts, if none of them was to accept.
    pub drops: Work,
    /// Giving verdicts of which this many were to accept, and reading what the kernel has
    /// answered.
    pub accepts: Work,
    /// Sending frames.
    pub sent: Work,
}

/// How many things were done in which time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// How many.
    pub count: u32,
    /// In nanoseconds, all together.
    pub took: u64,
}

impl Work {
    /// So many more, in this time.
    pub fn add(&mut self, count: u32, took: Duration) {
        self.count += count;
        self.took += took.as_nanos() as u64;
    }
}
