//! What may keep an interface from carrying a virtual IP.

use std::net::IpAddr;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

use super::{Links, canonical_name};
use crate::failure::Failure;

/// The state of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Whether somebody is at the other end of the cable.
    pub has_carrier: bool,
    /// Who takes its frames.
    pub port_of: Option<Master>,
    /// Whether it is a macvlan, which gets unicast frames to its own MAC only (`macvlan_fdb_add`).
    pub is_macvlan: bool,
}

/// A bridge, bond or team: it takes the frames of its ports, which come in by itself then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    /// Its name.
    pub name: String,
    /// A bridge leaves its port the frames that a rule says (`ebtables -t broute`, nft `meta broute`; `br_handle_frame`).
    /// A bond or a team leaves it no IP packet (`bond_handle_frame`, `team_handle_frame`).
    pub is_bridge: bool,
}

impl Master {
    /// What that means for a port of it.
    pub fn takes_from(&self, port: &str) -> String {
        format!("{port} is a port of {}, which gets its frames; use that one", self.name)
    }

    /// Whether a cluster on a port of it could work at all: says what to warn of then.
    pub fn require_frames(&self, port: &str, vip: IpAddr) -> Result<String> {
        let text = format!("{}: clusterd {} {vip}", self.takes_from(port), self.name);
        if self.is_bridge { Ok(text) } else { Err(Failure::config(&text)) }
    }
}

impl Links {
    /// Looks at an interface; `None` if there is no such.
    pub async fn condition(&self, name: &str) -> Result<Option<Condition>> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        let Some(Ok(link)) = links.next().await else { return Ok(None) };
        let master = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Controller(index) => Some(*index),
            _ => None,
        });
        let port_of = match master {
            Some(index) => self.taker(index).await?,
            None => None,
        };
        Ok(Some(Condition {
            has_carrier: link.header.flags.contains(LinkFlags::LowerUp),
            port_of,
            is_macvlan: kind(&link) == Some(&InfoKind::MacVlan),
        }))
    }

    /// A master that takes the frames of its ports; a VRF does not.
    async fn taker(&self, index: u32) -> Result<Option<Master>> {
        let mut links = self.handle.link().get().match_index(index).execute();
        let Some(master) = links.next().await else { return Ok(None) };
        let master = master.context("look for the master of the interface")?;
        let is_bridge = match kind(&master) {
            Some(InfoKind::Bridge) => true,
            Some(InfoKind::Bond | InfoKind::Team) => false,
            Some(_) | None => return Ok(None),
        };
        Ok(canonical_name(&master).map(|name| Master { name, is_bridge }))
    }
}

fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    let infos = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn a_port_of_a_bridge_is_warned_of_and_one_of_a_bond_refused() {
        let master = |name: &str, is_bridge| Master { name: name.to_owned(), is_bridge };
        let vip = IpAddr::from([10, 0, 0, 2]);
        let text = master("br0", true).require_frames("eth0", vip).unwrap();
        assert!(text.ends_with("use that one: clusterd br0 10.0.0.2"), "{text}");
        let error = master("bond0", false).require_frames("eth0", vip).unwrap_err();
        assert_eq!(Failure::exit_code(&error), Exit::Config as u8);
        assert!(error.to_string().ends_with("clusterd bond0 10.0.0.2"), "{error}");
    }
}
