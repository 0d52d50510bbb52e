//! The nft ruleset of one virtual IP, as text (spec 9 says what each rule is for).
//!
//! Nothing here touches the kernel, so that `clusterd rules` can print the
//! rules without privileges. Everything lies in tables of our own, one in
//! family `inet`, for IPv4 one in family `arp`, in mode `stealth` one in family `netdev`, named
//! after the virtual IP.

mod family;

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::ValueEnum;
use clusterd::bucket::Bucket;
use clusterd::flow::ClusterKey;
use clusterd::wire::{IP_PROTOCOL, PORTS_MAX};

use self::family::Words;
use super::cluster_mac::MacMode;
use super::link::Addresses;
use super::vip_name;

/// Connection tracking label of flows whose client has chosen this host.
///
/// A label and not a mark: nothing else looks at it, and other rules that set
/// or compare whole marks neither break it nor see it. That it is not there is
/// written `ct label ! 100`: `!=` would compare all labels of the flow at once.
const CONFIRMED_LABEL: u8 = 100;

/// Connection tracking label of flows that the kernel accepted by their bucket.
const BUCKET_LABEL: u8 = 101;

/// The set of this host's own buckets; empty until the daemon fills it.
pub const OWN_BUCKETS: &str = "own_buckets";

/// The set of the IP protocols whose new flows the kernel divides by bucket,
/// without the daemon (overload form, spec 9); empty until the daemon fills it.
pub const BY_BUCKET: &str = "by_bucket";

/// The set of TCP ports that are not divided, because not every host serves them.
pub const UNDIVIDED: &str = "undivided";

/// Room in [`UNDIVIDED`]: as many as this host and 64 peers ([`Limits::peers`]) can announce.
///
/// [`Limits::peers`]: clusterd::protocol::Limits::peers
const UNDIVIDED_MAX: usize = (1 + 64) * PORTS_MAX;

/// The set of UDP ports on which this host has answered clients: what leaves from these in a flow
/// that is not tracked is a late answer, and goes to the daemon.
pub const ANSWERING: &str = "answering";

/// Room in [`ANSWERING`]; late answers from further ports are not noticed.
pub const ANSWERING_MAX: usize = 1_024;

/// The set of IP protocols that the kernel may let through to this host by
/// itself: UDP and ICMP while the daemon lives, which says so again and again.
pub const LEASED: &str = "leased";

/// The set of flows of datagrams that other hosts serve, as client address,
/// client port and service port.
pub const FOREIGN_FLOWS: &str = "foreign_udp";

/// Room in [`FOREIGN_FLOWS`]; datagrams of further flows go to the daemon each time.
pub const FOREIGN_FLOWS_MAX: usize = 65_536;

/// The counter of SYNs that were divided by bucket, own and foreign.
pub const DIVIDED: &str = "divided";

/// A SYN that opens a connection.
const SYN: &str = "tcp flags & (fin|syn|rst|ack) == syn";

/// Messages of neighbour discovery (RFC 4861 4) that have a source of their own.
const NDP: &str = "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, \
                   nd-neighbor-advert, nd-redirect }";

/// Bytes of a logged packet: IP and TCP headers with options fit.
const LOG_SNAPLEN: u8 = 80;

/// Which packets of the other hosts' connections may reach this host's TCP,
/// and which of its answers may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Guard {
    /// A RST without ACK leaves only if connection tracking calls the flow ASSURED.
    Rst,
    /// The client's first ACK must acknowledge this host's own sequence number.
    Strict,
}

/// How a held packet gets to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueBackend {
    /// The nft expression `queue`.
    Nft,
    /// The xtables target `NFQUEUE`, inserted into our own chains by the daemon.
    Xtables,
}

/// Everything the ruleset depends on.
#[derive(Clone, Debug)]
pub struct Ruleset {
    /// Interface on which the cluster lives.
    pub interface: String,
    /// The virtual IP and this host's own address beside it.
    pub addresses: Addresses,
    /// What kind of MAC it resolves to.
    pub mac: MacMode,
    /// Form of the handshake guard.
    pub guard: Guard,
    /// Queue number of new attempts; the next one is for flows that the kernel
    /// already tracks. The log group has the same number.
    pub queue: u16,
    /// Form of the queueing rules.
    pub backend: QueueBackend,
}

