//! What happens to one attempt, and why.

use std::collections::BTreeMap;
use std::time::Duration;

use clusterd::flow::AttemptId;
use clusterd::protocol::{Instant, Ticket};
use clusterd::wire::{self, Contest, Entry, Frame, KeyRing};

use super::standing::{COPY, Change};
use super::{Line, Mark, Message, short};
use crate::client::REQUEST;
use crate::fault::FaultKind;
use crate::host::{Host, cluster_key, host_of};
use crate::network::Loss;
use crate::packet::{Flag, FlowId, Packet, Segment};
use crate::record::{Happening, Record};
use crate::result::outcome_name;
use crate::scenario::{Rule, Scenario};

/// The attempt as a host has it.
#[derive(Clone, Debug, Default)]
struct Local {
    /// When its SYNs came that wait, or have waited, for a verdict.
    syns: BTreeMap<Ticket, Instant>,
    /// Another one has come and is not among these yet.
    comes: bool,
    /// What the last event of this host has made of the core's view.
    change: Change,
    /// The SYN that the core holds, until its verdict is carried out.
    holds: Option<Ticket>,
    /// When a SYN was accepted last: what the daemon has to say about it comes then.
    accepted: Option<Instant>,
    /// The daemon does not run before.
    paused_until: Instant,
}

impl Local {
    /// The daemon has something to do for the attempt.
    fn is_at_it(&self, at: Instant) -> bool {
        let answers = self.accepted.is_some_and(|accepted| at.since(accepted) < ANSWERS);
        answers || !self.syns.is_empty()
    }
}

/// Within so long a host that has accepted says that it has answered, and hears who objects.
const ANSWERS: Duration = Duration::from_millis(20);

/// What is said of a segment that has the attempt's addresses and ports and not its numbers.
const OTHERS: &str = " (of another connection with these ports)";

/// Takes notes of one connection.
pub(super) struct Story<'a> {
    scenario: &'a Scenario,
    ring: KeyRing,
    pub connection: u32,
    pub flow: FlowId,
    isn: u32,
    id: Option<AttemptId>,
    pub begin: Option<Instant>,
    pub ended: Option<Instant>,
    pub lines: Vec<Line>,
    hosts: BTreeMap<u16, Local>,
    /// Who has answered with which number.
    answers: Vec<(u16, u32)>,
    chosen: Option<u16>,
}

impl<'a> Story<'a> {
    pub fn new(scenario: &'a Scenario, connection: u32) -> Self {
        Self {
            scenario,
            ring: cluster_key().into(),
            connection,
            flow: FlowId(0),
            isn: 0,
            id: None,
            begin: None,
            ended: None,
            lines: Vec::new(),
            hosts: BTreeMap::new(),
            answers: Vec::new(),
            chosen: None,
        }
    }

    /// It has begun, and is about this flow.
    fn about(&self, flow: FlowId) -> bool {
        self.begin.is_some() && self.flow == flow
    }

    fn line(
        &mut self,
        at: Instant,
        host: Option<u16>,
        mark: Mark,
        text: String,
        message: Option<Message>,
    ) {
        let column = host.map_or(0, |host| usize::from(host) + 1);
        self.lines.push(Line { at, column, mark, text, message });
    }

    fn clusterd(&self) -> bool {
        self.scenario.rule == Rule::Clusterd
    }

    /// A segment is one of this connection, and not of another one with its address and port.
    fn is_ours(&self, segment: &Segment, of_client: bool) -> bool {
        // Both sides name a number of the client, but for a RST of a host: that has the one that the client
        // has acknowledged.
        let near = |number: u32| number.wrapping_sub(self.isn) <= REQUEST + 2;
        match (segment.flag, of_client) {
            (Flag::Syn, _) => segment.sequence == self.isn,
            (Flag::Ack | Flag::Fin | Flag::Rst, true) => near(segment.sequence),
            (Flag::Rst, false) => self.named(segment.sequence).is_some(),
            (Flag::SynAck | Flag::Refusal, _) | (Flag::Ack | Flag::Fin, false) => {
                near(segment.acknowledgement)
            }
        }
    }

