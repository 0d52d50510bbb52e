//! When two states are the same: a hash of everything that can still matter.

use std::fmt::Write;
use std::hash::Hasher;

use clusterd::protocol::Node;
use siphasher::sip128::{Hasher128, SipHasher13};

/// 128 bits, so that two different states never meet in practice.
#[derive(Default)]
pub struct Fingerprint(SipHasher13);

impl Fingerprint {
    pub fn number(mut self, number: impl Into<u128>) -> Self {
        self.0.write_u128(number.into());
        self
    }

    pub fn text(mut self, text: &str) -> Self {
        self.0.write(text.as_bytes());
        self.0.write_u8(0xFF);
        self
    }

    pub fn finish(self) -> u128 {
        self.0.finish128().as_u128()
    }
}

/// Fields of a node that never come back to its behaviour within a scope: constants,
/// totals, measured delays that nothing adapts to, memory that is only used again, and
/// when a peer was heard, which matters only after the end.
const FORGOTTEN: [&str; 6] = [
    "config: Config",
    "counters: Counters",
    "frame: Frame",
    "heard: Instant",
    "pace: Pace",
    "received: ",
];
const INSTANT: &str = "Instant(";

/// Everything a node knows, as its `Debug` text says it, but for what is
/// [`FORGOTTEN`]. All moments after `end`, in nanoseconds, are one: nothing happens then.
///
/// A field that this does not know keeps states apart that could be one, never the reverse.
pub fn of_node(fingerprint: Fingerprint, node: &Node, end: u64) -> Fingerprint {
    let mut text = String::with_capacity(4096);
    write!(text, "{node:?}").expect("a string takes everything");
    let mut kept = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(c) = rest.chars().next() {
        if let Some(name) = FORGOTTEN.iter().find(|&&name| rest.starts_with(name)) {
            rest = &rest[name.find(' ').map_or(0, |blank| blank + 1)..];
            rest = &rest[value_len(rest)..];
        } else if let Some(number) = rest.strip_prefix(INSTANT) {
            let digits = number.bytes().take_while(u8::is_ascii_digit).count();
            let moment: u64 = number[..digits].parse().expect("an instant is a number");
            kept.push_str(if moment > end { "@" } else { &number[..digits] });
            rest = &number[digits..];
        } else {
            let letter = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
            let word = rest.bytes().take_while(letter).count().max(c.len_utf8());
            kept.push_str(&rest[..word]);
            rest = &rest[word..];
        }
    }
    // Its next wake-up may be one that nothing is left to do at, which the text does not say.
    let wakes = node.poll_timeout().0;
    let wakes = if wakes > end { u64::MAX } else { wakes };
    fingerprint.number(node.id().0).number(wakes).text(&kept)
}

/// Length of a field's value in `Debug` text.
fn value_len(text: &str) -> usize {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' | b',' if depth == 0 => return at,
            b'}' | b')' | b']' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}
