//! Identities: nodes, flows and connection attempts, and the keyed hashes over them.
//!
//! Every hash is SipHash-2-4 under the [`ClusterKey`] over the exact byte
//! layout given in spec section 4, so that any implementation computes the
//! same ranks and the same attempt ids.

use std::fmt;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;
use siphasher::sip128::{Hasher128, SipHasher24 as SipHasher24Wide};

use crate::bucket::{Bucket, bucket};

/// What a flow consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// Connections: the client's ACK decides between two answers.
    Tcp,
    /// Datagrams: nobody decides afterwards.
    Udp,
}

impl Protocol {
    /// The IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// A port of a virtual IP, where a service may listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServicePort {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The virtual IP.
    pub vip: IpAddr,
    /// The port number.
    pub port: u16,
}

impl ServicePort {
    /// A TCP port.
    pub fn tcp(service: impl Into<SocketAddr>) -> Self {
        Self::new(Protocol::Tcp, service.into())
    }

    /// A UDP port.
    pub fn udp(service: impl Into<SocketAddr>) -> Self {
        Self::new(Protocol::Udp, service.into())
    }

    fn new(protocol: Protocol, service: SocketAddr) -> Self {
        Self { protocol, vip: service.ip(), port: service.port() }
    }
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.protocol, SocketAddr::new(self.vip, self.port))
    }
}

/// A virtual IP as hosts of one cluster name it to each other (spec 4.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VipHash(pub u32);

/// A host in the cluster. Stable across restarts of the daemon.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The two ends of a connection, or of an exchange of datagrams, as the client names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlowKey {
    /// What travels between them.
    pub protocol: Protocol,
    /// Address and port of the client.
    pub client: SocketAddr,
    /// The virtual IP and the port of the service on it.
    pub service: SocketAddr,
}

impl FlowKey {
    /// A TCP connection.
    pub fn tcp(client: impl Into<SocketAddr>, service: impl Into<SocketAddr>) -> Self {
        Self { protocol: Protocol::Tcp, client: client.into(), service: service.into() }
    }

    /// An exchange of datagrams.
    pub fn udp(client: impl Into<SocketAddr>, service: impl Into<SocketAddr>) -> Self {
        Self { protocol: Protocol::Udp, client: client.into(), service: service.into() }
    }

    /// Where the service listens.
    pub fn service_port(&self) -> ServicePort {
        ServicePort::new(self.protocol, self.service)
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", self.protocol, self.client, self.service)
    }
}

/// One connection attempt: a flow *and* the client's initial sequence number (0 for UDP).
///
/// Without the sequence number a reused port would mix two contests (spec 4.2).
/// It is a keyed 128-bit hash, so it has one size for IPv4 and IPv6 and a
/// receiver that holds the SYN computes it instead of decoding it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId(pub [u8; 16]);

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Eight hex digits tell attempts apart in a log; the rest is noise there.
        let [a, b, c, d, ..] = self.0;
        write!(f, "{a:02x}{b:02x}{c:02x}{d:02x}")
    }
}

impl fmt::Debug for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The key of all hashes that the hosts of one cluster must agree on, and of the
/// tag of unsigned frames.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterKey {
    key: [u8; 16],
    id: u32,
}

impl ClusterKey {
    /// The key of a cluster without a secret: derived from its virtual IP alone.
    ///
    /// It protects against corruption and keeps clusters on one segment apart;
    /// it does not protect against a forger: that is what a [key ring](crate::wire::KeyRing)
    /// with secrets is for (spec 10). Ranks and ids stay under the public key even then, so
    /// that hosts with and without a secret agree on them while it is being rolled out.
    pub fn public(vip: IpAddr) -> Self {
        let mut hasher = SipHasher24Wide::new();
        hasher.write(b"clusterd/1 public key");
        match vip {
            IpAddr::V4(ip) => hasher.write(&ip.octets()),
            IpAddr::V6(ip) => hasher.write(&ip.octets()),
        }
        Self::new(hasher.finish128().as_bytes())
    }

    /// A cluster keyed by `key`.
    pub fn new(key: [u8; 16]) -> Self {
        let mut hasher = SipHasher24::new_with_key(&key);
        hasher.write(b"cluster id");
        Self { key, id: hasher.finish() as u32 }
    }

    /// Tells clusters on one segment apart before anything else of a frame is looked at.
    pub fn cluster_id(&self) -> u32 {
        self.id
    }

    /// The tag over a frame: SipHash-2-4-128 of all bytes before it (spec 3.4).
    pub fn tag(&self, bytes: &[u8]) -> [u8; 16] {
        let mut hasher = SipHasher24Wide::new_with_key(&self.key);
        hasher.write(bytes);
        hasher.finish128().as_bytes()
    }

    /// Identifies the attempt that a SYN with sequence number `client_isn` opens (spec 4.2).
    pub fn attempt(&self, flow: &FlowKey, client_isn: u32) -> AttemptId {
        let mut bytes = Bytes::of(flow);
        bytes.put(&client_isn.to_be_bytes());
        AttemptId(SipHasher24Wide::new_with_key(&self.key).hash(bytes.get()).as_bytes())
    }

    /// Hash of a flow, the input of its rendezvous weights (spec 4.3).
    ///
    /// It leaves the sequence number out: a reused port ranks the hosts as
    /// before, so it meets the host that may still hold its TIME_WAIT.
    pub fn flow(&self, flow: &FlowKey) -> FlowHash {
        FlowHash(SipHasher24::new_with_key(&self.key).hash(Bytes::of(flow).get()))
    }

