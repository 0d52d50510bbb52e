//! A host's kernel: connection tracking, the rules of clusterd, request sockets, TCP.
//!
//! It is as exact as the question needs: what happens to a segment of a client that
//! has another host's SYN-ACK. The three ranges of such an acknowledgement and their
//! fate are those measured on real kernels (`field` and `protocol` notes; RFC 9293
//! 3.10.7, RFC 5961).

use std::collections::BTreeMap;

use crate::chance::{Chance, Entity};
use crate::client::{ANSWER, GREETING};
use crate::packet::{Flag, FlowId, Segment};
use crate::scenario::{Conntrack, FirstWord, Guard, Scenario};

/// How far behind an acknowledgement still counts as valid (`MAXACKWINDOW`, nf_conntrack_proto_tcp.c).
const ACK_WINDOW: u32 = 66_000;

/// What becomes of a segment that has come from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// It is held for the daemon.
    Queue {
        /// A SYN of a flow that is tracked already.
        incumbent: bool,
    },
    /// It is dropped, and the daemon gets a copy.
    Copy,
    /// It is dropped.
    Drop,
    /// TCP had it; this is what it says.
    Answer(Segment),
    /// TCP had it and says nothing.
    Silence,
    /// The application has this connection now, and perhaps a greeting for it.
    Accepted(Option<Segment>),
    /// The application has a request.
    Asked,
    /// The client is gone.
    Closed,
    /// A RST is not let out; the daemon gets a copy of it.
    CopyOfReset,
}

/// What a SYN that was let through has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// A SYN-ACK.
    SynAck(Segment),
    /// A RST, which is held for the daemon.
    Refusal(Segment),
    /// A challenge ACK of a connection that stands.
    Challenge(Segment),
    /// Nothing.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Socket {
    /// A request socket; SYN-ACKs sent again so far.
    Half { retries: u32 },
    /// The application has it.
    Full { asked: bool, answered: bool },
    /// Only connection tracking remembers it.
    Gone,
}

/// A flow that connection tracking knows.
#[derive(Clone, Copy, Debug)]
struct Flow {
    client_isn: u32,
    isn: u32,
    socket: Socket,
    assured: bool,
    /// The daemon has let an ACK through (guard strict).
    confirmed: bool,
}

/// The kernel of one host.
pub struct Kernel {
    flows: BTreeMap<FlowId, Flow>,
    chance: Chance,
    guard: Guard,
    conntrack: Conntrack,
    backlog: usize,
    first_word: FirstWord,
    /// Connections that the application has.
    open: usize,
    /// A service listens.
    pub serves: bool,
}

impl Kernel {
    /// The kernel of a host that has just started.
    /// Sequence numbers of each life are others.
    pub fn new(scenario: &Scenario, seed: u64, host: u16, starts: u64) -> Self {
        let seed = seed ^ starts.saturating_sub(1) << 48;
        Self {
            flows: BTreeMap::new(),
            chance: Chance::new(seed, Entity::Kernel(host)),
            guard: scenario.guard,
            conntrack: scenario.conntrack,
            backlog: scenario.backlog,
            first_word: scenario.first_word,
            open: 0,
            serves: true,
        }
    }

    /// Connections that the application has, of how many it can have.
    pub fn open(&self) -> (usize, usize) {
        (self.open, self.backlog)
    }

    /// Connections tracked.
    pub fn tracked(&self) -> usize {
        self.flows.len()
    }

    /// The application has this connection.
    pub fn has(&self, flow: FlowId) -> bool {
        matches!(self.flows.get(&flow), Some(Flow { socket: Socket::Full { .. }, .. }))
    }

    /// A segment comes from a client.
    pub fn receive(&mut self, segment: Segment) -> Ingress {
        let Some(&flow) = self.flows.get(&segment.flow) else {
            return self.receive_untracked(segment);
        };
        match (segment.flag, flow.socket) {
            (Flag::Syn, socket) => Ingress::Queue { incumbent: socket != Socket::Gone },
            (Flag::Rst, _) => self.reset_by_client(segment, flow),
            (_, Socket::Half { .. }) => self.receive_half(segment, flow),
            (_, Socket::Full { .. }) => self.receive_full(segment, flow),
            (_, Socket::Gone) => Ingress::Drop,
        }
    }

