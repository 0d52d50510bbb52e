//! What happens to hosts and what they do.

use std::rc::Rc;

use clusterd::protocol::{Instant, Verdict};

use super::{Connection, Event, World};
use crate::chance::after;
use crate::fault::FaultKind;
use crate::host::{Deed, Host};
use crate::network::Station;
use crate::packet::{Flag, FlowId, Packet, Segment};
use crate::record::{Happening, Record};
use crate::scenario::Scenario;
use crate::service::Service;

impl<R: Record> World<'_, R> {
    pub(super) fn start(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if slot.host.is_some() {
            return;
        }
        slot.life += 1;
        let life = slot.life;
        let host = Host::start(self.scenario, self.seed, index, self.now, u64::from(life));
        slot.host = Some(host);
        self.record.note(self.now, Happening::Started { host: index as u16 });
        self.events.schedule(self.now, Event::Step { host: index as u16, life, epoch: 0 });
    }

    pub(super) fn kill(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.counted = slot.counts();
        slot.host = None;
        slot.service = Service::new(self.scenario.speed(index));
    }

    pub(super) fn schedule_pause(&mut self, host: usize) {
        let mean = 1e9 / self.scenario.pauses_per_second;
        let gap = -(1.0 - self.pauses[host].unit()).ln() * mean;
        self.events.schedule(after(self.now, gap as u64), Event::Pause(host as u16));
    }

    pub(super) fn pause(&mut self, index: usize, until: Instant) {
        if let Some(host) = &mut self.slots[index].host {
            host.pause(until);
            self.record.note(self.now, Happening::Paused { host: index as u16, until });
        }
    }

    /// Something goes wrong now, or right again.
    pub fn inflict(&mut self, fault: &FaultKind) {
        self.record.note(self.now, Happening::Fault(fault));
        let stations = || (0..self.scenario.hosts as u16).map(Station);
        match *fault {
            FaultKind::Kill(host) => self.kill(host),
            FaultKind::Start(host) => self.start(host),
            FaultKind::Stop(host, time) => self.pause(host, self.now + time),
            FaultKind::Mute(host) => {
                stations().for_each(|to| self.network.cut(Station(host as u16), to, true));
            }
            FaultKind::Deaf(host) => {
                stations().for_each(|from| self.network.cut(from, Station(host as u16), true));
            }
            FaultKind::Part(ref hosts) => {
                let here = |station: Station| hosts.contains(&usize::from(station.0));
                for (from, to) in stations().flat_map(|from| stations().map(move |to| (from, to))) {
                    self.network.cut(from, to, here(from) != here(to));
                }
            }
            FaultKind::Shut(host) | FaultKind::Serve(host) => {
                if let Some(it) = &mut self.slots[host].host {
                    it.kernel.serves = matches!(fault, FaultKind::Serve(_));
                }
            }
            FaultKind::Heal => self.network.heal(),
            FaultKind::Calm => {
                self.network.calm();
                self.calm = true;
            }
        }
    }

    /// A frame has got through a host's interface.
    pub(super) fn receive(&mut self, station: Station, packet: Packet) {
        let now = self.now;
        let life = self.slots[usize::from(station.0)].life;
        match packet {
            Packet::Claim(bytes) => {
                let mut heard = false;
                self.with_host(station.0, life, |host, scenario, deeds| {
                    heard = host.hear(now, scenario, bytes.clone(), deeds);
                });
                if heard {
                    self.record.note(now, Happening::Heard { host: station.0, bytes: &bytes });
                }
            }
            Packet::Tcp(segment) => {
                let runs = self.slots[usize::from(station.0)].host.is_some();
                if !runs || !self.reaches(station.0, segment) {
                    return;
                }
                self.record.note(now, Happening::Arrived { host: station.0, segment: &segment });
                self.with_host(station.0, life, |host, scenario, deeds| {
                    host.receive(now, scenario, segment, deeds);
                });
            }
        }
    }

    /// A balancer lets only one host see a connection.
    pub(super) fn reaches(&self, host: u16, segment: Segment) -> bool {
        let number = self.by_flow.get(segment.flow.0 as usize);
        let chosen = number.and_then(|&number| self.connections[number as usize].chosen);
        chosen.is_none_or(|chosen| chosen == host)
    }

    pub(super) fn with_host(
        &mut self,
        index: u16,
        life: u32,
        act: impl FnOnce(&mut Host, &Scenario, &mut Vec<Deed>),
    ) {
        let slot = &mut self.slots[usize::from(index)];
        let Some(host) = slot.host.as_mut().filter(|_| slot.life == life) else { return };
        let mut deeds = std::mem::take(&mut self.deeds);
        act(host, self.scenario, &mut deeds);
        self.record.after(self.now, host);
        for deed in deeds.drain(..) {
            self.carry_out(index, life, deed);
        }
        self.deeds = deeds;
    }

    pub(super) fn carry_out(&mut self, host: u16, life: u32, deed: Deed) {
        let now = self.now;
        match deed {
            Deed::Step(at, epoch) => self.events.schedule(at, Event::Step { host, life, epoch }),
            Deed::Tcp(at, segment) => {
                if segment.flag == Flag::SynAck {
                    self.answered(host, segment);
                }
                self.record.note(at, Happening::Said { host, segment: &segment });
                self.events.schedule(at, Event::Leaves(Station(host), Packet::Tcp(segment)));
            }
            Deed::Claim(at, bytes) => self.claim(at, host, bytes),
            Deed::RequestTimer(at, flow, isn) => {
                self.events.schedule(at, Event::Request { host, life, flow, isn });
            }
            Deed::Accepted(flow, isn) => {
                if let Some(connection) = self.attempt(flow, isn) {
                    connection.accepted |= 1 << host;
                }
                self.record.note(now, Happening::Accepted { host, flow, isn });
            }
            Deed::Work(flow) => {
                let work = self.connection_of(flow).map_or(0, |connection| connection.work);
                let service = &mut self.slots[usize::from(host)].service;
                service.add(now, flow, work);
                self.predict(host, life);
            }
            Deed::Decided(ticket, syn, verdict, told) => {
                let accept = verdict == Verdict::Accept;
                let decided = Happening::Decided { host, ticket, syn: &syn, accept, told };
                self.record.note(now, decided);
            }
            Deed::Unheld(ticket) => self.record.note(now, Happening::Unheld { host, ticket }),
            Deed::Destroyed(flow, isn) => {
                self.record.note(now, Happening::Destroyed { host, flow, isn });
            }
            Deed::Notice(notice) => self.record.note(now, Happening::Notice { host, notice }),
        }
    }

    pub(super) fn claim(&mut self, at: Instant, host: u16, bytes: Rc<[u8]>) {
        self.record.note(at, Happening::Claimed { host, bytes: &bytes });
        let packet = Packet::Claim(bytes);
        self.claim_frames.0 += 1;
        self.claim_frames.1 += u64::from(packet.wire_length());
        self.events.schedule(at, Event::Leaves(Station(host), packet));
    }

    pub(super) fn connection_of(&mut self, flow: FlowId) -> Option<&mut Connection> {
        let &number = self.by_flow.get(flow.0 as usize)?;
        self.connections.get_mut(number as usize)
    }

    /// The connection of a flow whose client began with this number, unless a later one of the
    /// flow has begun.
    pub(super) fn attempt(&mut self, flow: FlowId, isn: u32) -> Option<&mut Connection> {
        self.connection_of(flow).filter(|connection| connection.client.isn == isn)
    }

    pub(super) fn answered(&mut self, host: u16, syn_ack: Segment) {
        let isn = syn_ack.acknowledgement.wrapping_sub(1);
        if let Some(connection) = self.attempt(syn_ack.flow, isn) {
            connection.answered |= 1 << host;
        }
    }

    pub(super) fn predict(&mut self, host: u16, life: u32) {
        if let Some((at, epoch)) = self.slots[usize::from(host)].service.predict(self.now) {
            self.events.schedule(at, Event::Served { host, life, epoch });
        }
    }

    pub(super) fn served(&mut self, host: u16, life: u32, epoch: u32) {
        let slot = &mut self.slots[usize::from(host)];
        if slot.life != life {
            return;
        }
        let Some(flow) = slot.service.finish(self.now, epoch) else { return };
        let now = self.now;
        self.with_host(host, life, |host, _, deeds| host.served(now, flow, deeds));
        self.predict(host, life);
    }
}
