//! TCP to a virtual IP in frames to a group MAC: fails by itself, works with the module, works with
//! the nft rule that the daemon installs.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::connection::{HalfOpen, PORT, Service};
use crate::inside::prober::Prober;
use crate::inside::world::{Family, Module, World};
use crate::inside::{is_guest, shell};

const NFT_RULE: &str = "ip netns exec host nft -f - <<'END'
    table inet t {
        chain c {
            type filter hook prerouting priority mangle; policy accept;
            meta pkttype { multicast, broadcast } meta pkttype set host
        }
    }\nEND";

#[test]
#[ignore = "runs in a guest"]
fn tcp_in_frames_to_a_group_needs_the_module_or_a_rule() {
    if !is_guest() {
        return;
    }
    let world = World::up();
    for family in Family::BOTH {
        let service = Service::listen(&world, family);
        let mut prober = Prober::open(&world, family);
        let mut works = || HalfOpen::open(&mut prober).is_some();
        assert!(!works(), "{family:?}: nobody helps");

        let module = Module::load();
        assert!(!works(), "{family:?}: the module knows no address yet");
        module.add(family.vip(), "");
        assert!(works(), "{family:?}: the module helps");
        converse(&world, &service, family);
        let rewritten = module.count(family.vip(), "rewritten");
        // A SYN, and of the connection at least SYN, ACK and data.
        assert!(rewritten >= 4, "{family:?}: {rewritten}");
        for other in Family::BOTH.map(Family::vip) {
            if other != family.vip() {
                module.add(other, "");
                assert_eq!(module.count(other, "rewritten"), 0);
                module.tell(&format!("-{other}")).expect("remove the other address");
            }
        }
        module.tell(&format!("-{}", family.vip())).expect("remove the address");
        assert!(!works(), "{family:?}: the module forgot");
        drop(module);

        shell(NFT_RULE);
        assert!(works(), "{family:?}: the rule helps");
        converse(&world, &service, family);
        shell("ip netns exec host nft delete table inet t");
        assert!(!works(), "{family:?}: the rule is gone");
    }
}

/// A whole connection of the client's kernel.
fn converse(world: &World, service: &Service, family: Family) {
    let client = world.within("client", || TcpStream::connect((family.vip(), PORT)));
    let mut client = client.expect("connect");
    let mut server = service.accept();
    client.write_all(b"hello").expect("write");
    let mut heard = [0; 5];
    server.read_exact(&mut heard).expect("read");
    assert_eq!(&heard, b"hello");
}