/// The chains whose first rule hands packets to a queue, with that queue's
/// offset to [`Ruleset::queue`].
pub const QUEUE_CHAINS: [(&str, u16); 2] = [("contest", 0), ("incumbent", 1)];

/// Name of all tables of a virtual IP.
pub fn table_name(vip: IpAddr) -> String {
    format!("clusterd_{}", vip_name::spell(vip))
}

/// The virtual IP that a table of ours is named after.
pub fn vip_of_table(name: &str) -> Option<IpAddr> {
    vip_name::read(name.strip_prefix("clusterd_")?)
}

/// The commands that remove the tables of a virtual IP in these families, present or not.
pub fn remove(vip: IpAddr, families: &[impl AsRef<str>]) -> String {
    let name = table_name(vip);
    let commands = families.iter().map(|family| {
        let family = family.as_ref();
        format!("add table {family} {name}\ndelete table {family} {name}\n")
    });
    commands.collect()
}

impl Ruleset {
    /// The families in which it has a table.
    pub fn families(&self) -> &'static [&'static str] {
        use Addresses::{V4, V6};
        match (self.addresses, self.mac) {
            (V4 { .. }, MacMode::Multicast | MacMode::Igmp | MacMode::Shared) => &["inet", "arp"],
            (V4 { .. }, MacMode::Stealth) => &["inet", "arp", "netdev"],
            (V6 { .. }, MacMode::Multicast | MacMode::Igmp | MacMode::Shared) => &["inet"],
            (V6 { .. }, MacMode::Stealth) => &["inet", "netdev"],
        }
    }

    fn vip(&self) -> IpAddr {
        self.addresses.vip()
    }

    /// The commands that install the tables, replacing earlier ones of the
    /// same name in one transaction.
    pub fn install(&self) -> String {
        let mut text = remove(self.vip(), self.families());
        self.tables(&mut text).expect("writing to a string cannot fail");
        text
    }

    fn tables(&self, text: &mut String) -> std::fmt::Result {
        self.inet_table(text)?;
        match self.addresses {
            Addresses::V4 { own, vip } => arp_table(text, own, vip)?,
            // Its neighbour discovery is in family `inet` like everything else.
            Addresses::V6 { .. } => {}
        }
        match self.mac {
            MacMode::Stealth => self.netdev_table(text),
            MacMode::Multicast | MacMode::Igmp | MacMode::Shared => Ok(()),
        }
    }

    fn inet_table(&self, text: &mut String) -> std::fmt::Result {
        let Self { interface, guard, queue, .. } = self;
        let vip = self.vip();
        let Words { family, ip, address, icmp, errors } = Words::of(vip);
        let log = format!("log group {queue} snaplen {LOG_SNAPLEN} queue-threshold 1");
        writeln!(text, "table inet {} {{", table_name(vip))?;
        writeln!(text, "  counter {DIVIDED} {{ }}")?;
        // The type of a number below 256. (nft 1.0.6 crashes when it lists `typeof jhash`.)
        writeln!(text, "  set {OWN_BUCKETS} {{ typeof numgen inc mod 256; size 256; }}")?;
        writeln!(text, "  set {BY_BUCKET} {{ type inet_proto; size 4; }}")?;
        writeln!(text, "  set {UNDIVIDED} {{ type inet_service; size {UNDIVIDED_MAX}; }}")?;
        writeln!(text, "  set {ANSWERING} {{ type inet_service; size {ANSWERING_MAX}; }}")?;
        writeln!(text, "  set {LEASED} {{ type inet_proto; flags timeout; size 4; }}")?;
        writeln!(
            text,
            "  set {FOREIGN_FLOWS} {{ type {address} . inet_service . inet_service; \
             flags timeout; size {FOREIGN_FLOWS_MAX}; }}"
        )?;
        for (chain, offset) in QUEUE_CHAINS {
            writeln!(text, "  chain {chain} {{")?;
            match self.backend {
                QueueBackend::Nft => writeln!(text, "    queue num {}", queue + offset)?,
                // The daemon inserts `-j NFQUEUE` before this rule.
                QueueBackend::Xtables => {}
            }
            writeln!(text, "    drop\n  }}")?;
        }
        self.divide(text)?;
        match self.mac {
            MacMode::Shared => self.others(text)?,
            MacMode::Multicast | MacMode::Igmp | MacMode::Stealth => {}
        }
        self.datagrams(text)?;
        writeln!(text, "  chain inbound {{")?;
        writeln!(text, "    type filter hook prerouting priority mangle; policy accept;")?;
        // Without this, rules that do not mention an address would meet the other family, too.
        writeln!(text, "    meta nfproto != {family} accept")?;
        self.neighbours_inbound(text)?;
        writeln!(text, "    {ip} daddr != {vip} accept")?;
        writeln!(text, "    iifname \"lo\" accept")?;
        writeln!(text, "    iifname != \"{interface}\" drop")?;
        writeln!(text, "    meta pkttype {{ multicast, broadcast }} meta pkttype set host")?;
        // Claims end in `local`, not here: with bridge-nf-call-iptables these rules see a
        // frame before the bridge has handed it to the daemon's socket.
        writeln!(text, "    meta l4proto {IP_PROTOCOL} accept")?;
        if vip.is_ipv6() {
            // Connection tracking leaves these alone, and so do the rules.
            writeln!(text, "    {NDP} accept")?;
        }
        // Echo requests make no connection, so nobody need be asked who answers.
        writeln!(
            text,
            "    {icmp} type echo-request {} @{OWN_BUCKETS} meta l4proto @{LEASED} accept",
            self.bucket(&format!("{icmp} id"))
        )?;
        writeln!(text, "    {icmp} type echo-request drop")?;
        writeln!(text, "    meta l4proto udp goto datagrams")?;
        let plain = "reset tcp option fastopen reset tcp option mptcp";
        let accept = match guard {
            Guard::Rst => "accept".to_owned(),
            // The daemon has not seen this host's sequence number, so it cannot confirm the flow.
            Guard::Strict => format!("ct label set {BUCKET_LABEL} accept"),
        };
        // Those of foreign buckets are gone already.
        writeln!(
            text,
            "    {SYN} meta l4proto @{BY_BUCKET} tcp dport != @{UNDIVIDED} {plain} {accept}"
        )?;
        writeln!(text, "    {SYN} ct state new {plain} goto contest")?;
        writeln!(text, "    {SYN} goto incumbent")?;
        if *guard == Guard::Strict {
            // A flow that the kernel accepted by its bucket is guarded as with guard `rst`: what
            // connection tracking calls INVALID does not pass. A second host has answered it only
            // if the hosts disagreed about the bucket, which is the exception here, where the
            // flood is the rule; waiting for a confirmation by a daemon that the flood
            // must not reach would fail every connection instead.
            writeln!(
                text,
                "    meta l4proto tcp ct state established ct direction original \
                 ct label ! {CONFIRMED_LABEL},{BUCKET_LABEL} goto contest"
            )?;
        }
        writeln!(text, "    ct state established,related accept")?;
        if *guard == Guard::Rst {
            writeln!(
                text,
                "    tcp flags & (fin|syn|rst|ack) == ack ct state invalid limit rate 1000/second {log}"
            )?;
        }
        writeln!(text, "    drop\n  }}")?;
        if *guard == Guard::Strict {
            // What passes `inbound` has been confirmed, now or earlier.
            writeln!(text, "  chain confirm {{")?;
            writeln!(text, "    type filter hook prerouting priority mangle + 1; policy accept;")?;
            writeln!(
                text,
                "    iifname \"{interface}\" {ip} daddr {vip} tcp flags & syn == 0 \
                 ct label ! {CONFIRMED_LABEL} ct label set {CONFIRMED_LABEL}"
            )?;
            writeln!(text, "  }}")?;
        }
        writeln!(text, "  chain local {{")?;
        writeln!(text, "    type filter hook input priority mangle; policy accept;")?;
        writeln!(text, "    {ip} daddr {vip} meta l4proto {IP_PROTOCOL} drop")?;
        writeln!(text, "  }}")?;
        writeln!(text, "  chain outbound {{")?;
        writeln!(text, "    type filter hook output priority filter; policy accept;")?;
        writeln!(text, "    meta nfproto != {family} accept")?;
        self.neighbours_outbound(text)?;
        writeln!(text, "    {ip} saddr != {vip} accept")?;
        writeln!(text, "    oifname \"lo\" accept")?;
        // Nobody answers a datagram to a closed port: another host may serve it. And only the
        // host that has a flow may say what is wrong with its packets; of fragments,
        // for instance, every host misses the same one.
        writeln!(
            text,
            "    {icmp} type destination-unreachable {icmp} code port-unreachable drop"
        )?;
        writeln!(text, "    {errors} ct state related accept")?;
        writeln!(text, "    {errors} drop")?;
        // What a client says in a flow that this host has opened comes in unasked. A late answer
        // in a flow that was given up must not open one.
        writeln!(
            text,
            "    udp sport @{ANSWERING} meta l4proto != @{BY_BUCKET} ct state new \
             ct status ! confirmed goto contest"
        )?;
        // Of attempts that the kernel divides the daemon knows nothing, and the log of a flood
        // would keep it from everything else. Nobody could weigh a refusal against the
        // services of the others, so it stays here, and the daemon looks whether there is
        // a service; the client asks again.
        let syn_ack = "tcp flags & (fin|syn|rst|ack) == (syn|ack)";
        let refusal = "tcp flags & (syn|rst|ack) == (rst|ack) tcp sequence 0";
        let divided = format!("meta l4proto @{BY_BUCKET} tcp sport != @{UNDIVIDED}");
        writeln!(text, "    {syn_ack} {divided} accept")?;
        writeln!(text, "    {syn_ack} {log}")?;
        writeln!(text, "    {refusal} {divided} limit rate 10/second {log}")?;
        writeln!(text, "    {refusal} {divided} drop")?;
        // The kernel refuses a SYN with sequence number 0 (RFC 9293 3.10.7.1).
        writeln!(text, "    {refusal} goto contest")?;
        // A packet without a tracking entry matches no `ct` condition at all, so
        // it is the chosen flows that are named here and the rest is dropped.
        let chosen = match guard {
            Guard::Rst => "ct status assured".to_owned(),
            Guard::Strict => format!("ct label {CONFIRMED_LABEL}"),
        };
        writeln!(text, "    tcp flags & (rst|ack) == rst {chosen} accept")?;
        writeln!(text, "    tcp flags & (rst|ack) == rst {log} drop")?;
        writeln!(text, "  }}\n}}")
    }

    /// Overload form: SYNs of foreign buckets go before connection tracking makes
    /// an entry for each, whether or not their flow is tracked here: a flood
    /// that repeats its SYNs must not find the way to the daemon, either.
    fn divide(&self, text: &mut String) -> std::fmt::Result {
        let (interface, vip) = (&self.interface, self.vip());
        let Words { ip, .. } = Words::of(vip);
        writeln!(text, "  chain divide {{")?;
        writeln!(text, "    type filter hook prerouting priority raw; policy accept;")?;
        writeln!(
            text,
            "    iifname \"{interface}\" {ip} daddr {vip} {SYN} meta l4proto @{BY_BUCKET} \
             tcp dport != @{UNDIVIDED} counter name {DIVIDED} {} != @{OWN_BUCKETS} drop",
            self.bucket("tcp sport")
        )?;
        writeln!(text, "  }}")
    }

    /// What is sent to the other hosts' own addresses comes in here as well, since all have one
    /// MAC; hosts that forward would send it to each other until its TTL is used up.
    fn others(&self, text: &mut String) -> std::fmt::Result {
        let Self { interface, .. } = self;
        writeln!(text, "  chain others {{")?;
        writeln!(text, "    type filter hook prerouting priority raw; policy accept;")?;
        writeln!(
            text,
            "    iifname \"{interface}\" meta pkttype host fib daddr type unicast drop"
        )?;
        writeln!(text, "  }}")
    }

    /// Datagrams to the virtual IP, and what a service of this host says in flows of others.
    fn datagrams(&self, text: &mut String) -> std::fmt::Result {
        let vip = self.vip();
        let Words { ip, .. } = Words::of(vip);
        writeln!(text, "  chain datagrams {{")?;
        // In flows that this host has opened: answers to its own questions, and what a client
        // says to a port from which a service has gone on with it (RFC 1350).
        writeln!(text, "    ct direction reply accept")?;
        writeln!(text, "    {ip} saddr . udp sport . udp dport @{FOREIGN_FLOWS} drop")?;
        writeln!(
            text,
            "    meta l4proto @{BY_BUCKET} {} @{OWN_BUCKETS} meta l4proto @{LEASED} accept",
            self.bucket("udp sport")
        )?;
        writeln!(text, "    meta l4proto @{BY_BUCKET} drop")?;
        // Expected by a helper of connection tracking in a flow of this host.
        writeln!(text, "    ct state related accept")?;
        // The first datagram that is let through confirms the entry of its flow, before any
        // answer makes it established.
        writeln!(text, "    ct status confirmed meta l4proto @{LEASED} accept")?;
        writeln!(text, "    goto contest\n  }}")?;
        // Before connection tracking: it would take the flow for one that this host has opened.
        writeln!(text, "  chain unheard {{")?;
        writeln!(text, "    type filter hook output priority raw; policy accept;")?;
        writeln!(
            text,
            "    {ip} saddr {vip} udp sport @{ANSWERING} \
             {ip} daddr . udp dport . udp sport @{FOREIGN_FLOWS} drop\n  }}"
        )
    }

    /// The expression for the bucket of a client, whose port is in `field`.
    fn bucket(&self, field: &str) -> String {
        let Words { ip, .. } = Words::of(self.vip());
        let seed = ClusterKey::public(self.vip()).bucket_seed();
        format!("jhash {ip} saddr . {field} mod {} seed {seed:#x}", Bucket::COUNT)
    }

    /// The kernel logs a line for each advertisement of an address that is its own
    /// (`ndisc_recv_na`); those of the other hosts are no news.
    fn neighbours_inbound(&self, text: &mut String) -> std::fmt::Result {
        match self.addresses {
            Addresses::V4 { .. } => Ok(()),
            Addresses::V6 { vip, .. } => {
                writeln!(text, "    iifname \"{}\" {} drop", self.interface, advertisement(vip))
            }
        }
    }

    /// The kernel must not reveal this host's own MAC for the virtual IP: the daemon answers
    /// solicitations for it. What the kernel says by itself from the virtual IP, as the
    /// solicitation for a client before its SYN-ACK, names the interface's MAC as the sender's
    /// (`ndisc_solicit`), so it gets this host's own address as source; nft corrects the checksum.
    fn neighbours_outbound(&self, text: &mut String) -> std::fmt::Result {
        match self.addresses {
            Addresses::V4 { .. } => Ok(()),
            Addresses::V6 { own, vip } => {
                writeln!(text, "    {} drop", advertisement(vip))?;
                writeln!(
                    text,
                    "    oifname \"{}\" ip6 saddr {vip} {NDP} ip6 saddr set {own} accept",
                    self.interface
                )
            }
        }
    }

    /// A frame to a unicast MAC that is not the interface's own is dropped by `ip_rcv` as somebody
    /// else's, before any other hook. What else comes to that MAC stays somebody else's.
    fn netdev_table(&self, text: &mut String) -> std::fmt::Result {
        let Self { interface, mac, .. } = self;
        let vip = self.vip();
        let Words { ip, .. } = Words::of(vip);
        writeln!(text, "table netdev {} {{", table_name(vip))?;
        writeln!(text, "  chain inbound {{")?;
        writeln!(
            text,
            "    type filter hook ingress device \"{interface}\" priority filter; policy accept;"
        )?;
        writeln!(
            text,
            "    ether daddr {} {ip} daddr {vip} meta pkttype set host",
            mac.address(vip)
        )?;
        writeln!(text, "  }}\n}}")
    }
}

