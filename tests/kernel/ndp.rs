//! The VIP and the hosts' own MACs never meet in a frame of neighbour discovery.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd;

use socket2::Socket;

use crate::capture::packet_socket;
use crate::rig::{Lab, MAC_MODES, VIP6, cluster_mac, mac_text, wait_until};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Options with the MAC of the source, and of the target.
const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;

/// One message, as it passed a port of the switch.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    frame_source: [u8; 6],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    kind: u8,
    target: Ipv6Addr,
    /// Type and MAC of the option with one.
    mac: Option<(u8, [u8; 6])>,
}

impl Message {
    fn parse(frame: &[u8]) -> Option<Self> {
        let address = |at: usize| Some(Ipv6Addr::from(*frame.get(at..)?.first_chunk::<16>()?));
        let is_icmp = frame.get(12..14)? == [0x86, 0xdd] && *frame.get(20)? == 58;
        let kind = *frame.get(54)?;
        if !is_icmp || ![SOLICITATION, ADVERTISEMENT].contains(&kind) {
            return None;
        }
        let option = frame
            .get(78..86)
            .map(|option| (option[0], *option[2..].first_chunk().expect("six bytes")));
        Some(Self {
            frame_source: *frame[6..].first_chunk()?,
            source: address(22)?,
            destination: address(38)?,
            kind,
            target: address(62)?,
            mac: option,
        })
    }
}

/// Hears all ports of the lab's switch from now on.
struct Tap(Socket);

impl Tap {
    fn open(lab: &Lab) -> Self {
        // Only taps for all protocols see what passes a port of a bridge.
        let protocol = i32::from((libc::ETH_P_ALL as u16).to_be());
        Self(lab.within("switch", || packet_socket(protocol)))
    }

    /// What has been heard since the last call. To be called often: the buffer is small.
    fn messages(&self) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            // SAFETY: the pointer and length describe the local buffer.
            let got = unsafe {
                let pointer = (&raw mut buffer).cast();
                libc::recv(self.0.as_raw_fd(), pointer, buffer.len(), libc::MSG_DONTWAIT)
            };
            if got < 0 {
                let error = io::Error::last_os_error();
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
                return messages;
            }
            messages.extend(Message::parse(&buffer[..got as usize]));
        }
    }
}

#[test]
fn no_message_of_neighbour_discovery_pairs_the_vip_with_a_host() {
    for (mode, topology) in MAC_MODES {
        let options = ["--ipv6", "--guard", "strict", "--mac", mode, "--topology", topology];
        let Some(lab) = Lab::up_with(3, &options) else { return };
        messages_name_the_cluster_mac(&lab, mode);
    }
}

fn messages_name_the_cluster_mac(lab: &Lab, mode: &str) {
    let mac = cluster_mac(VIP6.into(), mode);
    let tap = Tap::open(lab);
    let mut messages = Vec::new();
    for _ in 0..20 {
        // Each host must ask for the client before it can answer from the VIP:
        // the kernel would ask from the VIP.
        for host in ["h1", "h2", "h3"] {
            lab.shell(host, "ip neigh flush all");
        }
        lab.who().expect("the VIP answers");
        // Not at once with the above: the client's solicitation teaches the hosts its MAC.
        lab.shell("client", "ip neigh flush all");
        lab.who().expect("the VIP answers");
        messages.extend(tap.messages());
    }
    // Who knows it already asks it alone, to be sure (RFC 4861 7.3.3).
    let entry = format!("{VIP6} lladdr {} dev eth0", mac_text(mac));
    lab.shell("client", &format!("ip neigh replace {entry} nud probe"));
    let known = || lab.shell("client", &format!("ip neigh show {VIP6}"));
    wait_until("the client is sure", || known().contains("REACHABLE"));
    assert!(known().contains(&mac_text(mac)), "{mode}: {}", known());
    messages.extend(tap.messages());

    // A daemon starts anew, and one after a crash, on hosts whose kernel would announce the VIP.
    for (host, signal) in [(1, libc::SIGTERM), (2, libc::SIGKILL)] {
        lab.shell(&format!("h{host}"), "sysctl -qw net.ipv6.conf.eth0.ndisc_notify=1");
        lab.replace_daemon(host, signal, &["--guard", "strict", "--mac", mode]);
        messages.extend(tap.messages());
    }
    lab.settle();
    lab.who().expect("the VIP answers");
    messages.extend(tap.messages());

    assert!(messages.iter().all(|message| message.source != VIP6), "{mode}: {messages:#?}");
    let of_vip = |kind| messages.iter().filter(move |it| it.kind == kind && it.target == VIP6);
    for message in of_vip(ADVERTISEMENT) {
        assert_eq!(message.mac, Some((TARGET_MAC, mac)), "{mode}: {message:?}");
    }
    let unicast = of_vip(ADVERTISEMENT).filter(|it| !it.destination.is_multicast()).count();
    let to_all = of_vip(ADVERTISEMENT).filter(|it| it.destination.is_multicast()).count();
    assert!(unicast > 0 && to_all > 0, "answers {unicast}, announcements {to_all}");
    // Hosts that start probe, and teach nobody their MAC by that.
    let probes = of_vip(SOLICITATION).filter(|message| message.source.is_unspecified());
    let probes: Vec<_> = probes.collect();
    assert!(!probes.is_empty() && probes.iter().all(|probe| probe.mac.is_none()), "{probes:?}");
    // Hosts ask for the client from their own addresses.
    let IpAddr::V6(client) = lab.client_address() else { unreachable!("an IPv6 lab") };
    let asks = messages.iter().filter(|it| it.kind == SOLICITATION && it.target == client);
    let asks: Vec<_> = asks.collect();
    assert!(asks.iter().any(|it| it.mac.is_some_and(|(kind, _)| kind == SOURCE_MAC)), "{asks:?}");
    // All but the mode in which it is their own.
    if mode != "shared" {
        assert!(messages.iter().all(|it| it.frame_source != mac), "{mode}: {messages:#?}");
        let learned = lab.shell("switch", "bridge fdb show br br0");
        assert!(!learned.contains(&mac_text(mac)), "{mode}: {learned}");
    }
}
