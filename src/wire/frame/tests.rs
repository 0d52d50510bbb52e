//! Every rule of spec 6 by a frame that breaks it, and that what is encoded decodes to the same.

use super::*;
use crate::flow::ClusterKey;
use proptest::prelude::*;

fn public(vip: [u8; 4]) -> ClusterKey {
    ClusterKey::public(vip.into())
}

fn ring() -> KeyRing {
    public([10, 0, 0, 2]).into()
}

fn contest() -> impl Strategy<Value = Contest> {
    any::<([u8; 16], u16, u8, u8)>().prop_map(|(attempt, port, tries, rank)| Contest {
        attempt: AttemptId(attempt),
        port,
        tries,
        rank,
    })
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        contest().prop_map(Entry::Claim),
        contest().prop_map(Entry::Own),
        contest().prop_map(Entry::Release),
        ports().prop_map(|unavailable| Entry::Hello { unavailable }),
        ports().prop_map(|unavailable| Entry::HelloUdp { unavailable }),
        proptest::collection::vec(report(), 0..=REPORTS_MAX)
            .prop_map(|reports| Entry::Heard { reports }),
        proptest::collection::vec(any::<u32>().prop_map(VipHash), 0..=VIPS_MAX)
            .prop_map(|further| Entry::Vips { further }),
        further_ports().prop_map(|unavailable| Entry::VipsTcp { unavailable }),
        further_ports().prop_map(|unavailable| Entry::VipsUdp { unavailable }),
    ]
}

fn ports() -> impl Strategy<Value = Vec<u16>> {
    proptest::collection::vec(any::<u16>(), 0..=PORTS_MAX)
}

fn further_ports() -> impl Strategy<Value = Vec<FurtherPort>> {
    let port = any::<(u8, u16)>().prop_map(|(place, port)| FurtherPort { place, port });
    proptest::collection::vec(port, 0..=PORTS_MAX)
}

fn report() -> impl Strategy<Value = Report> {
    any::<(u32, u64, u32, u32)>().prop_map(|(node, incarnation, highest, missing)| Report {
        node: NodeId(node),
        incarnation,
        highest,
        missing,
    })
}

prop_compose! {
    fn frame()(
        (minor, node, incarnation, sequence, flags) in any::<(u8, u32, u64, u64, u8)>(),
        entries in proptest::collection::vec(entry(), 0..5),
    ) -> Frame {
        let flags = Flags::from_bits(flags);
        let header = Header { minor, node: NodeId(node), incarnation, sequence, flags };
        Frame { header, entries }
    }
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself(frame in frame()) {
        prop_assert_eq!(decode(&encode(&frame, &ring()), &ring()), Ok(frame));
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_refused(
        frame in frame(), at in any::<prop::sample::Index>(), bit in 0..8u32,
    ) {
        let bytes = encode(&frame, &ring());
        let at = at.index(bytes.len());
        prop_assert!(decode(&bytes[..at], &ring()).is_err());
        let mut flipped = bytes;
        flipped[at] ^= 1 << bit;
        prop_assert!(decode(&flipped, &ring()).is_err());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(decode(&bytes, &ring()).is_err());
    }
}

const HEADER: Header = Header {
    minor: MINOR,
    node: NodeId(1),
    incarnation: 2,
    sequence: 3,
    flags: Flags { joining: false, leaving: false, hash: false, deaf: false, mute: false },
};

/// A frame with the given body, correctly tagged.
fn tagged(edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = encode(&Frame { header: HEADER, entries: vec![] }, &ring());
    bytes.truncate(HEADER_LEN);
    edit(&mut bytes);
    let tag = ring().sign(&bytes);
    bytes.extend(tag);
    bytes
}

fn with_entry(entry: &[u8]) -> Vec<u8> {
    tagged(|bytes| {
        bytes[13] = 1;
        bytes.extend(entry);
    })
}

#[test]
fn each_rule_refuses_under_its_own_name() {
    let other = public([10, 0, 0, 3]).cluster_id();
    let entry = |kind, len| DecodeError::Entry { kind, len };
    let mut too_many = vec![KIND_VIPS_TCP, 197];
    too_many.extend([0; 195]);
    let cases: [(Vec<u8>, DecodeError); 11] = [
        (tagged(|b| b[0] = 0), DecodeError::Magic(0x005D)),
        (tagged(|b| b[2] = 2), DecodeError::Version { major: 2, header: HEADER }),
        (tagged(|b| b[4..8].copy_from_slice(&other.to_be_bytes())), DecodeError::Cluster(other)),
        (tagged(|b| b[14] = 1), DecodeError::Tag),
        (tagged(|b| b.push(0)), DecodeError::Trailing(1)),
        (with_entry(&[KIND_CLAIM, 3, 0]), entry(KIND_CLAIM, 3)),
        (with_entry(&[KIND_HELLO, 1]), entry(KIND_HELLO, 1)),
        (with_entry(&[KIND_HEARD, 4, 0, 0]), entry(KIND_HEARD, 4)),
        (with_entry(&[KIND_VIPS, 5, 0, 0, 0]), entry(KIND_VIPS, 5)),
        (with_entry(&[KIND_VIPS_UDP, 4, 0, 0]), entry(KIND_VIPS_UDP, 4)),
        (with_entry(&too_many), entry(KIND_VIPS_TCP, 197)),
    ];
    for (bytes, error) in cases {
        assert_eq!(decode(&bytes, &ring()), Err(error));
    }
}

#[test]
fn what_follows_the_known_fields_of_an_entry_is_skipped() {
    let contest = Contest { attempt: AttemptId([7; 16]), port: 80, tries: 0, rank: 1 };
    let mut entry = vec![KIND_OWN, 24];
    entry.extend([7; 16]);
    entry.extend([0, 80, 0, 1, 0xaa, 0xbb]);
    let frame = decode(&with_entry(&entry), &ring()).unwrap();
    assert_eq!(frame.entries, [Entry::Own(contest)]);
}

#[test]
fn kinds_of_a_later_minor_version_are_skipped() {
    let bytes = tagged(|b| {
        b[3] = 9;
        b[13] = 2;
        b.extend([99, 5, 1, 2, 3, KIND_HELLO, 4, 0, 80]);
    });
    let frame = decode(&bytes, &ring()).unwrap();
    assert_eq!(frame.entries, [Entry::Hello { unavailable: vec![80] }]);
}
