//! A host's kernel: connection tracking, the rules of clusterd, request sockets, TCP.
//!
//! It is as exact as the question needs: what happens to a segment of a client that
//! has another host's SYN-ACK. The three ranges of such an acknowledgement and their
//! fate are those measured on real kernels (`field` and `protocol` notes; RFC 9293
//! 3.10.7, RFC 5961).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use clusterd::protocol::Instant;

use crate::chance::{Chance, Entity};
use crate::client::{ANSWER, GREETING, REQUEST};
use crate::packet::{Flag, FlowId, Segment};
use crate::scenario::{Closes, Conntrack, FirstWord, Guard, Scenario};

/// How far behind an acknowledgement still counts as valid (`MAXACKWINDOW`, nf_conntrack_proto_tcp.c).
const ACK_WINDOW: u32 = 66_000;
/// How far ahead a client's segments of a half-open connection may be: the window that its SYN-ACK has offered.
const SEQUENCE_WINDOW: u32 = 64_240;
/// How long the side that has closed first remembers a connection (`TCP_TIMEWAIT_LEN`).
pub const TIME_WAIT: Duration = Duration::from_secs(60);

/// A connection of which nothing was heard for so long is over: the service has closed it, and TCP
/// has said so in vain (`tcp_fin_timeout`, `tcp_orphan_retries`).
pub const IDLE: Duration = TIME_WAIT;

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
    /// The handshake is over: the connection waits for the service.
    Stands,
    /// The service has a request.
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
    /// An ACK of an earlier connection.
    Challenge(Segment),
    /// Nothing.
    Nothing,
}

/// A connection that the service has just accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenUp {
    /// Which.
    pub flow: FlowId,
    /// There is a request already.
    pub asked: bool,
    /// What the service says first.
    pub greeting: Option<Segment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Socket {
    /// A request socket; SYN-ACKs sent again so far.
    Half { retries: u32, due: Instant },
    /// A SYN cookie was sent: only connection tracking remembers that.
    Cookie,
    /// The handshake is over.
    Stands { taken_up: bool, asked: bool, answered: bool },
    /// This host has closed first, and remembers until then what the client would say next.
    TimeWait { next: u32, until: Instant },
}

/// A flow that connection tracking knows.
#[derive(Clone, Copy, Debug)]
struct Flow {
    client_isn: u32,
    isn: u32,
    socket: Socket,
    /// When the client was heard last.
    heard: Instant,
    assured: bool,
    /// The daemon has let an ACK through (guard strict).
    confirmed: bool,
    /// The kernel has accepted it by its bucket, without the daemon.
    by_bucket: bool,
}

