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
