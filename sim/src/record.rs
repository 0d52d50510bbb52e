//! What is written down of a run: nothing, or every step of it.

use std::rc::Rc;

use clusterd::protocol::{Instant, Notice, Ticket};

use crate::client::Outcome;
use crate::fault::FaultKind;
use crate::host::Host;
use crate::network::Loss;
use crate::packet::{FlowId, Packet, Segment};

/// Something that has happened.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the fields are what the names say")]
pub enum Happening<'a> {
    /// A frame does not arrive at a station, or at none. The clients' is that after the last host.
    Lost { from: u16, to: Option<u16>, packet: &'a Packet, why: Loss },
    /// A client sends its SYN for the `number`th time.
    Syn { connection: u32, number: u32, segment: &'a Segment },
    /// A client sends something else.
    Replied { connection: u32, segment: &'a Segment },
    /// A segment has got to the client of a connection.
    Received { connection: u32, segment: &'a Segment },
    /// A segment of a client comes to the segment of the hosts.
    FromClients { segment: &'a Segment },
    /// A segment of a client has got to the kernel of a host that runs.
    Arrived { host: u16, segment: &'a Segment },
    /// A claim frame has got to the socket of a host that runs, and there was room for it.
    Heard { host: u16, bytes: &'a Rc<[u8]> },
    /// A held SYN got a verdict, of which the core was told then.
    Decided { host: u16, ticket: Ticket, syn: &'a Segment, accept: bool, told: Option<Instant> },
    /// The core of a host gave a verdict for a packet that is not held, or not any more.
    Unheld { host: u16, ticket: Ticket },
    /// The daemon of a host has removed a half-open connection with this number of its kernel.
    Destroyed { host: u16, flow: FlowId, isn: u32 },
    /// A host sends a segment.
    Said { host: u16, segment: &'a Segment },
    /// A host sends a claim frame.
    Claimed { host: u16, bytes: &'a Rc<[u8]> },
    /// The first SYN-ACK has come to a client.
    Connected { connection: u32 },
    /// An application has a connection, whose client began with this number.
    Accepted { host: u16, flow: FlowId, isn: u32 },
    /// A connection is over.
    Ended { connection: u32, outcome: Outcome },
    /// The core of a host has something for the log.
    Notice { host: u16, notice: Notice },
    /// Something goes wrong, or right again.
    Fault(&'a FaultKind),
    /// A host starts.
    Started { host: u16 },
    /// The daemon of a host does not run before this time.
    Paused { host: u16, until: Instant },
}

impl Happening<'_> {
    /// Whether the clock stands at the time of its note. What is sent or lost is noted ahead of it.
    pub fn is_now(&self) -> bool {
        match self {
            Happening::Said { .. } | Happening::Claimed { .. } | Happening::Lost { .. } => false,
            Happening::Syn { .. }
            | Happening::Replied { .. }
            | Happening::Received { .. }
            | Happening::FromClients { .. }
            | Happening::Arrived { .. }
            | Happening::Heard { .. }
            | Happening::Decided { .. }
            | Happening::Unheld { .. }
            | Happening::Destroyed { .. }
            | Happening::Connected { .. }
            | Happening::Accepted { .. }
            | Happening::Ended { .. }
            | Happening::Notice { .. }
            | Happening::Fault(_)
            | Happening::Started { .. }
            | Happening::Paused { .. } => true,
        }
    }
}

/// Takes notes.
pub trait Record {
    /// Something happens at this time. What is sent is noted when it is given to the interface.
    fn note(&mut self, at: Instant, happening: Happening<'_>);

    /// An event at this host is over; notes of what it did follow. Who only takes notes does not look.
    fn after(&mut self, _at: Instant, _host: &Host) {}
}

/// Takes none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl Record for Nothing {
    fn note(&mut self, _at: Instant, _happening: Happening<'_>) {}
}

/// Takes notes if there is something to write into.
impl<R: Record> Record for Option<R> {
    fn note(&mut self, at: Instant, happening: Happening<'_>) {
        if let Some(record) = self {
            record.note(at, happening);
        }
    }

    fn after(&mut self, at: Instant, host: &Host) {
        if let Some(record) = self {
            record.after(at, host);
        }
    }
}

/// Takes notes twice.
impl<A: Record, B: Record> Record for (A, B) {
    fn note(&mut self, at: Instant, happening: Happening<'_>) {
        self.0.note(at, happening);
        self.1.note(at, happening);
    }

    fn after(&mut self, at: Instant, host: &Host) {
        self.0.after(at, host);
        self.1.after(at, host);
    }
}
