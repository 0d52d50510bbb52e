//! A counter-example in words: time, who, what.

use clusterd::protocol::{Output, Verdict};
use clusterd::wire::{Contest, Entry, Frame};

use crate::world::{Packet, Step};

pub fn host(index: usize) -> String {
    format!("h{index}")
}

pub fn at(step: Step) -> &'static str {
    match step {
        Step::Read => "before it reads",
        Step::Decide => "between reading and deciding",
        Step::CarryOut => "between its decision and the verdict",
        Step::Send => "before its frame leaves",
    }
}

pub fn packet(packet: &Packet) -> String {
    match packet {
        Packet::Frame { from, frame } => format!("{} of h{from}", self::frame(frame)),
        Packet::Syn { attempt } => format!("SYN of attempt {attempt}"),
        Packet::Ack { number } => format!("ACK {number:#x}"),
        Packet::Evidence { isn, .. } => format!("its own SYN-ACK, number {isn:#x}"),
        Packet::SynAck { from, attempt, isn } => {
            format!("SYN-ACK of h{from} for attempt {attempt}, number {isn:#x}")
        }
        Packet::Again { .. } => "a timer: the SYN-ACK once more".into(),
        Packet::Repeat => "a timer: the SYN once more".into(),
        Packet::Anew => "a timer: a new attempt from the same port".into(),
    }
}

pub fn reads(packet: &Packet) -> String {
    format!("gets {}", self::packet(packet))
}

pub fn frame(frame: &Frame) -> String {
    let entry = |entry: &Entry| {
        let contest = |name: &str, Contest { tries, rank, .. }: &Contest| {
            format!("{name} (try {tries}, rank {rank})")
        };
        match entry {
            Entry::Claim(said) => contest("CLAIM", said),
            Entry::Own(said) => contest("OWN", said),
            Entry::Release(said) => contest("RELEASE", said),
            _ => "HELLO".into(),
        }
    };
    frame.entries.iter().map(entry).collect::<Vec<_>>().join(", ")
}

pub fn output(output: &Output) -> String {
    match output {
        Output::Decide(_, Verdict::Accept) => "accepts".into(),
        Output::Decide(_, Verdict::Drop) => "drops".into(),
        Output::Destroy(_) => "destroys its half-open socket".into(),
        Output::Share(_) | Output::Block(_) | Output::Inquire(_) => "tells its kernel".into(),
        Output::Notice(notice) => format!("notes {notice:?}"),
    }
}
