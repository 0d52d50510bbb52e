//! What this node knows of its own services.

use std::collections::BTreeMap;
use std::time::Duration;

use super::vips::{Service, Vip, Vips};
use super::{Instant, Listener};
use crate::flow::Protocol;
use crate::wire::PORTS_MAX;

#[derive(Clone, Copy, Debug)]
struct State {
    listener: Listener,
    changed: Instant,
    /// Another node has answered on this port.
    served_elsewhere: bool,
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
    ports: BTreeMap<Service, State>,
}

impl Services {
    /// Notes the state of a listener.
    pub fn set(&mut self, now: Instant, service: Service, listener: Listener) -> Change {
        let before = self.get(service);
        let known = self.ports.get(&service);
        if before == listener && known.is_some() {
            return Change::default();
        }
        let served_elsewhere = known.is_some_and(|it| it.served_elsewhere);
        let full = known.is_none() && self.listed_with(service).count() >= PORTS_MAX;
        let forgotten = full && self.forget_one(service);
        let announced = (before == Listener::Absent) != (listener == Listener::Absent);
        let changed = if announced { now } else { Instant::default() };
        self.ports.insert(service, State { listener, changed, served_elsewhere });
        Change { announced, forgotten }
    }

    /// The state of this port has been told before.
    pub fn knows(&self, service: Service) -> bool {
        self.ports.contains_key(&service)
    }

    /// Another node has answered on this port of some virtual IP: that this one cannot must not be
    /// forgotten for all the ports that nobody serves, which anybody can ask for.
    pub fn served_elsewhere(&mut self, vips: &Vips, port: u16) {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let on = |vip| Service { protocol, port, vip };
            // Each attempt of the cluster comes here, and a range costs more than one look.
            if !vips.has_further() {
                if let Some(state) = self.ports.get_mut(&on(Vip::FIRST)) {
                    state.served_elsewhere = true;
                }
                continue;
            }
            for (_, state) in self.ports.range_mut(on(Vip::FIRST)..=on(Vip::LAST)) {
                state.served_elsewhere = true;
            }
        }
    }

    /// A port never asked about is taken for served; the driver asks before it says a SYN.
    pub fn get(&self, service: Service) -> Listener {
        self.ports.get(&service).map_or(Listener::Ready, |state| state.listener)
    }

    /// The ports to announce as unavailable.
    pub fn unavailable(&self, protocol: Protocol) -> impl Iterator<Item = Service> {
        let absent = |(_, state): &(_, &State)| state.listener == Listener::Absent;
        let absent = self.ports.iter().filter(absent).map(|(&service, _)| service);
        absent.filter(move |service| service.protocol == protocol)
    }

    /// Peers may still believe that this node serves it.
    pub fn just_lost(&self, now: Instant, service: Service, quiet: Duration) -> bool {
        self.ports.get(&service).is_some_and(|state| {
            state.listener == Listener::Absent && now.since(state.changed) < quiet
        })
    }

    /// Those that are announced in the same list.
    fn listed_with(&self, one: Service) -> impl Iterator<Item = (&Service, &State)> {
        let list = |service: Service| (service.protocol, service.vip == Vip::FIRST);
        self.ports.iter().filter(move |&(&service, _)| list(service) == list(one))
    }

    /// Makes room in the list of a service: a port that is served needs no entry, of the others one
    /// that nobody else serves either, the longest unchanged. True if that was not served.
    fn forget_one(&mut self, service: Service) -> bool {
        let key = |state: &State| {
            let absent = state.listener == Listener::Absent;
            (absent, state.served_elsewhere, state.changed)
        };
        let oldest = self.listed_with(service).min_by_key(|(_, state)| key(state));
        let oldest = oldest.map(|(&service, _)| service);
        let forgotten = oldest.and_then(|service| self.ports.remove(&service));
        forgotten.is_some_and(|state| state.listener == Listener::Absent)
    }
}