    fn receive_untracked(&self, segment: Segment) -> Ingress {
        match (segment.flag, self.guard) {
            (Flag::Syn, _) => Ingress::Queue { incumbent: false },
            (Flag::Rst, _) => Ingress::Drop,
            // No socket: RFC 9293 3.10.7.1.
            (_, Guard::None) => Ingress::Answer(reset(segment)),
            (_, Guard::Rst) => Ingress::Copy,
            (_, Guard::Strict | Guard::Invalid) => Ingress::Drop,
        }
    }

    fn reset_by_client(&mut self, segment: Segment, flow: Flow) -> Ingress {
        let expected = flow.client_isn.wrapping_add(1);
        // A RST that answers a SYN-ACK bears the number that this acknowledged.
        let hits = segment.sequence == expected || segment.sequence == flow.isn.wrapping_add(1);
        if !hits {
            return Ingress::Drop;
        }
        self.forget(segment.flow);
        Ingress::Closed
    }

    fn receive_half(&mut self, segment: Segment, flow: Flow) -> Ingress {
        let ahead = segment.acknowledgement.wrapping_sub(flow.isn.wrapping_add(1));
        let behind = ahead.wrapping_neg();
        if ahead == 0 {
            if self.guard == Guard::Strict && !flow.confirmed {
                return Ingress::Queue { incumbent: false };
            }
            return self.complete(segment);
        }
        let invalid = match self.conntrack {
            _ if behind <= ACK_WINDOW => false,
            Conntrack::Since6_1 => ahead < 1 << 31,
            Conntrack::Before6_1 => true,
        };
        match (self.guard, invalid) {
            (Guard::Strict, true) => Ingress::Drop,
            (Guard::Strict, false) => Ingress::Queue { incumbent: false },
            (Guard::Rst, true) => Ingress::Copy,
            (Guard::Invalid, true) => Ingress::Drop,
            (Guard::Rst, false) if behind > ACK_WINDOW && !flow.assured => Ingress::CopyOfReset,
            // RFC 9293 3.10.7.4: what does not acknowledge the SYN-ACK is answered by a RST.
            (Guard::None | Guard::Invalid | Guard::Rst, _) => {
                if let Some(flow) = self.flows.get_mut(&segment.flow) {
                    flow.assured = true;
                }
                Ingress::Answer(reset(segment))
            }
        }
    }

    /// The client has completed the handshake with this host.
    fn complete(&mut self, segment: Segment) -> Ingress {
        let Some(flow) = self.flows.get_mut(&segment.flow) else { return Ingress::Drop };
        flow.assured = true;
        flow.confirmed = true;
        // A request may come with the acknowledgement, or instead of a lost one.
        let asked = segment.length > 0;
        flow.socket = Socket::Full { asked, answered: false };
        self.open += 1;
        let greeting = (self.first_word == FirstWord::Server && !asked).then(|| Segment {
            flow: segment.flow,
            flag: Flag::Ack,
            sequence: flow.isn.wrapping_add(1),
            acknowledgement: segment.sequence,
            length: GREETING,
        });
        Ingress::Accepted(greeting)
    }

    fn receive_full(&mut self, segment: Segment, flow: Flow) -> Ingress {
        let ahead = segment.acknowledgement.wrapping_sub(flow.isn.wrapping_add(1));
        // It names another host: TCP ignores it.
        if ahead > GREETING + ANSWER {
            return Ingress::Silence;
        }
        let Socket::Full { asked, answered } = flow.socket else { return Ingress::Silence };
        match segment.flag {
            Flag::Fin => {
                self.forget(segment.flow);
                Ingress::Closed
            }
            Flag::Ack if segment.length > 0 && !asked => {
                self.set(segment.flow, Socket::Full { asked: true, answered });
                Ingress::Asked
            }
            // The answer has got lost.
            Flag::Ack if segment.length > 0 && answered => {
                Ingress::Answer(answer(segment.flow, &flow, self.first_word))
            }
            // So has the greeting.
            Flag::Ack if self.first_word == FirstWord::Server && !asked && ahead == 0 => {
                Ingress::Answer(Segment {
                    flow: segment.flow,
                    flag: Flag::Ack,
                    sequence: flow.isn.wrapping_add(1),
                    acknowledgement: segment.sequence,
                    length: GREETING,
                })
            }
            Flag::Syn | Flag::SynAck | Flag::Ack | Flag::Rst | Flag::Refusal => Ingress::Silence,
        }
    }

    fn set(&mut self, flow: FlowId, socket: Socket) {
        if let Some(flow) = self.flows.get_mut(&flow) {
            flow.socket = socket;
        }
    }

    /// The connection is over.
    fn forget(&mut self, flow: FlowId) {
        if let Some(Flow { socket: Socket::Full { .. }, .. }) = self.flows.remove(&flow) {
            self.open -= 1;
        }
    }

