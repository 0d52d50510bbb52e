//! The virtual IPs of one cluster: which this node answers, and which a peer does (spec 3.3, 4.8).
//!
//! The first one names the cluster, and every host of the cluster answers it. Of the further ones
//! hosts may have different lists, so a flow to one is contested among those only that have it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::flow::{ClusterKey, FlowKey, Protocol, ServicePort, VipHash};
use crate::wire::VIPS_MAX;

/// The virtual IPs that a node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vips {
    first: IpAddr,
    further: Further,
}

/// In order, and each once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<IpAddr>", into = "Vec<IpAddr>")]
struct Further(Vec<IpAddr>);

/// Why addresses are no list of virtual IPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum VipsError {
    /// Peers could not be told of them all.
    #[error("{0} virtual IPs; one cluster has {most} at most", most = 1 + VIPS_MAX)]
    TooMany(usize),
    /// The same address again.
    #[error("the virtual IP {0} is given twice")]
    Twice(IpAddr),
}

impl Vips {
    /// The first virtual IP, which names the cluster, and the further ones in any order.
    pub fn new(
        first: IpAddr,
        further: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Self, VipsError> {
        let mut further: Vec<_> = further.into_iter().collect();
        further.sort_unstable();
        let again = further.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        if let Some(twice) = again.or_else(|| further.contains(&first).then_some(first)) {
            return Err(VipsError::Twice(twice));
        }
        Ok(Self { first, further: further.try_into()? })
    }

    /// The first one.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// All, the first one first.
    pub fn all(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.first).chain(self.further.0.iter().copied())
    }

    pub(super) fn has_further(&self) -> bool {
        !self.further.0.is_empty()
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = Vip> {
        (0..=self.further.0.len() as u8).map(Vip)
    }

    /// The number of an address; the driver hands in packets to these addresses only.
    pub(super) fn find(&self, address: IpAddr) -> Vip {
        match self.further.0.binary_search(&address) {
            Ok(index) => Vip(index as u8 + 1),
            Err(_) => Vip::FIRST,
        }
    }

    pub(super) fn address(&self, vip: Vip) -> IpAddr {
        let index = usize::from(vip.0).checked_sub(1);
        index.map_or(self.first, |index| self.further.0[index])
    }

    pub(super) fn service(&self, flow: &FlowKey) -> Service {
        self.number(flow.service_port())
    }

    pub(super) fn number(&self, service: ServicePort) -> Service {
        let ServicePort { protocol, vip, port } = service;
        Service { protocol, port, vip: self.find(vip) }
    }

    /// What peers are told of these.
    pub(super) fn hashes(&self, key: &ClusterKey) -> Vec<VipHash> {
        self.further.0.iter().map(|&vip| key.vip(vip)).collect()
    }

    /// Of these those that `said` names.
    pub(super) fn among(&self, key: &ClusterKey, said: &[VipHash]) -> VipSet {
        let further = self.numbers().skip(1).zip(self.hashes(key));
        further.filter(|(_, hash)| said.contains(hash)).map(|(vip, _)| vip).collect()
    }
}

impl From<IpAddr> for Vips {
    fn from(first: IpAddr) -> Self {
        Self { first, further: Further::default() }
    }
}

impl TryFrom<Vec<IpAddr>> for Further {
    type Error = VipsError;

    fn try_from(further: Vec<IpAddr>) -> Result<Self, VipsError> {
        match further.len() {
            ..=VIPS_MAX => Ok(Self(further)),
            more => Err(VipsError::TooMany(1 + more)),
        }
    }
}

impl From<Further> for Vec<IpAddr> {
    fn from(Further(further): Further) -> Self {
        further
    }
}

/// A virtual IP of this node by its number among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Vip(u8);

impl Vip {
    pub const FIRST: Self = Self(0);
    pub const LAST: Self = Self(VIPS_MAX as u8);

    /// Its place in the list that peers are told, from 1.
    pub fn place(self) -> u8 {
        self.0
    }
}

/// Some of this node's virtual IPs, always with the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VipSet(u64);

impl VipSet {
    pub const FIRST: Self = Self(1);

    pub fn contains(self, Vip(number): Vip) -> bool {
        self.0 >> number & 1 != 0
    }
}

impl FromIterator<Vip> for VipSet {
    fn from_iter<I: IntoIterator<Item = Vip>>(vips: I) -> Self {
        Self(vips.into_iter().fold(Self::FIRST.0, |set, Vip(number)| set | 1 << number))
    }
}

/// A port of one of this node's virtual IPs. The order keeps those of one port together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Service {
    pub protocol: Protocol,
    pub port: u16,
    pub vip: Vip,
}

