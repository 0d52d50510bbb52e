//! Clients: Linux's TCP as far as a second answer to a SYN can matter to it.

use std::time::Duration;

use clusterd::protocol::Instant;

use crate::packet::{Flag, FlowId, Segment};
use crate::scenario::{Closes, FirstWord, SynSchedule};

/// Bytes of a request.
pub const REQUEST: u32 = 200;
/// Bytes with which a server that speaks first begins.
pub const GREETING: u32 = 40;
/// Bytes of an answer.
pub const ANSWER: u32 = 1_000;
/// What a client's socket takes in one go, in bytes.
const WINDOW: u32 = 64_240;
/// SYNs beyond the first (`tcp_syn_retries`).
const SYN_RETRIES: u32 = 6;
/// So many seconds of the linear schedule are equal, and a retransmission each comes on top of
/// [`SYN_RETRIES`] (`tcp_syn_linear_timeouts`). Seen on 6.18: SYNs at 0, 1, 2, 3, 4, 5, 7, 11 s.
const LINEAR: u32 = 4;
/// So long a client that has closed first answers what comes late (`TCP_TIMEWAIT_LEN`).
const TIME_WAIT: Duration = Duration::from_secs(60);
/// A socket says at most so often that something does not fit (`tcp_invalid_ratelimit`).
const CHALLENGE_EVERY: Duration = Duration::from_millis(500);

/// How a connection went, as its client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not over yet.
    Open,
    /// The whole answer came.
    Served,
    /// A RST came instead of the first SYN-ACK.
    Refused,
    /// A RST ended the connection once it stood.
    Reset,
    /// Nobody answered in time.
    TimedOut,
    /// It stood, and the answer never came.
    Stalled,
    /// The client has forgotten it.
    Rebooted,
}

impl Outcome {
    /// The client has not got what it wanted.
    pub fn is_failure(self) -> bool {
        match self {
            Outcome::Refused | Outcome::Reset | Outcome::TimedOut | Outcome::Stalled => true,
            Outcome::Open | Outcome::Served | Outcome::Rebooted => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    SynSent,
    /// All bytes before `next` have come from the server.
    Established {
        next: u32,
        asked: bool,
    },
    /// It has closed first, and has heard all bytes before `next`.
    TimeWait {
        next: u32,
        until: Instant,
    },
    Closed,
}

/// One connection attempt of a client.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its addresses and ports.
    pub flow: FlowId,
    /// Its initial sequence number.
    pub isn: u32,
    /// When its first SYN left.
    pub started: Instant,
    state: State,
    /// SYNs sent.
    pub syns: u32,
    /// How it went.
    pub outcome: Outcome,
    /// When the first SYN-ACK came, and the end of the answer.
    pub connected: Option<Instant>,
    /// When it was over.
    pub ended: Option<Instant>,
    /// SYN-ACKs of other servers than the first.
    pub second_syn_acks: u32,
    challenged: Option<Instant>,
    first_word: FirstWord,
    closes: Closes,
    /// The server's FIN, if it has come before the answer.
    early_fin: Option<u32>,
}

impl Client {
    /// A client that is about to send its first SYN.
    pub fn new(
        flow: FlowId,
        isn: u32,
        started: Instant,
        first_word: FirstWord,
        closes: Closes,
    ) -> Self {
        Self {
            flow,
            isn,
            started,
            state: State::SynSent,
            syns: 0,
            outcome: Outcome::Open,
            connected: None,
            ended: None,
            second_syn_acks: 0,
            challenged: None,
            first_word,
            closes,
            early_fin: None,
        }
    }

    fn segment(&self, flag: Flag, sequence: u32, acknowledgement: u32, length: u32) -> Segment {
        Segment { flow: self.flow, flag, sequence, acknowledgement, length }
    }

    fn end(&mut self, now: Instant, outcome: Outcome) {
        (self.state, self.outcome, self.ended) = (State::Closed, outcome, Some(now));
    }

