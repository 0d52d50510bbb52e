//! What is written down of a run: nothing, or every step of it.

use std::rc::Rc;

use clusterd::protocol::{Instant, Notice};

use crate::client::Outcome;
use crate::fault::Fault;
use crate::packet::{FlowId, Segment};

/// Something that has happened.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the fields are what the names say")]
pub enum Happening<'a> {
    /// A client sends its SYN for the `number`th time.
    Syn { connection: u32, number: u32 },
    /// A segment of a client comes to the segment of the hosts.
    FromClients { segment: &'a Segment },
    /// A segment of a client has got to the kernel of a host.
    Arrived { host: u16, segment: &'a Segment },
    /// A claim frame has got to the socket of a host.
    Heard { host: u16, bytes: &'a Rc<[u8]> },
    /// A held SYN got a verdict.
    Decided { host: u16, flow: FlowId, accept: bool },
    /// A host sends a segment.
    Said { host: u16, segment: &'a Segment },
    /// A host sends a claim frame.
    Claimed { host: u16, bytes: &'a Rc<[u8]> },
    /// The first SYN-ACK has come to a client.
    Connected { connection: u32 },
    /// An application has a connection.
    Accepted { host: u16, flow: FlowId },
    /// A connection is over.
    Ended { connection: u32, outcome: Outcome },
    /// The core of a host has something for the log.
    Notice { host: u16, notice: Notice },
    /// A fault of the scenario.
    Fault(&'a Fault),
}

impl Happening<'_> {
    /// Whether the clock stands at the time of its note. What is sent is noted ahead of it.
    pub fn is_now(&self) -> bool {
        match self {
            Happening::Said { .. } | Happening::Claimed { .. } => false,
            Happening::Syn { .. }
            | Happening::FromClients { .. }
            | Happening::Arrived { .. }
            | Happening::Heard { .. }
            | Happening::Decided { .. }
            | Happening::Connected { .. }
            | Happening::Accepted { .. }
            | Happening::Ended { .. }
            | Happening::Notice { .. }
            | Happening::Fault(_) => true,
        }
    }
}

/// Takes notes.
pub trait Record {
    /// Something happens at this time. What is sent is noted when it is given to the interface.
    fn note(&mut self, at: Instant, happening: Happening<'_>);
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
}

/// Takes notes twice.
impl<A: Record, B: Record> Record for (A, B) {
    fn note(&mut self, at: Instant, happening: Happening<'_>) {
        self.0.note(at, happening);
        self.1.note(at, happening);
    }
}
