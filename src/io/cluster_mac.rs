//! The MAC that a virtual IP resolves to (spec 9.1; README says which mode is for which network).

use std::fmt;
use std::net::Ipv4Addr;

use clap::ValueEnum;
use pnet::util::MacAddr;
use serde::Serialize;

/// What kind of MAC the hosts of a cluster share; the same on all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MacMode {
    /// A group MAC, which switches flood.
    Multicast,
    /// The group MAC of an IP group that each host joins by IGMP: for switches that forward group
    /// MACs only to ports with members.
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
    pub fn address(self, vip: Ipv4Addr) -> MacAddr {
        let [a, b, c, d] = vip.octets();
        match self {
            // The prefixes known from other shared-address clusters, then the IP.
            Self::Multicast => MacAddr::new(0x03, 0xbf, a, b, c, d),
            Self::Stealth => MacAddr::new(0x02, 0xbf, a, b, c, d),
            // Another one than that of `Stealth`: a single host that sends from it spoils that mode.
            Self::Shared => MacAddr::new(0x02, 0xbe, a, b, c, d),
            Self::Igmp => {
                // RFC 1112 6.4: the lower 23 bits of the group.
                let [_, b, c, d] = igmp_group(vip).octets();
                MacAddr::new(0x01, 0x00, 0x5e, b & 0x7f, c, d)
            }
        }
    }

    /// The mode in which `vip` resolves to `mac`.
    pub fn of(mac: MacAddr, vip: Ipv4Addr) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.address(vip) == mac)
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

/// The IP group that hosts join in mode [`MacMode::Igmp`]: 239.255 (administratively scoped, RFC 2365)
/// and the last two bytes of the virtual IP, as Microsoft NLB has it. Virtual IPs
/// that end alike get each other's frames, and the rules drop those.
pub fn igmp_group(vip: Ipv4Addr) -> Ipv4Addr {
    let [_, _, c, d] = vip.octets();
    Ipv4Addr::new(239, 255, c, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_are_those_of_the_specification() {
        let spec = include_str!("../../proto-spec/claim-protocol.md");
        for mode in MacMode::ALL {
            let row = format!("| `{mode}` | `");
            let start = spec.find(&row).expect("the table of 9.1 has each mode") + row.len();
            let text = spec[start..].split('`').next().expect("the MAC ends");
            let bytes = text.split(':').map(|byte| match byte {
                "a" => 10,
                "b" => 20,
                "c" => 30,
                "d" => 40,
                byte => u8::from_str_radix(byte, 16).expect("two digits"),
            });
            let expected: Vec<u8> = bytes.collect();
            assert_eq!(
                mode.address(Ipv4Addr::new(10, 20, 30, 40)).octets()[..],
                expected,
                "{mode}"
            );
        }
        assert!(spec.contains("IP group 239.255.c.d"));
        assert_eq!(igmp_group(Ipv4Addr::new(10, 20, 30, 40)), Ipv4Addr::new(239, 255, 30, 40));
    }

    #[test]
    fn each_mode_has_an_address_of_its_own() {
        let vip = Ipv4Addr::new(10, 0, 200, 2);
        let addresses = MacMode::ALL.map(|mode| mode.address(vip).to_string());
        let expected =
            ["03:bf:0a:00:c8:02", "01:00:5e:7f:c8:02", "02:bf:0a:00:c8:02", "02:be:0a:00:c8:02"];
        assert_eq!(addresses, expected);
        for mode in MacMode::ALL {
            assert_eq!(MacMode::of(mode.address(vip), vip), Some(mode));
            assert_eq!(MacMode::from_str(mode.name(), false), Ok(mode));
        }
        assert_eq!(MacMode::of(MacAddr::broadcast(), vip), None);
    }
}
