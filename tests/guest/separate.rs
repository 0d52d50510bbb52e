//! The cluster on separate kernels: what namespaces of one kernel cannot show.

use std::collections::BTreeSet;

use crate::fleet::{Fleet, Round, VIP, VIP6, Wiring};
use crate::packages::{BOOKWORM, BOOKWORM_BACKPORT};
use crate::{note, run};

/// Emulated hosts that share two processors hear each other late, and are soon overloaded.
const CLAIM: &str = "--mode claim --slot 15ms";

#[test]
fn a_cluster_of_separate_kernels() {
    run(|| {
        let mut fleet = Fleet::boot("separate", &[BOOKWORM, BOOKWORM_BACKPORT, BOOKWORM])?;
        let names = BTreeSet::from(["h1", "h2", "h3"]);
        fleet.serve();
        fleet.restart_daemons(CLAIM);
        let rules = fleet.machines[1].shell(&format!("nft list chain inet clusterd_{VIP} contest"));
        assert!(rules.contains("queue to"), "by the expression `queue`: {rules}");
        for wiring in [Wiring::Hub, Wiring::Switch] {
            fleet.wire(wiring);
            let round = fleet.connect(&format!("{wiring:?}"), 200);
            round.assert_all_answered();
            assert_eq!(served(&round), names);
        }

        fleet.machines[2].signal_daemon("KILL");
        fleet.machines[2].await_end_of_daemon();
        let round = fleet.connect("h3's daemon killed", 100);
        round.assert_all_answered();
        assert_eq!(served(&round), BTreeSet::from(["h1", "h2"]));

        fleet.machines[2].start_daemon(VIP, CLAIM);
        fleet.settle();
        duplicates_are_harmless(&fleet);
        in_each_mac_mode(&mut fleet);
        fleet.check();

        fleet.restart_daemons(CLAIM);
        drop(fleet.machines.remove(1));
        let round = fleet.connect("h2 gone", 100);
        round.assert_all_answered();
        assert_eq!(served(&round), BTreeSet::from(["h1", "h3"]));
        Ok(())
    });
}

/// None of the claims gets through: every host answers every SYN.
fn duplicates_are_harmless(fleet: &Fleet) {
    fleet.restart_daemons(CLAIM);
    fleet.lose_claims();
    let round = fleet.connect("no claim heard", 200);
    fleet.deliver_claims();
    round.assert_duplicates_are_harmless();
    let closest = round.distances().min().expect("several answers");
    note(&format!("sequence numbers of several answers are at least {closest} apart"));
    assert_ne!(closest, 0, "hosts answer with numbers of their own");
}

/// An adapter of a virtual machine filters by MAC, and takes more than its own one only if it was told so.
fn in_each_mac_mode(fleet: &mut Fleet) {
    for (vip, mode, wiring) in [
        (VIP, "igmp", Wiring::Switch),
        (VIP, "shared", Wiring::Hub),
        (VIP, "stealth", Wiring::Switch),
        (VIP6, "stealth", Wiring::Switch),
        (VIP6, "igmp", Wiring::Switch),
    ] {
        fleet.end_daemons();
        fleet.vip = vip;
        fleet.wire(wiring);
        fleet.restart_daemons(&format!("{CLAIM} --mac {mode}"));
        fleet.connect(&format!("{vip} in mode {mode}"), 20).assert_all_answered();
    }
    fleet.end_daemons();
    fleet.shell("modprobe clusterd");
    fleet.restart_daemons(&format!("{CLAIM} --guard strict"));
    let module = &fleet.machines[0].status(fleet.vip)["kernel_module"];
    assert_eq!(module["gate"], true, "{module}");
    fleet.connect(&format!("{} with the kernel module", fleet.vip), 30).assert_all_answered();
    fleet.end_daemons();
    fleet.shell("rmmod clusterd");
    fleet.vip = VIP;
}

fn served(round: &Round) -> BTreeSet<&str> {
    round.shares().into_keys().collect()
}
