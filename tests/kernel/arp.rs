//! The VIP and the hosts' own MACs never meet in an ARP frame.

use crate::capture::ArpTap;
use crate::rig::{Lab, MAC_MODES, VIP, cluster_mac, mac_text};

const REQUEST: u8 = 1;
const REPLY: u8 = 2;

#[test]
fn no_arp_frame_pairs_the_vip_with_a_host() {
    for (mode, topology) in MAC_MODES {
        let options = ["--guard", "strict", "--mac", mode, "--topology", topology];
        let Some(lab) = Lab::up_with(3, &options) else { return };
        asks_and_answers_name_the_cluster_mac(&lab, mode);
    }
}

fn asks_and_answers_name_the_cluster_mac(lab: &Lab, mode: &str) {
    let mac = cluster_mac(lab.vip(), mode);
    let tap = ArpTap::open(lab);
    let mut frames = Vec::new();
    for _ in 0..20 {
        // Each host must ask for the client before it can answer from the VIP:
        // the kernel would put the VIP into the sender field of its request.
        for host in ["h1", "h2", "h3"] {
            lab.shell(host, "ip neigh flush all");
        }
        lab.who().expect("the VIP answers");
        // Not at once with the above: the client's request teaches the hosts its MAC.
        lab.shell("client", "ip neigh flush all");
        lab.who().expect("the VIP answers");
        frames.extend(tap.frames());
    }
    // The client's kernel asked, too, and knows the one right answer only.
    let neighbours = lab.shell("client", &format!("ip neigh show {VIP}"));
    let known = neighbours.split("lladdr ").nth(1).map(|rest| rest[..17].to_owned());
    assert_eq!(known, Some(mac_text(mac)), "{mode}");

    let of_vip: Vec<_> = frames.iter().filter(|frame| frame.sender == VIP.octets()).collect();
    assert!(of_vip.iter().any(|frame| frame.operation == REPLY), "the client asked for the VIP");
    for frame in of_vip {
        assert_eq!(frame.sender_mac, mac, "{mode}: {frame:?}");
    }
    let is_host = |sender: [u8; 4]| sender[..3] == [10, 77, 0] && (11..=13).contains(&sender[3]);
    let requests = frames.iter().filter(|frame| frame.operation == REQUEST);
    assert!(
        requests.filter(|frame| is_host(frame.sender)).count() > 0,
        "the hosts asked for the client: {frames:?}"
    );
    // All but the mode in which it is their own.
    if mode != "shared" {
        assert!(frames.iter().all(|frame| frame.source != mac), "{mode}: {frames:?}");
        let learned = lab.shell("switch", "bridge fdb show br br0");
        assert!(!learned.contains(&mac_text(mac)), "{mode}: {learned}");
    }
}

/// As with a full transmit queue: whoever gets no answer asks again.
#[test]
fn an_answer_that_cannot_be_sent_ends_no_daemon() {
    for options in [&[][..], &["--ipv6"]] {
        let Some(lab) = Lab::up_with(1, options) else { return };
        lab.who().expect("the VIP answers");
        lab.shell(
            "h1",
            "nft add table netdev full; nft 'add chain netdev full out \
             { type filter hook egress device eth0 priority 0; policy drop; }'",
        );
        let vip = lab.vip();
        let line = format!("ip neigh flush all; ping -c 3 -i 0.2 -W 1 {vip} || true");
        let said = lab.shell("client", &line);
        assert!(said.contains("100% packet loss"), "{said}");
        lab.shell("h1", "nft delete table netdev full");
        lab.who().expect("the VIP answers again");
    }
}
