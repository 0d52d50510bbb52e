//! What this node knows of its own services.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use super::vips::{Service, Vip};
use super::{Instant, Listener};
use crate::flow::Protocol;
use crate::wire::PORTS_MAX;

/// A port, on each virtual IP where it was asked for.
#[derive(Clone, Debug, Default)]
struct Port {
    /// Another node has answered on it, on some virtual IP.
    served_elsewhere: bool,
    by_vip: BTreeMap<Vip, State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    listener: Listener,
    changed: Instant,
}

/// What follows from the state of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// The cluster must hear of it.
    pub announced: bool,
    /// To make room, one that cannot be served is not announced any more.
    pub forgotten: bool,
}

/// Services by port; at most [`PORTS_MAX`] in each list, as many as can be announced. The first
/// virtual IP has a list for each protocol, and so have the further ones together.
#[derive(Clone, Debug, Default)]
pub(super) struct Services {
    ports: BTreeMap<(Protocol, u16), Port>,
}

impl Services {
    /// Notes the state of a listener.
    pub fn set(&mut self, now: Instant, service: Service, listener: Listener) -> Change {
        let (before, known) = (self.get(service), self.knows(service));
        if before == listener && known {
            return Change::default();
        }
        let full = !known && self.listed_with(service).count() >= PORTS_MAX;
        let forgotten = full && self.forget_one(service);
        let announced = (before == Listener::Absent) != (listener == Listener::Absent);
        let changed = if announced { now } else { Instant::default() };
        let Service { protocol, port, vip } = service;
        let port = self.ports.entry((protocol, port)).or_default();
        port.by_vip.insert(vip, State { listener, changed });
        Change { announced, forgotten }
    }

    /// The state of this port has been told before.
    pub fn knows(&self, service: Service) -> bool {
        self.state(service).is_some()
    }

    /// Another node has answered on this port of some virtual IP: that this one cannot must not be
    /// forgotten for all the ports that nobody serves, which anybody can ask for. Each attempt of
    /// the cluster comes here, so it takes two looks, however many virtual IPs there are.
    pub fn served_elsewhere(&mut self, port: u16) {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            if let Some(known) = self.ports.get_mut(&(protocol, port)) {
                known.served_elsewhere = true;
            }
        }
    }

    /// A port never asked about is taken for served; the driver asks before it says a SYN.
    pub fn get(&self, service: Service) -> Listener {
        self.state(service).map_or(Listener::Ready, |state| state.listener)
    }

    /// The ports to announce as unavailable.
    pub fn unavailable(&self, protocol: Protocol) -> impl Iterator<Item = Service> {
        let absent = move |(service, _, state): (Service, &Port, &State)| {
            (service.protocol == protocol && state.listener == Listener::Absent).then_some(service)
        };
        self.all().filter_map(absent)
    }

    /// Peers may still believe that this node serves it.
    pub fn just_lost(&self, now: Instant, service: Service, quiet: Duration) -> bool {
        self.state(service).is_some_and(|state| {
            state.listener == Listener::Absent && now.since(state.changed) < quiet
        })
    }

    fn state(&self, Service { protocol, port, vip }: Service) -> Option<&State> {
        self.ports.get(&(protocol, port))?.by_vip.get(&vip)
    }

    fn all(&self) -> impl Iterator<Item = (Service, &Port, &State)> {
        self.ports.iter().flat_map(|(&(protocol, number), port)| {
            let on = move |(&vip, state)| (Service { protocol, port: number, vip }, port, state);
            port.by_vip.iter().map(on)
        })
    }

    /// Those that are announced in the same list.
    fn listed_with(&self, one: Service) -> impl Iterator<Item = (Service, &Port, &State)> {
        let list = |service: Service| (service.protocol, service.vip == Vip::FIRST);
        self.all().filter(move |&(service, ..)| list(service) == list(one))
    }

    /// Makes room in the list of a service: a port that is served needs no entry, of the others one
    /// that nobody else serves either, the longest unchanged. True if that was not served.
    fn forget_one(&mut self, service: Service) -> bool {
        let key = |port: &Port, state: &State| {
            let absent = state.listener == Listener::Absent;
            (absent, port.served_elsewhere, state.changed)
        };
        let oldest = self.listed_with(service).min_by_key(|(_, port, state)| key(port, state));
        let Some(forgotten) = oldest.map(|(service, ..)| service) else { return false };
        let was_absent = self.get(forgotten) == Listener::Absent;
        let Service { protocol, port, vip } = forgotten;
        if let Entry::Occupied(mut port) = self.ports.entry((protocol, port)) {
            port.get_mut().by_vip.remove(&vip);
            if port.get().by_vip.is_empty() {
                port.remove();
            }
        }
        was_absent
    }
}
