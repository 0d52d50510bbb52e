//! A host's turn: what the driver of spec 6.1 does, and its kernel.

use std::sync::Arc;

use clusterd::flow::NodeId;
use clusterd::protocol::{Counters, Output, Syn, Ticket, Verdict};
use clusterd::wire::{Contest, Entry, Frame};

use crate::scope::{Guard, Variant, client_isn, key, moment, node_id, tick};
use crate::story;
use crate::world::{Actor, Course, Flight, Host, Packet, Property, Socket, Sometimes, Step, World};

/// Tickets from here on are held ACKs, with the number that they acknowledge.
const ACK: u64 = 1 << 32;

/// A kernel waits so many ticks for the ACK before it sends its SYN-ACK again.
const AGAIN: u64 = 40;

enum Interrupt {
    None,
    Crash,
    Nap(u64),
}

impl World {
    pub fn host_turn(&mut self, index: usize, inbox: Vec<Flight>, course: &mut Course<'_>) {
        let Some(host) = self.hosts[index].as_deref() else { return };
        let mut host = host.clone();
        let before = *host.node.counters();
        let from = host.asleep.take().map_or(Step::Read, |(_, step)| step);
        let stopped = self.steps(index, &mut host, from, inbox, course);
        note(course, &before, host.node.counters());
        match stopped {
            None => {
                // What fell due while it was paused is done in the next turn.
                let spins = from == Step::Read && tick(host.node.poll_timeout()) <= self.now;
                assert!(!spins, "h{index} would spin at {}", self.now);
                assert_eq!(host.acks, 0, "h{index} holds an ACK");
                self.put(index, Some(host), course);
            }
            Some((Interrupt::Crash, step)) => {
                course
                    .tell(self.now, story::host(index), || format!("CRASHES {}", story::at(step)));
                self.crashes -= 1;
                self.put(index, None, course);
            }
            Some((Interrupt::None, _)) => unreachable!("not an interrupt"),
            Some((Interrupt::Nap(ticks), step)) => {
                course.tell(self.now, story::host(index), || {
                    format!("IS PAUSED {} for {ticks} ticks", story::at(step))
                });
                self.pauses -= 1;
                host.asleep = Some((self.now + ticks, step));
                host.slept = Some(self.now);
                self.put(index, Some(host), course);
            }
        }
    }

    /// The turn from `from` on. Something if the adversary cut it short, and where.
    fn steps(
        &mut self,
        index: usize,
        host: &mut Host,
        from: Step,
        inbox: Vec<Flight>,
        course: &mut Course<'_>,
    ) -> Option<(Interrupt, Step)> {
        let now = moment(self.now);
        if from <= Step::Read {
            match self.interrupt(course) {
                Interrupt::None => {}
                interrupt => {
                    // What was not read waits.
                    self.flights.extend(inbox);
                    return Some((interrupt, Step::Read));
                }
            }
            let packets = inbox.into_iter().map(|flight| flight.packet).collect();
            self.read(index, host, packets, course);
        }
        if from <= Step::Decide && host.node.poll_timeout() <= now {
            if from < Step::Decide {
                match self.interrupt(course) {
                    Interrupt::None => {}
                    interrupt => return Some((interrupt, Step::Decide)),
                }
            }
            host.node.handle_timeout(now);
        }
        let mut answered = false;
        loop {
            host.outputs.extend(std::iter::from_fn(|| host.node.poll_output()));
            let accepts = |output: &Output| matches!(output, Output::Decide(_, Verdict::Accept));
            if from < Step::CarryOut && !answered && host.outputs.iter().any(accepts) {
                match self.interrupt(course) {
                    Interrupt::None => {}
                    interrupt => return Some((interrupt, Step::CarryOut)),
                }
            }
            answered = true;
            if host.outputs.is_empty() {
                break;
            }
            for output in std::mem::take(&mut host.outputs) {
                self.carry_out(index, host, output, course);
            }
        }
        host.unsent.extend(std::iter::from_fn(|| host.node.poll_frame(now).cloned()));
        if from < Step::Send && !host.unsent.is_empty() {
            match self.interrupt(course) {
                Interrupt::None => {}
                interrupt => return Some((interrupt, Step::Send)),
            }
        }
        for frame in std::mem::take(&mut host.unsent) {
            self.broadcast(index, host, frame, course);
        }
        None
    }

