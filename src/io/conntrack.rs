//! Connection tracking: looking for and removing the entries of flows.
//!
//! *Overrun* does not apply to one flow: one request, one answer, inside `send`.
//! A listing that does not fit its socket's buffer is continued with each receive.
//! *Restart and shutdown:* nothing is kept.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use clusterd::flow::{FlowKey, Protocol};

use super::error::attempt;
use super::message::{Attributes, Builder, Messages, nfnetlink};
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

    /// Removes the flow that a client has opened to a service (default zone);
    /// says whether there was one. One of IPv6 is none.
    ///
    /// The kernel finds an entry by either direction (`nf_conntrack_find_get`): a
    /// flow that the service's host opened to the client with the same ports goes as well.
    pub fn delete(&mut self, flow: &FlowKey) -> io::Result<bool> {
        self.about(IPCTNL_MSG_CT_DELETE, flow)
            .map_err(|error| attempt(format!("delete the conntrack entry of {flow}"), error))
    }

    /// Is there an entry of this flow, in either direction? Never of one of IPv6.
    pub fn tracks(&mut self, flow: &FlowKey) -> io::Result<bool> {
        self.about(IPCTNL_MSG_CT_GET, flow)
            .map_err(|error| attempt(format!("look for the conntrack entry of {flow}"), error))
    }

    /// Sends a request about one flow; false if there is no entry of it.
    fn about(&mut self, request: i32, flow: &FlowKey) -> io::Result<bool> {
        let (SocketAddr::V4(client), SocketAddr::V4(service)) = (flow.client, flow.service) else {
            return Ok(false);
        };
        self.next();
        self.request
            .begin(
                nfnetlink(libc::NFNL_SUBSYS_CTNETLINK, request),
                libc::NLM_F_ACK as u16,
                self.sequence,
            )
            .nfgenmsg(libc::AF_INET, 0);
        tuple(&mut self.request, client, service, flow.protocol);
        self.request.end();
        match self.socket.request(self.request.bytes(), self.sequence, |_| ()) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The flows of datagrams that clients have opened to `vip`. The kernel walks its
    /// whole table (some milliseconds): for rare occasions.
    pub fn datagrams(&mut self, vip: Ipv4Addr) -> io::Result<Vec<FlowKey>> {
        self.list(vip).map_err(|error| attempt(format!("list the UDP flows to {vip}"), error))
    }

    fn list(&mut self, vip: Ipv4Addr) -> io::Result<Vec<FlowKey>> {
        self.next();
        self.request
            .begin(
                nfnetlink(libc::NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET),
                libc::NLM_F_DUMP as u16,
                self.sequence,
            )
            .nfgenmsg(libc::AF_INET, 0)
            // What is set in the tuple counts, and of it only what has a flag.
            .nested(CTA_FILTER, |filter| {
                let flags = CTA_FILTER_F_IP_DST | CTA_FILTER_F_PROTO_NUM;
                filter
                    .attribute(CTA_FILTER_ORIG_FLAGS, &flags.to_ne_bytes())
                    .attribute(CTA_FILTER_REPLY_FLAGS, &[0; 4]);
            });
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        tuple(&mut self.request, any, SocketAddrV4::new(vip, 0), Protocol::Udp);
        self.request.end();
        self.socket.send(self.request.bytes())?;
        let mut flows = Vec::new();
        let mut reply = vec![0; 32 << 10];
        loop {
            let datagram = self.socket.recv(&mut reply)?;
            for message in Messages(datagram).filter(|message| message.sequence == self.sequence) {
                match message.error() {
                    Some(0) | None => {}
                    Some(code) => return Err(io::Error::from_raw_os_error(code)),
                }
                if message.is_done() {
                    return Ok(flows);
                }
                flows.extend(
                    flow(message.payload.get(NFGENMSG..).unwrap_or_default())
                        .filter(|flow| flow.service.ip() == vip),
                );
            }
        }
    }

    fn next(&mut self) {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.request.clear();
    }
}

/// Adds the original direction of a flow.
fn tuple(request: &mut Builder, client: SocketAddrV4, local: SocketAddrV4, protocol: Protocol) {
    request.nested(CTA_TUPLE_ORIG, |tuple| {
        tuple
            .nested(CTA_TUPLE_IP, |ip| {
                ip.attribute(CTA_IP_V4_SRC, &client.ip().octets())
                    .attribute(CTA_IP_V4_DST, &local.ip().octets());
            })
            .nested(CTA_TUPLE_PROTO, |part| {
                part.attribute(CTA_PROTO_NUM, &[protocol.number()])
                    .attribute(CTA_PROTO_SRC_PORT, &client.port().to_be_bytes())
                    .attribute(CTA_PROTO_DST_PORT, &local.port().to_be_bytes());
            });
    });
}

