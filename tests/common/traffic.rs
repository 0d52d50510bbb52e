//! A node under steady load: while new attempts come, as many old ones are forgotten.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clusterd::flow::{ClusterKey, FlowKey, NodeId};
use clusterd::protocol::{Config, Instant, Node, Output, Syn, Ticket, Timers, Verdict};
use clusterd::wire::{self, Contest, Entry, Frame, Header, KeyRing};

const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
const ME: NodeId = NodeId(0);
const PEERS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
/// Events of each kind in a round.
const BATCH: usize = 128;
/// How long after its SYN-ACK a client's ACK and a repeated SYN come, at least.
const ACK_AFTER: Duration = Duration::from_millis(50);
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The kinds of events of a round, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The time of old attempts is up; they are forgotten.
    Timeout,
    /// A SYN is held, has its turn as rank 0 and is accepted.
    SynFirst,
    /// The kernel answers it.
    SynAck,
    /// OWNs are put into frames and encoded.
    OwnSent,
    /// The client completes a handshake; its ACK is held, and accepted.
    Ack,
    /// An answered SYN is repeated: accepted, and OWN said again.
    SynAgain,
    /// A SYN is held that another host has the first turn for.
    SynBackup,
    /// A frame claims such a SYN.
    Claim,
    /// A frame says that it is answered: dropped.
    Own,
}

impl Kind {
    pub const ALL: [Kind; 9] = [
        Kind::Timeout,
        Kind::SynFirst,
        Kind::SynAck,
        Kind::OwnSent,
        Kind::Ack,
        Kind::SynAgain,
        Kind::SynBackup,
        Kind::Claim,
        Kind::Own,
    ];
}

/// One client's SYN.
#[derive(Clone, Copy)]
struct Opening {
    flow: FlowKey,
    isn: u32,
}

impl Opening {
    fn server_isn(&self) -> u32 {
        !self.isn
    }

    fn syn(&self, ticket: Ticket) -> Syn {
        Syn { ticket, flow: self.flow, isn: self.isn, incumbent: false }
    }
}

/// The node and what the world will do to it.
pub struct Traffic {
    key: ClusterKey,
    ring: KeyRing,
    node: Node,
    now: Instant,
    /// From one round to the next.
    step: Duration,
    openings: u64,
    sequences: [u64; PEERS.len()],
    /// SYNs that the node ranks first for, of this round and those before.
    own: VecDeque<Opening>,
    backup: Vec<Opening>,
    claims: Vec<Frame>,
    owns: Vec<Frame>,
    bytes: Vec<u8>,
}

impl Traffic {
    /// A load that keeps about `attempts` in the table.
    pub fn new(attempts: usize) -> Self {
        let key = ClusterKey::public(VIP);
        let timers = Timers::default();
        let mut config = Config::new(ME, 1, VIP);
        config.limits.attempts = attempts / 4 * 5;
        let slots = config.limits.attempts;
        let remembered = timers.owned + ACK_AFTER + timers.foreign;
        let mut traffic = Self {
            key,
            ring: key.into(),
            node: Node::new(config, Instant::default()),
            now: Instant::default(),
            step: remembered * BATCH as u32 / attempts as u32,
            openings: 0,
            sequences: [0; PEERS.len()],
            own: VecDeque::new(),
            backup: Vec::new(),
            claims: Vec::new(),
            owns: Vec::new(),
            bytes: Vec::new(),
        };
        traffic.touch_every_slot(slots);
        traffic.join();
        let rounds = (remembered + AGAIN_AFTER).as_nanos() / traffic.step.as_nanos();
        (0..rounds).for_each(|_| traffic.round(|_, act| _ = act()));
        let (load, held) = traffic.node.load();
        assert!(
            load.abs_diff(attempts) < attempts / 8 && held == 0,
            "{load} attempts, {held} held"
        );
        traffic
    }

    /// One round: `watch` carries out each batch and learns how many events it had.
    pub fn round(&mut self, mut watch: impl FnMut(Kind, &mut dyn FnMut() -> usize)) {
        self.now = self.now + self.step;
        self.prepare();
        for kind in Kind::ALL {
            watch(kind, &mut || self.act(kind));
            // OWNs that no batch counts; and HELLO, which lists peers and ports in
            // memory of its own, four times a second.
            if matches!(kind, Kind::Timeout | Kind::SynAgain) {
                self.send();
            }
        }
    }

    fn act(&mut self, kind: Kind) -> usize {
        let now = self.now;
        match kind {
            Kind::Timeout => {
                let (before, _) = self.node.load();
                self.node.handle_timeout(now);
                return before - self.node.load().0;
            }
            Kind::SynFirst => {
                for (opening, ticket) in self.own.iter().rev().take(BATCH).zip(0..) {
                    self.node.handle_syn(now, opening.syn(Ticket(ticket)));
                }
                self.node.handle_timeout(now);
                self.expect(Verdict::Accept);
            }
            Kind::SynAck => {
                for opening in self.own.iter().rev().take(BATCH) {
                    self.node.handle_syn_ack(now, opening.flow, opening.isn, opening.server_isn());
                }
            }
            Kind::OwnSent => return self.send(),
            Kind::Ack => {
                for (opening, ticket) in earlier(&self.own, self.step, ACK_AFTER).zip(0..) {
                    let number = opening.server_isn().wrapping_add(1);
                    self.node.handle_ack(now, opening.flow, number, Some(Ticket(ticket)));
                }
                self.expect(Verdict::Accept);
            }
            Kind::SynAgain => {
                for (opening, ticket) in earlier(&self.own, self.step, AGAIN_AFTER).zip(0..) {
                    self.node.handle_syn(now, opening.syn(Ticket(ticket)));
                }
                self.expect(Verdict::Accept);
            }
            Kind::SynBackup => {
                for (opening, ticket) in self.backup.iter().zip(0..) {
                    self.node.handle_syn(now, opening.syn(Ticket(ticket)));
                }
            }
            Kind::Claim => self.claims.iter().for_each(|frame| self.node.handle_frame(now, frame)),
            Kind::Own => {
                self.owns.iter().for_each(|frame| self.node.handle_frame(now, frame));
                self.expect(Verdict::Drop);
            }
        }
        BATCH
    }

