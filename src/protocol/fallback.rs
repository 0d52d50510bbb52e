//! When claims cannot be trusted or afforded: the way into the hash rule and
//! back (spec 5.6).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Instant;

/// How connections are distributed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// By claims, and by hash while there is a [`Cause`].
    #[default]
    Auto,
    /// Always by claims.
    Claim,
    /// Always by hash.
    Hash,
}

/// Why this node decides by hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// A quarter of some live peer's frames go missing.
    Loss,
    /// Clients choose other hosts of which nothing was heard.
    Deaf,
    /// No peer hears this node.
    Mute,
    /// More SYNs than this node can hold claims about.
    Overload,
    /// Some peer speaks another major version.
    Version,
}

impl Cause {
    const ALL: [Cause; 5] =
        [Cause::Loss, Cause::Deaf, Cause::Mute, Cause::Overload, Cause::Version];
}

/// What a measurement says about a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It is there.
    Present,
    /// Neither: what was decided before stays.
    Unclear,
    /// It is gone.
    Absent,
}

/// A cause must be gone for so long before it is believed.
pub(super) const HOLD: Duration = Duration::from_secs(10);
/// Each time it comes back soon after, it is believed gone half as quickly, down to this.
pub(super) const HOLD_MAX: Duration = Duration::from_secs(640);

/// The hysteresis of one cause.
#[derive(Clone, Copy, Debug)]
struct Trigger {
    active: bool,
    absent_since: Option<Instant>,
    left: Option<Instant>,
    hold: Duration,
}

impl Trigger {
    pub(super) const IDLE: Self =
        Self { active: false, absent_since: None, left: None, hold: HOLD };

    /// True if it went on or off.
    fn weigh(&mut self, now: Instant, sign: Sign) -> bool {
        match (self.active, sign) {
            (false, Sign::Present) => {
                let soon = self.left.is_some_and(|left| now.since(left) < self.hold);
                self.hold = if soon { (self.hold * 2).min(HOLD_MAX) } else { HOLD };
                self.active = true;
                self.absent_since = None;
                true
            }
            (true, Sign::Present | Sign::Unclear) => {
                self.absent_since = None;
                false
            }
            (true, Sign::Absent) => {
                let since = *self.absent_since.get_or_insert(now);
                self.active = now.since(since) < self.hold;
                self.left = (!self.active).then_some(now);
                !self.active
            }
            (false, Sign::Unclear | Sign::Absent) => false,
        }
    }
}

/// Clients that chose hosts of which nothing was heard, and all that this node
/// has accepted, in this second and the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Evidence {
    since: Instant,
    unheard: [u32; 2],
    accepted: [u32; 2],
}

impl Evidence {
    pub(super) const SPAN: Duration = Duration::from_secs(1);
    /// Fewer are chance: one claim in a thousand gets lost anywhere.
    pub(super) const UNHEARD_MIN: u32 = 3;

    fn advance(&mut self, now: Instant) {
        let age = now.since(self.since);
        if age < Self::SPAN {
            return;
        }
        let kept = age < Self::SPAN * 2;
        self.unheard = [0, if kept { self.unheard[0] } else { 0 }];
        self.accepted = [0, if kept { self.accepted[0] } else { 0 }];
        self.since = now;
    }

    fn sign(&self) -> Sign {
        let unheard: u32 = self.unheard.iter().sum();
        let accepted: u32 = self.accepted.iter().sum();
        if unheard >= Self::UNHEARD_MIN && unheard.saturating_mul(10) >= accepted {
            Sign::Present
        } else if unheard > 0 {
            Sign::Unclear
        } else {
            Sign::Absent
        }
    }
}

/// What the driver's queue and processor say, see [`Node::handle_load`](super::Node::handle_load).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// The time that this covers.
    pub window: Duration,
    /// The share of it that the driver's thread was busy, per thousand.
    pub busy: u16,
    /// Packets for which the kernel's queue had no room.
    pub overflowed: u64,
    /// SYNs to the virtual IP, also those that the kernel decided by itself.
    pub syns: u64,
}

impl Load {
    pub(super) const BUSY: u16 = 800;
    pub(super) const IDLE: u16 = 500;

    fn rate(&self) -> u64 {
        self.syns.saturating_mul(1_000_000) / (self.window.as_micros() as u64).max(1)
    }
}

/// Decides between claims and the hash rule.
#[derive(Clone, Debug)]
pub(super) struct Fallback {
    mode: Mode,
    triggers: [Trigger; Cause::ALL.len()],
    evidence: Evidence,
    /// SYNs a second that were too many.
    overload_rate: u64,
}