    /// A segment of the client has come to a host.
    fn arrived(&mut self, at: Instant, host: u16, segment: &Segment) {
        let ours = self.is_ours(segment, true);
        let what = match segment.flag {
            Flag::Syn => {
                self.hosts.entry(host).or_default().comes = ours;
                "SYN arrives".to_owned()
            }
            Flag::Ack | Flag::Fin if !ours => match segment.length {
                0 => "ACK arrives".to_owned(),
                _ => "request arrives".to_owned(),
            },
            Flag::Ack | Flag::Fin => {
                let named = self.named(segment.acknowledgement);
                let what = match (segment.flag, segment.length) {
                    (Flag::Fin, _) => "FIN",
                    (_, 0) => "ACK",
                    _ => "request",
                };
                match named {
                    Some(named) if named == host => format!("{what} arrives, it names this host"),
                    Some(named) => format!("{what} arrives, it names h{}", named + 1),
                    None => format!("{what} arrives, it names nobody"),
                }
            }
            Flag::Rst => "RST arrives".to_owned(),
            Flag::SynAck | Flag::Refusal => return,
        };
        let what = what + if ours { "" } else { OTHERS };
        self.line(at, Some(host), Mark::Gets, what, Some(Message::Tcp(*segment)));
        let local = self.hosts.entry(host).or_default();
        if ours && segment.flag == Flag::Syn && local.paused_until > at {
            let what = pause(local.paused_until.since(at));
            self.line(at, Some(host), Mark::Happens, what, None);
        }
    }

    /// Whose number a client acknowledges.
    fn named(&self, number: u32) -> Option<u16> {
        let near = |isn: u32| number.wrapping_sub(isn.wrapping_add(1)) < 1 << 16;
        self.answers.iter().find(|answer| near(answer.1)).map(|answer| answer.0)
    }

    fn decided(&mut self, at: Instant, host: u16, ticket: Ticket, accept: bool) {
        let clusterd = self.clusterd();
        let local = self.hosts.entry(host).or_default();
        let held = local.syns.remove(&ticket).map(|since| at.since(since)).unwrap_or_default();
        let copy = local.holds.is_some_and(|held| held != ticket);
        if !copy {
            local.holds = None;
        }
        if accept {
            local.accepted = Some(at);
        }
        let (mark, why) = match (accept, clusterd) {
            (true, true) => (Mark::Accepts, local.change.accepted().to_owned()),
            (true, false) => (Mark::Accepts, "accepted".to_owned()),
            (false, true) if copy => (Mark::Drops, COPY.to_owned()),
            (false, true) => (Mark::Drops, local.change.dropped()),
            (false, false) => (Mark::Drops, "dropped".to_owned()),
        };
        self.line(at, Some(host), mark, format!("{why}; held for {}", short(held)), None);
    }

