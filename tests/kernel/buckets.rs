//! The kernel puts every client into the bucket that the library says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clusterd::bucket::bucket;
use clusterd::flow::ClusterKey;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::rig::{Lab, VIP, skip};

const PACKETS: u16 = 300;
const DESTINATION: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 77, 0, 11), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x11));

/// A kind of packet: its place in the rules, and what lies behind the IP header.
struct Kind {
    name: &'static str,
    protocol: u8,
    /// Does the kernel's expression begin with `ip6 saddr`?
    is_ipv6: bool,
    /// What the rule hashes besides the address.
    selector: &'static str,
    /// The transport header for a port or echo identifier.
    header: fn([u8; 2]) -> Vec<u8>,
}

const KINDS: [Kind; 6] = [
    Kind { name: "tcp4", protocol: 6, is_ipv6: false, selector: "tcp sport", header: syn },
    Kind { name: "udp4", protocol: 17, is_ipv6: false, selector: "udp sport", header: datagram },
    Kind { name: "icmp4", protocol: 1, is_ipv6: false, selector: "icmp id", header: echo },
    Kind { name: "tcp6", protocol: 6, is_ipv6: true, selector: "tcp sport", header: syn },
    Kind { name: "udp6", protocol: 17, is_ipv6: true, selector: "udp sport", header: datagram },
    Kind { name: "icmp6", protocol: 58, is_ipv6: true, selector: "icmpv6 id", header: echo6 },
];

fn syn([a, b]: [u8; 2]) -> Vec<u8> {
    vec![a, b, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]
}

fn datagram([a, b]: [u8; 2]) -> Vec<u8> {
    vec![a, b, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]
}

fn echo([a, b]: [u8; 2]) -> Vec<u8> {
    vec![8, 0, 0, 0, a, b, 0, 1, 1, 2, 3, 4]
}

fn echo6([a, b]: [u8; 2]) -> Vec<u8> {
    vec![128, 0, 0, 0, a, b, 0, 1, 1, 2, 3, 4]
}

impl Kind {
    /// Client `number` of this kind; no two have one address.
    fn client(&self, number: u16) -> SocketAddr {
        // Spread over all bits, by odd factors.
        let spread = u32::from(number + 1).wrapping_mul(0x9e37_79b1);
        let port = number.wrapping_mul(40_503) | 1;
        let ip = if self.is_ipv6 {
            let [a, b, c, d] = spread.to_be_bytes();
            let [e, f] = number.to_be_bytes();
            IpAddr::from([0x20, 0x01, 0x0d, 0xb8, a, d, b, c, 0x80, c, d, 1, f, 0xff, e, f])
        } else {
            // In 64.0.0.0/2: unicast, whatever the lower bits.
            IpAddr::from((spread >> 2 | 0x4000_0000).to_be_bytes())
        };
        SocketAddr::new(ip, port)
    }

    /// The IP packet from a client.
    fn packet(&self, client: SocketAddr) -> Vec<u8> {
        let transport = (self.header)(client.port().to_be_bytes());
        let length = |header: usize| ((header + transport.len()) as u16).to_be_bytes();
        let mut packet = match client.ip() {
            IpAddr::V4(ip) => {
                let [a, b] = length(20);
                let mut packet = vec![0x45, 0, a, b, 0, 1, 0, 0, 64, self.protocol, 0, 0];
                packet.extend(ip.octets());
                packet.extend(DESTINATION.0.octets());
                packet
            }
            IpAddr::V6(ip) => {
                let [a, b] = length(0);
                let mut packet = vec![0x60, 0, 0, 0, a, b, self.protocol, 64];
                packet.extend(ip.octets());
                packet.extend(DESTINATION.1.octets());
                packet
            }
        };
        packet.extend(transport);
        packet
    }

    /// A chain that notes address and bucket of each client.
    fn rules(&self, seed: u32) -> String {
        let Self { name, selector, .. } = self;
        let (saddr, address) =
            if self.is_ipv6 { ("ip6 saddr", "ipv6_addr") } else { ("ip saddr", "ipv4_addr") };
        let condition = match selector.split_once(' ') {
            Some(("icmp", _)) => "icmp type echo-request".to_owned(),
            Some(("icmpv6", _)) => "icmpv6 type echo-request".to_owned(),
            _ => format!("meta l4proto {}", self.protocol),
        };
        format!(
            "set {name} {{ type {address} . mark; size 1024; flags dynamic; }}
            chain {name} {{
                type filter hook output priority 0;
                {condition} meta mark set jhash {saddr} . {selector} mod 256 seed {seed} \
                    update @{name} {{ {saddr} . meta mark }}
            }}\n"
        )
    }
}

#[test]
fn the_kernel_and_the_library_agree_on_every_bucket() {
    let Some(lab) = Lab::bare() else { return };
    let seed = ClusterKey::public(VIP.into()).bucket_seed();
    for line in
        ["sysctl -qw net.ipv6.conf.all.disable_ipv6=0", "ip addr add fd77::200/64 dev eth0 nodad"]
    {
        lab.shell("client", line);
    }
    let rules: String = KINDS.iter().map(|kind| kind.rules(seed)).collect();
    let load = format!("nft -f - <<'END'\ntable inet buckets {{\n{rules}}}\nEND");
    let loaded = lab.run("client", &["sh", "-c", &load]);
    if !loaded.status.success() {
        let reason = String::from_utf8_lossy(&loaded.stderr);
        return skip(&format!("no jhash in nft: {reason}")).unwrap_or_default();
    }
    lab.within("client", || {
        let (ipv4, ipv6) = (raw_socket(Domain::IPV4), raw_socket(Domain::IPV6));
        for kind in &KINDS {
            let (socket, to) = if kind.is_ipv6 {
                (&ipv6, SocketAddr::new(DESTINATION.1.into(), 0))
            } else {
                (&ipv4, SocketAddr::new(DESTINATION.0.into(), 0))
            };
            for number in 0..PACKETS {
                let packet = kind.packet(kind.client(number));
                socket.send_to(&packet, &to.into()).expect("send a raw packet");
            }
        }
    });
    for kind in &KINDS {
        let text = lab.shell("client", &format!("nft -j list set inet buckets {}", kind.name));
        let listing: Value = serde_json::from_str(&text).expect("nft -j prints JSON");
        let mut kernel: Vec<(IpAddr, u64)> = elements(&listing).collect();
        let mut ours: Vec<(IpAddr, u64)> = (0..PACKETS)
            .map(|number| kind.client(number))
            .map(|client| (client.ip(), bucket(seed, client).0.into()))
            .collect();
        kernel.sort();
        ours.sort();
        assert_eq!(kernel, ours, "{}", kind.name);
    }
}

/// Sends whole IP packets, as they are.
fn raw_socket(domain: Domain) -> Socket {
    Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW))).expect("a raw socket")
}

/// What the kernel has noted: the client's address, and its bucket.
fn elements(listing: &Value) -> impl Iterator<Item = (IpAddr, u64)> {
    let items = listing["nftables"].as_array().expect("a list");
    let set = items.iter().find_map(|item| item.get("set")).expect("a set");
    set["elem"].as_array().expect("the set has elements").iter().map(|element| {
        let fields = element["concat"].as_array().expect("two fields");
        let address = fields[0].as_str().expect("an address").parse().expect("an address");
        (address, fields[1].as_u64().expect("a mark"))
    })
}
