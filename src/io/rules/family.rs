//! What nft calls things in each family of addresses.

use std::net::IpAddr;

use clusterd::protocol::Vips;

/// A family of addresses. Sets and chains that are of one family have its number at the end of their name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The words of one family.
pub(super) struct Words {
    /// Its header.
    pub ip: &'static str,
    /// The type of its addresses in sets.
    pub address: &'static str,
    /// Its control messages.
    pub icmp: &'static str,
    /// Those about a packet that this host has sent, or got.
    pub errors: &'static str,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Those of which there are virtual IPs.
    pub fn those_of(vips: &Vips) -> impl Iterator<Item = Self> {
        let has = |family: &Self| vips.all().any(|vip| Self::of(vip) == *family);
        Self::ALL.into_iter().filter(has)
    }

    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The name of a set, a chain, or with `ipv` in front of the family itself.
    pub fn name(self, what: &str) -> String {
        match self {
            Self::V4 => format!("{what}4"),
            Self::V6 => format!("{what}6"),
        }
    }

    pub(super) fn words(self) -> &'static Words {
        match self {
            Self::V4 => &Words {
                ip: "ip",
                address: "ipv4_addr",
                icmp: "icmp",
                errors: "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
            },
            Self::V6 => &Words {
                ip: "ip6",
                address: "ipv6_addr",
                icmp: "icmpv6",
                errors: "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, \
                         parameter-problem }",
            },
        }
    }
}
