//! Notices when another program changes what the daemon has installed: flushes
//! the ruleset, as Debian's firewall service does on every reload, or removes
//! the address, as some network managers do.
//!
//! Overrun: a lost notification may have been about us, so it counts as one;
//! the caller looks for itself in any case.

use std::io;
use std::net::IpAddr;

use tokio::io::unix::AsyncFd;

use super::message::{Attributes, Message, Messages, nfnetlink};
use super::netlink::NetlinkSocket;
use super::rules::table_name;

// linux/netfilter/nfnetlink.h, nf_tables.h and rtnetlink.h
const NFNLGRP_NFTABLES: u32 = 7;
const NFT_MSG_DELTABLE: i32 = 2;
const NFT_MSG_DELRULE: i32 = 8;
/// NFTA_TABLE_NAME and NFTA_RULE_TABLE.
const NFTA_TABLE: i32 = 1;
/// Bytes of `struct nfgenmsg` before the attributes.
const NFGENMSG: usize = 4;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;

/// A subscription to the kernel's notifications in this network namespace.
pub struct Watch {
    socket: AsyncFd<NetlinkSocket>,
    concern: Concern,
}

enum Concern {
    Table(String),
    Addresses,
}

impl Watch {
    /// Watches the tables of the cluster that `vip` names for removals.
    pub fn rules(vip: IpAddr) -> io::Result<Self> {
        Self::open(libc::NETLINK_NETFILTER, &[NFNLGRP_NFTABLES], Concern::Table(table_name(vip)))
    }

    /// Watches the addresses of all interfaces for removals.
    pub fn addresses() -> io::Result<Self> {
        let groups = [RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR];
        Self::open(libc::NETLINK_ROUTE, &groups, Concern::Addresses)
    }

    fn open(protocol: i32, groups: &[u32], concern: Concern) -> io::Result<Self> {
        let socket = NetlinkSocket::open(protocol, 0)?;
        socket.subscribe(groups)?;
        // SAFETY: a `NetlinkSocket` keeps its descriptor until it is dropped.
        let socket = unsafe { AsyncFd::register(socket)? };
        Ok(Self { socket, concern })
    }

    /// Returns when something of ours may have been removed.
    pub async fn removed(&self) -> io::Result<()> {
        let mut buffer = [0; 8192];
        loop {
            let mut ready = self.socket.readable().await?;
            match self.socket.get_ref().recv(&mut buffer) {
                Ok(datagram) if Messages(datagram).any(|m| self.concern.is_in(&m)) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Concern {
    fn is_in(&self, message: &Message<'_>) -> bool {
        match self {
            Concern::Addresses => message.kind == libc::RTM_DELADDR,
            Concern::Table(table) => {
                let removals = [NFT_MSG_DELTABLE, NFT_MSG_DELRULE];
                let attributes = message.payload.get(NFGENMSG..).unwrap_or_default();
                removals
                    .map(|kind| nfnetlink(libc::NFNL_SUBSYS_NFTABLES, kind))
                    .contains(&message.kind)
                    && Attributes(attributes).any(|(kind, value)| {
                        kind == NFTA_TABLE && value.strip_suffix(&[0]) == Some(table.as_bytes())
                    })
            }
        }
    }
}
