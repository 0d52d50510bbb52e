//! What nft calls things in each family of addresses.

use std::net::IpAddr;

/// The words of one family.
pub struct Words {
    /// The family where that of a packet is compared.
    pub family: &'static str,
    /// Its header.
    pub ip: &'static str,
    /// The type of its addresses in sets.
    pub address: &'static str,
    /// Its control messages.
    pub icmp: &'static str,
    /// Those about a packet that this host has sent, or got.
    pub errors: &'static str,
}

impl Words {
    /// The words of the family of `vip`.
    pub fn of(vip: IpAddr) -> &'static Self {
        match vip {
            IpAddr::V4(_) => &Self {
                family: "ipv4",
                ip: "ip",
                address: "ipv4_addr",
                icmp: "icmp",
                errors: "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
            },
            IpAddr::V6(_) => &Self {
                family: "ipv6",
                ip: "ip6",
                address: "ipv6_addr",
                icmp: "icmpv6",
                errors: "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, \
                         parameter-problem }",
            },
        }
    }
}
