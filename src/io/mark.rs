//! A note on the interface of what a daemon does to it, as one of its alternative names.
//!
//! It outlives the daemon and goes with the interface, other programs that flush rules or remove
//! addresses leave it alone, and `ip link` shows it. So the next start, or `clusterd cleanup`, knows
//! what a killed daemon has left, and which MAC the interface had before.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use clap::ValueEnum;
use pnet::util::MacAddr;

use super::cluster_mac::MacMode;
use super::vip_name;

/// What the name of every mark begins with.
const PREFIX: &str = "clusterd";

/// What a daemon does to an interface. As a name: `clusterd-10.0.0.2-stealth-020000000001`, with
/// an IPv6 address `clusterd-2001_db8__2-stealth-020000000001`; of the 127 bytes that a name may
/// have (`ALTIFNAMSIZ`) the longest needs 71.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The first virtual IP.
    pub vip: IpAddr,
    /// How frames to it get in.
    pub mode: MacMode,
    /// The MAC that the interface had before.
    pub own: MacAddr,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}-{}-{}-", vip_name::spell(self.vip), self.mode)?;
        self.own.octets().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// That the interface has a further virtual IP of a cluster. As a name:
/// `clusterd-10.0.0.3-of-10.0.0.2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FurtherMark {
    /// The further virtual IP.
    pub vip: IpAddr,
    /// The first one.
    pub first: IpAddr,
}

impl fmt::Display for FurtherMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vip, first } = *self;
        write!(f, "{PREFIX}-{}-of-{}", vip_name::spell(vip), vip_name::spell(first))
    }
}

impl FromStr for FurtherMark {
    type Err = NoMark;

    fn from_str(name: &str) -> Result<Self, NoMark> {
        let fields: Vec<_> = name.split('-').collect();
        let [PREFIX, vip, "of", first] = fields[..] else { return Err(NoMark) };
        let read = |vip| vip_name::read(vip).ok_or(NoMark);
        Ok(Self { vip: read(vip)?, first: read(first)? })
    }
}

/// A name that is not a mark.
#[derive(Debug, PartialEq, Eq)]
pub struct NoMark;

impl FromStr for Mark {
    type Err = NoMark;

    fn from_str(name: &str) -> Result<Self, NoMark> {
        let fields: Vec<_> = name.split('-').collect();
        let [PREFIX, vip, mode, own] = fields[..] else { return Err(NoMark) };
        let number = u64::from_str_radix(own, 16).ok().filter(|_| own.len() == 12);
        let [_, _, a, b, c, d, e, f] = number.ok_or(NoMark)?.to_be_bytes();
        Ok(Self {
            vip: vip_name::read(vip).ok_or(NoMark)?,
            mode: MacMode::from_str(mode, false).map_err(|_| NoMark)?,
            own: MacAddr::new(a, b, c, d, e, f),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written() {
        let mark = Mark {
            vip: [10, 0, 0, 2].into(),
            mode: MacMode::Stealth,
            own: MacAddr::new(2, 0, 0, 0, 0, 1),
        };
        assert_eq!(mark.to_string(), "clusterd-10.0.0.2-stealth-020000000001");
        for mode in MacMode::ALL {
            for vip in ["10.0.0.2", "2001:db8::2"] {
                let mark = Mark { mode, vip: vip.parse().unwrap(), ..mark.clone() };
                assert_eq!(mark.to_string().parse(), Ok(mark));
            }
        }
        let further = FurtherMark { vip: "2001:db8::3".parse().unwrap(), first: mark.vip };
        assert_eq!(further.to_string().parse(), Ok(further));
        assert_eq!(further.to_string().parse::<Mark>(), Err(NoMark));
        for name in ["eth0", "clusterd", "clusterd-10.0.0.2-stealth-02000000000", "clusterd-x-y-z"]
        {
            assert_eq!(name.parse::<Mark>(), Err(NoMark), "{name}");
        }
    }
}
