//! What hosts say and hear, and what they make of it: I6, I8 to I11.

use std::collections::BTreeMap;
use std::rc::Rc;

use clusterd::flow::NodeId;
use clusterd::protocol::{Instant, Node, Timers};
use clusterd::wire::{self, Contest, Entry, FRAME_MAX, Frame, Header};

use super::attempts::{ClaimKey, OwnClaim, Word};
use super::{Checker, Invariant};
use crate::host::{Host, cluster_key, node_id};
use crate::packet::{FlowId, Segment};

/// One of so many frames at the beginning of a run is heard once more, if there are so many. It takes a copy of
/// the core, so one must do.
const SAMPLED_AMONG: u32 = 10_000;

/// All frames of a run.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Incarnation and sequence number that each host has used last.
    last: BTreeMap<u16, (u64, u64)>,
    /// How often each was started.
    starts: BTreeMap<u16, u64>,
    /// Of each host, and each sender that it has heard: the incarnation, and the number that it has heard first.
    first: BTreeMap<(u16, NodeId), (u64, u64)>,
    heard: u32,
    /// Which frame is the sample, drawn from the sequence number of the first client.
    sampled: u32,
    /// A frame that its receiver will be given once more.
    sample: Option<(u16, Instant, Rc<[u8]>)>,
}

impl Frames {
    /// Draws the sample anew.
    pub fn draw_sample(&mut self, number: u32) {
        self.sampled = self.heard + 1 + number % SAMPLED_AMONG;
    }

    /// Incarnation and number of the frame that a host has sent last.
    #[cfg(test)]
    pub fn last_of(&self, host: u16) -> (u64, u64) {
        self.last.get(&host).copied().unwrap_or_default()
    }

    pub fn started(&mut self, host: u16) {
        *self.starts.entry(host).or_default() += 1;
        self.first.retain(|&(hearer, _), _| hearer != host);
    }

    /// A host has got a frame. True if it left before the first one of its sender that the host has heard, which
    /// is not used (spec 3.5): it may be a recording.
    fn is_before_the_first(&mut self, host: u16, header: &Header) -> bool {
        let this = (header.incarnation, header.sequence);
        let first = self.first.entry((host, header.node)).or_insert(this);
        if this.0 > first.0 {
            *first = this;
        }
        this < *first
    }
}

impl Checker {
    /// A host sends a frame.
    pub(super) fn claimed(&mut self, at: Instant, host: u16, bytes: &Rc<[u8]>) {
        if bytes.len() > FRAME_MAX {
            let what = format!("a frame of {} bytes, the bound is {FRAME_MAX}", bytes.len());
            self.blame(at, Invariant::I7, Some(host), None, what);
        }
        let frame = match wire::decode(bytes, &self.ring) {
            Ok(frame) => frame,
            Err(error) => {
                let what = format!("a frame that nobody can read: {error}");
                self.blame(at, Invariant::I9, Some(host), None, what);
                return;
            }
        };
        self.numbered(at, host, &frame);
        if let Some(known) = self.hosts.known(host) {
            known.says();
        }
        for entry in &frame.entries {
            match entry {
                Entry::Claim(contest) => self.claims(at, host, contest),
                Entry::Own(contest) => {
                    self.speaks(at, host, contest, "OWN");
                    if let Some((_, attempt)) = self.attempts.find(contest.attempt) {
                        attempt.at.entry(host).or_default().said_own = true;
                    }
                }
                Entry::Release(contest) => self.speaks(at, host, contest, "RELEASE"),
                Entry::Hello { .. }
                | Entry::HelloUdp { .. }
                | Entry::Heard { .. }
                | Entry::Vips { .. }
                | Entry::VipsTcp { .. }
                | Entry::VipsUdp { .. } => {}
            }
        }
    }

