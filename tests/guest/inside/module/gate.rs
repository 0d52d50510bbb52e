//! The strict gate: what a client says to another host vanishes, exactly, and what is for this host
//! goes through.

use std::io::Read;

use socket2::SockRef;

use super::connection::{CLOSED_PORT, HalfOpen, PORT, Service, is_reset_of};
use crate::inside::prober::{ACK, FIN, Prober, RST, SYN, Segment};
use crate::inside::world::{Family, Module, World, wait_until};
use crate::inside::{is_guest, shell};

/// From the right number to wrong ones: next to it, just inside and outside of what connection
/// tracking tolerates (66 000), half way round.
const WRONG: [u32; 9] = [
    1,
    u32::MAX,
    1_000,
    65_000,
    70_000,
    1 << 31,
    0u32.wrapping_sub(1_000),
    0u32.wrapping_sub(65_000),
    0u32.wrapping_sub(70_000),
];

/// A family with all that a test needs.
struct Stage {
    module: Module,
    service: Service,
    prober: Prober,
    family: Family,
}

/// Runs `act` for both families, with the module as gate or only for the packet type.
fn for_each_family(options: &str, mut act: impl FnMut(&mut Stage)) {
    if !is_guest() {
        return;
    }
    let world = World::up();
    for family in Family::BOTH {
        let module = Module::load();
        module.add(family.vip(), options);
        let service = Service::listen(&world, family);
        let prober = Prober::open(&world, family);
        let mut stage = Stage { module, service, prober, family };
        act(&mut stage);
        stage.module.tell(&format!("-{}", family.vip())).expect("remove the address");
    }
}

impl Stage {
    fn open(&mut self) -> HalfOpen {
        HalfOpen::open(&mut self.prober).expect("the SYN is answered")
    }

    fn count(&self, what: &str) -> u64 {
        self.module.count(self.family.vip(), what)
    }

    /// The probe is not answered, and counted.
    #[track_caller]
    fn vanishes(&mut self, probe: Segment, counter: &str) {
        let before = self.count(counter);
        assert_eq!(self.prober.ask(probe), [], "{:?}: {probe:?}", self.family);
        assert_eq!(self.count(counter), before + 1, "{:?}: {counter}: {probe:?}", self.family);
    }
}

/// What the next tests show to vanish would provoke resets.
#[test]
#[ignore = "runs in a guest"]
fn without_the_gate_foreign_acks_are_reset() {
    for_each_family("", |stage| {
        let half_open = stage.open();
        let wrong = half_open.segment(0, half_open.answered + 1_000, 0, b"");
        assert!(is_reset_of(&stage.prober.ask(wrong), &wrong), "a wrong number");
        let unknown = Segment { client: 9, service: PORT, acknowledgment: 7, flags: ACK, ..wrong };
        assert!(is_reset_of(&stage.prober.ask(unknown), &unknown), "an unknown flow");
        assert_eq!((stage.count("wrong"), stage.count("unknown")), (0, 0));
    });
}

#[test]
#[ignore = "runs in a guest"]
fn only_the_number_of_this_host_completes_a_handshake() {
    for_each_family("gate", |stage| {
        let half_open = stage.open();
        let right = half_open.answered.wrapping_add(1);
        for distance in WRONG {
            for (flags, data) in [(0, &b""[..]), (0, b"data"), (FIN, b""), (RST, b"")] {
                let number = right.wrapping_add(distance);
                stage.vanishes(half_open.segment(0, number, flags, data), "wrong");
            }
        }
        assert!(stage.service.is_idle());
        let answers = stage.prober.ask(half_open.segment(0, right, 0, b"hello"));
        assert!(answers.iter().all(|answer| answer.flags == ACK), "{answers:?}");
        let mut heard = [0; 5];
        stage.service.accept().read_exact(&mut heard).expect("the data arrives");
        assert_eq!(&heard, b"hello");
    });
}