    fn interrupt(&self, course: &mut Course<'_>) -> Interrupt {
        let crash = usize::from(self.crashes > 0);
        let naps = if self.pauses > 0 { course.scope.naps } else { &[] };
        match course.choices.pick(1 + crash + naps.len()) {
            0 => Interrupt::None,
            1 if crash > 0 => Interrupt::Crash,
            nap => Interrupt::Nap(naps[nap - 1 - crash]),
        }
    }

    fn read(
        &mut self,
        index: usize,
        host: &mut Host,
        mut packets: Vec<Packet>,
        course: &mut Course<'_>,
    ) {
        // Frames of two senders may come in either order.
        let sender = |packet: &Packet| match packet {
            Packet::Frame { from, .. } => Some(*from),
            _ => None,
        };
        let frames = packets.iter().filter(|packet| sender(packet).is_some()).count();
        let several = packets[..frames].iter().any(|p| sender(p) != sender(&packets[0]));
        if several && course.choices.pick(2) == 1 {
            packets[..frames].sort_by_key(|packet| std::cmp::Reverse(sender(packet)));
        }
        for packet in packets {
            course.tell(self.now, story::host(index), || story::reads(&packet));
            match packet {
                Packet::Frame { from, frame } => self.read_frame(index, host, from, &frame, course),
                Packet::Evidence { attempt, isn } => {
                    let fed = fed_isn(course, attempt);
                    host.node.handle_syn_ack(moment(self.now), course.flow, fed, isn);
                }
                Packet::Syn { attempt } => self.read_syn(index, host, attempt, course),
                Packet::Ack { number } => self.read_ack(index, host, number, course),
                Packet::SynAck { .. } | Packet::Repeat | Packet::Anew | Packet::Again { .. } => {
                    unreachable!("for others")
                }
            }
        }
    }

    fn read_frame(
        &mut self,
        index: usize,
        host: &mut Host,
        from: usize,
        frame: &Frame,
        course: &mut Course<'_>,
    ) {
        if course.scope.variant == Variant::Retracting
            && let (Some(Socket::Half { .. }), Some(mine)) = (host.socket, host.said)
        {
            let better = |entry: &Entry| match entry {
                Entry::Claim(theirs) => order(theirs, node_id(from)) < order(&mine, node_id(index)),
                _ => false,
            };
            if frame.entries.iter().any(better) {
                course.tell(self.now, story::host(index), || "GIVES WAY silently".into());
                host.socket = None;
                host.destroyed += 1;
                host.retracted = true;
                return;
            }
        }
        host.node.handle_frame(moment(self.now), frame);
    }

    fn read_syn(&mut self, index: usize, host: &mut Host, attempt: u8, course: &mut Course<'_>) {
        let now = moment(self.now);
        host.syns += 1;
        let ticket = Ticket(host.syns.into());
        host.held.push((ticket, self.now, attempt));
        self.facts[usize::from(attempt)].got |= 1 << index;
        let incumbent = host.socket.is_some();
        let isn = fed_isn(course, attempt);
        host.node.handle_listener(now, course.scope.service(), host.listener);
        host.node.handle_syn(now, Syn { ticket, flow: course.flow, isn, incumbent });
    }

    fn read_ack(&mut self, index: usize, host: &mut Host, number: u32, course: &mut Course<'_>) {
        let now = moment(self.now);
        match (course.scope.guard, host.socket) {
            // A confirmed connection passes in the kernel, whatever it says.
            (_, Some(Socket::Full { .. })) => {}
            (Guard::Strict, _) => {
                host.acks += 1;
                let ticket = Ticket(ACK | u64::from(number));
                host.node.handle_ack(now, course.flow, number, Some(ticket));
            }
            (Guard::Rst, Some(Socket::Half { isn, .. })) if number == isn.wrapping_add(1) => {
                self.kernel_ack(index, host, number, course);
            }
            (Guard::Rst, Some(Socket::Half { .. })) => {
                host.node.handle_ack(now, course.flow, number, None);
            }
            (Guard::Rst, None) => {}
            (Guard::Missing, _) => self.kernel_ack(index, host, number, course),
        }
    }

