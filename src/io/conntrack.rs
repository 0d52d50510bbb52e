//! Connection tracking: looking for and removing the entries of flows.
//!
//! *Overrun* does not apply to one flow: one request, one answer, inside `send`.
//! A listing that does not fit its socket's buffer is continued with each receive.
//! *Restart and shutdown:* nothing is kept.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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
    /// says whether there was one.
    ///
    /// The kernel finds an entry by either direction (`nf_conntrack_find_get`): a
    /// flow that the service's host opened to the client with the same ports goes as well.
    pub fn delete(&mut self, flow: &FlowKey) -> io::Result<bool> {
        self.about(IPCTNL_MSG_CT_DELETE, flow)
            .map_err(|error| attempt(format!("delete the conntrack entry of {flow}"), error))
    }

    /// Is there an entry of this flow, in either direction?
    pub fn tracks(&mut self, flow: &FlowKey) -> io::Result<bool> {
        self.about(IPCTNL_MSG_CT_GET, flow)
            .map_err(|error| attempt(format!("look for the conntrack entry of {flow}"), error))
    }

    /// Sends a request about one flow; false if there is no entry of it.
    fn about(&mut self, request: i32, flow: &FlowKey) -> io::Result<bool> {
        self.next();
        self.request
            .begin(
                nfnetlink(libc::NFNL_SUBSYS_CTNETLINK, request),
                libc::NLM_F_ACK as u16,
                self.sequence,
            )
            .nfgenmsg(family(flow.service.ip()), 0);
        tuple(&mut self.request, flow);
        self.request.end();
        match self.socket.request(self.request.bytes(), self.sequence, |_| ()) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The flows of datagrams that clients have opened to these addresses. The kernel walks its
    /// whole table (some milliseconds) for each family: for rare occasions.
    pub fn datagrams(&mut self, vips: &[IpAddr]) -> io::Result<Vec<FlowKey>> {
        let mut flows = Vec::new();
        let (v4, v6): (Vec<_>, Vec<_>) = vips.iter().partition(|vip| vip.is_ipv4());
        for vips in [v4, v6] {
            if let Some(&one) = vips.first() {
                let listed = self.list(one, &vips);
                let what = || format!("list the UDP flows to {one}");
                flows.extend(listed.map_err(|error| attempt(what(), error))?);
            }
        }
        Ok(flows)
    }

    /// Those to `vips`, which are of the family of `vip`.
    fn list(&mut self, vip: IpAddr, vips: &[IpAddr]) -> io::Result<Vec<FlowKey>> {
        self.next();
        self.request
            .begin(
                nfnetlink(libc::NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET),
                libc::NLM_F_DUMP as u16,
                self.sequence,
            )
            .nfgenmsg(family(vip), 0)
            // What is set in the tuple counts, and of it only what has a flag.
            .nested(CTA_FILTER, |filter| {
                let flags = match vip {
                    IpAddr::V4(_) if vips.len() == 1 => {
                        CTA_FILTER_F_IP_DST | CTA_FILTER_F_PROTO_NUM
                    }
                    IpAddr::V4(_) => CTA_FILTER_F_PROTO_NUM,
                    // Asked for an IPv6 address, Linux 6.18 lists the flows that have another one
                    // (`ctnetlink_filter_match_tuple`).
                    IpAddr::V6(_) => CTA_FILTER_F_PROTO_NUM,
                };
                filter
                    .attribute(CTA_FILTER_ORIG_FLAGS, &flags.to_ne_bytes())
                    .attribute(CTA_FILTER_REPLY_FLAGS, &[0; 4]);
            });
        let any: IpAddr = match vip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        tuple(&mut self.request, &FlowKey::udp((any, 0), (vip, 0)));
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
                        .filter(|flow| vips.contains(&flow.service.ip())),
                );
            }
        }
    }

    fn next(&mut self) {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.request.clear();
    }
}

/// The family of an address.
fn family(ip: IpAddr) -> i32 {
    match ip {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    }
}