/// The kernel must not reveal this host's own MAC for the virtual IP: the daemon answers requests
/// for it, and the kernel's own requests carry the host's own address as sender.
fn arp_table(text: &mut String, own: Ipv4Addr, vip: Ipv4Addr) -> std::fmt::Result {
    writeln!(text, "table arp {} {{", table_name(vip.into()))?;
    writeln!(text, "  chain outbound {{")?;
    writeln!(text, "    type filter hook output priority filter; policy accept;")?;
    writeln!(text, "    arp operation reply arp saddr ip {vip} drop")?;
    writeln!(text, "    arp operation request arp saddr ip {vip} arp saddr ip set {own}")?;
    writeln!(text, "  }}\n}}")
}

/// An advertisement of `vip` by whomever. The nft that Debian 12 has does not know the target
/// (RFC 4861 4.4) by name.
fn advertisement(vip: Ipv6Addr) -> String {
    format!("icmpv6 type nd-neighbor-advert @th,64,128 {:#034x}", u128::from(vip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_name_leads_back_to_its_address() {
        for vip in ["10.0.0.2", "2001:db8::2"] {
            let vip = vip.parse().unwrap();
            assert_eq!(vip_of_table(&table_name(vip)), Some(vip));
        }
        assert_eq!(vip_of_table("clusterd_x"), None);
        assert_eq!(vip_of_table("filter"), None);
    }
}
