//! Notices when another program removes our tables, as `nft flush ruleset`
//! does on every reload of Debian's firewall service.
//!
//! Overrun: a lost notification may have been about our tables, so it counts
//! as one; the caller looks for itself in any case.

use std::io;
use std::net::Ipv4Addr;

use tokio::io::unix::AsyncFd;

use super::message::{Attributes, Messages, nfnetlink};
use super::netlink::NetlinkSocket;
use super::rules::table_name;

// linux/netfilter/nfnetlink.h and nf_tables.h
const NFNLGRP_NFTABLES: u32 = 7;
const NFT_MSG_DELTABLE: i32 = 2;
const NFTA_TABLE_NAME: i32 = 1;
/// Bytes of `struct nfgenmsg` before the attributes.
const NFGENMSG: usize = 4;

/// A subscription to changes of nf_tables in this network namespace.
pub struct RulesWatch {
    socket: AsyncFd<NetlinkSocket>,
    table: String,
}

impl RulesWatch {
    /// Watches the tables of `vip` from now on.
    pub fn open(vip: Ipv4Addr) -> io::Result<Self> {
        let socket = NetlinkSocket::open(libc::NETLINK_NETFILTER, 0)?;
        socket.subscribe(NFNLGRP_NFTABLES)?;
        // SAFETY: a `NetlinkSocket` keeps its descriptor until it is dropped.
        let socket = unsafe { AsyncFd::register(socket)? };
        Ok(Self { socket, table: table_name(vip) })
    }

    /// Returns when one of the tables may have been removed.
    pub async fn removed(&self) -> io::Result<()> {
        let mut buffer = [0; 8192];
        loop {
            let mut ready = self.socket.readable().await?;
            match self.socket.get_ref().recv(&mut buffer) {
                Ok(datagram) if self.concerns_us(datagram) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn concerns_us(&self, datagram: &[u8]) -> bool {
        let removed = nfnetlink(libc::NFNL_SUBSYS_NFTABLES, NFT_MSG_DELTABLE);
        let names_us = |payload: &[u8]| {
            Attributes(payload.get(NFGENMSG..).unwrap_or_default()).any(|(kind, value)| {
                kind == NFTA_TABLE_NAME && value.strip_suffix(&[0]) == Some(self.table.as_bytes())
            })
        };
        Messages(datagram).any(|message| message.kind == removed && names_us(message.payload))
    }
}
