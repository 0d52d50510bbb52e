//! Who decides which host answers: the production core, or one of its ancestors.
//!
//! All of them see the same held SYNs and the same medium, so they can be compared
//! on one workload.

mod contest;
mod fixed;
mod saru;

use clusterd::flow::{FlowKey, ServicePort};
use clusterd::protocol::{
    self, Config, Counters, Instant, Listener, Load, Node, Output, Syn, Ticket, Timers, Verdict,
};
use clusterd::wire::{self, Frame, KeyRing};

use crate::host::{cluster_key, node_id};
use crate::packet::VIP;
use crate::scenario::{Arrivals, Mode, Pacing, Rule, Scenario};
use contest::Contest;
use fixed::Fixed;
use saru::Saru;

/// Longer than an attempt is remembered (10 s at most) with time to spare for bursts, and a least bound.
const REMEMBERED_SECONDS: f64 = 20.0;
const ATTEMPTS_LEAST: usize = 8_192;

/// The rule that a host follows.
#[expect(clippy::large_enum_variant, reason = "there is one for each host")]
pub enum Decider {
    /// The production core.
    Clusterd {
        /// It.
        node: Node,
        /// What tags frames.
        ring: KeyRing,
        /// The frame read last: its memory is used again.
        heard: Frame,
    },
    /// Claims without the rest of the protocol.
    Contest(Contest),
    /// No word between the hosts.
    Fixed(Fixed),
    /// Blocks, given out by an elected host.
    Saru(Saru),
}

impl Decider {
    /// The rule of a scenario, for a host that starts for the `starts`th time.
    pub fn new(scenario: &Scenario, seed: u64, host: usize, now: Instant, starts: u64) -> Self {
        match scenario.rule {
            Rule::Clusterd => Self::Clusterd {
                node: Node::new(config(scenario, host, starts), now),
                ring: cluster_key().into(),
                heard: Frame::default(),
            },
            Rule::Original | Rule::Contest => Self::Contest(Contest::new(scenario, seed, host)),
            Rule::Split
            | Rule::Clusterip
            | Rule::Random
            | Rule::PowerOfTwo
            | Rule::ShortestQueue => Self::Fixed(Fixed::new(scenario, host)),
            Rule::Saru => Self::Saru(Saru::new(host, now)),
        }
    }

    /// The production core, if that decides.
    pub fn node(&self) -> Option<&Node> {
        match self {
            Self::Clusterd { node, .. } => Some(node),
            Self::Contest(_) | Self::Fixed(_) | Self::Saru(_) => None,
        }
    }

    /// A frame of another host came.
    pub fn handle_frame(&mut self, now: Instant, bytes: &[u8]) {
        match self {
            Self::Clusterd { node, ring, heard } => {
                if let Ok(header) = wire::decode_into(bytes, ring, &mut heard.entries) {
                    heard.header = header;
                    node.handle_frame(now, heard);
                }
            }
            Self::Contest(contest) => contest.handle_frame(now, bytes),
            Self::Fixed(_) => {}
            Self::Saru(saru) => saru.handle_frame(now, bytes),
        }
    }

    /// A SYN is held.
    pub fn handle_syn(&mut self, now: Instant, syn: Syn) {
        match self {
            Self::Clusterd { node, .. } => node.handle_syn(now, syn),
            Self::Contest(contest) => contest.handle_syn(now, syn),
            Self::Fixed(fixed) => fixed.handle_syn(syn),
            Self::Saru(saru) => saru.handle_syn(syn),
        }
    }

    /// This host's kernel has sent a SYN-ACK.
    pub fn handle_syn_ack(&mut self, now: Instant, flow: FlowKey, client_isn: u32, isn: u32) {
        if let Self::Clusterd { node, .. } = self {
            node.handle_syn_ack(now, flow, client_isn, isn);
        }
    }

    /// A client has acknowledged `number`. The ancestors know no guard: held ACKs pass.
    pub fn handle_ack(&mut self, now: Instant, flow: FlowKey, number: u32, held: Option<Ticket>) {
        match self {
            Self::Clusterd { node, .. } => node.handle_ack(now, flow, number, held),
            Self::Contest(Contest { outputs, .. }) => {
                outputs.extend(held.map(|ticket| Output::Decide(ticket, Verdict::Accept)));
            }
            Self::Fixed(Fixed { verdicts, .. }) | Self::Saru(Saru { verdicts, .. }) => {
                verdicts.extend(held.map(|ticket| (ticket, Verdict::Accept)));
            }
        }
    }

