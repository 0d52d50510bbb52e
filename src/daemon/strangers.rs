//! Who else says to have a virtual IP: why this host does not start then, or what it warns of later.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tracing::warn;

use crate::io::cluster_mac::MacMode;
use crate::io::link::{Addresses, Link};
use crate::io::neighbours::Stranger;

/// Strangers that are remembered; of further ones nothing is said.
const STRANGERS_MAX: usize = 256;

/// What the MAC of a stranger says of it.
enum Kind {
    /// Hosts of this cluster are in another mode.
    OtherMode(MacMode),
    /// Hosts of another cluster, which this address names, have the virtual IP.
    OtherCluster(MacMode, IpAddr),
    /// The same, but the MAC can also be that of a cluster that some IPv6 address names.
    SomeCluster(MacMode, IpAddr),
    /// It is no MAC of a cluster, or tells too little.
    Unknown,
}

impl Kind {
    fn of(stranger: Stranger, link: &Link) -> Self {
        let mac = stranger.mac;
        if let Some(mode) = MacMode::of(mac, link.addresses.vip()) {
            return Self::OtherMode(mode);
        }
        let named = |other: IpAddr| Some(Self::OtherCluster(MacMode::of(mac, other)?, other));
        // One that is not typed here can be read, if it is of IPv4.
        let read = || MacMode::read(mac).map(|(mode, other)| Self::SomeCluster(mode, other.into()));
        link.all().map(Addresses::vip).find_map(named).or_else(read).unwrap_or(Self::Unknown)
    }
}

/// Why this host does not start although the cluster is as it should be here.
pub fn refusal(stranger: Stranger, link: &Link, mode: MacMode) -> String {
    let Stranger { vip, mac } = stranger;
    let first = link.addresses.vip();
    let expected = mode.address(first);
    match Kind::of(stranger, link) {
        Kind::OtherMode(mode) => format!(
            "{vip} is answered in mode --mac {mode} by other hosts ({mac}, expected {expected}); all \
             hosts of a cluster need the same mode, so use that one here, or stop them all first"
        ),
        Kind::OtherCluster(mode, other) => format!(
            "{vip} is answered by hosts of the cluster that {other} names (--mac {mode}, {mac}, expected \
             {expected}); the first virtual IP names the cluster and must be the same on all \
             hosts, so type {other} first here, or {first} first there"
        ),
        Kind::SomeCluster(mode, other) => format!(
            "{vip} is answered by hosts of the cluster that {other} names, or an IPv6 address of which \
             these four bytes are the hash (--mac {mode}, {mac}, expected {expected}); the first virtual \
             IP names the cluster and must be the same on all hosts, so type that first here, or {first} \
             first there; `clusterd status` there says what was typed"
        ),
        Kind::Unknown => format!(
            "{vip} is in use by a host outside the cluster ({mac}, expected {expected}); stop it there \
             or choose another address. If hosts of this cluster answer so: the first virtual IP names the \
             cluster and must be the same on all of them"
        ),
    }
}

/// The strangers that a running daemon has warned of.
#[derive(Debug, Default)]
pub struct Strangers {
    known: BTreeSet<Stranger>,
}

/// Whether a stranger is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// It was not heard before.
    New,
    /// The same, and no more will be remembered.
    Last,
    /// One that goes on claiming it needs no line each time, and whoever invents MACs gets none.
    Old,
}

impl Strangers {
    /// Warns of a stranger that was not heard before.
    pub fn heard(&mut self, stranger: Stranger, link: &Link, mode: MacMode) {
        let Stranger { vip, mac } = stranger;
        let news = self.note(stranger);
        if news == News::Old {
            return;
        }
        match Kind::of(stranger, link) {
            Kind::OtherMode(other) => {
                warn!(%vip, %mac, "another host answers in mode --mac {other}, this one in {mode}: all \
                      hosts of a cluster need the same");
            }
            Kind::OtherCluster(_, other) | Kind::SomeCluster(_, other) => {
                warn!(%vip, %mac, "hosts of another cluster (that {other} names, or an IPv6 address) have \
                      the virtual IP, too: clients get to the one or the other");
            }
            Kind::Unknown => warn!(%vip, %mac, "a host outside the cluster claims the virtual IP"),
        }
        if news == News::Last {
            warn!("{STRANGERS_MAX} MACs claim virtual IPs: no line for further ones");
        }
    }

    fn note(&mut self, stranger: Stranger) -> News {
        if self.known.len() >= STRANGERS_MAX || !self.known.insert(stranger) {
            return News::Old;
        }
        if self.known.len() == STRANGERS_MAX { News::Last } else { News::New }
    }
}

#[cfg(test)]
mod tests {
    use pnet::util::MacAddr;

    use super::*;

    #[test]
    fn each_stranger_is_news_once() {
        let stranger = |number: u16| {
            let [a, b] = number.to_be_bytes();
            Stranger { vip: [10, 0, 0, 2].into(), mac: MacAddr::new(2, 0, 0, 0, a, b) }
        };
        let mut strangers = Strangers::default();
        let other_vip = Stranger { vip: [10, 0, 0, 3].into(), ..stranger(1) };
        let turns = [stranger(1), stranger(2), other_vip, stranger(1), stranger(2), other_vip];
        let news = turns.map(|stranger| strangers.note(stranger));
        assert_eq!(news, [News::New, News::New, News::New, News::Old, News::Old, News::Old]);
        let more: Vec<_> = (3..600).map(|number| strangers.note(stranger(number))).collect();
        assert_eq!(more.iter().filter(|&&news| news == News::New).count(), STRANGERS_MAX - 4);
        assert_eq!(more.iter().filter(|&&news| news == News::Last).count(), 1);
        assert_eq!(strangers.note(stranger(1)), News::Old);
    }

    fn link(vips: &[&str]) -> Link {
        let addresses = |vip: &&str| match vip.parse().unwrap() {
            IpAddr::V4(vip) => Addresses::V4 { own: [10, 0, 0, 11].into(), vip },
            IpAddr::V6(vip) => Addresses::V6 { own: "fe80::1".parse().unwrap(), vip },
        };
        let mut all = vips.iter().map(addresses);
        Link {
            name: "eth0".to_owned(),
            index: 1,
            mac: MacAddr::new(2, 0, 0, 0, 0, 1),
            addresses: all.next().unwrap(),
            further: all.collect(),
        }
    }

    #[test]
    fn who_has_typed_another_one_first_is_told_which() {
        let link = link(&["10.0.0.2", "10.0.0.3", "2001:db8::2"]);
        let says = |first: &str, mode: MacMode| {
            let stranger =
                Stranger { vip: [10, 0, 0, 3].into(), mac: mode.address(first.parse().unwrap()) };
            refusal(stranger, &link, MacMode::Multicast)
        };
        for (first, mode, text) in [
            ("10.0.0.2", MacMode::Stealth, "10.0.0.3 is answered in mode --mac stealth"),
            ("10.0.0.3", MacMode::Igmp, "so type 10.0.0.3 first here, or 10.0.0.2 first there"),
            ("2001:db8::2", MacMode::Shared, "so type 2001:db8::2 first here"),
            ("10.0.0.9", MacMode::Multicast, "the cluster that 10.0.0.9 names, or an IPv6 address"),
            // Nobody can read which.
            ("2001:db8::9", MacMode::Multicast, "or an IPv6 address of which these four bytes"),
            ("10.0.0.9", MacMode::Igmp, "a host outside the cluster"),
        ] {
            let said = says(first, mode);
            assert!(said.contains(text), "{first}: {said}");
        }
    }
}
