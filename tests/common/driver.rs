//! One [`Node`] under an arbitrary driver: what a driver may expect, checked after every input.
//!
//! The property tests and the fuzz targets feed it; its clock is its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clusterd::flow::{AttemptId, FlowKey, NodeId, Protocol, ServicePort};
use clusterd::protocol::{
    Config, Counters, Instant, Limits, Listener, Load, Mode, Node, Notice, Output, Pacing, Syn,
    Ticket, Timers, Verdict, Vips,
};
use clusterd::wire::{self, Contest, Entry, Frame, Header, KeyRing};

use super::cluster::{FURTHER, VIP, key, ms};

/// Small, so that a short story reaches them.
pub const LIMITS: Limits = Limits { attempts: 8, held: 4, peers: 3, adopted: 2 };

/// The keys of a cluster without a secret.
pub fn ring() -> KeyRing {
    key().into()
}

/// One thing that happens to a node. Flows, peers and numbers are few, so that they meet.
#[derive(Clone, Debug)]
pub enum Op {
    Syn {
        flow: u16,
        isn: u32,
        incumbent: bool,
    },
    Frame {
        header: Header,
        entries: Vec<Entry>,
    },
    Listener {
        service: ServicePort,
        listener: Listener,
    },
    SynAck {
        flow: u16,
        isn: u32,
        server_isn: u32,
    },
    Refusal {
        flow: u16,
        isn: u32,
    },
    Ack {
        flow: u16,
        number: u32,
        held: bool,
    },
    Adopt {
        flow: u16,
    },
    /// A datagram of a flow that the kernel does not know.
    Datagram {
        flow: u16,
    },
    FlowEnded {
        flow: u16,
    },
    Load(Load),
    /// An authentic frame of another major version.
    Stranger {
        major: u8,
        header: Header,
    },
    /// Somebody repeats everything that was heard of the known peers.
    Replay,
    /// The event loop runs through all wake-ups of this time.
    Run(Duration),
    /// It does not run for this time.
    Sleep(Duration),
}

/// Of two ports on each of two virtual IPs.
pub fn flow(number: u16) -> FlowKey {
    let vip = if number & 2 == 0 { VIP } else { FURTHER };
    FlowKey::tcp(([10, 0, 0, 200], 4_000 + number), (vip, 80 + number % 2))
}

/// Its datagrams.
pub fn datagrams(number: u16) -> FlowKey {
    let FlowKey { client, service, .. } = flow(number);
    FlowKey::udp(client, service)
}

/// A node, and what its driver may expect of it.
pub struct Driver {
    pub node: Node,
    /// Frames that the node has sent, in order.
    pub sent: Vec<Frame>,
    /// What became of the SYNs, in the order of the verdicts.
    pub verdicts: Vec<(AttemptId, Verdict)>,
    /// What became of held ACKs and RSTs.
    pub others: Vec<Verdict>,
    now: Instant,
    tickets: u64,
    /// What it was asked for.
    flows: BTreeMap<AttemptId, FlowKey>,
    /// SYNs that wait for a verdict, and since when.
    syns: BTreeMap<Ticket, (Instant, AttemptId)>,
    /// The other packet that waits, within one input.
    other: Option<(Ticket, Option<AttemptId>)>,
    listeners: BTreeMap<ServicePort, Listener>,
    accepted: BTreeSet<AttemptId>,
    answered: BTreeSet<AttemptId>,
    /// Attempts that are flows of datagrams: accepted is answered.
    datagrams: BTreeSet<AttemptId>,
    /// The kernel has forgotten all flows of datagrams.
    forgotten: bool,
    /// Frames said, under each id.
    said: BTreeMap<NodeId, u64>,
    /// Frames heard of each peer since it was found last.
    heard: BTreeMap<NodeId, Vec<Frame>>,
}