/// What a peer has said of the virtual IPs that it answers.
#[derive(Clone, Debug)]
pub(super) struct PeerVips {
    said: Vec<VipHash>,
    /// The same as this node's; `None` where it has none.
    places: Vec<Option<Vip>>,
    set: VipSet,
}

impl PeerVips {
    /// Who has said nothing answers the first one.
    pub const UNSAID: Self = Self { said: Vec::new(), places: Vec::new(), set: VipSet::FIRST };

    /// Takes note of what it says. True if that is not what it said before.
    pub fn replace(&mut self, ours: &Vips, key: &ClusterKey, said: &[VipHash]) -> bool {
        if self.said == said {
            return false;
        }
        let hashes = ours.hashes(key);
        let known = |hash: &VipHash| hashes.iter().position(|ours| ours == hash);
        self.places = said.iter().map(|hash| Some(Vip(known(hash)? as u8 + 1))).collect();
        self.set = self.places.iter().copied().flatten().collect();
        said.clone_into(&mut self.said);
        true
    }

    pub fn set(&self) -> VipSet {
        self.set
    }

    /// The one at that place of its list, from 1, if this node has it, too.
    pub fn at(&self, place: u8) -> Option<Vip> {
        let index = usize::from(place).checked_sub(1)?;
        *self.places.get(index)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn v4(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn v6(last: u16) -> IpAddr {
        [0x2001, 0xdb8, 0, 0, 0, 0, 0, last].into()
    }

    #[test]
    fn sixty_four_distinct_addresses_are_a_list() {
        let many = |last| (3..=last).map(v4);
        assert_eq!(Vips::new(FIRST, many(65)).unwrap().all().count(), 64);
        let error = Vips::new(FIRST, many(66)).unwrap_err();
        assert_eq!(error.to_string(), "65 virtual IPs; one cluster has 64 at most");
        assert_eq!(Vips::new(FIRST, [v4(3), v6(1), v4(3)]), Err(VipsError::Twice(v4(3))));
        let error = Vips::new(FIRST, [v4(3), FIRST]).unwrap_err();
        assert_eq!(error.to_string(), "the virtual IP 10.0.0.2 is given twice");
    }

    #[test]
    fn numbers_stand_for_addresses() {
        let vips = Vips::new(FIRST, [v6(1), v4(9), v4(3)]).unwrap();
        let addresses: Vec<_> = vips.numbers().map(|vip| vips.address(vip)).collect();
        assert_eq!(addresses, [FIRST, v4(3), v4(9), v6(1)]);
        assert_eq!(vips.all().collect::<Vec<_>>(), addresses);
        assert!(vips.numbers().all(|vip| vips.find(vips.address(vip)) == vip));
        let serialised = bincode::serde::encode_to_vec(&vips, bincode::config::standard()).unwrap();
        let (read, _) =
            bincode::serde::decode_from_slice::<Vips, _>(&serialised, bincode::config::standard())
                .unwrap();
        assert_eq!(read, vips);
    }

    #[test]
    fn a_peer_answers_the_first_and_what_both_have() {
        let key = ClusterKey::public(FIRST);
        let ours = Vips::new(FIRST, [v4(3), v6(1)]).unwrap();
        let [first, third, sixth] = [0, 1, 2].map(Vip);
        let mut theirs = PeerVips::UNSAID;
        assert!(theirs.set().contains(first) && !theirs.set().contains(third));
        // In an order of their own, and with one that this node does not have.
        let said = [v6(1), v4(7), v4(3)].map(|vip| key.vip(vip));
        assert!(theirs.replace(&ours, &key, &said));
        assert!(!theirs.replace(&ours, &key, &said), "it is no news");
        assert!([first, third, sixth].iter().all(|&vip| theirs.set().contains(vip)));
        let places = [0, 1, 2, 3, 4].map(|place| theirs.at(place));
        assert_eq!(places, [None, Some(sixth), None, Some(third), None]);
        assert!(theirs.replace(&ours, &key, &said[..2]));
        assert!(theirs.set().contains(first) && theirs.set().contains(sixth));
        assert!(!theirs.set().contains(third));
        assert_eq!(ours.among(&key, &said), [third, sixth].into_iter().collect());
        assert_eq!(ours.among(&key, &said[1..2]), VipSet::FIRST);
    }
}
