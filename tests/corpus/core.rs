//! One or two nodes keep their promises whatever happens to them.
//!
//! An input is a script, a few bytes for each thing that happens. A script stays
//! what it is when the core changes, and what cannot be read as a step is no step.
//!
//! The first byte says: bits 0 and 1, the first and the second node race; bit 2,
//! there is a second node; bit 3, they have joined before the story starts; bits 4
//! and 5, whether they claim or decide by hash. Then
//! follow the steps: bits 0 to 3 of their first byte say what happens ([`step`]),
//! bit 7 says to which node.

use clusterd::flow::{AttemptId, NodeId, ServicePort};
use clusterd::protocol::{Listener, Load, Mode, Pacing};
use clusterd::wire::{self, DecodeError, Frame, MAGIC, MAJOR};

use crate::common::cluster::{FURTHER, VIP, key, ms, us};
use crate::common::driver::{Driver, Op, datagrams, flow, ring};

/// Steps of one story: more of them find nothing new.
const STEPS_MAX: usize = 200;
/// A HEARD entry.
const KIND_HEARD: u8 = 5;
/// A VIPS entry.
const KIND_VIPS: u8 = 7;

/// One input of the fuzzer.
pub fn run(bytes: &[u8]) {
    let mut script = Script(bytes);
    let Some(setup) = script.byte() else { return };
    let bit = |number: u8| setup >> number & 1 == 1;
    let pacing = |race| if race { Pacing::Race } else { Pacing::Rank };
    let mode = [Mode::Auto, Mode::Claim, Mode::Hash, Mode::Auto][usize::from(setup >> 4 & 3)];
    let mut nodes = vec![Driver::new(NodeId(0), pacing(bit(0)), mode)];
    if bit(2) {
        nodes.push(Driver::new(NodeId(1), pacing(bit(1)), mode));
    }
    if bit(3) {
        nodes.iter_mut().for_each(|node| node.run(ms(1_001)));
    }
    for _ in 0..STEPS_MAX {
        if step(&mut script, &mut nodes).is_none() {
            break;
        }
    }
    nodes.iter_mut().for_each(Driver::rest);
}

/// The next thing that happens. `None` at the end of the script.
fn step(script: &mut Script<'_>, nodes: &mut [Driver]) -> Option<()> {
    let what = script.byte()?;
    let this = usize::from(what >> 7) % nodes.len();
    let op = match what & 0x0F {
        0 => {
            let byte = script.byte()?;
            let (flow, isn) = attempt(byte);
            Op::Syn { flow, isn, incumbent: byte >> 7 == 1 }
        }
        1 => match wire::decode(&frame(script)?, &ring()) {
            Ok(Frame { header, entries }) => Op::Frame { header, entries },
            Err(DecodeError::Version { major, header }) => Op::Stranger { major, header },
            // What is no frame is the other target's business.
            Err(_) => return Some(()),
        },
        2 => {
            let byte = script.byte()?;
            let listener = [Listener::Ready, Listener::Busy, Listener::Absent];
            let listener = listener[usize::from(byte >> 4 & 7) % listener.len()];
            let port = port(byte);
            let udp = byte >> 7 == 1;
            let on = (if byte >> 2 & 1 == 0 { VIP } else { FURTHER }, port);
            let service = if udp { ServicePort::udp(on) } else { ServicePort::tcp(on) };
            Op::Listener { service, listener }
        }
        3 => {
            let byte = script.byte()?;
            let (flow, isn) = attempt(byte);
            Op::SynAck { flow, isn, server_isn: server_isn(byte >> 4) }
        }
        4 => {
            let (flow, isn) = attempt(script.byte()?);
            Op::Refusal { flow, isn }
        }
        5 => {
            let byte = script.byte()?;
            let (flow, beyond) = attempt(byte);
            let number = server_isn(byte >> 4 & 7).wrapping_add(beyond);
            Op::Ack { flow, number, held: byte >> 7 == 1 }
        }
        6 => Op::Adopt { flow: attempt(script.byte()?).0 },
        7 => Op::Run(us(100) * u32::from(script.byte()?)),
        8 => Op::Run(ms(16) * u32::from(script.byte()?)),
        9 => Op::Sleep(ms(16) * u32::from(script.byte()?)),
        10 => {
            deliver(script.byte()?, this, nodes);
            return Some(());
        }
        11 => Op::Datagram { flow: attempt(script.byte()?).0 },
        12 => Op::FlowEnded { flow: attempt(script.byte()?).0 },
        13 => {
            let (busy, overflowed, syns) = (script.byte()?, script.byte()?, script.wide()?);
            let busy = u16::from(busy) * 4;
            Op::Load(Load { window: ms(200), busy, overflowed: overflowed.into(), syns })
        }
        14 => Op::Replay,
        _ => return Some(()),
    };
    nodes[this].apply(op);
    Some(())
}