    /// Uses all memory that the table will ever use: the list of the nodes that
    /// a contest goes on without is allocated when a slot first needs it.
    fn touch_every_slot(&mut self, slots: usize) {
        for _ in 0..slots {
            let opening = self.opening();
            let contest = self.contest(&opening);
            let frame = self.frame(Entry::Release(contest));
            self.node.handle_frame(self.now, &frame);
        }
        assert_eq!(self.node.load().0, slots);
    }

    /// Waits until the node takes part and has known its peers for long enough.
    fn join(&mut self) {
        self.now = self.now + Timers::default().listen;
        self.node.handle_timeout(self.now);
        for _ in PEERS {
            let frame = self.frame(Entry::Hello { unavailable: vec![] });
            self.node.handle_frame(self.now, &frame);
        }
        self.now = self.now + Timers::default().quiet;
        self.node.handle_timeout(self.now);
        self.send();
        while self.node.poll_output().is_some() {}
        assert!(self.node.joined() && self.node.peers().count() == PEERS.len());
    }

    /// Thinks up what clients and peers will send in a round.
    fn prepare(&mut self) {
        self.backup.clear();
        let mut own = 0;
        while own < BATCH || self.backup.len() < BATCH {
            let opening = self.opening();
            let flow = self.key.flow(&opening.flow);
            let weight = |node| (self.key.weight(flow, node), node);
            if PEERS.iter().all(|&peer| weight(peer) < weight(ME)) {
                own += 1;
                if own <= BATCH {
                    self.own.push_back(opening);
                }
            } else if self.backup.len() < BATCH {
                self.backup.push(opening);
            }
        }
        let kept = rounds(self.step, AGAIN_AFTER) + 1;
        self.own.drain(..self.own.len().saturating_sub(kept * BATCH));
        self.claims.clear();
        self.owns.clear();
        for at in 0..BATCH {
            let contest = self.contest(&self.backup[at]);
            let frame = self.frame(Entry::Claim(contest));
            self.claims.push(frame);
        }
        for at in 0..BATCH {
            let contest = self.contest(&self.backup[at]);
            let frame = self.frame(Entry::Own(contest));
            self.owns.push(frame);
        }
    }

    /// A SYN that has not been before.
    fn opening(&mut self) -> Opening {
        self.openings += 1;
        let (high, low) = ((self.openings >> 14) as u32, self.openings as u16 & 0x3FFF);
        let client = SocketAddr::new(IpAddr::V4((0x0B00_0000 | high).into()), 0x8000 | low);
        let service = SocketAddr::new(VIP, 80);
        let isn = (self.openings as u32).wrapping_mul(0x9E37_79B9);
        Opening { flow: FlowKey::tcp(client, service), isn }
    }

    fn contest(&self, opening: &Opening) -> Contest {
        let attempt = self.key.attempt(&opening.flow, opening.isn);
        Contest { attempt, port: 80, tries: 0, rank: 1 }
    }

    /// The next frame of one peer after the other.
    fn frame(&mut self, entry: Entry) -> Frame {
        let peer = (self.sequences.iter().sum::<u64>() % PEERS.len() as u64) as usize;
        self.sequences[peer] += 1;
        let (node, sequence) = (PEERS[peer], self.sequences[peer]);
        // Minor version 0, so the node believes its peers without further proof.
        let header = Header { node, incarnation: 1, sequence, ..Header::default() };
        Frame { header, entries: vec![entry] }
    }

    /// Encodes all frames that the node has to send; the number of their entries.
    fn send(&mut self) -> usize {
        let mut entries = 0;
        while let Some(frame) = self.node.poll_frame(self.now) {
            entries += frame.entries.len();
            wire::encode_into(frame, &self.ring, &mut self.bytes);
        }
        entries
    }

    /// Takes the outputs of a batch: one such verdict for each event.
    fn expect(&mut self, expected: Verdict) {
        while let Some(output) = self.node.poll_output() {
            assert!(
                matches!(output, Output::Decide(_, verdict) if verdict == expected),
                "{output:?}, not {expected:?}"
            );
        }
    }
}

/// The batch of the round that was so long ago.
fn earlier(
    own: &VecDeque<Opening>,
    step: Duration,
    ago: Duration,
) -> impl Iterator<Item = &Opening> {
    own.iter().rev().skip(rounds(step, ago) * BATCH).take(BATCH)
}

fn rounds(step: Duration, time: Duration) -> usize {
    time.as_nanos().div_ceil(step.as_nanos()) as usize
}
