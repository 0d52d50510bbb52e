//! A recording through the core once more.

use std::fmt;
use std::io::Read;
use std::time::Duration;

use thiserror::Error;

use super::{Header, Input, ReadError, Reader, Record};
use crate::protocol::{Instant, Node};

/// What was replayed without a difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Inputs.
    pub inputs: u64,
    /// Outputs, frames apart.
    pub outputs: u64,
    /// Frames that were sent.
    pub frames: u64,
    /// Waits, each with the time that the node said.
    pub waits: u64,
    /// The time of the last input.
    pub span: Duration,
    /// The node was told to leave: the recording is all of its life.
    pub left: bool,
    /// The recording ends within a record.
    pub cut_off: bool,
}

/// The first output that was another one.
#[derive(Debug)]
pub struct Difference {
    /// Inputs until then, that which led to it included.
    pub input: u64,
    /// The time of the last of these.
    pub at: Instant,
    /// What was recorded.
    pub recorded: String,
    /// What came out now.
    pub replayed: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { input, at, recorded, replayed } = self;
        let seconds = Duration::from_nanos(at.0).as_secs_f64();
        writeln!(f, "another output after input {input}, at {seconds:.9} s")?;
        writeln!(f, "  recorded: {recorded}")?;
        write!(f, "  replayed: {replayed}")
    }
}

/// Why a recording was not replayed to its end.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The core decides otherwise.
    #[error("{0}")]
    Differs(Box<Difference>),
}

/// Feeds what a node was told to a new one, which must say the same.
pub fn replay<R: Read>(header: &Header, reader: &mut Reader<R>) -> Result<Replayed, ReplayError> {
    let mut node = Node::new(header.config.clone(), Instant::default());
    let mut done = Replayed::default();
    let mut at = Instant::default();
    while let Some(record) = reader.record()? {
        let differs = |recorded: &dyn fmt::Debug, replayed: &dyn fmt::Debug| {
            let (recorded, replayed) = (format!("{recorded:?}"), format!("{replayed:?}"));
            let input = done.inputs;
            Err(ReplayError::Differs(Box::new(Difference { input, at, recorded, replayed })))
        };
        match record {
            Record::Wait(recorded) => {
                let replayed = node.poll_timeout();
                if replayed != recorded {
                    return differs(&recorded, &replayed);
                }
                done.waits += 1;
            }
            Record::Input { at: now, arrived: _, input } => {
                feed(&mut node, now, input);
                at = now;
                done.inputs += 1;
            }
            Record::Output(recorded) => {
                let replayed = node.poll_output();
                if replayed.as_ref() != Some(&*recorded) {
                    return differs(&Some(recorded), &replayed);
                }
                done.outputs += 1;
            }
            Record::Send { at: now, frame: recorded } => {
                if let Some(further) = node.poll_output() {
                    return differs(&"no more output", &further);
                }
                let replayed = node.poll_frame(now);
                if replayed != recorded.as_deref() {
                    return differs(&recorded, &replayed);
                }
                done.frames += u64::from(recorded.is_some());
            }
            Record::HasAccepted { flow, isn, accepted } => {
                let replayed = node.has_accepted(&flow, isn);
                if replayed != accepted {
                    return differs(&accepted, &replayed);
                }
            }
            Record::Leave(recorded) => {
                let replayed = node.leave();
                if replayed != *recorded {
                    return differs(&recorded, &replayed);
                }
                done.left = true;
            }
            Record::Turn(_) => {}
        }
    }
    Ok(Replayed { span: at.since(Instant::default()), cut_off: reader.cut_off, ..done })
}

fn feed(node: &mut Node, now: Instant, input: Input<'_>) {
    match input {
        Input::Adopt { flow } => node.adopt(flow),
        Input::Frame(frame) => node.handle_frame(now, &frame),
        Input::Stranger { major, header } => node.handle_stranger(now, major, &header),
        Input::Syn(syn) => node.handle_syn(now, syn),
        Input::Datagram { ticket, flow } => node.handle_datagram(now, ticket, flow),
        Input::Unasked { flow, ticket } => node.handle_unasked(flow, ticket),
        Input::SynAck { flow, client_isn, isn } => node.handle_syn_ack(now, flow, client_isn, isn),
        Input::Ack { flow, number, ticket } => node.handle_ack(now, flow, number, ticket),
        Input::Refusal { flow, client_isn, rst } => node.handle_refusal(now, flow, client_isn, rst),
        Input::Listener { service, listener } => node.handle_listener(now, service, listener),
        Input::Load(load) => node.handle_load(now, &load),
        Input::FlowEnded { flow } => node.handle_flow_ended(now, flow),
        Input::Timeout => node.handle_timeout(now),
    }
}
