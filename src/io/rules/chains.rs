//! The chains that a segment of a connection passes, in its order: from the client to a socket and back.

use std::fmt::Write as _;

use clusterd::wire::IP_PROTOCOL;

use super::family::{Family, Words};
use super::part::Part;
use super::{
    ANSWERING, BUCKET_LABEL, BY_BUCKET, CONFIRMED_LABEL, DIVIDED, Guard, LOG_SNAPLEN, NDP,
    OWN_BUCKETS, Ruleset, SCOPE, SYN,
};
use crate::io::link::Link;

impl Ruleset {
    pub(super) fn inbound(&self, text: &mut String, part: &Part) -> std::fmt::Result {
        let Self { link: Link { name: interface, .. }, guard, .. } = self;
        let Words { ip, icmp, .. } = part.family.words();
        let vips = part.vips();
        writeln!(text, "  chain {} {{", part.family.name("inbound"))?;
        writeln!(text, "    type filter hook prerouting priority mangle; policy accept;")?;
        // Without this, rules that do not mention an address would meet the other family, too.
        writeln!(text, "    meta nfproto != {} accept", part.family.name("ipv"))?;
        self.neighbours_inbound(text, part)?;
        writeln!(text, "    {ip} daddr != {vips} accept")?;
        writeln!(text, "    iifname \"lo\" accept")?;
        writeln!(text, "    iifname != \"{interface}\" drop")?;
        writeln!(text, "    meta pkttype {{ multicast, broadcast }} meta pkttype set host")?;
        // Claims end in `local`, not here: with bridge-nf-call-iptables these rules see a
        // frame before the bridge has handed it to the daemon's socket.
        writeln!(text, "    meta l4proto {IP_PROTOCOL} accept")?;
        match part.family {
            Family::V4 => {}
            // Connection tracking leaves these alone, and so do the rules.
            Family::V6 => writeln!(text, "    {NDP} accept")?,
        }
        // Echo requests make no connection, so nobody need be asked who answers.
        let echo = format!("{icmp} type echo-request");
        self.by_bucket(text, part, &echo, &format!("{icmp} id"))?;
        writeln!(text, "    {echo} drop")?;
        writeln!(text, "    meta l4proto udp goto {}", part.family.name("datagrams"))?;
        let plain = "reset tcp option fastopen reset tcp option mptcp";
        let accept = match guard {
            Guard::Rst => "accept".to_owned(),
            // The daemon has not seen this host's sequence number, so it cannot confirm the flow.
            Guard::Strict => format!("ct label set {BUCKET_LABEL} accept"),
        };
        // Those of foreign buckets are gone already.
        writeln!(text, "    {SYN} {} {plain} {accept}", part.divided("daddr", "dport"))?;
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
                "    tcp flags & (fin|syn|rst|ack) == ack ct state invalid limit rate 1000/second {}",
                self.log()
            )?;
        }
        writeln!(text, "    drop\n  }}")?;
        if *guard == Guard::Strict {
            // What passes `inbound` has been confirmed, now or earlier.
            writeln!(text, "  chain {} {{", part.family.name("confirm"))?;
            writeln!(text, "    type filter hook prerouting priority mangle + 1; policy accept;")?;
            writeln!(
                text,
                "    iifname \"{interface}\" {ip} daddr {vips} tcp flags & syn == 0 \
                 ct label ! {CONFIRMED_LABEL} ct label set {CONFIRMED_LABEL}"
            )?;
            writeln!(text, "  }}")?;
        }
        Ok(())
    }

    pub(super) fn local(&self, text: &mut String, part: &Part) -> std::fmt::Result {
        let Words { ip, .. } = part.family.words();
        writeln!(text, "  chain {} {{", part.family.name("local"))?;
        writeln!(text, "    type filter hook input priority mangle; policy accept;")?;
        writeln!(text, "    {ip} daddr {} meta l4proto {IP_PROTOCOL} drop", part.vips())?;
        writeln!(text, "  }}")
    }

    pub(super) fn outbound(&self, text: &mut String, part: &Part) -> std::fmt::Result {
        let Words { ip, icmp, errors, .. } = part.family.words();
        writeln!(text, "  chain {} {{", part.family.name("outbound"))?;
        writeln!(text, "    type filter hook output priority filter; policy accept;")?;
        writeln!(text, "    meta nfproto != {} accept", part.family.name("ipv"))?;
        self.neighbours_outbound(text, part)?;
        writeln!(text, "    {ip} saddr != {} accept", part.vips())?;
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
        writeln!(text, "    goto {}\n  }}", part.family.name("answers"))
    }

    /// Segments from virtual IPs that tell the daemon something, or that only the host may send
    /// whom the client chose.
    pub(super) fn answers(&self, text: &mut String, part: &Part) -> std::fmt::Result {
        let log = self.log();
        writeln!(text, "  chain {} {{", part.family.name("answers"))?;
        // Of attempts that the kernel divides the daemon knows nothing, and the log of a flood
        // would keep it from everything else. Nobody could weigh a refusal against the
        // services of the others, so it stays here, and the daemon looks whether there is
        // a service; the client asks again.
        let syn_ack = "tcp flags & (fin|syn|rst|ack) == (syn|ack)";
        let refusal = "tcp flags & (syn|rst|ack) == (rst|ack) tcp sequence 0";
        let divided = part.divided("saddr", "sport");
        writeln!(text, "    {syn_ack} {divided} accept")?;
        writeln!(text, "    {syn_ack} {log}")?;
        writeln!(text, "    {refusal} {divided} limit rate 10/second {log}")?;
        writeln!(text, "    {refusal} {divided} drop")?;
        // The kernel refuses a SYN with sequence number 0 (RFC 9293 3.10.7.1).
        writeln!(text, "    {refusal} goto contest")?;
        // A packet without a tracking entry matches no `ct` condition at all, so
        // it is the chosen flows that are named here and the rest is dropped.
        let chosen = match self.guard {
            Guard::Rst => "ct status assured".to_owned(),
            Guard::Strict => format!("ct label {CONFIRMED_LABEL}"),
        };
        writeln!(text, "    tcp flags & (rst|ack) == rst {chosen} accept")?;
        writeln!(text, "    tcp flags & (rst|ack) == rst {log} drop")?;
        writeln!(text, "  }}")
    }

    /// What a server behind this host says, as soon as IPVS or DNAT has put the virtual IP in the place
    /// of its address: this host speaks for it. What comes from this host itself, or passes a
    /// bridge of it (`bridge-nf-call-iptables`) on its way from another one, has no input interface here.
    pub(super) fn forwarded(&self, text: &mut String, part: &Part) -> std::fmt::Result {
        let Words { ip, .. } = part.family.words();
        writeln!(text, "  chain {} {{", part.family.name("forwarded"))?;
        writeln!(text, "    type filter hook postrouting priority srcnat + 1; policy accept;")?;
        writeln!(text, "    iif 0 accept")?;
        writeln!(text, "    {ip} saddr {} goto {}\n  }}", part.vips(), part.family.name("answers"))
    }

    /// What comes before connection tracking, which would make an entry for each packet.
    ///
    /// What is out of scope goes. Overload form: SYNs of foreign buckets go, whether or not their
    /// flow is tracked here: a flood that repeats its SYNs must not find the way to the
    /// daemon, either.
    pub(super) fn divide(&self, text: &mut String, part: &Part) -> std::fmt::Result {
        let Words { ip, .. } = part.family.words();
        let to = format!("iifname \"{}\" {ip} daddr {}", self.link.name, part.vips());
        writeln!(text, "  chain {} {{", part.family.name("divide"))?;
        writeln!(text, "    type filter hook prerouting priority raw; policy accept;")?;
        if self.scope.is_some() {
            // The first fragment of a packet has been put together with the others before.
            writeln!(
                text,
                "    {to} meta l4proto {{ tcp, udp }} meta l4proto . th dport != @{SCOPE} drop"
            )?;
        }
        writeln!(
            text,
            "    {to} {SYN} {} counter name {DIVIDED} {} != @{OWN_BUCKETS} drop",
            part.divided("daddr", "dport"),
            self.bucket(part, "tcp sport")
        )?;
        writeln!(text, "  }}")
    }

    /// The kernel logs a line for each advertisement of an address that is its own
    /// (`ndisc_recv_na`); those of the other hosts are no news.
    fn neighbours_inbound(&self, text: &mut String, part: &Part) -> std::fmt::Result {
        match part.family {
            Family::V4 => Ok(()),
            Family::V6 => {
                writeln!(text, "    iifname \"{}\" {} drop", self.link.name, part.advertisement())
            }
        }
    }

    /// The kernel must not reveal this host's own MAC for a virtual IP: the daemon answers
    /// solicitations for it. What the kernel says by itself from a virtual IP, as the
    /// solicitation for a client before its SYN-ACK, names the interface's MAC as the sender's
    /// (`ndisc_solicit`), so it gets this host's own address as source; nft corrects the checksum.
    fn neighbours_outbound(&self, text: &mut String, part: &Part) -> std::fmt::Result {
        let (own, vips) = (part.by_own_v6(), part.vips());
        let Some(own) = own else { return Ok(()) };
        writeln!(text, "    {} drop", part.advertisement())?;
        writeln!(
            text,
            "    oifname \"{}\" ip6 saddr {vips} {NDP} ip6 saddr set {own} accept",
            self.link.name
        )
    }

    fn log(&self) -> String {
        format!("log group {} snaplen {LOG_SNAPLEN} queue-threshold 1", self.queue)
    }
}