/// The other node hears a frame of this one: by the low bits of `which`, one of
/// those sent last. Frames may so be late, lost, doubled and out of order.
fn deliver(which: u8, from: usize, nodes: &mut [Driver]) {
    let sent = &nodes[from].sent;
    let frame = sent.len().checked_sub(1 + usize::from(which & 0x1F)).map(|at| sent[at].clone());
    let to = 1 - from;
    if let (Some(Frame { header, entries }), Some(to)) = (frame, nodes.get_mut(to)) {
        to.apply(Op::Frame { header, entries });
    }
}

/// The bytes of a frame of some node.
fn frame(script: &mut Script<'_>) -> Option<Vec<u8>> {
    let (sender, flags, count) = (script.byte()?, script.byte()?, script.byte()? & 7);
    let (incarnation, sequence) = (script.wide()?, script.wide()?);
    let mut bytes = MAGIC.to_be_bytes().to_vec();
    // Of minor version 0 are those that are believed at once.
    bytes.extend([MAJOR + (sender >> 6 & 1), sender >> 7]);
    bytes.extend(key().cluster_id().to_be_bytes());
    bytes.extend(u32::from(sender & 7).to_be_bytes());
    bytes.extend([flags, count, 0, 0]);
    bytes.extend(incarnation.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    for _ in 0..count {
        let entry = entry(script)?;
        bytes.extend(entry);
    }
    let tag = key().tag(&bytes);
    bytes.extend(tag);
    Some(bytes)
}

/// An entry about one of the attempts that the story is about, or any bytes.
fn entry(script: &mut Script<'_>) -> Option<Vec<u8>> {
    let kind = script.byte()?;
    let mut body = Vec::new();
    match kind {
        KIND_HEARD => {
            // One report: about a node, its life and what was heard of it.
            body.extend(u32::from(script.byte()? & 7).to_be_bytes());
            body.extend(script.wide()?.to_be_bytes());
            body.extend((script.wide()? as u32).to_be_bytes());
            body.extend((script.wide()? as u32).to_be_bytes());
        }
        KIND_VIPS => {
            // The one that the nodes have, one that they have not, or both.
            let which = script.byte()?;
            let vips = [FURTHER, VIP].into_iter().enumerate();
            let said = vips.filter(|(bit, _)| which >> bit & 1 == 1);
            body.extend(said.flat_map(|(_, vip)| key().vip(vip.into()).0.to_be_bytes()));
        }
        1..=3 => {
            let byte = script.byte()?;
            let (flow_number, isn) = attempt(byte);
            let unknown = byte >> 4 == 0x0F;
            let datagram = isn == 3;
            let id = match datagram {
                true => key().attempt(&datagrams(flow_number), 0),
                false => key().attempt(&flow(flow_number), isn),
            };
            body.extend(if unknown { AttemptId([byte; 16]) } else { id }.0);
            body.extend(port(byte >> 4).to_be_bytes());
            body.extend([script.byte()?, script.byte()?]);
        }
        _ => {
            let len = script.byte()? & 0x3F;
            for _ in 0..len {
                body.push(script.byte()?);
            }
        }
    }
    let mut entry = vec![kind, 2 + body.len() as u8];
    entry.extend(body);
    Some(entry)
}

/// Flow and the client's sequence number: few of each, so that they meet.
fn attempt(byte: u8) -> (u16, u32) {
    (u16::from(byte & 3), u32::from(byte >> 2 & 3))
}

fn port(byte: u8) -> u16 {
    79 + u16::from(byte & 3)
}

/// A sequence number of a kernel: close to its wrap, or to the range in which a
/// copy of a packet is believed.
fn server_isn(byte: u8) -> u32 {
    [0, 1, u32::MAX, (1 << 24) - 1][usize::from(byte & 3)]
}

/// What is left of the input.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// A small number, or one of the largest.
    fn wide(&mut self) -> Option<u64> {
        let byte = self.byte()?;
        Some(if byte < 0xF0 { u64::from(byte) } else { u64::MAX - u64::from(0xFF - byte) })
    }
}
