//! The VIP and the hosts' own MACs never meet in an ARP frame.

use crate::capture::ArpTap;
use crate::rig::{GROUP_MAC, Lab, VIP};

const REQUEST: u8 = 1;
const REPLY: u8 = 2;

#[test]
fn no_arp_frame_pairs_the_vip_with_a_host() {
    let Some(lab) = Lab::up(3, "strict") else { return };
    let tap = ArpTap::open(&lab);
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
    assert_eq!(
        neighbours.split("lladdr ").nth(1).map(|rest| &rest[..17]),
        Some("03:bf:0a:4d:00:02")
    );

    let is_host = |mac: [u8; 6]| mac[..5] == [2, 0, 0, 0, 0];
    let of_vip: Vec<_> = frames.iter().filter(|frame| frame.sender == VIP.octets()).collect();
    assert!(of_vip.iter().any(|frame| frame.operation == REPLY), "the client asked for the VIP");
    for frame in of_vip {
        assert_eq!(frame.sender_mac, GROUP_MAC, "{frame:?}");
    }
    let requests = frames.iter().filter(|frame| frame.operation == REQUEST);
    assert!(
        requests.filter(|frame| is_host(frame.sender_mac)).count() > 0,
        "the hosts asked for the client: {frames:?}"
    );
}