    fn carry_out(
        &mut self,
        index: usize,
        host: &mut Host,
        output: Output,
        course: &mut Course<'_>,
    ) {
        course.tell(self.now, story::host(index), || story::output(&output));
        match output {
            Output::Decide(Ticket(ack), verdict) if ack >= ACK => {
                host.acks = host.acks.checked_sub(1).expect("one verdict for each ACK");
                if verdict == Verdict::Accept {
                    self.kernel_ack(index, host, ack as u32, course);
                }
            }
            Output::Decide(ticket, verdict) => {
                let Some(at) = host.held.iter().position(|&(held, ..)| held == ticket) else {
                    course.breaks(Property::OneVerdict, || format!("h{index} decides twice"));
                    return;
                };
                let (_, since, attempt) = host.held.remove(at);
                let stale = tick(moment(since) + course.scope.timers.stale);
                if self.now > stale && host.slept.is_none_or(|slept| slept < since) {
                    course.breaks(Property::OneVerdict, || format!("h{index} decides late"));
                }
                if verdict == Verdict::Accept {
                    self.kernel_syn(index, host, attempt, course);
                }
            }
            Output::Destroy(_) => {
                if let Some(Socket::Half { isn, .. }) = host.socket {
                    if self.client.chosen == Some((index, isn)) {
                        course.breaks(Property::ChosenSurvives, || {
                            format!("h{index} destroys what the client chose")
                        });
                    }
                    host.socket = None;
                    host.destroyed += 1;
                }
            }
            Output::Notice(_) => {}
            // What the kernel decides by itself is not modelled.
            Output::Share(_) => {}
            Output::Block(_) | Output::Inquire(_) => unreachable!("for datagrams"),
        }
    }

    fn kernel_syn(&mut self, index: usize, host: &mut Host, attempt: u8, course: &mut Course<'_>) {
        let isn = match host.socket {
            Some(Socket::Half { attempt: same, isn }) if same == attempt => isn,
            // A copy of the SYN of an open or a newer connection: a challenge ACK, no SYN-ACK.
            Some(Socket::Full { attempt: newer } | Socket::Half { attempt: newer, .. })
                if newer >= attempt =>
            {
                return;
            }
            _ => {
                let (host_part, generation) = ((index as u32 + 1) << 28, host.destroyed);
                host_part | u32::from(attempt) << 8 | u32::from(generation) << 4
            }
        };
        if host.socket != Some(Socket::Half { attempt, isn }) {
            let again = Packet::Again { attempt, isn };
            self.send(self.now + AGAIN, Actor::Kernel(index), again);
        }
        host.socket = Some(Socket::Half { attempt, isn });
        let facts = &mut self.facts[usize::from(attempt)];
        facts.answered |= 1 << index;
        let answered = facts.answered;
        course.tell(self.now, story::host(index), || format!("SYN-ACK leaves, number {isn:#x}"));
        if answered.count_ones() > 1 {
            course.breaks(Property::SingleAnswer, || format!("hosts {answered:#b} have answered"));
        }
        let lost = usize::from(self.losses > 0);
        match course.scope.answers.get(course.choices.pick(course.scope.answers.len() + lost)) {
            Some(delay) => {
                let packet = Packet::SynAck { from: index, attempt, isn };
                self.send(self.now + delay, Actor::Client, packet);
            }
            None => {
                course.tell(self.now, "", || "the SYN-ACK IS LOST".into());
                self.losses -= 1;
            }
        }
        match course.scope.evidence[course.choices.pick(course.scope.evidence.len())] {
            0 => {
                let fed = fed_isn(course, attempt);
                host.node.handle_syn_ack(moment(self.now), course.flow, fed, isn);
            }
            delay => {
                let packet = Packet::Evidence { attempt, isn };
                self.send(self.now + delay, Actor::Host(index), packet);
            }
        }
    }

    /// The client was silent: the kernel sends its SYN-ACK again, whatever the daemon does.
    pub fn kernel_timer(&mut self, index: usize, inbox: Vec<Flight>, course: &mut Course<'_>) {
        let socket = self.hosts[index].as_ref().and_then(|host| host.socket);
        for flight in inbox {
            if let Packet::Again { attempt, isn } = flight.packet
                && socket == Some(Socket::Half { attempt, isn })
            {
                course.tell(self.now, story::host(index), || "SYN-ACK leaves again".into());
                let syn_ack = Packet::SynAck { from: index, attempt, isn };
                self.send(self.now + 1, Actor::Client, syn_ack);
                let evidence = Packet::Evidence { attempt, isn };
                self.send(self.now + 1, Actor::Host(index), evidence);
                self.send(self.now + AGAIN, Actor::Kernel(index), flight.packet);
            }
        }
    }

