//! The client: it takes the SYN-ACK that comes first, and all hosts hear its ACK.

use crate::story;
use crate::world::{Actor, Course, Packet, Property, Socket, World};

impl World {
    /// The client sends its first SYN at this tick.
    pub fn connect(&mut self, course: &mut Course<'_>) {
        self.client.started = self.now;
        let skews = course.scope.skews;
        self.flood(skews, Packet::Syn { attempt: 0 }, course);
        let repeats = course.scope.repeats;
        if let Some(at) = course.choices.pick(1 + repeats.len()).checked_sub(1) {
            self.send(self.now + repeats[at], Actor::Client, Packet::Repeat);
        }
        let reuses = course.scope.reuses;
        if !reuses.is_empty() {
            let at = self.now + reuses[course.choices.pick(reuses.len())];
            self.send(at, Actor::Client, Packet::Anew);
        }
    }

    pub fn client_turn(&mut self, mut packets: Vec<Packet>, course: &mut Course<'_>) {
        // Of SYN-ACKs that come together, any may be the first.
        if self.client.chosen.is_none() {
            let first = course.choices.pick(packets.len());
            packets.rotate_left(first);
        }
        for packet in packets {
            course.tell(self.now, "client", || story::reads(&packet));
            match packet {
                Packet::SynAck { from, attempt, isn } => {
                    self.client_answered(from, attempt, isn, course);
                }
                Packet::Repeat => {
                    if self.client.chosen.is_none() {
                        let attempt = self.client.attempt;
                        self.flood(course.scope.acks, Packet::Syn { attempt }, course);
                    }
                }
                Packet::Anew => {
                    self.client.attempt = 1;
                    self.client.chosen = None;
                    self.client.started = self.now;
                    self.flood(course.scope.skews, Packet::Syn { attempt: 1 }, course);
                }
                Packet::Frame { .. }
                | Packet::Syn { .. }
                | Packet::Ack { .. }
                | Packet::Evidence { .. }
                | Packet::Again { .. } => unreachable!("for hosts"),
            }
        }
    }

    fn client_answered(&mut self, from: usize, attempt: u8, isn: u32, course: &mut Course<'_>) {
        if self.client.chosen.is_none() {
            // To one of an earlier attempt a client would send a reset; that only ends sooner
            // what ends here when that SYN-ACK comes again.
            if attempt != self.client.attempt {
                return;
            }
            self.client.chosen = Some((from, isn));
            let socket = self.hosts[from].as_ref().map(|host| host.socket);
            if socket.is_some_and(|socket| socket != Some(Socket::Half { attempt, isn })) {
                course.breaks(Property::ChosenSurvives, || {
                    format!("the client is connected to h{from}, where there is nothing")
                });
            }
        }
        // To a second SYN-ACK this is the challenge ACK of RFC 5961: the first one's number.
        if let Some((_, chosen)) = self.client.chosen {
            let number = chosen.wrapping_add(1);
            self.flood(course.scope.acks, Packet::Ack { number }, course);
        }
    }

    /// All hosts get this, each after one of `delays`; what the client sends stays in order.
    fn flood(&mut self, delays: &[u64], packet: Packet, course: &mut Course<'_>) {
        self.client.sent += 1;
        course.tell(self.now, "client", || format!("sends {}", story::packet(&packet)));
        for host in 0..self.hosts.len() {
            if self.hosts[host].is_none() || course.scope.lacking.contains(&host) {
                continue;
            }
            let lost = usize::from(self.losses > 0);
            let Some(delay) = delays.get(course.choices.pick(delays.len() + lost)) else {
                course.tell(self.now, "", || format!("the copy to h{host} IS LOST"));
                self.losses -= 1;
                continue;
            };
            let to = Actor::Host(host);
            let ours = |packet: &Packet| matches!(packet, Packet::Syn { .. } | Packet::Ack { .. });
            let before =
                self.flights.iter().filter(|flight| flight.to == to && ours(&flight.packet));
            let at = before.map(|flight| flight.at).fold(self.now + delay, u64::max);
            self.send(at, to, packet.clone());
        }
    }
}
