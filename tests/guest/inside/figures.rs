//! What a packet to a virtual IP costs on its way in, with nothing, with nft rules and with the module.
//!
//! The guest's clock counts instructions. Each figure includes what it costs to send the
//! frame, which is the same for all; what matters is the difference.

use std::net::UdpSocket;
use std::time::Instant;

use socket2::SockRef;

use super::is_guest;
use super::module::connection::{CLOSED_PORT, HalfOpen, Service};
use super::prober::{ACK, Pinned, Prober, Segment, checksum, frame};
use super::say;
use super::shell;
use super::world::{Family, GROUP_MAC, Module, World};
use crate::qemu::INSTRUCTION;

const PACKETS: u32 = 2_000;
const ROUNDS: usize = 5;
const UDP_PORT: u16 = 9;

/// Sets the packet type, nothing else.
const BY_RULE: &str = "type filter hook prerouting priority mangle; policy accept;
    meta pkttype { multicast, broadcast } meta pkttype set host";
/// Makes connection tracking follow a connection, and marks it as one whose client chose this host.
const TRACKED: &str = "type filter hook prerouting priority mangle; policy accept;
    ct state new,established ct label set 100 meta pkttype set host";

#[test]
#[ignore = "runs in a guest"]
fn the_packet_type() {
    if !is_guest() {
        return;
    }
    let world = World::up();
    for family in Family::BOTH {
        let service = world.within("host", || UdpSocket::bind((family.vip(), UDP_PORT)));
        let service = service.expect("listen for datagrams");
        // Full at once: then each one more costs the same.
        SockRef::from(&service).set_recv_buffer_size(1).expect("set a buffer size");
        let prober = Prober::open(&world, family);
        let datagram = datagram(family);
        // The first ones meet a guest that has not settled.
        cost(&prober, &datagram);
        let nothing = cost(&prober, &datagram);
        print(&format!("{family:?} datagram, nothing"), nothing, nothing);

        table(BY_RULE);
        print(&format!("{family:?} datagram, nft rule"), cost(&prober, &datagram), nothing);
        no_table();

        let module = Module::load();
        module.add(family.vip(), "");
        print(&format!("{family:?} datagram, module"), cost(&prober, &datagram), nothing);
        module.add(family.vip(), "gate");
        print(&format!("{family:?} datagram, module with gate"), cost(&prober, &datagram), nothing);
        let vip = match family {
            Family::V4 => Family::V6.vip(),
            Family::V6 => Family::V4.vip(),
        };
        module.tell(&format!("-{}", family.vip())).expect("remove it");
        module.add(vip, "gate");
        print(
            &format!("{family:?} datagram, module, not its VIP"),
            cost(&prober, &datagram),
            nothing,
        );
        module.tell(&format!("-{vip}")).expect("remove it");
    }
}

/// The daemon's own rules, without the daemon: what is for user space is dropped.
#[test]
#[ignore = "runs in a guest"]
fn the_strict_guard() {
    if !is_guest() {
        return;
    }
    let family = Family::V4;
    let world = World::up();
    let _service = Service::listen(&world, family);
    let mut prober = Prober::open(&world, family);
    table(TRACKED);
    let half_open = HalfOpen::open(&mut prober).expect("the SYN is answered");
    let right = half_open.answered.wrapping_add(1);
    let own = half_open.segment(0, right, 0, b"");
    assert_eq!(prober.ask(own), []);
    no_table();
    let foreign = Segment { client: 9, service: CLOSED_PORT, flags: ACK, ..own };

    let module = Module::load();
    // Without an address in it the rules are those of a host without the module.
    for guard in ["rst", "strict"] {
        shell("rmmod clusterd");
        rules(guard);
        report(&prober, own, foreign, &format!("rules of guard {guard}"));
        no_rules();
        shell("modprobe clusterd");
    }
    rules("strict");
    module.add(family.vip(), "gate");
    report(&prober, own, foreign, "rules and module of guard strict");
    no_rules();
    report(&prober, own, foreign, "module alone");
    module.tell(&format!("-{}", family.vip())).expect("remove it");
}

fn report(prober: &Prober, own: Segment, foreign: Segment, what: &str) {
    let [own, foreign] = [own, foreign].map(|probe| cost(prober, &prober.frame(probe)));
    say(&format!("ACK of an own connection {own:6}, of another host's {foreign:6}: {what}"));
}

fn print(what: &str, cost: u128, nothing: u128) {
    let more = cost as i128 - nothing as i128;
    say(&format!("{what:40} {cost:6} instructions, {more:+5}"));
}

/// Of one packet, on average, in the best of some rounds.
fn cost(prober: &Prober, frame: &[u8]) -> u128 {
    let _pinned = Pinned::new();
    let round = || {
        let start = Instant::now();
        for _ in 0..PACKETS {
            prober.transmit(frame);
        }
        start.elapsed().as_nanos() / u128::from(INSTRUCTION * PACKETS)
    };
    (0..ROUNDS).map(|_| round()).min().unwrap_or_default()
}

fn datagram(family: Family) -> Vec<u8> {
    let udp = libc::IPPROTO_UDP as u8;
    let mut payload = Vec::from(4_000u16.to_be_bytes());
    payload.extend(UDP_PORT.to_be_bytes());
    payload.extend([0, 40, 0, 0]);
    payload.extend([7; 32]);
    let sum = checksum(udp, family.ghost(), family.vip(), &payload);
    payload[6..8].copy_from_slice(&sum.to_be_bytes());
    frame(GROUP_MAC, udp, family.ghost(), family.vip(), &payload)
}

fn table(chain: &str) {
    shell(&format!(
        "ip netns exec host nft -f - <<'END'\ntable inet t {{\nchain c {{\n{chain}\n}}\n}}\nEND"
    ));
}

fn no_table() {
    shell("ip netns exec host nft delete table inet t");
}

fn rules(guard: &str) {
    shell(&format!(
        "ip netns exec host clusterd rules s0 10.9.0.100 --guard {guard} >/tmp/rules
         ip netns exec host nft -f /tmp/rules"
    ));
}

fn no_rules() {
    for family in ["inet", "arp"] {
        shell(&format!("ip netns exec host nft delete table {family} clusterd_10.9.0.100"));
    }
}