    /// This host's kernel wants to refuse a SYN by a RST, which is held.
    pub fn handle_refusal(&mut self, now: Instant, flow: FlowKey, client_isn: u32, rst: Ticket) {
        match self {
            Self::Clusterd { node, .. } => node.handle_refusal(now, flow, client_isn, rst),
            Self::Contest(_) | Self::Fixed(_) | Self::Saru(_) => {
                self.handle_ack(now, flow, 0, Some(rst));
            }
        }
    }

    /// The state of the listener.
    pub fn handle_listener(&mut self, now: Instant, service: ServicePort, listener: Listener) {
        if let Self::Clusterd { node, .. } = self {
            node.handle_listener(now, service, listener);
        }
    }

    /// How much there is to do.
    pub fn handle_load(&mut self, now: Instant, load: &Load) {
        if let Self::Clusterd { node, .. } = self {
            node.handle_load(now, load);
        }
    }

    /// Time has come to [`Decider::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Clusterd { node, .. } => node.handle_timeout(now),
            Self::Contest(contest) => contest.handle_timeout(now),
            Self::Fixed(_) => {}
            Self::Saru(saru) => saru.handle_timeout(now),
        }
    }

    /// When there may next be something to do.
    pub fn poll_timeout(&self) -> Instant {
        match self {
            Self::Clusterd { node, .. } => node.poll_timeout(),
            Self::Contest(contest) => contest.poll_timeout(),
            Self::Fixed(_) => Instant(u64::MAX),
            Self::Saru(saru) => saru.poll_timeout(),
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        match self {
            Self::Clusterd { node, .. } => node.poll_output(),
            Self::Contest(Contest { outputs, .. }) => outputs.pop_front(),
            Self::Fixed(Fixed { verdicts, .. }) | Self::Saru(Saru { verdicts, .. }) => {
                verdicts.pop_front().map(|(ticket, verdict)| Output::Decide(ticket, verdict))
            }
        }
    }

    /// The next frame to send.
    pub fn poll_frame(&mut self, now: Instant) -> Option<Vec<u8>> {
        match self {
            Self::Clusterd { node, ring, .. } => {
                node.poll_frame(now).map(|frame| wire::encode(frame, ring))
            }
            Self::Contest(contest) => contest.poll_frame(),
            Self::Fixed(_) => None,
            Self::Saru(saru) => saru.poll_frame(),
        }
    }

    /// What was counted; of the ancestors only claims and verdicts.
    pub fn counters(&self) -> Counters {
        match self {
            Self::Clusterd { node, .. } => *node.counters(),
            Self::Contest(Contest { counters, .. })
            | Self::Fixed(Fixed { counters, .. })
            | Self::Saru(Saru { counters, .. }) => *counters,
        }
    }

    /// It has not accepted this attempt: what its kernel has of the flow is of an earlier one. The
    /// ancestors do not care.
    pub fn is_new(&self, flow: &FlowKey, isn: u32) -> bool {
        self.node().is_some_and(|node| !node.has_accepted(flow, isn))
    }

    /// Somebody else is there.
    pub fn has_peers(&self) -> bool {
        self.node().is_none_or(|node| node.peers().next().is_some())
    }
}

fn config(scenario: &Scenario, host: usize, starts: u64) -> Config {
    let mut config = Config::new(node_id(host), starts, VIP);
    config.timers = Timers {
        slot: scenario.slot,
        slot_adapts: scenario.slot_adapts,
        settle: scenario.settle,
        settle_adapts: scenario.settle_adapts,
        own: scenario.own,
        ..Timers::default()
    };
    // The same bound, but for what cannot be reached: a table is as large as its bound, and one
    // that fits into the processor's cache is a tenth of a run faster.
    if let Some(reached) = attempts_reached(scenario) {
        config.limits.attempts = config.limits.attempts.min(reached.max(ATTEMPTS_LEAST));
    }
    config.pacing = match scenario.pacing {
        Pacing::Rank => protocol::Pacing::Rank,
        Pacing::Race => protocol::Pacing::Race,
    };
    config.mode = match scenario.mode {
        Mode::Auto => protocol::Mode::Auto,
        Mode::Claim => protocol::Mode::Claim,
        Mode::Hash => protocol::Mode::Hash,
    };
    config
}

/// More attempts than a host can have to remember at a time, if that is known beforehand.
fn attempts_reached(scenario: &Scenario) -> Option<usize> {
    let rate = scenario.connections_per_second + scenario.flood_per_second;
    let average = (rate * REMEMBERED_SECONDS) as usize;
    match scenario.arrivals {
        Arrivals::Poisson | Arrivals::Regular => Some(average),
        Arrivals::Bursts => Some(average + 10 * scenario.burst),
        Arrivals::Trace { .. } => None,
    }
}