    /// What a frame says about the attempt.
    fn entries<'f>(&self, frame: &'f Frame) -> impl Iterator<Item = (&'static str, &'f Contest)> {
        let id = self.id;
        let said = frame.entries.iter().filter_map(|entry| match entry {
            Entry::Claim(contest) => Some(("CLAIM", contest)),
            Entry::Own(contest) => Some(("OWN", contest)),
            Entry::Release(contest) => Some(("RELEASE", contest)),
            Entry::Hello { .. }
            | Entry::HelloUdp { .. }
            | Entry::Heard { .. }
            | Entry::Vips { .. }
            | Entry::VipsTcp { .. }
            | Entry::VipsUdp { .. } => None,
        });
        said.filter(move |(_, contest)| Some(contest.attempt) == id)
    }

    fn claimed(&mut self, at: Instant, host: u16, frame: &Frame) {
        for (word, contest) in self.entries(frame).collect::<Vec<_>>() {
            let what = match word {
                "CLAIM" => format!("says {}", claim(contest)),
                "OWN" => "says OWN: it has answered".to_owned(),
                _ => "says RELEASE: it passes".to_owned(),
            };
            self.line(at, Some(host), Mark::Sends, what, Some(message(host, frame)));
        }
    }

    fn heard(&mut self, at: Instant, host: u16, frame: &Frame) {
        let Some(from) = host_of(frame.header.node) else { return };
        for (word, contest) in self.entries(frame).collect::<Vec<_>>() {
            let what = match word {
                "CLAIM" => claim(contest),
                word => word.to_owned(),
            };
            let what = format!("{what} of h{} arrives", from + 1);
            self.line(at, Some(host), Mark::Gets, what, Some(message(from, frame)));
        }
    }

    /// Something of the attempt does not arrive.
    fn lost(&mut self, at: Instant, (from, to): (u16, Option<u16>), packet: &Packet, why: Loss) {
        let why = match why {
            Loss::Chance => "lost on the way",
            Loss::Cut => "lost: these two are cut off",
            Loss::Overflow => "lost: the port of the switch has no room",
            Loss::Collisions => "given up after too many collisions",
        };
        let clients = self.scenario.hosts as u16;
        let (what, message) = match packet {
            Packet::Tcp(segment) => {
                let what = match segment.flag {
                    Flag::Syn => "SYN",
                    Flag::SynAck => "SYN-ACK",
                    Flag::Refusal => "refusal",
                    Flag::Fin => "FIN",
                    Flag::Rst => "RST",
                    Flag::Ack if segment.length == 0 => "ACK",
                    Flag::Ack if from == clients => "request",
                    Flag::Ack => "data",
                };
                let ours = self.is_ours(segment, from == clients);
                let what = format!("{what}{}", if ours { "" } else { OTHERS });
                (what, Message::Tcp(*segment))
            }
            Packet::Claim(bytes) => {
                let Ok(frame) = wire::decode(bytes, &self.ring) else { return };
                let words: Vec<_> = self.entries(&frame).map(|(word, _)| word).collect();
                // Clients take no notice of claims.
                if words.is_empty() || to == Some(clients) {
                    return;
                }
                (format!("{} of h{}", words.join(", "), from + 1), message(from, &frame))
            }
        };
        // What nobody gets is lost where it was sent.
        let station = to.unwrap_or(from);
        let host = (station < clients).then_some(station);
        self.line(at, host, Mark::Loses, format!("{what} is {why}"), Some(message));
    }

    fn said(&mut self, at: Instant, host: u16, segment: &Segment) {
        let ours = self.is_ours(segment, false);
        let what = match segment.flag {
            Flag::SynAck if !ours => format!("SYN-ACK {} leaves", segment.sequence),
            Flag::SynAck => {
                let answer = (host, segment.sequence);
                let again = self.answers.contains(&answer);
                if !again {
                    self.answers.push(answer);
                }
                format!("SYN-ACK {} leaves{}", segment.sequence, if again { " again" } else { "" })
            }
            Flag::Rst => format!("RST {} leaves", segment.sequence),
            Flag::Refusal => "RST leaves: refused".to_owned(),
            Flag::Ack if segment.length > 0 => "data leave".to_owned(),
            Flag::Ack => "ACK leaves: of an older connection".to_owned(),
            Flag::Syn | Flag::Fin => return,
        };
        let what = what + if ours { "" } else { OTHERS };
        self.line(at, Some(host), Mark::Sends, what, Some(Message::Tcp(*segment)));
    }

    fn received(&mut self, at: Instant, segment: &Segment) {
        let what = match segment.flag {
            Flag::SynAck if !self.is_ours(segment, false) => {
                format!("SYN-ACK {} arrives{OTHERS}", segment.sequence)
            }
            Flag::SynAck => {
                let from = self.answers.iter().find(|answer| answer.1 == segment.sequence);
                let from = from.map(|answer| answer.0);
                let name = from.map_or("somebody".to_owned(), |host| format!("h{}", host + 1));
                match self.chosen {
                    None if self.ended.is_none() => {
                        self.chosen = from;
                        format!("SYN-ACK of {name}: the first, so the client chooses {name}")
                    }
                    chosen if chosen == from => format!("SYN-ACK of {name} once more"),
                    _ => format!("SYN-ACK of {name}: a second answer, the client keeps the first"),
                }
            }
            Flag::Rst => format!("RST {} arrives", segment.sequence),
            Flag::Refusal => "RST arrives: refused".to_owned(),
            Flag::Ack if segment.length > 0 => "data arrive".to_owned(),
            Flag::Ack | Flag::Fin => "ACK arrives".to_owned(),
            Flag::Syn => return,
        };
        self.line(at, None, Mark::Gets, what, Some(Message::Tcp(*segment)));
    }

    fn replied(&mut self, at: Instant, segment: &Segment) {
        let name = match self.named(segment.acknowledgement) {
            Some(host) => format!(" for h{}", host + 1),
            None => String::new(),
        };
        let what = match (segment.flag, segment.length) {
            (Flag::Fin, _) => "FIN",
            (Flag::Rst, _) => "RST",
            (_, 0) => "ACK",
            _ => "request",
        };
        self.line(
            at,
            None,
            Mark::Sends,
            format!("{what}{name} leaves"),
            Some(Message::Tcp(*segment)),
        );
    }

    fn fault(&mut self, at: Instant, fault: &FaultKind) {
        if let FaultKind::Kill(host) = fault {
            self.hosts.remove(&(*host as u16));
        }
        if self.begin.is_none() {
            return;
        }
        let host = match fault {
            FaultKind::Kill(host)
            | FaultKind::Start(host)
            | FaultKind::Stop(host, _)
            | FaultKind::Mute(host)
            | FaultKind::Deaf(host)
            | FaultKind::Shut(host)
            | FaultKind::Serve(host) => Some(*host as u16),
            FaultKind::Part(_) | FaultKind::Heal | FaultKind::Calm => None,
        };
        self.line(at, host, Mark::Happens, format!("fault: {fault}"), None);
    }
}

fn pause(time: Duration) -> String {
    format!("the daemon does not run for {}", short(time))
}

fn claim(contest: &Contest) -> String {
    format!("CLAIM (try {}, rank {})", contest.tries, contest.rank)
}

fn message(host: u16, frame: &Frame) -> Message {
    Message::Frame(host, frame.header.incarnation, frame.header.sequence)
}