#[test]
#[ignore = "runs in a guest"]
fn with_syn_cookies_too() {
    for_each_family("gate", |stage| {
        shell("ip netns exec host sysctl -w net.ipv4.tcp_syncookies=2");
        let half_open = stage.open();
        let right = half_open.answered.wrapping_add(1);
        // The last bits of a cookie are the client's MSS: the kernel takes its neighbours, too.
        for distance in WRONG.into_iter().filter(|distance| distance.wrapping_add(4) > 8) {
            let number = right.wrapping_add(distance);
            stage.vanishes(half_open.segment(0, number, 0, b""), "unknown");
        }
        assert!(stage.service.is_idle());
        assert_eq!(stage.prober.ask(half_open.segment(0, right, 0, b"")), []);
        stage.service.accept();
    });
}

#[test]
#[ignore = "runs in a guest"]
fn flows_of_other_hosts_vanish_and_closed_ports_refuse() {
    for_each_family("gate", |stage| {
        for service in [PORT, CLOSED_PORT] {
            for flags in [ACK, ACK | FIN, ACK | SYN, ACK | RST, FIN, 0] {
                for data in [&b""[..], b"data"] {
                    let client = stage.prober.next_port();
                    let (sequence, acknowledgment) = (5, 7);
                    let probe = Segment { client, service, sequence, acknowledgment, flags, data };
                    stage.vanishes(probe, "unknown");
                }
            }
        }
        let client = stage.prober.next_port();
        let syn =
            Segment { client, service: CLOSED_PORT, sequence: 5, flags: SYN, ..Segment::default() };
        match stage.prober.ask(syn)[..] {
            [answer] => {
                assert_eq!(
                    (answer.flags, answer.sequence, answer.acknowledgment),
                    (RST | ACK, 0, 6)
                );
            }
            ref others => panic!("a SYN to a closed port is answered with {others:?}"),
        }
        assert_eq!((stage.count("wrong"), stage.count("rewritten")), (0, 25));
    });
}

#[test]
#[ignore = "runs in a guest"]
fn own_resets_leave() {
    for_each_family("gate", |stage| {
        // The service aborts.
        let half_open = stage.open();
        let right = half_open.answered.wrapping_add(1);
        assert_eq!(stage.prober.ask(half_open.segment(0, right, 0, b"")), []);
        let stream = stage.service.accept();
        SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).expect("SO_LINGER");
        drop(stream);
        let prober = &mut stage.prober;
        wait_until("the abort arrives", || {
            prober
                .answers()
                .iter()
                .any(|answer| answer.flags & RST != 0 && answer.sequence == right)
        });
        // Data for a connection that the service has closed.
        let half_open = stage.open();
        let right = half_open.answered.wrapping_add(1);
        assert_eq!(stage.prober.ask(half_open.segment(0, right, 0, b"")), []);
        drop(stage.service.accept());
        let prober = &mut stage.prober;
        wait_until("the end arrives", || {
            prober.answers().iter().any(|answer| answer.flags & FIN != 0)
        });
        let probe = half_open.segment(0, right, 0, b"late");
        let answers = stage.prober.ask(probe);
        assert!(is_reset_of(&answers, &probe), "{answers:?}");
    });
}

/// What the client says to the host that has its next connection from the same port.
#[test]
#[ignore = "runs in a guest"]
fn a_connection_in_time_wait_hears_only_its_own() {
    for_each_family("gate", |stage| {
        let half_open = stage.open();
        let right = half_open.answered.wrapping_add(1);
        assert_eq!(stage.prober.ask(half_open.segment(0, right, 0, b"")), []);
        drop(stage.service.accept());
        let prober = &mut stage.prober;
        wait_until("the end arrives", || {
            prober.answers().iter().any(|answer| answer.flags & FIN != 0)
        });
        let last = half_open.segment(0, right.wrapping_add(1), FIN, b"");
        let is_acked = |answers: &[Segment]| {
            matches!(answers, [answer] if answer.flags == ACK
                && answer.acknowledgment == last.sequence + 1)
        };
        let answers = stage.prober.ask(last);
        assert!(is_acked(&answers), "{answers:?}");
        let foreign = Segment { acknowledgment: last.acknowledgment.wrapping_add(1_000), ..last };
        stage.vanishes(foreign, "unknown");
        // The client did not hear the answer and says it again.
        let answers = stage.prober.ask(last);
        assert!(is_acked(&answers), "{answers:?}");
    });
}