    fn kernel_ack(&mut self, index: usize, host: &mut Host, number: u32, course: &mut Course<'_>) {
        match host.socket {
            Some(Socket::Half { attempt, isn }) if isn.wrapping_add(1) == number => {
                host.socket = Some(Socket::Full { attempt });
                let facts = &mut self.facts[usize::from(attempt)];
                if facts.accepted != 0 {
                    course.breaks(Property::OneAccept, || {
                        format!("h{index} delivers attempt {attempt} once more")
                    });
                }
                facts.accepted |= 1 << index;
            }
            Some(Socket::Full { .. }) => {}
            // RFC 9293: a wrong acknowledgement in SYN-RECEIVED is answered by a RST.
            Some(Socket::Half { .. }) | None => {
                course.breaks(Property::NoReset, || format!("h{index} resets the client"));
            }
        }
    }

    fn broadcast(&mut self, index: usize, host: &mut Host, frame: Frame, course: &mut Course<'_>) {
        if course.scope.variant == Variant::Retracting {
            let says = |entry: &Entry| match entry {
                Entry::Claim(contest) | Entry::Own(contest) => Some(*contest),
                _ => None,
            };
            if host.retracted {
                return;
            }
            host.said = host.said.or_else(|| frame.entries.iter().find_map(says));
        }
        course.tell(self.now, story::host(index), || format!("says {}", story::frame(&frame)));
        let frame = Arc::new(frame);
        let delays = course.scope.delays;
        for to in (0..self.hosts.len()).filter(|&to| to != index) {
            if self.hosts[to].is_none() || course.cut.contains(&(index, to)) {
                continue;
            }
            let packet = Packet::Frame { from: index, frame: frame.clone() };
            let (lost, doubled) = (usize::from(self.losses > 0), usize::from(self.doubles > 0));
            // A copy comes two ticks, or long, after its original.
            let copies = [2, 9];
            let of = delays.len() + lost + doubled * copies.len() * delays.len();
            let picked = course.choices.pick(of);
            if let Some(delay) = delays.get(picked) {
                self.send(self.now + delay, Actor::Host(to), packet);
            } else if picked == delays.len() && lost > 0 {
                course.tell(self.now, "", || format!("the frame to h{to} IS LOST"));
                self.losses -= 1;
            } else {
                let variant = picked - delays.len() - lost;
                let delay = self.now + delays[variant / copies.len()];
                let copy = delay + copies[variant % copies.len()];
                course.tell(self.now, "", || format!("the frame to h{to} IS DOUBLED"));
                self.doubles -= 1;
                self.send(delay, Actor::Host(to), packet.clone());
                self.send(copy, Actor::Host(to), packet);
            }
        }
    }
}

/// What the driver says the client's sequence number is.
fn fed_isn(course: &Course<'_>, attempt: u8) -> u32 {
    match course.scope.variant {
        Variant::Production | Variant::Retracting => client_isn(attempt),
        Variant::WithoutIsn => 0,
    }
}

/// The order of claims, spec 5.3.
pub fn order(claim: &Contest, node: NodeId) -> (u8, u8, u64, NodeId) {
    (claim.tries, claim.rank, key().tie_break(claim.attempt, node), node)
}

fn note(course: &mut Course<'_>, before: &Counters, after: &Counters) {
    use Sometimes as S;
    let grown = [
        (S::Eager, before.eager, after.eager),
        (S::Claimed, before.claims, after.claims),
        (S::TakenOver, before.takeovers, after.takeovers),
        (S::Released, before.releases, after.releases),
        (S::Conflict, before.conflicts, after.conflicts),
        (S::NotChosen, before.not_chosen, after.not_chosen),
        (S::Yielded, before.yielded, after.yielded),
        (S::GaveUp, before.mute, after.mute),
        (S::Stale, before.stale, after.stale),
    ];
    let grown = grown.into_iter().filter(|(_, before, after)| before < after);
    course.seen.extend(grown.map(|(what, ..)| what));
}