/// Adds the original direction of a flow.
fn tuple(request: &mut Builder, flow: &FlowKey) {
    let FlowKey { protocol, client, service } = flow;
    request.nested(CTA_TUPLE_ORIG, |tuple| {
        tuple
            .nested(CTA_TUPLE_IP, |part| {
                for (ip, v4, v6) in [
                    (client.ip(), CTA_IP_V4_SRC, CTA_IP_V6_SRC),
                    (service.ip(), CTA_IP_V4_DST, CTA_IP_V6_DST),
                ] {
                    match ip {
                        IpAddr::V4(ip) => part.attribute(v4, &ip.octets()),
                        IpAddr::V6(ip) => part.attribute(v6, &ip.octets()),
                    };
                }
            })
            .nested(CTA_TUPLE_PROTO, |part| {
                part.attribute(CTA_PROTO_NUM, &[protocol.number()])
                    .attribute(CTA_PROTO_SRC_PORT, &client.port().to_be_bytes())
                    .attribute(CTA_PROTO_DST_PORT, &service.port().to_be_bytes());
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
    let end = |v4, v6, port| {
        let ip = match (find(ip, v4), find(ip, v6)) {
            (Some(ip), _) => IpAddr::from(*ip.first_chunk::<4>()?),
            (None, Some(ip)) => IpAddr::from(*ip.first_chunk::<16>()?),
            (None, None) => return None,
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(*find(part, port)?.first_chunk()?)))
    };
    Some(FlowKey::udp(
        end(CTA_IP_V4_SRC, CTA_IP_V6_SRC, CTA_PROTO_SRC_PORT)?,
        end(CTA_IP_V4_DST, CTA_IP_V6_DST, CTA_PROTO_DST_PORT)?,
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
const CTA_IP_V6_SRC: i32 = 3;
const CTA_IP_V6_DST: i32 = 4;
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

    const TRACKED: &str =
        "table inet t { chain c { type filter hook input priority 0; ct state new accept; }; }";

    #[test]
    fn an_entry_is_deleted_once() {
        in_namespace(|| {
            nft(TRACKED);
            for ip in ["127.0.0.1", "::1"] {
                let ip: IpAddr = ip.parse().unwrap();
                let listener = listen(ip, 8);
                let local = address(listener.local_addr());
                let socket = start_connect(local);
                let client = address(socket.local_addr());
                let mut conntrack = Conntrack::open().unwrap();
                let flow = FlowKey::tcp(client, local);
                assert!(conntrack.tracks(&flow).unwrap());
                assert!(conntrack.delete(&flow).unwrap());
                assert!(!conntrack.delete(&flow).unwrap());
                assert!(!conntrack.tracks(&flow).unwrap());
                assert!(!conntrack.delete(&FlowKey::tcp((ip, 1), local)).unwrap());
                assert!(!conntrack.delete(&FlowKey::udp(client, local)).unwrap());
            }
        });
    }

    #[test]
    fn flows_of_datagrams_are_listed() {
        in_namespace(|| {
            nft(TRACKED);
            for vip in ["127.0.0.2", "::1"] {
                let vip: IpAddr = vip.parse().unwrap();
                let mut conntrack = Conntrack::open().unwrap();
                assert_eq!(conntrack.datagrams(&[vip]).unwrap(), []);
                let service = UdpSocket::bind((vip, 0)).unwrap();
                let local = address(service.local_addr());
                let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let clients: Vec<_> = (0..300).map(|_| UdpSocket::bind(any).unwrap()).collect();
                let mut expected = Vec::new();
                for client in &clients {
                    client.connect(local).unwrap();
                    client.send(b"?").unwrap();
                    expected.push(FlowKey::udp(address(client.local_addr()), local));
                }
                // Neither another address nor another protocol.
                let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
                elsewhere.send_to(b"?", address(elsewhere.local_addr())).unwrap();
                let listener = listen(vip, 8);
                let _connection = start_connect(address(listener.local_addr()));
                let mut listed = conntrack.datagrams(&[vip]).unwrap();
                listed.sort();
                expected.sort();
                assert_eq!(listed, expected);
                assert!(conntrack.delete(&expected[0]).unwrap());
                assert_eq!(conntrack.datagrams(&[vip]).unwrap().len(), 299);
            }
        });
    }
}
