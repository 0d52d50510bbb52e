//! The numbers of the specification are the numbers of the code.
//!
//! Its state table and its vectors have tests of their own.

use std::collections::BTreeMap;
use std::time::Duration;

use super::attempt::{DATAGRAMS_MAX, EXCLUDED_MAX};
use super::fallback::{Evidence, HOLD, HOLD_MAX, Load};
use super::membership::{LOSS_SAMPLE, LOSS_WINDOW};
use super::pace::{LEAST, SAMPLES_MAX, SAMPLES_MIN, SETTLE_MOST, SLOT_MOST};
use super::window::WINDOW;
use super::{Limits, Timers, roster};
use crate::flow::{AttemptId, ClusterKey, NodeId, VipHash};
use crate::wire::{
    Contest, Entry, FRAME_MAX, Flags, Frame, FurtherPort, Header, IP_PROTOCOL, MAGIC, MAJOR, MINOR,
    PORTS_MAX, REPORTS_MAX, Report, SECRETS_MAX, TTL, VIPS_MAX, encode,
};

const SPEC: &str = include_str!("../../proto-spec/claim-protocol.md");

/// The text from a heading to the next one of the same depth or less.
fn section(heading: &str) -> &'static str {
    let start = SPEC.find(&format!("\n{heading}")).expect(heading) + 1;
    let depth = heading.bytes().take_while(|&byte| byte == b'#').count();
    let body = &SPEC[start..];
    let ends = (1..=depth).filter_map(|depth| {
        let next = format!("\n{} ", "#".repeat(depth));
        body.find(&next)
    });
    &body[..ends.min().unwrap_or(body.len())]
}

/// The rows of the table whose header begins with these cells, by the first cell.
fn table(section: &'static str, header: &str) -> BTreeMap<&'static str, Vec<&'static str>> {
    let lines = section.lines().skip_while(|line| !line.starts_with(header)).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        (cells.next().expect("a row has cells"), cells.collect())
    })
    .collect()
}

/// `10m 40s`, `1ms`, `24h`.
fn duration(text: &str) -> Duration {
    let part = |part: &str| {
        let digits = part.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: u64 = digits.parse().expect(text);
        match &part[digits.len()..] {
            "us" => Duration::from_micros(number),
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(60 * number),
            "h" => Duration::from_secs(3600 * number),
            unit => panic!("unit {unit} of {text}"),
        }
    };
    text.split(' ').map(part).sum()
}

fn says(words: &str) {
    let spec: Vec<&str> = SPEC.split_whitespace().collect();
    assert!(spec.join(" ").contains(words), "the specification does not say: {words}");
}

#[test]
fn timers_are_as_written() {
    let Timers {
        slot,
        slot_adapts,
        settle,
        settle_adapts,
        own,
        emit,
        stale,
        foreign,
        owned,
        datagrams,
        tries,
        hello,
        suspect,
        dead,
        listen,
        quiet,
    } = Timers::default();
    assert!(slot_adapts && settle_adapts);
    let code = BTreeMap::from([
        ("slot S", slot),
        ("settle D", settle),
        ("T_own", own),
        ("T_emit", emit),
        ("T_stale", stale),
        ("foreign", foreign),
        ("owned", owned),
        ("datagrams", datagrams),
        ("tries", tries),
        ("hello", hello),
        ("T_suspect", suspect),
        ("T_dead", dead),
        ("listen", listen),
        ("quiet", quiet),
        ("roster", roster::MEMORY),
        ("hold", HOLD),
        ("hold, at most", HOLD_MAX),
    ]);
    let rows = table(section("## 7."), "| name | value |");
    let written = rows.iter().map(|(&name, cells)| (name, duration(cells[0])));
    assert_eq!(written.collect::<BTreeMap<_, _>>(), code);
    assert!(own > Duration::from_millis(10) + emit, "T_own must exceed D + T_emit");
}

#[test]
fn bounds_are_as_written() {
    let Limits { attempts, held, peers, adopted } = Limits::default();
    let code = BTreeMap::from([
        ("attempts", attempts),
        ("held", held),
        ("adopted", adopted),
        ("peers", peers),
        ("VIPs", 1 + VIPS_MAX),
        ("ports", PORTS_MAX),
        ("datagrams", DATAGRAMS_MAX),
        ("reports", REPORTS_MAX),
        ("window", WINDOW as usize),
        ("excluded", EXCLUDED_MAX),
        ("secrets", SECRETS_MAX),
        // Of the rules, which the library does not know.
        ("answering", 1024),
        ("evidence", 1000),
    ]);
    let rows = table(section("## 7."), "| table | bound |");
    let written = rows.iter().map(|(&name, cells)| (name, cells[0].parse().expect(name)));
    assert_eq!(written.collect::<BTreeMap<_, _>>(), code);
}