impl Fallback {
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            triggers: [Trigger::IDLE; Cause::ALL.len()],
            evidence: Evidence::default(),
            overload_rate: 0,
        }
    }

    /// This node decides by hash.
    pub fn by_hash(&self) -> bool {
        match self.mode {
            Mode::Auto => self.triggers.iter().any(|trigger| trigger.active),
            Mode::Claim => false,
            Mode::Hash => true,
        }
    }

    /// The kernel decides about SYNs by itself.
    pub fn by_kernel(&self) -> bool {
        self.mode != Mode::Claim && self.has(Cause::Overload)
    }

    /// The cause is there, whatever follows from it.
    pub fn has(&self, cause: Cause) -> bool {
        self.triggers[cause as usize].active
    }

    /// All causes that are there.
    pub fn causes(&self) -> impl Iterator<Item = Cause> {
        Cause::ALL.into_iter().filter(|&cause| self.has(cause))
    }

    /// Takes a measurement into account. True if the cause came or went.
    pub fn weigh(&mut self, now: Instant, cause: Cause, sign: Sign) -> bool {
        self.triggers[cause as usize].weigh(now, sign)
    }

    /// This node has accepted an attempt.
    pub fn accepted(&mut self, now: Instant) {
        self.evidence.advance(now);
        self.evidence.accepted[0] += 1;
    }

    /// A client chose another host, of which nothing was heard.
    pub fn unheard(&mut self, now: Instant) {
        self.evidence.advance(now);
        self.evidence.unheard[0] += 1;
    }

    /// What clients' choices say about this node's hearing.
    pub fn hearing(&mut self, now: Instant) -> Sign {
        self.evidence.advance(now);
        self.evidence.sign()
    }

    /// What the driver's load says.
    pub fn load(&mut self, load: &Load) -> Sign {
        if load.overflowed > 0 || load.busy >= Load::BUSY {
            self.overload_rate = self.overload_rate.max(load.rate());
            return Sign::Present;
        }
        if load.busy >= Load::IDLE || load.rate() * 2 >= self.overload_rate.max(1) {
            return Sign::Unclear;
        }
        Sign::Absent
    }

    /// Forgets which rate was too much: the machine may have less to do now.
    pub fn relieved(&mut self) {
        self.overload_rate = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(number: u64) -> Instant {
        Instant::default() + Duration::from_secs(number)
    }

    /// The cause is absent for this long before it is believed.
    fn held(fallback: &mut Fallback, from: u64) -> u64 {
        let gone = |&at: &u64| fallback.weigh(second(at), Cause::Loss, Sign::Absent);
        (from..).find(gone).unwrap() - from
    }

    #[test]
    fn a_cause_counts_at_once_and_until_it_has_been_gone_for_ten_seconds() {
        let mut fallback = Fallback::new(Mode::Auto);
        assert!(!fallback.by_hash());
        assert!(fallback.weigh(second(0), Cause::Loss, Sign::Present));
        assert!(fallback.by_hash());
        assert!(!fallback.weigh(second(1), Cause::Loss, Sign::Absent));
        assert!(!fallback.weigh(second(9), Cause::Loss, Sign::Unclear));
        assert_eq!(held(&mut fallback, 10), 10);
        assert!(!fallback.by_hash());
    }

    #[test]
    fn a_cause_that_returns_soon_is_held_twice_as_long() {
        let mut fallback = Fallback::new(Mode::Auto);
        let mut now = 0;
        for hold in [10, 20, 40, 80, 160, 320, 640, 640] {
            assert!(fallback.weigh(second(now), Cause::Loss, Sign::Present));
            assert_eq!(held(&mut fallback, now), hold);
            now += hold + 1;
        }
        now += 640;
        assert!(fallback.weigh(second(now), Cause::Loss, Sign::Present));
        assert_eq!(held(&mut fallback, now), 10, "it stayed away for long");
    }

    #[test]
    fn a_mode_is_pinned_whatever_is_measured() {
        for (mode, expected) in [(Mode::Claim, false), (Mode::Hash, true)] {
            let mut fallback = Fallback::new(mode);
            assert_eq!(fallback.by_hash(), expected);
            fallback.weigh(second(0), Cause::Overload, Sign::Present);
            assert_eq!(fallback.by_hash(), expected);
            assert_eq!(fallback.by_kernel(), expected);
        }
    }

    #[test]
    fn three_clients_in_two_seconds_that_chose_unheard_hosts_mean_deafness_unless_thirty_did_not() {
        for (accepted, expected) in [(30, Sign::Present), (31, Sign::Unclear)] {
            let mut fallback = Fallback::new(Mode::Auto);
            (0..accepted).for_each(|_| fallback.accepted(second(100)));
            fallback.unheard(second(100));
            fallback.unheard(second(100));
            assert_eq!(fallback.hearing(second(100)), Sign::Unclear);
            fallback.unheard(second(101));
            assert_eq!(fallback.hearing(second(101)), expected);
            assert_eq!(fallback.hearing(second(103)), Sign::Absent);
        }
    }

    #[test]
    fn overload_is_over_at_half_the_rate_that_was_too_much() {
        let mut fallback = Fallback::new(Mode::Auto);
        let load = |busy, overflowed, syns| Load {
            window: Duration::from_millis(100),
            busy,
            overflowed,
            syns,
        };
        assert_eq!(fallback.load(&load(700, 0, 900)), Sign::Unclear);
        assert_eq!(fallback.load(&load(0, 1, 1_000)), Sign::Present);
        assert_eq!(fallback.load(&load(0, 0, 500)), Sign::Unclear);
        assert_eq!(fallback.load(&load(0, 0, 499)), Sign::Absent);
        fallback.relieved();
        assert_eq!(fallback.load(&load(0, 0, 499)), Sign::Unclear);
    }
}