    /// The daemon has let a SYN through.
    pub fn open_connection(&mut self, syn: Segment) -> Opened {
        match self.flows.get(&syn.flow) {
            Some(flow) if matches!(flow.socket, Socket::Full { .. }) => {
                return Opened::Challenge(Segment {
                    flow: syn.flow,
                    flag: Flag::Ack,
                    sequence: flow.isn.wrapping_add(1),
                    acknowledgement: flow.client_isn.wrapping_add(1),
                    length: 0,
                });
            }
            Some(flow)
                if matches!(flow.socket, Socket::Half { .. })
                    && flow.client_isn == syn.sequence =>
            {
                return Opened::SynAck(syn_ack(syn.flow, flow));
            }
            Some(_) | None => {}
        }
        if !self.serves {
            return Opened::Refusal(Segment {
                flow: syn.flow,
                flag: Flag::Refusal,
                sequence: 0,
                acknowledgement: syn.sequence.wrapping_add(1),
                length: 0,
            });
        }
        if self.open >= self.backlog {
            return Opened::Nothing;
        }
        let flow = Flow {
            client_isn: syn.sequence,
            isn: self.chance.number(),
            socket: Socket::Half { retries: 0 },
            assured: false,
            confirmed: false,
        };
        let answer = syn_ack(syn.flow, &flow);
        self.flows.insert(syn.flow, flow);
        Opened::SynAck(answer)
    }

    /// The daemon has let an ACK through (guard strict).
    pub fn confirm(&mut self, segment: Segment) -> Ingress {
        match self.flows.get(&segment.flow) {
            Some(flow) if matches!(flow.socket, Socket::Half { .. }) => {
                match segment.acknowledgement == flow.isn.wrapping_add(1) {
                    true => self.complete(segment),
                    // RFC 9293 3.10.7.4, as without any guard.
                    false => Ingress::Answer(reset(segment)),
                }
            }
            // It was held behind the one that has completed the handshake.
            Some(&flow) if matches!(flow.socket, Socket::Full { .. }) => {
                self.receive_full(segment, flow)
            }
            Some(_) | None => Ingress::Drop,
        }
    }

    /// The timer of a request socket: the SYN-ACK once more, or the end of it.
    pub fn repeat_syn_ack(
        &mut self,
        flow: FlowId,
        isn: u32,
        retries_max: u32,
    ) -> Option<(Segment, u32)> {
        let known = self.flows.get_mut(&flow)?;
        let Socket::Half { retries } = &mut known.socket else { return None };
        if known.isn != isn {
            return None;
        }
        if *retries >= retries_max {
            self.flows.remove(&flow);
            return None;
        }
        *retries += 1;
        let retries = *retries;
        Some((syn_ack(flow, known), retries))
    }

    /// The daemon removes a half-open connection: the client has chosen another host.
    /// Returns the sequence number of this host in it, if there was one.
    pub fn destroy(&mut self, flow: FlowId) -> Option<u32> {
        let half = |flow: &&Flow| matches!(flow.socket, Socket::Half { .. });
        let isn = self.flows.get(&flow).filter(half)?.isn;
        self.flows.remove(&flow);
        Some(isn)
    }

    /// The service has the answer.
    pub fn answer(&mut self, flow: FlowId) -> Option<Segment> {
        let known = self.flows.get_mut(&flow)?;
        let Socket::Full { answered, .. } = &mut known.socket else { return None };
        *answered = true;
        Some(answer(flow, known, self.first_word))
    }
}

fn syn_ack(id: FlowId, flow: &Flow) -> Segment {
    Segment {
        flow: id,
        flag: Flag::SynAck,
        sequence: flow.isn,
        acknowledgement: flow.client_isn.wrapping_add(1),
        length: 0,
    }
}

fn answer(id: FlowId, flow: &Flow, first_word: FirstWord) -> Segment {
    let greeted = if first_word == FirstWord::Server { GREETING } else { 0 };
    Segment {
        flow: id,
        flag: Flag::Ack,
        sequence: flow.isn.wrapping_add(1 + greeted),
        acknowledgement: flow.client_isn.wrapping_add(1 + crate::client::REQUEST),
        length: ANSWER,
    }
}

/// A RST where the acknowledgement fits nothing: it bears that number.
fn reset(segment: Segment) -> Segment {
    Segment {
        flow: segment.flow,
        flag: Flag::Rst,
        sequence: segment.acknowledgement,
        acknowledgement: 0,
        length: 0,
    }
}