#[test]
fn thresholds_are_as_written() {
    let micros = |time: Duration| match time.as_micros() {
        short @ ..1000 => format!("{short}us"),
        long => format!("{}ms", long / 1000),
    };
    says(&format!("From {SAMPLES_MIN} samples on ({SAMPLES_MAX} at most;"));
    says(&format!(
        "exceeds, from {} to {}; D twice that which one in 100 exceeds, from {} to {}.",
        micros(LEAST),
        micros(SLOT_MOST),
        micros(LEAST),
        micros(SETTLE_MOST)
    ));
    says(&format!("({LOSS_WINDOW} at most, {LOSS_SAMPLE} at least)"));
    assert_eq!((Evidence::UNHEARD_MIN, Evidence::SPAN), (3, Duration::from_secs(1)));
    says("within two seconds three clients or more");
    says(&format!("busy for {} % of a tenth of a second", Load::BUSY / 10));
    assert_eq!(Load::IDLE, 500);
    says(&format!("No frame exceeds {FRAME_MAX} bytes"));
    says(&format!("further VIPs that I have, n at most {VIPS_MAX} |"));
    says(&format!("protocol {IP_PROTOCOL}, source"));
    says(&format!("TTL {TTL}, DSCP CS6"));
    says(&format!("magic {MAGIC:X} | major {MAJOR} | minor {MINOR} |"));
    says(&format!("version {MAJOR}.{MINOR}"));
}

#[test]
fn kinds_and_flags_are_as_written() {
    let frame = |flags, entry: Option<Entry>| {
        let header = Header { flags, ..Header::new(NodeId(1), 1, 1) };
        let entries = entry.into_iter().collect();
        encode(&Frame { header, entries }, &ClusterKey::public([10, 0, 0, 2].into()).into())
    };
    let contest = Contest { attempt: AttemptId([0; 16]), port: 0, tries: 0, rank: 0 };
    let report = Report { node: NodeId(0), incarnation: 0, highest: 0, missing: 0 };
    let ports = |n| vec![0; n];
    let further = |n| vec![FurtherPort { place: 1, port: 0 }; n];
    // The length with no, and with one, item of those that repeat.
    let kinds = [
        ("CLAIM", Entry::Claim(contest), Entry::Claim(contest), "22"),
        ("OWN", Entry::Own(contest), Entry::Own(contest), "22"),
        ("RELEASE", Entry::Release(contest), Entry::Release(contest), "22"),
        (
            "HELLO",
            Entry::Hello { unavailable: ports(0) },
            Entry::Hello { unavailable: ports(1) },
            "2 + 2n",
        ),
        (
            "HEARD",
            Entry::Heard { reports: vec![] },
            Entry::Heard { reports: vec![report] },
            "2 + 20n",
        ),
        (
            "HELLO-UDP",
            Entry::HelloUdp { unavailable: ports(0) },
            Entry::HelloUdp { unavailable: ports(1) },
            "2 + 2n",
        ),
        (
            "VIPS",
            Entry::Vips { further: vec![] },
            Entry::Vips { further: vec![VipHash(0)] },
            "2 + 4n",
        ),
        (
            "VIPS-TCP",
            Entry::VipsTcp { unavailable: further(0) },
            Entry::VipsTcp { unavailable: further(1) },
            "2 + 3n",
        ),
        (
            "VIPS-UDP",
            Entry::VipsUdp { unavailable: further(0) },
            Entry::VipsUdp { unavailable: further(1) },
            "2 + 3n",
        ),
    ];
    let rows = table(section("### 3.3"), "| kind | name | length |");
    assert_eq!(rows.len(), kinds.len());
    for (name, none, one, written) in kinds {
        let (none, one) = (frame(Flags::default(), Some(none)), frame(Flags::default(), Some(one)));
        let cells = &rows[none[32].to_string().as_str()];
        assert_eq!((cells[0], cells[1]), (name, written));
        let length = match one[33] - none[33] {
            0 => none[33].to_string(),
            step => format!("{} + {step}n", none[33]),
        };
        assert_eq!(length, written, "{name}");
    }

    let none = Flags::default();
    let flags = BTreeMap::from([
        ("joining", Flags { joining: true, ..none }),
        ("leaving", Flags { leaving: true, ..none }),
        ("hash", Flags { hash: true, ..none }),
        ("deaf", Flags { deaf: true, ..none }),
        ("mute", Flags { mute: true, ..none }),
    ]);
    let rows = table(section("### 3.2"), "| flag | bit |");
    assert!(rows.keys().eq(flags.keys()));
    for (name, flags) in flags {
        assert_eq!(1 << rows[name][0].parse::<u8>().unwrap(), frame(flags, None)[12], "{name}");
    }
}