impl Driver {
    pub fn new(node: NodeId, pacing: Pacing, mode: Mode) -> Self {
        let timers = Timers { datagrams: Duration::from_secs(5), ..Timers::default() };
        let vips = Vips::new(VIP.into(), [FURTHER.into()]).unwrap();
        let limits = LIMITS;
        let config = Config { pacing, mode, timers, limits, vips, ..Config::new(node, 1, VIP) };
        Self {
            node: Node::new(config, Instant::default()),
            sent: Vec::new(),
            verdicts: Vec::new(),
            others: Vec::new(),
            now: Instant::default(),
            tickets: 0,
            flows: BTreeMap::new(),
            syns: BTreeMap::new(),
            other: None,
            listeners: BTreeMap::new(),
            accepted: BTreeSet::new(),
            answered: BTreeSet::new(),
            datagrams: BTreeSet::new(),
            forgotten: false,
            said: BTreeMap::new(),
            heard: BTreeMap::new(),
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    pub fn apply(&mut self, op: Op) {
        let now = self.now;
        match op {
            Op::Syn { flow: number, isn, incumbent } => {
                let (ticket, flow) = (self.ticket(), flow(number));
                let attempt = key().attempt(&flow, isn);
                self.flows.insert(attempt, flow);
                self.syns.insert(ticket, (now, attempt));
                self.node.handle_syn(now, Syn { ticket, flow, isn, incumbent });
            }
            Op::Frame { header, entries } => {
                let frame = Frame { header, entries };
                let before = self.node.counters().frames;
                self.node.handle_frame(now, &frame);
                self.drain();
                if self.node.counters().frames > before {
                    self.heard.entry(header.node).or_default().push(frame);
                }
            }
            Op::Listener { service, listener } => {
                self.listeners.insert(service, listener);
                self.node.handle_listener(now, service, listener);
            }
            Op::SynAck { flow: number, isn, server_isn } => {
                self.answered.insert(key().attempt(&flow(number), isn));
                self.node.handle_syn_ack(now, flow(number), isn, server_isn);
            }
            Op::Refusal { flow: number, isn } => {
                let rst = self.ticket();
                self.other = Some((rst, Some(key().attempt(&flow(number), isn))));
                self.node.handle_refusal(now, flow(number), isn, rst);
            }
            Op::Ack { flow: number, number: acknowledged, held } => {
                let ticket = held.then(|| self.ticket());
                self.other = ticket.map(|ticket| (ticket, None));
                self.node.handle_ack(now, flow(number), acknowledged, ticket);
            }
            Op::Adopt { flow: number } => self.node.adopt(flow(number)),
            Op::Datagram { flow: number } => {
                let (ticket, flow) = (self.ticket(), datagrams(number));
                let attempt = key().attempt(&flow, 0);
                self.datagrams.insert(attempt);
                self.flows.insert(attempt, flow);
                self.syns.insert(ticket, (now, attempt));
                self.node.handle_datagram(now, ticket, flow);
            }
            Op::FlowEnded { flow: number } => self.node.handle_flow_ended(now, datagrams(number)),
            Op::Load(load) => self.node.handle_load(now, &load),
            Op::Stranger { major, header } => self.node.handle_stranger(now, major, &header),
            Op::Replay => return self.replay(),
            Op::Run(time) => return self.run(time),
            Op::Sleep(time) => {
                self.now = now + time;
                return;
            }
        }
        self.drain();
        assert_eq!(self.other, None, "an ACK or RST must be decided at once");
    }

    /// Runs the event loop, waking up only when the node asks for it.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..10_000 {
            self.node.handle_timeout(self.now);
            self.drain();
            let next = self.node.poll_timeout();
            assert!(next > self.now, "the event loop would spin");
            let fresh = |&(since, _): &(Instant, _)| self.now.since(since) < ms(500);
            assert!(self.syns.values().all(fresh), "I5: a verdict is late");
            if next > end {
                self.now = end;
                return;
            }
            self.now = next;
        }
        panic!("livelock");
    }

    /// I10: when nothing happens any more, nothing is said but HELLO, and all is forgotten.
    pub fn rest(&mut self) {
        self.forgotten = true;
        self.run(Duration::from_secs(15));
        let before = *self.node.counters();
        self.run(Duration::from_secs(1));
        assert_eq!(*self.node.counters(), before);
        assert_eq!(self.node.load(), (0, 0));
        assert_eq!(self.node.peers().count(), 0);
    }