/// The flow of datagrams that an entry is of.
fn flow(attributes: &[u8]) -> Option<FlowKey> {
    let find = |attributes, wanted| {
        Attributes(attributes).find(|&(kind, _)| kind == wanted).map(|(_, value)| value)
    };
    let original = find(attributes, CTA_TUPLE_ORIG)?;
    let (ip, part) = (find(original, CTA_TUPLE_IP)?, find(original, CTA_TUPLE_PROTO)?);
    if find(part, CTA_PROTO_NUM)? != [Protocol::Udp.number()] {
        return None;
    }
    let end = |address, port| {
        let address: &[u8; 4] = find(ip, address)?.first_chunk()?;
        let port = find(part, port)?.first_chunk()?;
        Some(SocketAddrV4::new(Ipv4Addr::from(*address), u16::from_be_bytes(*port)))
    };
    Some(FlowKey::udp(
        end(CTA_IP_V4_SRC, CTA_PROTO_SRC_PORT)?,
        end(CTA_IP_V4_DST, CTA_PROTO_DST_PORT)?,
    ))
}

/// Bytes of `struct nfgenmsg` before the attributes.
const NFGENMSG: usize = 4;

// linux/netfilter/nfnetlink_conntrack.h
const IPCTNL_MSG_CT_GET: i32 = 1;
const IPCTNL_MSG_CT_DELETE: i32 = 2;
const CTA_TUPLE_ORIG: i32 = 1;
const CTA_FILTER: i32 = 25;
const CTA_TUPLE_IP: i32 = 1;
const CTA_TUPLE_PROTO: i32 = 2;
const CTA_IP_V4_SRC: i32 = 1;
const CTA_IP_V4_DST: i32 = 2;
const CTA_PROTO_NUM: i32 = 1;
const CTA_PROTO_SRC_PORT: i32 = 2;
const CTA_PROTO_DST_PORT: i32 = 3;
const CTA_FILTER_ORIG_FLAGS: i32 = 1;
const CTA_FILTER_REPLY_FLAGS: i32 = 2;
// net/netfilter/nf_conntrack_netlink.c: CTA_FILTER_F_*, which no header exports.
const CTA_FILTER_F_IP_DST: u32 = 1 << 1;
const CTA_FILTER_F_PROTO_NUM: u32 = 1 << 3;

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::io::testing::{address, in_namespace, listen, nft, start_connect};

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
            let flow = FlowKey::tcp(client, local);
            assert!(conntrack.tracks(&flow).unwrap());
            assert!(conntrack.delete(&flow).unwrap());
            assert!(!conntrack.delete(&flow).unwrap());
            assert!(!conntrack.tracks(&flow).unwrap());
            let stranger = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
            assert!(!conntrack.delete(&FlowKey::tcp(stranger, local)).unwrap());
            assert!(!conntrack.delete(&FlowKey::udp(client, local)).unwrap());
        });
    }

    #[test]
    fn flows_of_datagrams_are_listed() {
        in_namespace(|| {
            nft(
                "table inet t { chain c { type filter hook input priority 0; ct state new accept; }; }",
            );
            let vip = Ipv4Addr::new(127, 0, 0, 2);
            let mut conntrack = Conntrack::open().unwrap();
            assert_eq!(conntrack.datagrams(vip).unwrap(), []);
            let service = UdpSocket::bind((vip, 0)).unwrap();
            let local = address(service.local_addr());
            let clients: Vec<_> =
                (0..300).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
            let mut expected = Vec::new();
            for client in &clients {
                client.send_to(b"?", local).unwrap();
                expected.push(FlowKey::udp(address(client.local_addr()), local));
            }
            // Neither another address nor another protocol.
            clients[0].send_to(b"?", address(clients[1].local_addr())).unwrap();
            let listener = listen(vip.into(), 8);
            let _connection = start_connect(address(listener.local_addr()));
            let mut listed = conntrack.datagrams(vip).unwrap();
            listed.sort();
            expected.sort();
            assert_eq!(listed, expected);
            assert!(conntrack.delete(&expected[0]).unwrap());
            assert_eq!(conntrack.datagrams(vip).unwrap().len(), 299);
        });
    }
}