    /// Time to send the SYN, first or again. `None` if nothing is to be sent any more; else the
    /// SYN and how long to wait for an answer.
    pub fn syn(&mut self, schedule: SynSchedule) -> Option<(Segment, Duration)> {
        let sent = self.syns;
        let (retries, seconds) = match schedule {
            SynSchedule::Linear => (SYN_RETRIES + LINEAR, 1 << sent.saturating_sub(LINEAR)),
            SynSchedule::Exponential => (SYN_RETRIES, 1 << sent),
        };
        if self.state != State::SynSent || sent > retries {
            return None;
        }
        self.syns += 1;
        Some((self.segment(Flag::Syn, self.isn, 0, 0), Duration::from_secs(seconds)))
    }

    /// The client forgets the connection, and says nothing about it.
    pub fn reboot(&mut self, now: Instant) {
        match self.state {
            State::SynSent | State::Established { .. } => self.end(now, Outcome::Rebooted),
            State::TimeWait { .. } | State::Closed => self.state = State::Closed,
        }
    }

    /// The client has lost patience. Returns what it says to that.
    pub fn give_up(&mut self, now: Instant) -> Option<Segment> {
        match self.state {
            State::SynSent => self.end(now, Outcome::TimedOut),
            State::Established { next, .. } => {
                self.end(now, Outcome::Stalled);
                return Some(self.fin(next));
            }
            State::TimeWait { .. } | State::Closed => {}
        }
        None
    }

    /// A segment has come; returns those that answer it.
    pub fn receive(&mut self, now: Instant, segment: Segment) -> Vec<Segment> {
        let after_isn = self.isn.wrapping_add(1);
        match (self.state, segment.flag) {
            (State::SynSent, Flag::SynAck) if segment.acknowledgement == after_isn => {
                self.connected = Some(now);
                let next = segment.sequence.wrapping_add(1);
                let asked = self.first_word == FirstWord::Client;
                self.state = State::Established { next, asked };
                let ack = self.segment(Flag::Ack, after_isn, next, 0);
                match asked {
                    true => vec![ack, self.request(next)],
                    false => vec![ack],
                }
            }
            // RFC 9293 3.10.7.3: a SYN-ACK of something else is answered by a RST.
            (State::SynSent, Flag::SynAck) => {
                vec![self.segment(Flag::Rst, segment.acknowledgement, 0, 0)]
            }
            (State::SynSent, Flag::Refusal) if segment.acknowledgement == after_isn => {
                self.end(now, Outcome::Refused);
                Vec::new()
            }
            // A socket of an earlier connection answers: RFC 9293 3.10.7.3 again.
            (State::SynSent, Flag::Ack) if segment.acknowledgement != after_isn => {
                vec![self.segment(Flag::Rst, segment.acknowledgement, 0, 0)]
            }
            (State::SynSent, _) => Vec::new(),
            // Somebody else's, or the same once more: a challenge ACK (RFC 5961 4.2), which says
            // what the client has.
            (State::Established { next, asked }, Flag::SynAck) => {
                self.second_syn_acks += u32::from(segment.sequence.wrapping_add(1) != next);
                self.challenge(now, next, sent(asked))
            }
            (State::Established { next, asked }, Flag::Rst) => {
                let ahead = segment.sequence.wrapping_sub(next);
                if ahead == 0 {
                    self.end(now, Outcome::Reset);
                    return Vec::new();
                }
                // RFC 5961 3.2: within the window but not exact.
                if ahead < WINDOW { self.challenge(now, next, sent(asked)) } else { Vec::new() }
            }
            (State::Established { next, asked }, Flag::Ack | Flag::Fin)
                if segment.sequence == next =>
            {
                self.hear(now, segment, next, asked)
            }
            // It has overtaken what the server has said before.
            (State::Established { .. }, Flag::Fin) => {
                self.early_fin = Some(segment.sequence);
                Vec::new()
            }
            (State::Established { .. }, Flag::Syn | Flag::Ack | Flag::Refusal) => Vec::new(),
            // `tcp_timewait_state_process`: a late second answer learns whom the client has chosen.
            (State::TimeWait { next, until }, Flag::SynAck) if now < until => {
                self.second_syn_acks += 1;
                self.challenge(now, next, REQUEST + 1)
            }
            (State::TimeWait { until, .. }, _) if now < until => Vec::new(),
            // RFC 9293 3.10.7.1: nobody is there any more.
            (State::TimeWait { .. } | State::Closed, Flag::SynAck) => {
                self.second_syn_acks += 1;
                vec![self.segment(Flag::Rst, segment.acknowledgement, 0, 0)]
            }
            (State::Closed, Flag::Fin) if self.outcome == Outcome::Served => {
                vec![self.fin(segment.sequence.wrapping_add(1))]
            }
            (State::TimeWait { .. } | State::Closed, _) => Vec::new(),
        }
    }