    fn drain(&mut self) {
        while let Some(output) = self.node.poll_output() {
            match output {
                Output::Decide(ticket, verdict) => self.decide(ticket, verdict),
                Output::Notice(Notice::ServiceDown(service) | Notice::NotServed(service)) => {
                    self.listeners.insert(service, Listener::Absent);
                }
                Output::Notice(Notice::PeerFound(peer)) => {
                    self.heard.remove(&peer);
                }
                Output::Notice(_) | Output::Destroy(_) | Output::Share(_) => {}
                Output::Inquire(flow) => {
                    assert_eq!(flow.protocol, Protocol::Udp, "{flow} is asked about");
                    if self.forgotten {
                        self.node.handle_flow_ended(self.now, flow);
                    }
                }
                Output::Block(flow) => {
                    assert_eq!(flow.protocol, Protocol::Udp, "{flow} is blocked");
                }
            }
        }
        while let Some(frame) = self.node.poll_frame(self.now).cloned() {
            let said = self.said.entry(frame.header.node).or_default();
            assert_eq!(frame.header.sequence, *said + 1, "I9: no gap, no repetition");
            *said += 1;
            assert_eq!(wire::decode(&wire::encode(&frame, &ring()), &ring()), Ok(frame.clone()));
            frame.entries.iter().for_each(|entry| self.check(entry));
            self.sent.push(frame);
        }
        let (attempts, held) = self.node.load();
        assert_eq!(held, self.syns.len());
        assert!(attempts <= LIMITS.attempts && held <= LIMITS.held, "I7");
        assert!(self.node.peers().count() <= LIMITS.peers, "I7");
    }

    /// I9: whoever repeats what was heard of a known peer moves a counter, and nothing else.
    pub fn replay(&self) {
        let known: Vec<NodeId> = self.node.hearing().map(|peer| peer.node).collect();
        let heard = known.iter().flat_map(|peer| self.heard.get(peer)).flatten();
        for frame in heard {
            let mut node = self.node.clone();
            node.handle_frame(self.now, frame);
            assert_eq!(node.poll_output(), None, "{frame}");
            let stale_frames = self.node.counters().stale_frames + 1;
            let expected = Counters { stale_frames, ..*self.node.counters() };
            assert_eq!(*node.counters(), expected, "{frame}");
            assert_eq!(
                from_outside(&node, self.now),
                from_outside(&self.node, self.now),
                "{frame}"
            );
        }
    }

    fn decide(&mut self, ticket: Ticket, verdict: Verdict) {
        if let Some((_, attempt)) = self.syns.remove(&ticket) {
            self.verdicts.push((attempt, verdict));
            if verdict == Verdict::Accept {
                self.accepted.insert(attempt);
                if self.datagrams.contains(&attempt) {
                    self.answered.insert(attempt);
                }
            }
            return;
        }
        let (other, refused) = self.other.take().expect("I5: one verdict for each ticket");
        assert_eq!(ticket, other, "I5: a verdict for a ticket that is not out");
        self.others.push(verdict);
        if verdict == Verdict::Accept {
            self.answered.extend(refused);
        }
    }

    fn check(&self, entry: &Entry) {
        match entry {
            Entry::Claim(Contest { attempt, port, .. }) => {
                let flow = self.flows.get(attempt).expect("it claims what it was asked for");
                let service = flow.service_port();
                assert_eq!(*port, service.port);
                let absent = self.listeners.get(&service) == Some(&Listener::Absent);
                assert!(!absent || self.accepted.contains(attempt), "I8: claims {service}");
            }
            Entry::Own(Contest { attempt, .. }) => {
                assert!(self.answered.contains(attempt), "OWN without an answer");
            }
            Entry::Release(_)
            | Entry::Hello { .. }
            | Entry::HelloUdp { .. }
            | Entry::Heard { .. }
            | Entry::Vips { .. }
            | Entry::VipsTcp { .. }
            | Entry::VipsUdp { .. } => {}
        }
    }
}

/// All that a driver can ask a node, and what it would say and want next.
fn from_outside(node: &Node, now: Instant) -> impl PartialEq + std::fmt::Debug {
    let mut next = node.clone();
    next.handle_timeout(now);
    let outputs: Vec<_> = std::iter::from_fn(|| next.poll_output()).collect();
    let frames: Vec<_> = std::iter::from_fn(|| next.poll_frame(now).cloned()).collect();
    let hearing: Vec<_> = node.hearing().collect();
    let roster: Vec<_> = node.roster(now).collect();
    let peers: Vec<_> = node.peers().collect();
    let modes = (node.by_hash(), node.causes().collect::<Vec<_>>(), node.pace());
    (node.id(), node.load(), node.poll_timeout(), hearing, roster, peers, modes, outputs, frames)
}