    /// I9: the number of a frame.
    fn numbered(&mut self, at: Instant, host: u16, frame: &Frame) {
        let number = (frame.header.incarnation, frame.header.sequence);
        let before = self.frames.last.insert(host, number);
        let starts = self.frames.starts.get(&host).copied().unwrap_or_default();
        let expected = match before {
            Some((incarnation, sequence)) if incarnation == number.0 => (incarnation, sequence + 1),
            Some(_) | None => (starts, 1),
        };
        let grows = before.is_none_or(|before| number > before);
        if number.1 != expected.1 || !grows {
            let what = format!(
                "a frame with incarnation {} and number {} after {before:?}",
                number.0, number.1
            );
            self.blame(at, Invariant::I9, Some(host), None, what);
        }
        if frame.header.node != node_id(usize::from(host)) {
            let what = format!("it speaks as {}, which is not its id", frame.header.node);
            self.blame(at, Invariant::I6, Some(host), None, what);
        }
    }

    /// I10: something is said about an attempt.
    fn speaks(&mut self, at: Instant, host: u16, contest: &Contest, word: &str) {
        let (about, active) = match self.attempts.find(contest.attempt) {
            Some((about, attempt)) => (Some(about), attempt.active),
            None => (None, Instant::default()),
        };
        if about.is_none() {
            let what = format!("{word} for attempt {}, whose SYN no host has got", contest.attempt);
            self.blame(at, Invariant::I10, Some(host), None, what);
        } else if at.since(active) > self.quiet && !self.somebody_paused_since(active) {
            let what = format!("{word} {:?} after the last SYN or answer", at.since(active));
            self.blame(at, Invariant::I10, Some(host), about, what);
        }
    }

    /// Late words of a host that was paused make others speak, too.
    fn somebody_paused_since(&self, since: Instant) -> bool {
        (0..64).any(|host| self.hosts.paused_since(host, since))
    }

    /// A host claims.
    fn claims(&mut self, at: Instant, host: u16, contest: &Contest) {
        self.speaks(at, host, contest, "CLAIM");
        let key =
            ClaimKey::new(contest.attempt, node_id(usize::from(host)), contest.tries, contest.rank);
        let settled = self.hosts.settled(at);
        let ready = self.hosts.known(host).is_some_and(|known| known.ready);
        let missed =
            self.hosts.snapshot(host).is_none_or(|snapshot| snapshot.missed > 0 || snapshot.doubts);
        let Some((about, attempt)) = self.attempts.find(contest.attempt) else { return };
        let twin = attempt.claims.iter().copied().find(|other| {
            let order = |key: &ClaimKey| (key.tries, key.rank, key.tie_break);
            order(other) == order(&key) && other.node != key.node
        });
        attempt.claims.insert(key);
        let local = attempt.at.entry(host).or_default();
        let heard = !local.heard.is_empty();
        let accepted = local.accepted;
        let times = match &mut local.claim {
            Some(claim) if claim.key == key => {
                (claim.last, claim.times) = (at, claim.times + 1);
                claim.times
            }
            Some(_) | None => {
                local.claim = Some(OwnClaim { key, first: at, last: at, times: 1 });
                1
            }
        };
        if let Some(twin) = twin {
            let what = format!("its claim {key:?} is as good as {twin:?}");
            self.blame(at, Invariant::I6, Some(host), Some(about), what);
        }
        let most = 3 * self.hosts.number();
        if times > most {
            let what = format!("its claim {key:?} for the {times}th time; {most} times are enough");
            self.blame(at, Invariant::I10, Some(host), Some(about), what);
        }
        // It has accepted while it could serve, and says so to a late claimant.
        if !ready && !accepted {
            let what = "a CLAIM, and it knows of no listener with room".to_owned();
            self.blame(at, Invariant::I8, Some(host), Some(about), what);
        }
        let first = (contest.tries, contest.rank) == (0, 1);
        let position = self.position(host, about.0);
        let undisputed = settled && !missed && !heard && !accepted;
        if undisputed && first && position == 0 && self.hosts.paced_by_rank() {
            let what = "a CLAIM, although it ranks first and nothing was lost".to_owned();
            self.blame(at, Invariant::I11, Some(host), Some(about), what);
        }
    }