impl Record for Story<'_> {
    fn note(&mut self, at: Instant, happening: Happening<'_>) {
        match happening {
            Happening::Syn { connection, number, segment } if connection == self.connection => {
                if number == 1 {
                    (self.begin, self.flow, self.isn) = (Some(at), segment.flow, segment.sequence);
                    self.id = Some(cluster_key().attempt(&segment.flow.key(), segment.sequence));
                }
                let what = match number {
                    1 => "SYN leaves".to_owned(),
                    _ => format!("SYN {number} leaves: nobody has answered"),
                };
                self.line(at, None, Mark::Sends, what, Some(Message::Tcp(*segment)));
            }
            // The flow has another connection now.
            Happening::Syn { number: 1, segment, .. } if self.about(segment.flow) => {
                self.ended.get_or_insert(at);
            }
            Happening::Replied { connection, segment } if connection == self.connection => {
                self.replied(at, segment);
            }
            Happening::Received { connection, segment } if connection == self.connection => {
                self.received(at, segment);
            }
            Happening::Ended { connection, outcome } if connection == self.connection => {
                self.ended = Some(at);
                let what = format!("the client is done: {}", outcome_name(outcome));
                self.line(at, None, Mark::Happens, what, None);
            }
            Happening::Arrived { host, segment } if self.about(segment.flow) => {
                self.arrived(at, host, segment);
            }
            Happening::Said { host, segment } if self.about(segment.flow) => {
                self.said(at, host, segment);
            }
            Happening::Lost { from, to, packet: packet @ Packet::Tcp(segment), why }
                if self.about(segment.flow) =>
            {
                self.lost(at, (from, to), packet, why);
            }
            Happening::Lost { from, to, packet: packet @ Packet::Claim(_), why }
                if self.begin.is_some() && self.clusterd() =>
            {
                self.lost(at, (from, to), packet, why);
            }
            Happening::Decided { host, ticket, syn, accept, .. }
                if self.about(syn.flow) && syn.sequence == self.isn =>
            {
                self.decided(at, host, ticket, accept);
            }
            Happening::Accepted { host, flow, isn } if self.about(flow) && isn == self.isn => {
                self.line(
                    at,
                    Some(host),
                    Mark::Happens,
                    "the application has the connection".to_owned(),
                    None,
                );
            }
            Happening::Destroyed { host, flow, isn }
                if self.about(flow) && self.answers.contains(&(host, isn)) =>
            {
                let what = "removes its half-open connection";
                self.line(at, Some(host), Mark::Happens, what.to_owned(), None);
            }
            Happening::Heard { host, bytes } if self.begin.is_some() && self.clusterd() => {
                if let Ok(frame) = wire::decode(bytes, &self.ring) {
                    self.heard(at, host, &frame);
                }
            }
            Happening::Claimed { host, bytes } if self.begin.is_some() && self.clusterd() => {
                if let Ok(frame) = wire::decode(bytes, &self.ring) {
                    self.claimed(at, host, &frame);
                }
            }
            Happening::Paused { host, until } => {
                let local = self.hosts.entry(host).or_default();
                local.paused_until = local.paused_until.max(until);
                if local.is_at_it(at) {
                    self.line(at, Some(host), Mark::Happens, pause(until.since(at)), None);
                }
            }
            Happening::Fault(fault) => self.fault(at, fault),
            Happening::Syn { .. }
            | Happening::Replied { .. }
            | Happening::FromClients { .. }
            | Happening::Received { .. }
            | Happening::Ended { .. }
            | Happening::Arrived { .. }
            | Happening::Said { .. }
            | Happening::Decided { .. }
            | Happening::Lost { .. }
            | Happening::Accepted { .. }
            | Happening::Destroyed { .. }
            | Happening::Heard { .. }
            | Happening::Claimed { .. }
            | Happening::Started { .. }
            | Happening::Connected { .. }
            | Happening::Unheld { .. }
            | Happening::Notice { .. } => {}
        }
    }

    fn after(&mut self, at: Instant, host: &Host) {
        let Some(id) = self.id else { return };
        let index = host.index() as u16;
        let local = self.hosts.entry(index).or_default();
        if std::mem::take(&mut local.comes) {
            // It may be none that waits: there is no room, or the kernel decides.
            if let Some(ticket) = host.newest_syn(self.flow, self.isn) {
                local.syns.entry(ticket).or_insert(at);
            }
        }
        let Some(node) = host.decider.node() else { return };
        let after = node.standing(id);
        local.change = Change { before: local.change.after, after };
        local.holds = after.and_then(|standing| standing.ticket()).or(local.holds);
        if let Some(words) = local.change.words(at) {
            self.line(at, Some(index), Mark::Happens, words, None);
        }
    }
}
