//! The virtual IPs of one cluster: which this node answers, and which a peer does (spec 3.3, 4.8).
//!
//! The first one names the cluster, and every host of the cluster answers it. Of the further ones
//! hosts may have different lists, so a flow to one is contested among those only that have it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::flow::{ClusterKey, FlowKey, Protocol, ServicePort, VipHash};
use crate::wire::VIPS_MAX;

/// The virtual IPs that a node answers: [`VIPS_MAX`] beside the first one at most, each once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "(IpAddr, Vec<IpAddr>)", into = "(IpAddr, Vec<IpAddr>)")]
pub struct Vips {
    first: IpAddr,
    /// In the order of their addresses.
    further: Vec<IpAddr>,
    /// What peers call these, in the same order.
    hashes: Vec<VipHash>,
}

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
        if further.len() > VIPS_MAX {
            return Err(VipsError::TooMany(1 + further.len()));
        }
        let key = ClusterKey::public(first);
        let hashes = further.iter().map(|&vip| key.vip(vip)).collect();
        Ok(Self { first, further, hashes })
    }

    /// The first one.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// All, the first one first.
    pub fn all(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(self.first).chain(self.further.iter().copied())
    }

    /// The further ones by their numbers, and what peers call each.
    pub(super) fn further(&self) -> impl Iterator<Item = (Vip, VipHash)> {
        (1..).map(Vip).zip(self.hashes.iter().copied())
    }

    /// The number of an address; the driver hands in packets to these addresses only.
    pub(super) fn find(&self, address: IpAddr) -> Vip {
        match self.further.binary_search(&address) {
            Ok(index) => Vip(index as u8 + 1),
            Err(_) => Vip::FIRST,
        }
    }

    pub(super) fn address(&self, vip: Vip) -> IpAddr {
        let index = usize::from(vip.0).checked_sub(1);
        index.map_or(self.first, |index| self.further[index])
    }

    pub(super) fn service(&self, flow: &FlowKey) -> Service {
        self.number(flow.service_port())
    }

    pub(super) fn number(&self, service: ServicePort) -> Service {
        let ServicePort { protocol, vip, port } = service;
        Service { protocol, port, vip: self.find(vip) }
    }

    /// What peers are told of these.
    pub(super) fn hashes(&self) -> &[VipHash] {
        &self.hashes
    }

    /// Of these those that `said` names.
    pub(super) fn among(&self, said: &[VipHash]) -> VipSet {
        let named = self.further().filter(|(_, hash)| said.contains(hash));
        named.map(|(vip, _)| vip).collect()
    }
}

impl From<IpAddr> for Vips {
    fn from(first: IpAddr) -> Self {
        Self { first, further: Vec::new(), hashes: Vec::new() }
    }
}

/// As a recording has them.
impl TryFrom<(IpAddr, Vec<IpAddr>)> for Vips {
    type Error = VipsError;

    fn try_from((first, further): (IpAddr, Vec<IpAddr>)) -> Result<Self, VipsError> {
        Self::new(first, further)
    }
}

impl From<Vips> for (IpAddr, Vec<IpAddr>) {
    fn from(Vips { first, further, .. }: Vips) -> Self {
        (first, further)
    }
}

/// A virtual IP of this node by its number among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Vip(u8);

impl Vip {
    pub const FIRST: Self = Self(0);

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

/// A port of one of this node's virtual IPs.
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
    pub fn replace(&mut self, ours: &Vips, said: &[VipHash]) -> bool {
        if self.said == said {
            return false;
        }
        let known = |hash| ours.further().find(|&(_, ours)| ours == hash).map(|(vip, _)| vip);
        self.places = said.iter().copied().map(known).collect();
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
        let numbers = || (0..4).map(Vip);
        let addresses: Vec<_> = numbers().map(|vip| vips.address(vip)).collect();
        assert_eq!(addresses, [FIRST, v4(3), v4(9), v6(1)]);
        assert_eq!(vips.all().collect::<Vec<_>>(), addresses);
        assert!(numbers().all(|vip| vips.find(vips.address(vip)) == vip));
        let key = ClusterKey::public(FIRST);
        let named = |vip| (vip, key.vip(vips.address(vip)));
        assert!(vips.further().eq(numbers().skip(1).map(named)));
    }

    #[test]
    fn a_list_that_is_read_is_as_sound_as_one_that_is_typed() {
        let config = bincode::config::standard();
        let read = |further: &[IpAddr]| {
            let bytes = bincode::serde::encode_to_vec((FIRST, further), config).unwrap();
            let read = bincode::serde::decode_from_slice::<Vips, _>(&bytes, config);
            read.map(|(vips, _)| (vips, bytes)).map_err(|error| error.to_string())
        };
        let (vips, bytes) = read(&[v4(3), v6(1)]).unwrap();
        assert_eq!(vips, Vips::new(FIRST, [v6(1), v4(3)]).unwrap());
        assert_eq!(bincode::serde::encode_to_vec(&vips, config).unwrap(), bytes);
        // Whatever their order was.
        assert_eq!(read(&[v6(1), v4(3)]).unwrap().0, vips);
        let many: Vec<_> = (3..67).map(v4).collect();
        for (further, why) in [
            (&[v4(3), v4(3)][..], "the virtual IP 10.0.0.3 is given twice"),
            (&[FIRST], "the virtual IP 10.0.0.2 is given twice"),
            (&many, "65 virtual IPs; one cluster has 64 at most"),
        ] {
            let error = read(further).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
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
        assert!(theirs.replace(&ours, &said));
        assert!(!theirs.replace(&ours, &said), "it is no news");
        assert!([first, third, sixth].iter().all(|&vip| theirs.set().contains(vip)));
        let places = [0, 1, 2, 3, 4].map(|place| theirs.at(place));
        assert_eq!(places, [None, Some(sixth), None, Some(third), None]);
        assert!(theirs.replace(&ours, &said[..2]));
        assert!(theirs.set().contains(first) && theirs.set().contains(sixth));
        assert!(!theirs.set().contains(third));
        assert_eq!(ours.among(&said), [third, sixth].into_iter().collect());
        assert_eq!(ours.among(&said[1..2]), VipSet::FIRST);
    }
}