    /// What the server says.
    fn hear(&mut self, now: Instant, segment: Segment, next: u32, asked: bool) -> Vec<Segment> {
        if segment.length == 0 {
            return Vec::new();
        }
        let next = next.wrapping_add(segment.length);
        self.state = State::Established { next, asked: true };
        if !asked {
            return vec![self.request(next)];
        }
        self.end(now, Outcome::Served);
        match self.closes {
            Closes::Client => {
                self.state = State::TimeWait { next, until: now + TIME_WAIT };
                vec![self.fin(next)]
            }
            Closes::Server if self.early_fin == Some(next) => vec![self.fin(next.wrapping_add(1))],
            Closes::Server => Vec::new(),
        }
    }

    /// Nothing has come for a while: says the last thing again. `None` if nothing is due.
    pub fn say_again(&self) -> Option<Segment> {
        match self.state {
            State::Established { next, asked: true } => Some(self.request(next)),
            State::Established { next, asked: false } => {
                Some(self.segment(Flag::Ack, self.isn.wrapping_add(1), next, 0))
            }
            State::SynSent | State::TimeWait { .. } | State::Closed => None,
        }
    }

    fn request(&self, next: u32) -> Segment {
        self.segment(Flag::Ack, self.isn.wrapping_add(1), next, REQUEST)
    }

    fn fin(&self, next: u32) -> Segment {
        self.segment(Flag::Fin, self.isn.wrapping_add(1 + REQUEST), next, 0)
    }

    /// Says what it has, and has said `sent` bytes before.
    fn challenge(&mut self, now: Instant, next: u32, sent: u32) -> Vec<Segment> {
        if self.challenged.is_some_and(|last| now.since(last) < CHALLENGE_EVERY) {
            return Vec::new();
        }
        self.challenged = Some(now);
        vec![self.segment(Flag::Ack, self.isn.wrapping_add(1 + sent), next, 0)]
    }
}
/// Bytes that a client has sent.
fn sent(asked: bool) -> u32 {
    if asked { REQUEST } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When the SYNs leave, in seconds after the first.
    fn syns(schedule: SynSchedule) -> Vec<u64> {
        let mut client =
            Client::new(FlowId(0), 1, Instant::default(), FirstWord::Client, Closes::Client);
        let waits = std::iter::from_fn(|| client.syn(schedule)).map(|(_, wait)| wait.as_secs());
        let left = |at: &mut u64, wait| {
            let left = *at;
            *at += wait;
            Some(left)
        };
        waits.scan(0, left).collect()
    }

    /// As seen on Linux 6.18, and as `tcp_syn_retries` is documented.
    #[test]
    fn syns_are_said_again_as_linux_does() {
        let linear = syns(SynSchedule::Linear);
        assert_eq!(linear, [0, 1, 2, 3, 4, 5, 7, 11, 19, 35, 67]);
        assert_eq!(syns(SynSchedule::Exponential), [0, 1, 3, 7, 15, 31, 63]);
    }

    #[test]
    fn who_has_closed_first_names_its_host_to_a_late_answer() {
        let at = Instant::default();
        let mut client = Client::new(FlowId(0), 1, at, FirstWord::Client, Closes::Client);
        client.syn(SynSchedule::Linear);
        let syn_ack = |sequence| Segment {
            flow: FlowId(0),
            flag: Flag::SynAck,
            sequence,
            acknowledgement: 2,
            length: 0,
        };
        client.receive(at, syn_ack(1_000));
        let answer = Segment { flag: Flag::Ack, length: ANSWER, ..syn_ack(1_001) };
        client.receive(at, answer);
        assert_eq!(client.outcome, Outcome::Served);
        let late = |client: &mut Client, at| {
            let said = client.receive(at, syn_ack(900_000));
            said.iter().map(|segment| (segment.flag, segment.acknowledgement)).collect::<Vec<_>>()
        };
        assert_eq!(late(&mut client, at), [(Flag::Ack, 1_001 + ANSWER)]);
        assert_eq!(late(&mut client, at + TIME_WAIT), [(Flag::Rst, 0)]);
    }
}
