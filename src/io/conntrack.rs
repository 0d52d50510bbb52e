//! Connection tracking: removing the entry of one flow.
//!
//! *Overrun* does not apply: one request, one answer, inside `send`. *Restart
//! and shutdown:* nothing is kept.

use std::io;
use std::net::SocketAddrV4;

use super::error::attempt;
use super::message::{Builder, nfnetlink};
use super::netlink::NetlinkSocket;

/// A socket for requests to connection tracking.
#[derive(Debug)]
pub struct Conntrack {
    socket: NetlinkSocket,
    request: Builder,
    sequence: u32,
}

impl Conntrack {
    /// Opens the socket. Deleting needs `CAP_NET_ADMIN`.
    pub fn open() -> io::Result<Self> {
        let socket = NetlinkSocket::open(libc::NETLINK_NETFILTER, 0)?;
        Ok(Self { socket, request: Builder::with_capacity(128), sequence: 0 })
    }

    /// Removes the TCP flow that `client` opened to `local` (default zone);
    /// says whether there was one.
    ///
    /// The kernel finds an entry by either direction (`nf_conntrack_find_get`): a
    /// flow that `local` opened to `client` with the same ports goes as well.
    pub fn delete(&mut self, client: SocketAddrV4, local: SocketAddrV4) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.request.clear();
        self.request
            .begin(
                nfnetlink(libc::NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE),
                libc::NLM_F_ACK as u16,
                self.sequence,
            )
            .nfgenmsg(libc::AF_INET, 0)
            .nested(CTA_TUPLE_ORIG, |tuple| {
                tuple
                    .nested(CTA_TUPLE_IP, |ip| {
                        ip.attribute(CTA_IP_V4_SRC, &client.ip().octets())
                            .attribute(CTA_IP_V4_DST, &local.ip().octets());
                    })
                    .nested(CTA_TUPLE_PROTO, |protocol| {
                        protocol
                            .attribute(CTA_PROTO_NUM, &[libc::IPPROTO_TCP as u8])
                            .attribute(CTA_PROTO_SRC_PORT, &client.port().to_be_bytes())
                            .attribute(CTA_PROTO_DST_PORT, &local.port().to_be_bytes());
                    });
            })
            .end();
        match self.socket.request(self.request.bytes(), self.sequence, |_| ()) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => {
                Err(attempt(format!("delete the conntrack entry {client} -> {local}"), error))
            }
        }
    }
}

// linux/netfilter/nfnetlink_conntrack.h
const IPCTNL_MSG_CT_DELETE: i32 = 2;
const CTA_TUPLE_ORIG: i32 = 1;
const CTA_TUPLE_IP: i32 = 1;
const CTA_TUPLE_PROTO: i32 = 2;
const CTA_IP_V4_SRC: i32 = 1;
const CTA_IP_V4_DST: i32 = 2;
const CTA_PROTO_NUM: i32 = 1;
const CTA_PROTO_SRC_PORT: i32 = 2;
const CTA_PROTO_DST_PORT: i32 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::testing::{address, in_namespace, listen, nft, start_connect};
    use std::net::Ipv4Addr;

    #[test]
    fn an_entry_is_deleted_once() {
        in_namespace(|| {
            nft(
                "table inet t { chain c { type filter hook input priority 0; ct state new accept; }; }",
            );
            let listener = listen(Ipv4Addr::LOCALHOST.into(), 8);
            let local = address(listener.local_addr());
            let socket = start_connect(local);
            let client = address(socket.local_addr());
            let mut conntrack = Conntrack::open().unwrap();
            assert!(conntrack.delete(client, local).unwrap());
            assert!(!conntrack.delete(client, local).unwrap());
            let stranger = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
            assert!(!conntrack.delete(stranger, local).unwrap());
        });
    }
}
