//! Where an attempt stands, for those who only look.

use super::attempt::State;
use super::{Instant, Purpose, Ticket, Turn};
use crate::flow::NodeId;

/// Where an attempt stands on one node: the states of spec 5.4, each with what has been decided in it.
///
/// `until` is when the state ends by itself; [`Node::handle_timeout`](super::Node::handle_timeout)
/// goes on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The SYN waits for this node's turn.
    Held {
        /// The SYN.
        ticket: Ticket,
        /// Its place in the contest, never [`Turn::Bystander`]: who has none lets the SYN go.
        turn: Turn,
        /// When its turn comes.
        until: Instant,
    },
    /// Claimed by this node, which waits for better claims.
    Claimed {
        /// The SYN.
        ticket: Ticket,
        /// The rank in the claim.
        rank: u8,
        /// A claim that is not better has been heard meanwhile.
        reasserted: bool,
        /// When it accepts, if none comes.
        until: Instant,
    },
    /// Left to another node, which has claimed it better, or owns it and must say so again.
    Deferred {
        /// The SYN, unless that has not come yet.
        ticket: Option<Ticket>,
        /// To whom.
        to: NodeId,
        /// How long.
        until: Instant,
    },
    /// The kernel has the SYN and has not answered yet.
    Accepted {
        /// What for.
        purpose: Purpose,
        /// A claim has been said to a worse claimant.
        reasserted: bool,
        /// How long it may take.
        until: Instant,
    },
    /// The SYN-ACK has left, and the client has not chosen yet.
    Half {
        /// How long the attempt is remembered.
        until: Instant,
    },
    /// The client has chosen this node.
    Owned {
        /// How long the attempt is remembered.
        until: Instant,
    },
    /// Not this node's.
    Foreign {
        /// Whose, as far as it was heard.
        owner: Option<NodeId>,
        /// How long that is remembered.
        until: Instant,
    },
}

impl Standing {
    /// The SYN that waits for a verdict.
    pub fn ticket(&self) -> Option<Ticket> {
        match *self {
            Self::Held { ticket, .. } | Self::Claimed { ticket, .. } => Some(ticket),
            Self::Deferred { ticket, .. } => ticket,
            Self::Accepted { .. }
            | Self::Half { .. }
            | Self::Owned { .. }
            | Self::Foreign { .. } => None,
        }
    }
}

impl From<State> for Standing {
    fn from(state: State) -> Self {
        match state {
            State::Held { ticket, turn, until } => Self::Held { ticket, turn, until },
            State::Claimed { ticket, rank, reasserted, until } => {
                Self::Claimed { ticket, rank, reasserted, until }
            }
            State::Deferred { ticket, to, key: _, until } => Self::Deferred { ticket, to, until },
            State::Accepted { rank: _, purpose, reasserted, until } => {
                Self::Accepted { purpose, reasserted, until }
            }
            State::Half { isn: _, until } => Self::Half { until },
            State::Owned { until } => Self::Owned { until },
            State::Foreign { owner, until } => Self::Foreign { owner, until },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::flow::{AttemptId, ClusterKey, FlowKey, ServicePort};
    use crate::protocol::{Config, Listener, Node, Syn, Timers};
    use crate::wire::{Contest, Entry, Flags, Frame, Header, MINOR};

    const ISN: u32 = 7;

    struct Looked {
        node: Node,
        flow: FlowKey,
        id: AttemptId,
    }

    impl Looked {
        /// A node that starts at 0 and serves the port of the flow.
        fn new() -> Self {
            let key = ClusterKey::public([10, 0, 0, 2].into());
            let flow = FlowKey::tcp(([192, 0, 2, 1], 1024), ([10, 0, 0, 2], 80));
            let mut node = Node::new(Config::new(NodeId(1), 1, [10, 0, 0, 2]), Instant::default());
            let service = ServicePort::tcp(([10, 0, 0, 2], 80));
            node.handle_listener(Instant::default(), service, Listener::Ready);
            Self { node, flow, id: key.attempt(&flow, ISN) }
        }

        fn joined() -> (Self, Instant) {
            let mut looked = Self::new();
            let now = Instant::default() + Timers::default().listen;
            looked.node.handle_timeout(now);
            (looked, now)
        }

        fn syn(&mut self, now: Instant) {
            let syn = Syn { ticket: Ticket(1), flow: self.flow, isn: ISN, incumbent: false };
            self.node.handle_syn(now, syn);
        }

        fn says(&mut self, now: Instant, entry: impl Fn(Contest) -> Entry) {
            let flags = Flags::default();
            let (node, incarnation, sequence) = (NodeId(2), 1, 1);
            let header = Header { minor: MINOR, node, incarnation, sequence, flags };
            let contest = Contest { attempt: self.id, port: 80, tries: 0, rank: 1 };
            self.node.handle_frame(now, &Frame { header, entries: vec![entry(contest)] });
        }

        fn standing(&self) -> Option<Standing> {
            self.node.standing(self.id)
        }
    }

    #[test]
    fn an_attempt_is_followed_from_the_syn_to_the_clients_choice() {
        let (mut looked, now) = Looked::joined();
        assert_eq!(looked.standing(), None);
        looked.syn(now);
        let turn = Turn::Candidate { position: 0, rank: 1 };
        let held = Standing::Held { ticket: Ticket(1), turn, until: now };
        assert_eq!(looked.standing(), Some(held));
        assert_eq!(held.ticket(), Some(Ticket(1)));
        looked.node.handle_timeout(now);
        let Timers { emit, owned, .. } = Timers::default();
        let accepted =
            Standing::Accepted { purpose: Purpose::Serve, reasserted: false, until: now + emit };
        assert_eq!(looked.standing(), Some(accepted));
        assert_eq!(accepted.ticket(), None);
        looked.node.handle_syn_ack(now, looked.flow, ISN, 100);
        assert_eq!(looked.standing(), Some(Standing::Half { until: now + owned }));
        looked.node.handle_ack(now, looked.flow, 101, None);
        assert_eq!(looked.standing(), Some(Standing::Owned { until: now + owned }));
    }

    #[test]
    fn a_claim_defers_and_an_answer_tells_the_owner() {
        let (mut looked, now) = Looked::joined();
        let until = now + Timers::default().own;
        looked.says(now, Entry::Claim);
        let to = NodeId(2);
        assert_eq!(looked.standing(), Some(Standing::Deferred { ticket: None, to, until }));
        looked.syn(now + Duration::from_micros(1));
        let deferred = Standing::Deferred { ticket: Some(Ticket(1)), to, until };
        assert_eq!(looked.standing(), Some(deferred));

        let mut listens = Looked::new();
        listens.says(Instant::default(), Entry::Own);
        let until = Instant::default() + Timers::default().foreign;
        let foreign = Standing::Foreign { owner: Some(NodeId(2)), until };
        assert_eq!(listens.standing(), Some(foreign));
    }
}
