//! What may keep an interface from carrying a virtual IP.

use anyhow::{Context, Result};
use futures_util::StreamExt;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

use super::{Links, canonical_name};

/// The state of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Whether somebody is at the other end of the cable.
    pub has_carrier: bool,
    /// The bridge, bond or team that takes all of its frames.
    pub port_of: Option<String>,
    /// Whether it is a macvlan, which gets unicast frames to its own MAC only (`macvlan_fdb_add`).
    pub is_macvlan: bool,
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

    /// The name of a master that takes the frames of its ports; a VRF does not.
    async fn taker(&self, index: u32) -> Result<Option<String>> {
        let mut links = self.handle.link().get().match_index(index).execute();
        let Some(master) = links.next().await else { return Ok(None) };
        let master = master.context("look for the master of the interface")?;
        let takes =
            matches!(kind(&master), Some(InfoKind::Bridge | InfoKind::Bond | InfoKind::Team));
        Ok(canonical_name(&master).filter(|_| takes))
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