    /// How many of the hosts that run outweigh this one for a flow.
    pub(super) fn position(&self, host: u16, flow: FlowId) -> u32 {
        let flow = cluster_key().flow(&flow.key());
        let weight = |node| (cluster_key().weight(flow, node), node);
        let own = weight(node_id(usize::from(host)));
        self.hosts.running().filter(|&node| weight(node) > own).count() as u32
    }

    /// A host has got a frame.
    pub(super) fn heard(&mut self, at: Instant, host: u16, bytes: &Rc<[u8]>) {
        let Ok(frame) = wire::decode(bytes, &self.ring) else { return };
        let from = frame.header.node;
        self.frames.heard += 1;
        if self.frames.heard == self.frames.sampled {
            self.frames.sample = Some((host, at, bytes.clone()));
        }
        if self.frames.is_before_the_first(host, &frame.header) || !self.hosts.ranks(host, from) {
            return;
        }
        let frame_id = (from, frame.header.incarnation, frame.header.sequence);
        let mut new = BTreeMap::new();
        for entry in &frame.entries {
            let (contest, word) = match entry {
                Entry::Claim(contest) => {
                    let key = ClaimKey::new(contest.attempt, from, contest.tries, contest.rank);
                    (contest, Word::Claim(key))
                }
                Entry::Own(contest) => (contest, Word::Own(from)),
                Entry::Release(contest) => (contest, Word::Release(from)),
                Entry::Hello { .. } => {
                    self.hosts.hello(at, host, from);
                    continue;
                }
                Entry::HelloUdp { .. }
                | Entry::Heard { .. }
                | Entry::Vips { .. }
                | Entry::VipsTcp { .. }
                | Entry::VipsUdp { .. } => continue,
            };
            if let Some((about, attempt)) = self.attempts.find(contest.attempt) {
                let local = attempt.at.entry(host).or_default();
                // A frame may say several things about one attempt.
                let is_new = *new.entry(about).or_insert_with(|| local.frames.insert(frame_id));
                if is_new && local.heard.last() != Some(&(at, word)) {
                    local.heard.push((at, word));
                }
            }
        }
    }

    /// I11: a held SYN has got its verdict. It was accepted, and the core was told of it then, or
    /// it was not.
    pub(super) fn decided(
        &mut self,
        at: Instant,
        host: u16,
        syn: &Segment,
        accepted: Option<Instant>,
    ) {
        let Some(since) = accepted else { return };
        let about = (syn.flow, syn.sequence);
        let incumbent = self.attempts.has_answered(host, syn.flow);
        let Some(local) = self.attempts.accepts(host, syn) else { return };
        if local.accepted || !self.promises.claims || !self.drains {
            return;
        }
        // A claim may have come before the SYN, and defers from then on.
        let early = Instant(since.0.saturating_sub(self.own.as_nanos() as u64));
        let lately: Vec<_> =
            local.heard.iter().filter(|(heard, _)| *heard > early).copied().collect();
        let words: Vec<_> = lately.iter().filter(|(heard, _)| *heard > since).copied().collect();
        let trusted = |node| self.hosts.ranks(host, node);
        for &(heard, word) in &words {
            if let Word::Own(owner) = word
                && trusted(owner)
            {
                let what =
                    format!("it accepts, and has heard {} of OWN of {owner}", before(at, heard));
                self.blame(at, Invariant::I11, Some(host), Some(about), what);
                return;
            }
        }
        let released = lately.iter().any(|(_, word)| matches!(word, Word::Release(_)));
        // Its own claim decides which ones it must defer to; without one, all.
        let own = local.claim.filter(|claim| claim.last >= since);
        let from = own.map_or(early, |claim| claim.first.max(since));
        // Whom it knew to own the attempt when the SYN came it has waited for until T_own was over, and not once
        // more for a claim of the same that came meanwhile (spec 5.4, `Foreign` and SYN).
        let remembered =
            Instant(since.0.saturating_sub(Timers::default().foreign.as_nanos() as u64));
        let has_waited_for = |node, heard: Instant| {
            let of_it = |(heard, word): &&(Instant, Word)| {
                *heard <= since && matches!(word, Word::Own(of) | Word::Release(of) if *of == node)
            };
            let last = local.heard.iter().rev().find(of_it);
            let owns =
                |(heard, word): &(Instant, Word)| *heard >= remembered && *word == Word::Own(node);
            heard < since + self.own && at.since(since) >= self.own && last.is_some_and(owns)
        };
        let first = lately.iter().find_map(|&(heard, word)| match word {
            Word::Claim(theirs)
                if heard >= from
                    && own.is_none_or(|own| theirs < own.key)
                    && !has_waited_for(theirs.node, heard) =>
            {
                Some((heard, theirs))
            }
            Word::Claim(_) | Word::Own(_) | Word::Release(_) => None,
        });
        // By hash it waits for a claim as well, but not for a worse one that comes meanwhile.
        let by_hash = self.hosts.snapshot(host).is_some_and(|snapshot| snapshot.by_hash);
        if let Some((heard, theirs)) = first
            && !released
            && !by_hash
            && trusted(theirs.node)
            && at.since(heard) < self.own
        {
            let what = format!(
                "it accepts, and has heard {} of {theirs:?}; its own is {own:?}",
                before(at, heard)
            );
            self.blame(at, Invariant::I11, Some(host), Some(about), what);
            return;
        }
        // A peer may also have passed long before this host was told of the SYN.
        if !incumbent && local.heard.is_empty() {
            self.in_turn(at, host, about, since);
        }
    }