    /// Rendezvous weight of `node` for a flow: the heaviest node ranks first (spec 4.3).
    pub fn weight(&self, flow: FlowHash, node: NodeId) -> u64 {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&flow.0.to_be_bytes());
        bytes[8..].copy_from_slice(&node.0.to_be_bytes());
        SipHasher24::new_with_key(&self.key).hash(&bytes)
    }

    /// The id that a node takes when another host uses its own (spec 6.5).
    pub fn other_node_id(&self, taken: NodeId, incarnation: u64) -> NodeId {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(b"node id");
        hasher.write(&taken.0.to_be_bytes());
        hasher.write(&incarnation.to_be_bytes());
        NodeId(hasher.finish() as u32)
    }

    /// Seed of the kernel's hash that puts clients into buckets (spec 4.5).
    pub fn bucket_seed(&self) -> u32 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(b"bucket seed");
        hasher.finish() as u32
    }

    /// The bucket of a flow: that of its client (spec 4.5).
    pub fn bucket(&self, flow: &FlowKey) -> Bucket {
        bucket(self.bucket_seed(), flow.client)
    }

    /// Rendezvous weight of `node` for a bucket: the heaviest node is the first
    /// to serve it (spec 4.5).
    pub fn bucket_weight(&self, bucket: Bucket, node: NodeId) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(&[bucket.0]);
        hasher.write(&node.0.to_be_bytes());
        hasher.finish()
    }

    /// What a further virtual IP of the cluster is called among its hosts (spec 4.8).
    pub fn vip(&self, vip: IpAddr) -> VipHash {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(b"vip");
        match vip {
            IpAddr::V4(ip) => hasher.write(&ip.octets()),
            IpAddr::V6(ip) => hasher.write(&ip.octets()),
        }
        VipHash(hasher.finish() as u32)
    }

    /// Orders claims of equal try and rank; lower wins (spec 5.3).
    pub fn tie_break(&self, attempt: AttemptId, node: NodeId) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(&attempt.0);
        hasher.write(&node.0.to_be_bytes());
        hasher.finish()
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey(id {:08x})", self.id)
    }
}

/// Keyed hash of a [`FlowKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowHash(pub u64);

/// Flow bytes (spec 4.2), with room for a sequence number. They are gathered
/// because hashing them at once takes half as long as hashing field by field.
struct Bytes {
    bytes: [u8; 42],
    len: usize,
}

impl Bytes {
    fn of(flow: &FlowKey) -> Self {
        let mut bytes = Self { bytes: [0; 42], len: 0 };
        bytes.put(&[if flow.client.is_ipv4() { 4 } else { 6 }, flow.protocol.number()]);
        for ip in [flow.client.ip(), flow.service.ip()] {
            match ip {
                IpAddr::V4(ip) => bytes.put(&ip.octets()),
                IpAddr::V6(ip) => bytes.put(&ip.octets()),
            }
        }
        bytes.put(&flow.client.port().to_be_bytes());
        bytes.put(&flow.service.port().to_be_bytes());
        bytes
    }

    fn put(&mut self, field: &[u8]) {
        self.bytes[self.len..][..field.len()].copy_from_slice(field);
        self.len += field.len();
    }

    fn get(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u16) -> FlowKey {
        FlowKey::tcp(([10, 0, 0, 200], port), ([10, 0, 0, 2], 80))
    }

    #[test]
    fn attempts_differ_by_sequence_number_and_flow_hashes_do_not() {
        let key = ClusterKey::public([10, 0, 0, 2].into());
        assert_ne!(key.attempt(&flow(4000), 1), key.attempt(&flow(4000), 2));
        assert_ne!(key.attempt(&flow(4000), 1), key.attempt(&flow(4001), 1));
        assert_eq!(key.flow(&flow(4000)), key.flow(&flow(4000)));
        assert_ne!(key.flow(&flow(4000)), key.flow(&flow(4001)));
    }

    #[test]
    fn a_leaving_node_moves_only_its_own_flows() {
        let key = ClusterKey::public([10, 0, 0, 2].into());
        let first = |nodes: &[u32], port| {
            nodes.iter().copied().max_by_key(|&n| key.weight(key.flow(&flow(port)), NodeId(n)))
        };
        for port in 1..2000 {
            let before = first(&[1, 2, 3, 4], port);
            if before != Some(3) {
                assert_eq!(before, first(&[1, 2, 4], port));
            }
        }
    }

    #[test]
    fn equal_nodes_get_equal_shares() {
        let key = ClusterKey::public([10, 0, 0, 2].into());
        let mut won = [0u32; 3];
        for port in 0..30_000 {
            let hash = key.flow(&flow(port));
            let best = (0..3).max_by_key(|&n| key.weight(hash, NodeId(n))).unwrap();
            won[best as usize] += 1;
        }
        assert!(won.iter().all(|&n| (9_600..10_400).contains(&n)), "{won:?}");
    }

    #[test]
    fn clusters_of_two_addresses_do_not_share_an_id() {
        let a = ClusterKey::public([10, 0, 0, 2].into());
        let b = ClusterKey::public([10, 0, 0, 3].into());
        assert_ne!(a.cluster_id(), b.cluster_id());
    }
}
