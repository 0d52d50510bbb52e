//! What this node knows of its own services.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Instant, Listener};
use crate::flow::{Protocol, ServicePort};
use crate::wire::PORTS_MAX;

#[derive(Clone, Copy, Debug)]
struct Service {
    listener: Listener,
    changed: Instant,
    /// Another node has answered on this port.
    served_elsewhere: bool,
}

/// Services by port; at most [`PORTS_MAX`] of each protocol, as many as can be announced.
#[derive(Clone, Debug, Default)]
pub(super) struct Services {
    ports: BTreeMap<ServicePort, Service>,
}

impl Services {
    /// Notes the state of a listener. True if the cluster must hear of it.
    pub fn set(&mut self, now: Instant, service: ServicePort, listener: Listener) -> bool {
        let before = self.get(service);
        let known = self.ports.contains_key(&service);
        if before == listener && known {
            return false;
        }
        if !known && self.of(service.protocol).count() >= PORTS_MAX {
            self.forget_one(service.protocol);
        }
        let announced = (before == Listener::Absent) != (listener == Listener::Absent);
        let changed = if announced { now } else { Instant::default() };
        let served_elsewhere = self.ports.get(&service).is_some_and(|it| it.served_elsewhere);
        self.ports.insert(service, Service { listener, changed, served_elsewhere });
        announced
    }

    /// The state of this port has been told before.
    pub fn knows(&self, service: ServicePort) -> bool {
        self.ports.contains_key(&service)
    }

    /// Another node has answered on this port: that this one cannot must not be forgotten for
    /// all the ports that nobody serves, which anybody can ask for.
    pub fn served_elsewhere(&mut self, port: u16) {
        for service in [ServicePort::tcp(port), ServicePort::udp(port)] {
            if let Some(service) = self.ports.get_mut(&service) {
                service.served_elsewhere = true;
            }
        }
    }

    /// A port never asked about is taken for served; the driver asks before it says a SYN.
    pub fn get(&self, service: ServicePort) -> Listener {
        self.ports.get(&service).map_or(Listener::Ready, |service| service.listener)
    }

    /// The ports to announce as unavailable.
    pub fn unavailable(&self, protocol: Protocol) -> impl Iterator<Item = u16> {
        let absent = |(_, service): &(_, &Service)| service.listener == Listener::Absent;
        self.of(protocol).filter(absent).map(|(port, _)| port.port)
    }

    /// Peers may still believe that this node serves it.
    pub fn just_lost(&self, now: Instant, service: ServicePort, quiet: Duration) -> bool {
        self.ports.get(&service).is_some_and(|service| {
            service.listener == Listener::Absent && now.since(service.changed) < quiet
        })
    }

    fn of(&self, protocol: Protocol) -> impl Iterator<Item = (&ServicePort, &Service)> {
        self.ports.iter().filter(move |(service, _)| service.protocol == protocol)
    }

    /// Makes room: a port that is served needs no entry, of the others one that nobody else
    /// serves either, the longest unchanged.
    fn forget_one(&mut self, protocol: Protocol) {
        let key = |service: &Service| {
            let absent = service.listener == Listener::Absent;
            (absent, service.served_elsewhere, service.changed)
        };
        let oldest = self.of(protocol).min_by_key(|(_, service)| key(service));
        if let Some((&port, _)) = oldest {
            self.ports.remove(&port);
        }
    }
}
