//! The event trace of a run: JSON Lines, one object for each happening, in the order of time.

use std::io::{self, Write};

use clusterd::protocol::Instant;
use clusterd::wire::{self, KeyRing};
use serde::Serialize;

use crate::host::cluster_key;
use crate::in_order::InOrder;
use crate::network::Loss;
use crate::packet::{Flag, FlowId, Packet, Segment};
use crate::record::{Happening, Record};
use crate::result::{host_name, microseconds, outcome_name};

/// Writes the trace of a run.
pub struct Trace<W> {
    file: InOrder<W>,
    ring: KeyRing,
    hosts: usize,
}

impl<W: Write> Trace<W> {
    /// A trace of so many hosts into a file.
    pub fn new(file: W, hosts: usize) -> Self {
        Self { file: InOrder::new(file, b""), ring: cluster_key().into(), hosts }
    }

    /// The end of the run; says whether all could be written.
    pub fn finish(self) -> io::Result<()> {
        self.file.finish().map(drop)
    }

    fn view(&self, happening: Happening<'_>) -> View {
        match happening {
            Happening::Syn { connection, number, segment } => {
                View::Syn { connection, number, segment: segment.into() }
            }
            Happening::Replied { connection, segment } => {
                View::Replied { connection, segment: segment.into() }
            }
            Happening::Received { connection, segment } => {
                View::Received { connection, segment: segment.into() }
            }
            Happening::FromClients { segment } => View::FromClients { segment: segment.into() },
            Happening::Arrived { host, segment } => {
                View::Arrived { host: name(host), segment: segment.into() }
            }
            Happening::Heard { host, bytes } => {
                View::Heard { host: name(host), frame: self.frame(bytes) }
            }
            Happening::Decided { host, syn, accept, .. } => {
                View::Decided { host: name(host), flow: show(syn.flow), accept }
            }
            Happening::Unheld { host, ticket } => {
                View::Unheld { host: name(host), ticket: ticket.0 }
            }
            Happening::Destroyed { host, flow, isn: _ } => {
                View::Destroyed { host: name(host), flow: show(flow) }
            }
            Happening::Said { host, segment } => {
                View::Said { host: name(host), segment: segment.into() }
            }
            Happening::Claimed { host, bytes } => {
                View::Claimed { host: name(host), frame: self.frame(bytes) }
            }
            Happening::Lost { from, to, packet, why } => View::Lost {
                from: self.station(from),
                to: to.map(|to| self.station(to)),
                why: match why {
                    Loss::Chance => "chance",
                    Loss::Cut => "cut",
                    Loss::Overflow => "overflow",
                    Loss::Collisions => "collisions",
                },
                packet: match packet {
                    Packet::Tcp(segment) => PacketView::Segment(segment.into()),
                    Packet::Claim(bytes) => PacketView::Frame(self.frame(bytes)),
                },
            },
            Happening::Connected { connection } => View::Connected { connection },
            Happening::Accepted { host, flow, isn: _ } => {
                View::Accepted { host: name(host), flow: show(flow) }
            }
            Happening::Ended { connection, outcome } => {
                View::Ended { connection, outcome: outcome_name(outcome) }
            }
            Happening::Notice { host, notice } => {
                View::Notice { host: name(host), notice: format!("{notice:?}") }
            }
            Happening::Fault(fault) => View::Fault { fault: fault.to_string() },
            Happening::Started { host } => View::Started { host: name(host) },
            Happening::Paused { host, until } => {
                View::Paused { host: name(host), until_us: microseconds(until.0) }
            }
        }
    }

    fn station(&self, number: u16) -> String {
        let is_host = usize::from(number) < self.hosts;
        if is_host { name(number) } else { "clients".to_owned() }
    }

    fn frame(&self, bytes: &[u8]) -> FrameView {
        FrameView {
            // Claims of the ancestors have a format of their own.
            claim: wire::decode(bytes, &self.ring).ok().map(|frame| frame.to_string()),
            bytes: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

impl<W: Write> Record for Trace<W> {
    fn note(&mut self, at: Instant, happening: Happening<'_>) {
        let line = Line { at_us: microseconds(at.0), happening: self.view(happening) };
        let mut line = serde_json::to_vec(&line).expect("a line has only text keys");
        line.push(b'\n');
        self.file.put(at, happening.is_now(), line);
    }
}

#[derive(Serialize)]
struct Line {
    at_us: f64,
    #[serde(flatten)]
    happening: View,
}

/// A happening as the trace shows it.
#[derive(Serialize)]
#[serde(tag = "happening", rename_all = "snake_case")]
enum View {
    Syn {
        connection: u32,
        number: u32,
        #[serde(flatten)]
        segment: SegmentView,
    },
    Replied {
        connection: u32,
        #[serde(flatten)]
        segment: SegmentView,
    },
    Received {
        connection: u32,
        #[serde(flatten)]
        segment: SegmentView,
    },
    FromClients {
        #[serde(flatten)]
        segment: SegmentView,
    },
    Arrived {
        host: String,
        #[serde(flatten)]
        segment: SegmentView,
    },
    Heard {
        host: String,
        #[serde(flatten)]
        frame: FrameView,
    },
    Decided {
        host: String,
        flow: String,
        accept: bool,
    },
    Unheld {
        host: String,
        ticket: u64,
    },
    Destroyed {
        host: String,
        flow: String,
    },
    Said {
        host: String,
        #[serde(flatten)]
        segment: SegmentView,
    },
    Claimed {
        host: String,
        #[serde(flatten)]
        frame: FrameView,
    },
    Lost {
        from: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        to: Option<String>,
        why: &'static str,
        #[serde(flatten)]
        packet: PacketView,
    },
    Connected {
        connection: u32,
    },
    Accepted {
        host: String,
        flow: String,
    },
    Ended {
        connection: u32,
        outcome: &'static str,
    },
    Notice {
        host: String,
        notice: String,
    },
    Fault {
        fault: String,
    },
    Started {
        host: String,
    },
    Paused {
        host: String,
        until_us: f64,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
enum PacketView {
    Segment(SegmentView),
    Frame(FrameView),
}

#[derive(Serialize)]
struct SegmentView {
    flow: String,
    flag: &'static str,
    sequence: u32,
    acknowledgement: u32,
    length: u32,
}

impl From<&Segment> for SegmentView {
    fn from(segment: &Segment) -> Self {
        let Segment { flow, flag, sequence, acknowledgement, length } = *segment;
        let flag = match flag {
            Flag::Syn => "syn",
            Flag::SynAck => "syn_ack",
            Flag::Ack => "ack",
            Flag::Fin => "fin",
            Flag::Rst => "rst",
            Flag::Refusal => "refusal",
        };
        Self { flow: show(flow), flag, sequence, acknowledgement, length }
    }
}

#[derive(Serialize)]
struct FrameView {
    #[serde(skip_serializing_if = "Option::is_none")]
    claim: Option<String>,
    bytes: String,
}

fn name(host: u16) -> String {
    host_name(usize::from(host))
}

fn show(flow: FlowId) -> String {
    flow.key().client.to_string()
}
