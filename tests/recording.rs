//! Recordings of the core: what is replayed is identical, and what was changed is noticed.

use std::borrow::Cow;
use std::time::Duration;

use clusterd::flow::{FlowKey, NodeId, ServicePort};
use clusterd::protocol::{Config, Instant, Listener, Member, Node, Output, Syn, Ticket, Verdict};
use clusterd::recording::{
    self, Header, Input, MAGIC, ReadError, Reader, Record, ReplayError, Replayed, Turn,
};
use clusterd::wire::Frame;

/// A node by itself that answers connections, and all of its life as records.
fn life() -> (Header, Vec<Record<'static>>) {
    let mut config = Config::new(NodeId(7), 3, [10, 0, 0, 2]);
    let member = Member { node: NodeId(9), unheard: Duration::from_secs(60), vips: vec![] };
    config.roster = vec![member];
    let header = Header { version: "1".to_owned(), config, started: Duration::from_secs(1) };
    let mut node = Node::new(header.config.clone(), Instant::default());
    let mut records = Vec::new();
    let mut turn = |now: Instant, input: Input<'static>| {
        records.push(Record::Wait(node.poll_timeout()));
        match &input {
            Input::Listener { service, listener } => node.handle_listener(now, *service, *listener),
            Input::Syn(syn) => node.handle_syn(now, *syn),
            Input::Frame(frame) => node.handle_frame(now, frame),
            other => panic!("{other:?} is not part of this life"),
        }
        records.push(Record::Input { at: now, arrived: None, input });
        if node.poll_timeout() <= now {
            node.handle_timeout(now);
            records.push(Record::Input { at: now, arrived: None, input: Input::Timeout });
        }
        while let Some(output) = node.poll_output() {
            records.push(Record::Output(Cow::Owned(output)));
        }
        loop {
            let frame = node.poll_frame(now).cloned();
            let sent = frame.is_some();
            records.push(Record::Send { at: now, frame: frame.map(Cow::Owned) });
            if !sent {
                break;
            }
        }
        records.push(Record::Turn(Turn { ended: now, ..Turn::default() }));
    };
    let at = |milliseconds| Instant(milliseconds * 1_000_000);
    let service = ServicePort::tcp(([10, 0, 0, 2], 80));
    turn(at(5_000), Input::Listener { service, listener: Listener::Ready });
    for number in 0..50 {
        let flow = FlowKey::tcp(([10, 0, 0, 200], 4000 + number), ([10, 0, 0, 2], 80));
        let ticket = Ticket(number.into());
        let syn = Syn { ticket, flow, isn: 17, incumbent: false };
        turn(at(5_010 + u64::from(number) * 40), Input::Syn(syn));
    }
    let header_of_peer = clusterd::wire::Header::new(NodeId(9), 1, 1);
    let frame = Frame { header: header_of_peer, entries: Vec::new() };
    turn(at(8_000), Input::Frame(Cow::Owned(frame)));
    records.push(Record::Leave(Cow::Owned(node.leave())));
    (header, records)
}

fn bytes(header: &Header, records: &[Record<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    recording::write_header(header, &mut bytes);
    records.iter().for_each(|record| recording::write_record(record, &mut bytes));
    bytes
}

fn replay(bytes: &[u8]) -> Result<Replayed, ReplayError> {
    let (header, mut reader) = Reader::open(bytes)?;
    recording::replay(&header, &mut reader)
}

fn difference(header: &Header, records: &[Record<'_>]) -> String {
    match replay(&bytes(header, records)) {
        Err(ReplayError::Differs(difference)) => difference.to_string(),
        other => panic!("no difference was found: {other:?}"),
    }
}

#[test]
fn a_recording_is_replayed_identically() {
    let (header, records) = life();
    let count =
        |which: fn(&Record<'_>) -> bool| records.iter().filter(|it| which(it)).count() as u64;
    let replayed = replay(&bytes(&header, &records)).unwrap();
    let expected = Replayed {
        inputs: count(|it| matches!(it, Record::Input { .. })),
        outputs: count(|it| matches!(it, Record::Output(_))),
        frames: count(|it| matches!(it, Record::Send { frame: Some(_), .. })),
        waits: 52,
        span: Duration::from_secs(8),
        left: true,
        cut_off: false,
    };
    assert_eq!(replayed, expected);
    let accepted = |it: &Record<'_>| match it {
        Record::Output(output) => matches!(**output, Output::Decide(_, Verdict::Accept)),
        _ => false,
    };
    assert!(count(accepted) > 0, "the node has decided something");
}

#[test]
fn what_was_changed_is_noticed() {
    let (header, records) = life();
    let place = |which: fn(&Record<'_>) -> bool| records.iter().position(which).unwrap();

    let mut other = records.clone();
    let at =
        place(|it| matches!(it, Record::Output(output) if matches!(**output, Output::Decide(..))));
    other[at] = Record::Output(Cow::Owned(Output::Decide(Ticket(0), Verdict::Drop)));
    assert!(difference(&header, &other).contains("Drop"), "another verdict");

    let mut other = records.clone();
    other.remove(at);
    difference(&header, &other);

    let mut other = records.clone();
    other.remove(place(|it| matches!(it, Record::Input { input: Input::Syn(_), .. })));
    difference(&header, &other);

    let mut other = header.clone();
    other.config.incarnation += 1;
    let text = difference(&other, &records);
    assert!(text.contains("incarnation: 4") && text.contains("incarnation: 3"), "{text}");

    let mut other = header;
    other.config.timers.hello *= 2;
    difference(&other, &records);
}

#[test]
fn what_is_no_recording_is_refused() {
    let (header, records) = life();
    let whole = bytes(&header, &records);
    for (bytes, word) in [
        (&b"clusterd recording 1\nxxxxxxxxxxxxx"[..], "not a recording"),
        (b"", "not a recording"),
        (MAGIC, "no header"),
        (&[MAGIC, b"\xff\xff\xff\xff"].concat(), "damaged at byte 21"),
        (&[MAGIC, b"\x02\0\0\0\xff\xff"].concat(), "damaged at byte 21"),
    ] {
        let error = Reader::open(bytes).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    // A longer record than it should be.
    let mut longer = whole.clone();
    recording::write_record(&Record::Wait(Instant(1)), &mut longer);
    longer[whole.len()] += 1;
    longer.push(0);
    assert!(matches!(replay(&longer), Err(ReplayError::Read(ReadError::Damaged { .. }))));
}

/// No prefix and no changed byte panics or takes for ever.
#[test]
fn no_damage_panics() {
    let (header, records) = life();
    let whole = bytes(&header, &records);
    let all = replay(&whole).unwrap();
    for length in 0..whole.len() {
        if let Ok(replayed) = replay(&whole[..length]) {
            assert!(!replayed.left && replayed.inputs <= all.inputs);
        }
    }
    for place in 0..whole.len() {
        let mut changed = whole.clone();
        changed[place] ^= 0x41;
        drop(replay(&changed));
    }
}