/// The kernel of one host.
pub struct Kernel {
    flows: BTreeMap<FlowId, Flow>,
    chance: Chance,
    guard: Guard,
    conntrack: Conntrack,
    backlog: usize,
    syn_cookies: bool,
    workers: usize,
    first_word: FirstWord,
    closes: Closes,
    /// Request sockets.
    half_open: usize,
    /// Connections that wait for the service, and some that are gone.
    accept_queue: VecDeque<FlowId>,
    /// Connections that the service works on.
    taken_up: usize,
    /// None of these is idle before.
    idle_from: Instant,
    /// SYNs and last ACKs dropped because a queue of the listener was full.
    pub overflows: u64,
    /// SYN-ACKs that were cookies.
    pub cookies: u64,
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
            syn_cookies: scenario.syn_cookies,
            workers: scenario.workers,
            first_word: scenario.first_word,
            closes: scenario.closes,
            half_open: 0,
            accept_queue: VecDeque::new(),
            taken_up: 0,
            idle_from: Instant::default(),
            overflows: 0,
            cookies: 0,
            serves: true,
        }
    }

    /// Connections that wait for the service, of how many may.
    pub fn waiting(&self) -> (usize, usize) {
        (self.accept_queue.len(), self.backlog)
    }

    /// A segment comes from a client.
    pub fn receive(&mut self, now: Instant, segment: Segment) -> Ingress {
        let Some(known) = self.flows.get_mut(&segment.flow) else {
            return self.receive_untracked(segment);
        };
        if segment.flag != Flag::Syn {
            known.heard = now;
        }
        let flow = *known;
        match (segment.flag, flow.socket) {
            // Connection tracking forgets a closed connection when its client begins anew.
            (Flag::Syn, Socket::TimeWait { .. }) => Ingress::Queue { incumbent: false },
            (Flag::Syn, _) => Ingress::Queue { incumbent: true },
            (Flag::Rst, _) => self.reset_by_client(segment, flow),
            (_, Socket::Half { .. } | Socket::Cookie) => self.receive_half(segment, flow),
            (_, Socket::Stands { .. }) => self.receive_full(now, segment, flow),
            (_, Socket::TimeWait { .. }) => Ingress::Silence,
        }
    }

    fn receive_untracked(&self, segment: Segment) -> Ingress {
        match (segment.flag, self.guard) {
            (Flag::Syn, _) => Ingress::Queue { incumbent: false },
            (Flag::Rst, _) => Ingress::Drop,
            // No socket: RFC 9293 3.10.7.1.
            (_, Guard::None) => Ingress::Answer(reset(segment)),
            (_, Guard::Rst) => Ingress::Copy,
            (_, Guard::Strict | Guard::Gate | Guard::Invalid) => Ingress::Drop,
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
        // What the kernel has accepted by its bucket waits for no daemon (`BUCKET_LABEL` of the rules).
        let guard = match self.guard {
            Guard::Strict if flow.by_bucket => Guard::Rst,
            guard => guard,
        };
        let ahead = segment.acknowledgement.wrapping_sub(flow.isn.wrapping_add(1));
        let behind = ahead.wrapping_neg();
        if ahead == 0 {
            if guard == Guard::Strict && !flow.confirmed {
                return Ingress::Queue { incumbent: false };
            }
            return self.complete(segment);
        }
        let said = segment.sequence.wrapping_sub(flow.client_isn.wrapping_add(1));
        let invalid = match self.conntrack {
            // A later connection of these ports: above the upper bound (`tcp_in_window`).
            _ if !is_in_window(segment, &flow) && said < 1 << 31 => true,
            _ if behind <= ACK_WINDOW => false,
            Conntrack::Since6_1 => ahead < 1 << 31,
            Conntrack::Before6_1 => true,
        };
        match (guard, invalid) {
            (Guard::Rst, true) if self.guard == Guard::Strict => Ingress::Drop,
            // The module looks at the number itself, and the daemon gets a copy.
            (Guard::Gate, _) => Ingress::Copy,
            (Guard::Strict, true) => Ingress::Drop,
            (Guard::Strict, false) => Ingress::Queue { incumbent: false },
            (Guard::Rst, true) => Ingress::Copy,
            (Guard::Invalid, true) => Ingress::Drop,
            _ if !is_in_window(segment, &flow) => Ingress::Answer(challenge(segment.flow, &flow)),
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
        // `sk_acceptq_is_full`: the client will say its request again.
        if self.accept_queue.len() > self.backlog {
            self.overflows += 1;
            return Ingress::Silence;
        }
        // A request may come with the acknowledgement, or instead of a lost one.
        let asked = segment.length > 0;
        self.set(segment.flow, Socket::Stands { taken_up: false, asked, answered: false });
        self.accept_queue.push_back(segment.flow);
        Ingress::Stands
    }

    /// The service accepts the next connection, if it has a worker for it.
    pub fn take_up(&mut self, now: Instant) -> Option<TakenUp> {
        if self.taken_up >= self.workers && now >= self.idle_from {
            self.close_idle(now);
        }
        while self.taken_up < self.workers {
            let id = self.accept_queue.pop_front()?;
            let Some(flow) = self.flows.get_mut(&id) else { continue };
            let Socket::Stands { taken_up: taken @ false, asked, .. } = &mut flow.socket else {
                continue;
            };
            *taken = true;
            self.taken_up += 1;
            // It may have waited for longer than those that are worked on.
            self.idle_from = self.idle_from.min(flow.heard + IDLE);
            let asked = *asked;
            let greets = self.first_word == FirstWord::Server && !asked;
            return Some(TakenUp { flow: id, asked, greeting: greets.then(|| greeting(id, flow)) });
        }
        None
    }

    /// The service closes connections of which nothing was heard for [`IDLE`]. It looks when all
    /// workers are taken.
    fn close_idle(&mut self, now: Instant) {
        let worked_on = |flow: &Flow| flow.socket.is_worked_on();
        let before = self.flows.len();
        self.flows.retain(|_, flow| !worked_on(flow) || now < flow.heard + IDLE);
        self.taken_up -= before - self.flows.len();
        let heard = self.flows.values().filter(|flow| worked_on(flow)).map(|flow| flow.heard);
        self.idle_from = heard.min().unwrap_or(now) + IDLE;
    }

    fn receive_full(&mut self, now: Instant, segment: Segment, flow: Flow) -> Ingress {
        let ahead = segment.acknowledgement.wrapping_sub(flow.isn.wrapping_add(1));
        // It names another host: TCP ignores it.
        if ahead > GREETING + ANSWER + 1 {
            return Ingress::Silence;
        }
        let Socket::Stands { taken_up, asked, answered } = flow.socket else {
            return Ingress::Silence;
        };
        match segment.flag {
            Flag::Fin => {
                self.close(now, segment);
                Ingress::Closed
            }
            Flag::Ack if segment.length > 0 && !asked => {
                self.set(segment.flow, Socket::Stands { taken_up, asked: true, answered });
                if taken_up { Ingress::Asked } else { Ingress::Silence }
            }
            // The answer has got lost.
            Flag::Ack if segment.length > 0 && answered => {
                Ingress::Answer(answer(segment.flow, &flow, self.first_word))
            }
            // So has the greeting.
            Flag::Ack
                if self.first_word == FirstWord::Server && taken_up && !asked && ahead == 0 =>
            {
                Ingress::Answer(greeting(segment.flow, &flow))
            }
            Flag::Syn | Flag::SynAck | Flag::Ack | Flag::Rst | Flag::Refusal => Ingress::Silence,
        }
    }

    /// Both sides have closed.
    fn close(&mut self, now: Instant, fin: Segment) {
        let next = fin.sequence.wrapping_add(1);
        match self.closes {
            Closes::Client => self.forget(fin.flow),
            Closes::Server => self.set(fin.flow, Socket::TimeWait { next, until: now + TIME_WAIT }),
        }
    }

    /// All changes of a flow's socket, so that what is counted fits.
    fn set(&mut self, id: FlowId, socket: Socket) {
        if let Some(flow) = self.flows.get_mut(&id) {
            let before = std::mem::replace(&mut flow.socket, socket);
            self.uncount(before);
            self.count(socket);
        }
    }

    /// The flow is over.
    fn forget(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.remove(&id) {
            self.uncount(flow.socket);
        }
    }

    fn count(&mut self, socket: Socket) {
        self.half_open += usize::from(matches!(socket, Socket::Half { .. }));
        self.taken_up += usize::from(socket.is_worked_on());
    }

    fn uncount(&mut self, socket: Socket) {
        self.half_open -= usize::from(matches!(socket, Socket::Half { .. }));
        self.taken_up -= usize::from(socket.is_worked_on());
    }

    /// A SYN is let through: by the daemon, or by its bucket.
    pub fn open_connection(&mut self, now: Instant, syn: Segment, by_bucket: bool) -> Opened {
        let known = self.flows.get(&syn.flow).copied();
        let again = known.filter(|flow| flow.client_isn == syn.sequence);
        match (known, known.map(|flow| flow.socket)) {
            (Some(flow), Some(Socket::Stands { .. })) if now < flow.heard + IDLE => {
                return Opened::Challenge(challenge(syn.flow, &flow));
            }
            (Some(flow), Some(Socket::Half { .. })) => {
                return match again {
                    Some(flow) => {
                        self.put_off(now, syn.flow);
                        Opened::SynAck(syn_ack(syn.flow, &flow))
                    }
                    // The request socket finds this SYN out of its window (`tcp_check_req`).
                    None => Opened::Challenge(challenge(syn.flow, &flow)),
                };
            }
            // `tcp_timewait_state_process`: only what is newer opens a connection.
            (Some(flow), Some(Socket::TimeWait { next, until }))
                if now < until && syn.sequence.wrapping_sub(next) >= 1 << 31 =>
            {
                return Opened::Challenge(Segment {
                    acknowledgement: next,
                    ..challenge(syn.flow, &flow)
                });
            }
            (_, Some(Socket::Stands { .. } | Socket::Cookie | Socket::TimeWait { .. }) | None)
            | (None, Some(_)) => {}
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
        self.listen(now, syn, by_bucket, again)
    }

    /// A SYN has come to the listener (`tcp_conn_request`).
    fn listen(
        &mut self,
        now: Instant,
        syn: Segment,
        by_bucket: bool,
        again: Option<Flow>,
    ) -> Opened {
        let cookie = self.half_open >= self.backlog;
        if self.accept_queue.len() > self.backlog || cookie && !self.syn_cookies {
            self.overflows += 1;
            return Opened::Nothing;
        }
        self.cookies += u64::from(cookie);
        let flow = Flow {
            client_isn: syn.sequence,
            // A cookie is the same for a minute.
            isn: again.map_or_else(|| self.chance.number(), |flow| flow.isn),
            socket: if cookie {
                Socket::Cookie
            } else {
                Socket::Half { retries: 0, due: now + request_timeout(0) }
            },
            heard: now,
            assured: false,
            confirmed: false,
            by_bucket,
        };
        self.forget(syn.flow);
        self.count(flow.socket);
        self.flows.insert(syn.flow, flow);
        Opened::SynAck(syn_ack(syn.flow, &flow))
    }

    /// The daemon has let an ACK through (guard strict).
    pub fn confirm(&mut self, now: Instant, segment: Segment) -> Ingress {
        let Some(&flow) = self.flows.get(&segment.flow) else { return Ingress::Drop };
        match flow.socket {
            Socket::Half { .. } | Socket::Cookie => {
                match segment.acknowledgement == flow.isn.wrapping_add(1) {
                    true => self.complete(segment),
                    false if !is_in_window(segment, &flow) => {
                        Ingress::Answer(challenge(segment.flow, &flow))
                    }
                    // RFC 9293 3.10.7.4, as without any guard.
                    false => Ingress::Answer(reset(segment)),
                }
            }
            // It was held behind the one that has completed the handshake.
            Socket::Stands { .. } => self.receive_full(now, segment, flow),
            Socket::TimeWait { .. } => Ingress::Silence,
        }
    }

    /// The SYN-ACK has just been said (`tcp_check_req`); that counts as no retransmission.
    fn put_off(&mut self, now: Instant, flow: FlowId) {
        if let Some(Flow { socket: Socket::Half { retries, due }, .. }) = self.flows.get_mut(&flow)
        {
            *due = now + request_timeout(*retries);
        }
    }

    /// When the timer of a request socket with this number is up.
    pub fn request_due(&self, flow: FlowId, isn: u32) -> Option<Instant> {
        match self.flows.get(&flow) {
            Some(Flow { isn: own, socket: Socket::Half { due, .. }, .. }) if *own == isn => {
                Some(*due)
            }
            Some(_) | None => None,
        }
    }

    /// The timer of a request socket may be up: the SYN-ACK once more, or the end of it.
    pub fn repeat_syn_ack(
        &mut self,
        now: Instant,
        flow: FlowId,
        isn: u32,
        retries_max: u32,
    ) -> Option<Segment> {
        let known = self.flows.get_mut(&flow).filter(|known| known.isn == isn)?;
        let Socket::Half { retries, due } = &mut known.socket else { return None };
        // A SYN that came again has put it off.
        if now < *due {
            return None;
        }
        if *retries >= retries_max {
            self.forget(flow);
            return None;
        }
        *retries += 1;
        *due = now + request_timeout(*retries);
        Some(syn_ack(flow, known))
    }

    /// The daemon removes a half-open connection: the client has chosen another host.
    /// Returns the sequence number of this host in it, if there was one.
    pub fn destroy(&mut self, flow: FlowId) -> Option<u32> {
        let known = self.flows.get(&flow)?;
        let half = matches!(known.socket, Socket::Half { .. } | Socket::Cookie);
        let isn = half.then_some(known.isn)?;
        self.forget(flow);
        Some(isn)
    }

    /// The daemon removes what is left of an earlier attempt, unless that is a connection (spec 9).
    /// True if it did.
    pub fn remove_leftover(&mut self, flow: FlowId) -> bool {
        match self.flows.get(&flow).map(|flow| flow.socket) {
            Some(Socket::Stands { .. }) => false,
            Some(Socket::Half { .. } | Socket::Cookie | Socket::TimeWait { .. }) | None => {
                self.forget(flow);
                true
            }
        }
    }

    /// The service has the answer, and is done with the connection.
    pub fn answer(&mut self, flow: FlowId) -> Vec<Segment> {
        let Some(known) = self.flows.get(&flow).copied() else { return Vec::new() };
        let Socket::Stands { taken_up, asked, .. } = known.socket else { return Vec::new() };
        self.set(flow, Socket::Stands { taken_up, asked, answered: true });
        let answer = answer(flow, &known, self.first_word);
        let sequence = answer.sequence.wrapping_add(answer.length);
        match self.closes {
            Closes::Client => vec![answer],
            Closes::Server => {
                vec![answer, Segment { flag: Flag::Fin, sequence, length: 0, ..answer }]
            }
        }
    }
}

impl Socket {
    /// The service has accepted it and has not answered yet.
    fn is_worked_on(self) -> bool {
        matches!(self, Socket::Stands { taken_up: true, answered: false, .. })
    }
}

/// `reqsk_timeout`.
fn request_timeout(retries: u32) -> Duration {
    Duration::from_secs(1 << retries.min(6))
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

/// Is it of the connection that is half-open? To what is not, a request socket says what it waits for
/// (`tcp_check_req`), before it looks at the acknowledgement.
fn is_in_window(segment: Segment, flow: &Flow) -> bool {
    segment.sequence.wrapping_sub(flow.client_isn.wrapping_add(1)) < SEQUENCE_WINDOW
}

/// What says which connection there is already.
fn challenge(id: FlowId, flow: &Flow) -> Segment {
    Segment { flag: Flag::Ack, sequence: flow.isn.wrapping_add(1), ..syn_ack(id, flow) }
}

fn greeting(id: FlowId, flow: &Flow) -> Segment {
    Segment { length: GREETING, ..challenge(id, flow) }
}

fn answer(id: FlowId, flow: &Flow, first_word: FirstWord) -> Segment {
    let greeted = if first_word == FirstWord::Server { GREETING } else { 0 };
    Segment {
        flow: id,
        flag: Flag::Ack,
        sequence: flow.isn.wrapping_add(1 + greeted),
        acknowledgement: flow.client_isn.wrapping_add(1 + REQUEST),
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
