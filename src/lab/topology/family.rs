//! The addresses of the lab, in either family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Medium, VIP};

/// The family of all addresses of a lab; in one of IPv4, IPv6 is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// 10.77.0.0/24, behind the router 10.78.0.0/24.
    V4,
    /// fd00:77::/64, behind the router fd00:78::/64, with the same last numbers, read as decimal.
    V6,
}

impl Family {
    /// The one of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The virtual IP that the hosts answer together.
    pub fn vip(self) -> IpAddr {
        match self {
            Self::V4 => VIP.into(),
            Self::V6 => self.address(77, 2),
        }
    }

    /// Address of the host at `index`.
    pub fn host_address(self, index: usize) -> IpAddr {
        self.address(77, 11 + index as u8)
    }

    /// The addresses the client connects from.
    pub fn client_addresses(self, medium: Medium, count: usize) -> impl Iterator<Item = IpAddr> {
        let network = match medium {
            Medium::Router => 78,
            Medium::Switch
            | Medium::Hub
            | Medium::Snooping
            | Medium::MacSnooping
            | Medium::NoUnknownFlood
            | Medium::Tree => 77,
        };
        (0..count as u8).map(move |index| self.address(network, 200 + index))
    }

    /// The router's address on the hosts' side, and on the client's.
    pub(super) fn router_addresses(self) -> [IpAddr; 2] {
        [77, 78].map(|network| self.address(network, 1))
    }

    /// The network of the client behind a router.
    pub(super) fn client_network(self) -> String {
        format!("{}/{}", self.address(78, 0), self.prefix_length())
    }

    /// The prefix length of both networks.
    pub(super) fn prefix_length(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }

    /// Sysctls of a namespace before it has an interface: IPv6 is off, or its addresses there at once.
    pub(super) fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::V4 => {
                &[("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")]
            }
            Self::V6 => &[("ipv6/conf/default/accept_dad", "0")],
        }
    }

    /// The sysctl of a host's default TTL, or hop limit of interfaces to come.
    pub(super) fn ttl_setting(self) -> &'static str {
        match self {
            Self::V4 => "ipv4/ip_default_ttl",
            Self::V6 => "ipv6/conf/default/hop_limit",
        }
    }

    /// The sysctl that makes a router.
    pub(super) fn forwarding_setting(self) -> &'static str {
        match self {
            Self::V4 => "ipv4/ip_forward",
            Self::V6 => "ipv6/conf/all/forwarding",
        }
    }

    fn address(self, network: u8, host: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, network, 0, host).into(),
            Self::V6 => {
                let [network, host] = [network, host].map(as_if_hexadecimal);
                Ipv6Addr::new(0xfd00, network, 0, 0, 0, 0, 0, host).into()
            }
        }
    }
}

/// 200 becomes 0x200.
fn as_if_hexadecimal(number: u8) -> u16 {
    let number = u16::from(number);
    let (hundreds, tens, ones) = (number / 100, number / 10 % 10, number % 10);
    0x100 * hundreds + 0x10 * tens + ones
}

#[cfg(test)]
mod tests {
    use super::super::{CLIENT_ADDRESSES_MAX, HOSTS_MAX};
    use super::*;

    #[test]
    fn the_address_plan_has_room_for_every_host() {
        for (family, end) in [(Family::V4, "10.77.0.255"), (Family::V6, "fd00:77::255")] {
            let clients: Vec<_> =
                family.client_addresses(Medium::Hub, CLIENT_ADDRESSES_MAX).collect();
            assert!(family.host_address(HOSTS_MAX - 1) < clients[0]);
            assert!(clients[clients.len() - 1] < end.parse::<IpAddr>().unwrap());
        }
    }

    #[test]
    fn both_families_have_the_same_numbers() {
        let text = |address: IpAddr| address.to_string();
        assert_eq!(text(Family::V4.vip()), "10.77.0.2");
        assert_eq!(text(Family::V6.vip()), "fd00:77::2");
        assert_eq!(text(Family::V6.host_address(31)), "fd00:77::42");
        let client = Family::V6.client_addresses(Medium::Router, 2).last().unwrap();
        assert_eq!(text(client), "fd00:78::201");
        assert_eq!(Family::V6.client_network(), "fd00:78::/64");
    }
}
