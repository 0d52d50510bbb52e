//! The MAC that a virtual IP resolves to (spec 9.1; README says which mode is for which network).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::ValueEnum;
use clusterd::flow::ClusterKey;
use pnet::util::MacAddr;
use serde::Serialize;

/// What kind of MAC the hosts of a cluster share; the same on all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MacMode {
    /// A group MAC, which switches flood.
    Multicast,
    /// The group MAC of an IP group that each host joins by IGMP, or MLD for IPv6: for switches that
    /// forward group MACs only to ports with members.
    Igmp,
    /// A unicast MAC that each host listens to and none sends from, so that switches never learn
    /// it and flood it: for routers that refuse a group MAC, and snooping with a querier.
    Stealth,
    /// A unicast MAC that is the interface's own on each host: for hubs only.
    Shared,
}

impl MacMode {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::Multicast, Self::Igmp, Self::Stealth, Self::Shared];

    /// The MAC that `vip` resolves to.
    pub fn address(self, vip: IpAddr) -> MacAddr {
        let [a, b, c, d] = distinctive_bytes(vip);
        match self {
            // The prefixes known from other shared-address clusters, then the IP.
            Self::Multicast => MacAddr::new(0x03, 0xbf, a, b, c, d),
            Self::Stealth => MacAddr::new(0x02, 0xbf, a, b, c, d),
            // Another one than that of `Stealth`: a single host that sends from it spoils that mode.
            Self::Shared => MacAddr::new(0x02, 0xbe, a, b, c, d),
            Self::Igmp => match ip_group(vip) {
                // RFC 1112 6.4: the lower 23 bits of the group.
                IpAddr::V4(group) => {
                    let [_, b, c, d] = group.octets();
                    MacAddr::new(0x01, 0x00, 0x5e, b & 0x7f, c, d)
                }
                // RFC 2464 7: the lower 32 bits.
                IpAddr::V6(group) => {
                    let [.., a, b, c, d] = group.octets();
                    MacAddr::new(0x33, 0x33, a, b, c, d)
                }
            },
        }
    }

    /// The mode in which `vip` resolves to `mac`.
    pub fn of(mac: MacAddr, vip: IpAddr) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.address(vip) == mac)
    }

    /// The mode, and the virtual IP of which `mac` is made, if the MAC has all of it.
    pub fn read(mac: MacAddr) -> Option<(Self, Ipv4Addr)> {
        let MacAddr(_, _, a, b, c, d) = mac;
        let vip = Ipv4Addr::new(a, b, c, d);
        // A group MAC of `Igmp` has less.
        let mode = Self::of(mac, vip.into()).filter(|&mode| mode != Self::Igmp)?;
        Some((mode, vip))
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Multicast => "multicast",
            Self::Igmp => "igmp",
            Self::Stealth => "stealth",
            Self::Shared => "shared",
        }
    }
}

impl fmt::Display for MacMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The bytes of the MAC that tell one virtual IP from another: those of an IPv4 address; of IPv6 the
/// cluster id, since the last bytes of most are the same few (`::1`, `::2`) under each prefix of a segment.
fn distinctive_bytes(vip: IpAddr) -> [u8; 4] {
    match vip {
        IpAddr::V4(vip) => vip.octets(),
        IpAddr::V6(_) => ClusterKey::public(vip).cluster_id().to_be_bytes(),
    }
}

/// The IP group that hosts join in mode [`MacMode::Igmp`].
///
/// Of IPv4 it is 239.255 (administratively scoped, RFC 2365) and the last two bytes of the virtual IP,
/// as Microsoft NLB has it. Virtual IPs that end alike get each other's frames, and the rules
/// drop those. Of IPv6 it is a transient one of site-local scope with 30 bits of the cluster id among
/// the group ids that hosts may choose (from 8000:0000 on, RFC 3307 4.3), and not ff in front, as
/// solicited-node groups have it.
pub fn ip_group(vip: IpAddr) -> IpAddr {
    let [a, b, c, d] = distinctive_bytes(vip);
    match vip {
        IpAddr::V4(_) => Ipv4Addr::new(239, 255, c, d).into(),
        IpAddr::V6(_) => {
            let id = u32::from_be_bytes([a, b, c, d]) & 0x3fff_ffff | 0x8000_0000;
            Ipv6Addr::from(0xff15 << 112 | u128::from(id)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: [&str; 2] = ["10.0.200.2", "2001:db8::2"];

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The table of 9.1, with what stands for the bytes replaced.
    #[test]
    fn the_addresses_are_those_of_the_specification() {
        let spec = include_str!("../../proto-spec/claim-protocol.md");
        for (vip, column) in [("10.20.30.40", 0), ("2001:db8::2", 1)] {
            let vip = address(vip);
            let [a, b, c, d] = distinctive_bytes(vip);
            for mode in MacMode::ALL {
                let row = format!("| `{mode}` | ");
                let start = spec.find(&row).expect("the table of 9.1 has each mode") + row.len();
                let cell = spec[start..].split('|').nth(column).expect("the column");
                let bytes = cell.trim().trim_matches('`').split(':').map(|byte| match byte {
                    "a" => a,
                    "e" => 0x80 | a & 0x3f,
                    "b" => b,
                    "c" => c,
                    "d" => d,
                    byte => u8::from_str_radix(byte, 16).expect("two digits"),
                });
                let expected: Vec<u8> = bytes.collect();
                assert_eq!(mode.address(vip).octets()[..], expected, "{mode}");
            }
        }
        assert!(spec.contains("IP group 239.255.c.d, or ff15::eb:cd"));
        assert_eq!(ip_group(address("10.20.30.40")), address("239.255.30.40"));
        assert_eq!(ip_group(address("2001:db8::2")), address("ff15::bc80:58ab"));
    }

    #[test]
    fn each_mode_has_an_address_of_its_own() {
        let expected = [
            ["03:bf:0a:00:c8:02", "01:00:5e:7f:c8:02", "02:bf:0a:00:c8:02", "02:be:0a:00:c8:02"],
            ["03:bf:3c:80:58:ab", "33:33:bc:80:58:ab", "02:bf:3c:80:58:ab", "02:be:3c:80:58:ab"],
        ];
        for (vip, expected) in VIP.into_iter().zip(expected) {
            let vip = address(vip);
            assert_eq!(MacMode::ALL.map(|mode| mode.address(vip).to_string()), expected);
            for mode in MacMode::ALL {
                assert_eq!(MacMode::of(mode.address(vip), vip), Some(mode));
                assert_eq!(MacMode::from_str(mode.name(), false), Ok(mode));
            }
            assert_eq!(MacMode::of(MacAddr::broadcast(), vip), None);
        }
        let vip = Ipv4Addr::new(10, 0, 200, 2);
        let read = MacMode::ALL.map(|mode| MacMode::read(mode.address(vip.into())));
        let [multicast, stealth, shared] =
            [MacMode::Multicast, MacMode::Stealth, MacMode::Shared].map(|mode| Some((mode, vip)));
        assert_eq!(read, [multicast, None, stealth, shared]);
    }
}
