//! What happens to one attempt, and why.

use std::time::Duration;

use clusterd::flow::{AttemptId, NodeId};
use clusterd::protocol::Instant;
use clusterd::wire::{self, Contest, Entry, Frame, KeyRing};

use super::{ByHost, Line, Mark, Message, short};
use crate::fault::FaultKind;
use crate::host::{Host, cluster_key, node_id};
use crate::network::Loss;
use crate::packet::{Flag, FlowId, Packet, Segment};
use crate::record::{Happening, Record};
use crate::scenario::{Pacing, Rule, Scenario};

/// What orders claims (spec 5.3).
type Order = (u8, u8, u64, NodeId);

/// What a host has done about the attempt.
#[derive(Clone, Debug, Default)]
struct Deeds {
    syns: u32,
    held_since: Option<Instant>,
    claimed: Option<Order>,
    deferred: Option<String>,
    owner: Option<String>,
    accepted: bool,
}

/// What a host is.
#[derive(Clone, Copy, Debug)]
struct Known {
    joined: bool,
    by_hash: bool,
    serves: bool,
    slot: Duration,
}

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
    known: ByHost<Option<Known>>,
    deeds: ByHost<Deeds>,
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
            known: ByHost::new(),
            deeds: ByHost::new(),
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

    /// Hosts that run, the first in the order of `weight` first.
    fn order<W: Ord>(&self, weight: impl Fn(NodeId) -> W) -> Vec<u16> {
        let running = self.known.iter().filter(|(_, known)| known.is_some());
        let mut hosts: Vec<u16> = running.map(|(&host, _)| host).collect();
        hosts.sort_by_key(|&host| std::cmp::Reverse((weight(node(host)), node(host))));
        hosts
    }

    /// A SYN has come to a host: whose turn is it?
    fn turn(&self, host: u16) -> String {
        let Some(Some(known)) = self.known.get(&host).filter(|_| self.clusterd()) else {
            return String::new();
        };
        let syns = self.deeds.get(&host).map_or(0, |deeds| deeds.syns);
        if !known.joined {
            return ": only listens yet".to_owned();
        }
        if !known.serves {
            return ": no listener with room, leaves it to others".to_owned();
        }
        if let Some(owner) = self.deeds.get(&host).and_then(|deeds| deeds.owner.clone()) {
            return format!(": {owner} owns it");
        }
        let key = self.flow.key();
        if known.by_hash {
            let bucket = cluster_key().bucket(&key);
            let hosts = self.order(|node| cluster_key().bucket_weight(bucket, node));
            let turn = hosts.get(syns.saturating_sub(1) as usize % hosts.len().max(1));
            return match turn {
                Some(&turn) if turn == host => {
                    ": decides by hash, and the try is its own".to_owned()
                }
                Some(turn) => format!(": decides by hash, the try is h{}'s", turn + 1),
                None => String::new(),
            };
        }
        let flow = cluster_key().flow(&key);
        let hosts = self.order(|node| cluster_key().weight(flow, node));
        let Some(position) = hosts.iter().position(|&it| it == host) else { return String::new() };
        let place = format!(": rank {} of {}", position + 1, hosts.len());
        match (self.scenario.pacing, position) {
            (Pacing::Race, _) => format!("{place}, all claim at once"),
            (Pacing::Rank, 0) => format!("{place}, its turn is at once"),
            (Pacing::Rank, _) => {
                format!("{place}, its turn is in {}", short(known.slot * position as u32))
            }
        }
    }

    /// A segment of the client has come to a host.
    fn arrived(&mut self, at: Instant, host: u16, segment: &Segment) {
        let what = match segment.flag {
            Flag::Syn => {
                let deeds = self.deeds.entry(host).or_default();
                deeds.syns += 1;
                deeds.held_since.get_or_insert(at);
                format!("SYN arrives{}", self.turn(host))
            }
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
        self.line(at, Some(host), Mark::Gets, what, Some(Message::Tcp(*segment)));
    }

    /// Whose number a client acknowledges.
    fn named(&self, number: u32) -> Option<u16> {
        let near = |isn: u32| number.wrapping_sub(isn.wrapping_add(1)) < 1 << 16;
        self.answers.iter().find(|answer| near(answer.1)).map(|answer| answer.0)
    }

    fn decided(&mut self, at: Instant, host: u16, accept: bool) {
        let slot = self.known.get(&host).copied().flatten();
        let by_hash = slot.is_some_and(|known| known.by_hash);
        let deeds = self.deeds.entry(host).or_default();
        let held = deeds.held_since.take().map(|since| at.since(since)).unwrap_or_default();
        let why = match (accept, &deeds.owner, &deeds.deferred, deeds.claimed) {
            (true, ..) if deeds.accepted => "accepted once more: it has answered".to_owned(),
            (true, ..) if by_hash => "accepted by hash".to_owned(),
            (true, _, _, Some(_)) => "accepted: claimed and unopposed".to_owned(),
            (true, ..) => "accepted eagerly".to_owned(),
            (false, Some(owner), ..) => format!("dropped: {owner} owns it"),
            (false, ..) if by_hash => "dropped: by hash the try is another host's".to_owned(),
            (false, _, Some(other), _) => format!("dropped: deferred to {other}'s claim"),
            (false, ..) => "dropped: a copy, or held too long".to_owned(),
        };
        deeds.accepted |= accept;
        let mark = if accept { Mark::Accepts } else { Mark::Drops };
        let why = match self.scenario.rule {
            Rule::Clusterd => why,
            _ if accept => "accepted".to_owned(),
            _ => "dropped".to_owned(),
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
            Entry::Hello { .. } | Entry::HelloUdp { .. } | Entry::Heard { .. } => None,
        });
        said.filter(move |(_, contest)| Some(contest.attempt) == id)
    }

    fn order_of(&self, contest: &Contest, node: NodeId) -> Order {
        (contest.tries, contest.rank, cluster_key().tie_break(contest.attempt, node), node)
    }

    fn claimed(&mut self, at: Instant, host: u16, frame: &Frame) {
        for (word, contest) in self.entries(frame).collect::<Vec<_>>() {
            let order = self.order_of(contest, frame.header.node);
            let what = match word {
                "CLAIM" => {
                    self.deeds.entry(host).or_default().claimed = Some(order);
                    format!(
                        "says CLAIM (try {}, rank {}), and waits for better ones",
                        contest.tries, contest.rank
                    )
                }
                "OWN" => "says OWN: it has answered".to_owned(),
                _ => "says RELEASE: it passes".to_owned(),
            };
            self.line(at, Some(host), Mark::Sends, what, Some(message(host, frame)));
        }
    }

    fn heard(&mut self, at: Instant, host: u16, frame: &Frame) {
        let Some(from) = host_of(frame.header.node) else { return };
        let name = format!("h{}", from + 1);
        for (word, contest) in self.entries(frame).collect::<Vec<_>>() {
            let theirs = self.order_of(contest, frame.header.node);
            let deeds = self.deeds.entry(host).or_default();
            let why = match word {
                _ if deeds.accepted => "has accepted, the client decides".to_owned(),
                "CLAIM" => match deeds.claimed {
                    Some(own) if own < theirs => "its own claim is better".to_owned(),
                    Some(_) | None => {
                        deeds.deferred = Some(name.clone());
                        format!("defers to {name}'s claim")
                    }
                },
                "OWN" => {
                    deeds.owner = Some(name.clone());
                    format!("{name} owns it")
                }
                _ => {
                    deeds.owner = None;
                    "goes on without it".to_owned()
                }
            };
            let what = format!("hears {word} of {name}: {why}");
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
                    Flag::Ack if segment.length > 0 => "data",
                    Flag::Ack => "ACK",
                };
                (what.to_owned(), Message::Tcp(*segment))
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
        let what = match segment.flag {
            Flag::SynAck => {
                let answer = (host, segment.sequence);
                let again = self.answers.contains(&answer);
                if !again {
                    self.answers.push(answer);
                }
                self.deeds.entry(host).or_default().accepted = true;
                format!("SYN-ACK {} leaves{}", segment.sequence, if again { " again" } else { "" })
            }
            Flag::Rst => format!("RST {} leaves", segment.sequence),
            Flag::Refusal => "RST leaves: refused".to_owned(),
            Flag::Ack if segment.length > 0 => "data leave".to_owned(),
            Flag::Ack => "ACK leaves: of an older connection".to_owned(),
            Flag::Syn | Flag::Fin => return,
        };
        self.line(at, Some(host), Mark::Sends, what, Some(Message::Tcp(*segment)));
    }

    fn received(&mut self, at: Instant, segment: &Segment) {
        let what = match segment.flag {
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
            self.known.insert(*host as u16, None);
            self.deeds.remove(&(*host as u16));
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

fn node(host: u16) -> NodeId {
    node_id(usize::from(host))
}

fn host_of(node: NodeId) -> Option<u16> {
    (0..64).find(|&host| node_id(usize::from(host)) == node)
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
                let what = format!("{outcome:?}").to_lowercase();
                self.line(at, None, Mark::Happens, format!("the client is done: {what}"), None);
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
            Happening::Decided { host, syn, accept, .. }
                if self.about(syn.flow) && syn.sequence == self.isn =>
            {
                self.decided(at, host, accept);
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
            Happening::Destroyed { host, flow, .. } if self.about(flow) => {
                let what = "removes its half-open connection: the client named another host";
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
            Happening::Paused { host, until } if self.begin.is_some() => {
                let what = format!("the daemon does not run for {}", short(until.since(at)));
                self.line(at, Some(host), Mark::Happens, what, None);
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
            | Happening::Paused { .. }
            | Happening::Started { .. }
            | Happening::Connected { .. }
            | Happening::Unheld { .. }
            | Happening::Notice { .. } => {}
        }
    }

    fn after(&mut self, _at: Instant, host: &Host) {
        let Some(node) = host.decider.node() else { return };
        let known = Known {
            joined: node.joined(),
            by_hash: node.by_hash(),
            serves: host.kernel.serves,
            slot: node.pace().0,
        };
        self.known.insert(host.index() as u16, Some(known));
    }
}