    /// I11: a host accepts a SYN that it has held since then, and nobody has called it.
    fn in_turn(&mut self, at: Instant, host: u16, about: (FlowId, u32), since: Instant) {
        let Some(slot) = self.hosts.slot(host, since) else { return };
        if !self.hosts.paced_by_rank() || !self.hosts.settled(at) {
            return;
        }
        let held = at.since(since);
        let position = self.position(host, about.0);
        let turn = slot * position;
        if held < turn {
            let what = format!(
                "it accepts after {held:?}; it ranks {} of {}, so its turn is after {turn:?}",
                position + 1,
                self.hosts.running().count(),
            );
            self.blame(at, Invariant::I11, Some(host), Some(about), what);
        }
    }

    /// I9: a host is given a frame once more that it has read. Only counters may change.
    pub(super) fn repeat_frame(&mut self, at: Instant, host: &Host, node: &Node) {
        let index = host.index() as u16;
        let (to, heard, bytes) = match &self.frames.sample {
            Some((to, heard, bytes)) => (*to, *heard, bytes.clone()),
            None => return,
        };
        if to != index || host.unread().1 > 0 || host.decided() <= heard {
            return;
        }
        self.frames.sample = None;
        let Ok(frame) = wire::decode(&bytes, &self.ring) else { return };
        // A sender that was forgotten meanwhile is heard for the first time.
        let known = node.hearing().any(|hearing| hearing.node == frame.header.node);
        if !known {
            return;
        }
        let mut copy = node.clone();
        let before = without_counters(&copy);
        copy.handle_frame(at, &frame);
        let after = without_counters(&copy);
        if before != after {
            let common = before.bytes().zip(after.bytes()).take_while(|(a, b)| a == b).count();
            let part = |text: &str| {
                text.get(common.saturating_sub(60)..)
                    .unwrap_or_default()
                    .chars()
                    .take(120)
                    .collect::<String>()
            };
            let what = format!(
                "a frame heard once more changes `{}` to `{}`",
                part(&before),
                part(&after)
            );
            self.blame(at, Invariant::I9, Some(index), None, what);
        }
    }
}

/// All that a core knows but what it has counted.
fn without_counters(node: &Node) -> String {
    format!("{node:?}").replacen(&format!("{:?}", node.counters()), "", 1)
}

fn before(at: Instant, heard: Instant) -> String {
    format!("{:?} before", at.since(heard))
}
