//! The core's view of the attempt in words: what a change of its standing on a host means, and why a
//! SYN got its verdict.
//!
//! The words are for what the core has decided; nothing is worked out here once more.

use clusterd::flow::NodeId;
use clusterd::protocol::{Instant, Purpose, Standing, Turn};

use super::short;
use crate::host::host_of;

/// Where the attempt stands on a host, before an event and after it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Change {
    pub before: Option<Standing>,
    pub after: Option<Standing>,
}

impl Change {
    /// What this is worth saying, unless the verdict on the SYN says it.
    pub fn words(&self, at: Instant) -> Option<String> {
        use Standing as S;
        let after = self.after?;
        let wait = |until: Instant| short(until.since(at));
        let goes_on = match self.before {
            Some(S::Deferred { to, .. }) => format!("goes on without {}: ", name(to)),
            _ => String::new(),
        };
        Some(match (self.before, after) {
            (before, after) if before == Some(after) => return None,
            (_, S::Held { turn, until, .. }) => format!("{goes_on}{}", place(turn, at, until)),
            (Some(S::Claimed { reasserted: false, .. }), S::Claimed { reasserted: true, .. }) => {
                "has heard a claim that is not better than its own".to_owned()
            }
            (Some(S::Claimed { .. }), S::Claimed { .. }) => return None,
            (_, S::Claimed { rank, until, .. }) => {
                format!("{goes_on}claims it, rank {rank}: waits {} for better claims", wait(until))
            }
            (_, S::Deferred { ticket: None, to, .. }) => {
                format!("remembers {}'s claim, as it holds no SYN", name(to))
            }
            (Some(S::Foreign { owner: Some(owner), .. }), S::Deferred { to, until, .. })
                if owner == to =>
            {
                format!("leaves it to {}, its owner, for {}", name(to), wait(until))
            }
            (_, S::Deferred { to, until, .. }) => {
                format!("defers to {}'s claim for {}", name(to), wait(until))
            }
            (Some(S::Accepted { .. }), S::Foreign { .. }) => {
                "gives it up: its kernel has not answered".to_owned()
            }
            (Some(S::Half { .. }), S::Foreign { .. }) => {
                "gives it up: the client has named another host".to_owned()
            }
            (Some(S::Half { .. }), S::Owned { .. }) => {
                "owns it: the client has named this host".to_owned()
            }
            (Some(S::Foreign { owner: before, .. }), S::Foreign { owner, .. })
                if before == owner =>
            {
                return None;
            }
            (Some(S::Foreign { owner: Some(owner), .. }), S::Foreign { owner: None, .. }) => {
                format!("{} owns it no longer", name(owner))
            }
            // The verdict on the SYN that it has held follows.
            (Some(before), S::Foreign { .. }) if before.ticket().is_some() => return None,
            (_, S::Foreign { owner: Some(owner), .. }) => {
                format!("knows that {} owns it", name(owner))
            }
            // What it does is seen: nothing, or its SYN-ACK leaves.
            (_, S::Foreign { owner: None, .. })
            | (_, S::Accepted { .. } | S::Half { .. } | S::Owned { .. }) => return None,
        })
    }

    /// Why a SYN is accepted.
    pub fn accepted(&self) -> &'static str {
        use Standing as S;
        // Whoever may not serve it gets here from any turn, in one step.
        if let Some(S::Accepted { purpose: Purpose::Refuse, .. }) = self.after {
            return "accepted, to be refused: nobody serves it";
        }
        match self.before {
            Some(S::Accepted { .. } | S::Half { .. } | S::Owned { .. }) => {
                "accepted once more: it has accepted it before"
            }
            Some(S::Claimed { .. }) => "accepted: claimed and unopposed",
            Some(S::Held { turn: Turn::Candidate { .. }, .. }) => "accepted eagerly",
            Some(S::Held { turn: Turn::Designated { .. }, .. }) => "accepted by hash",
            Some(S::Held { turn: Turn::Spectator | Turn::LastResort { .. }, .. }) => {
                "accepted as a last resort"
            }
            Some(
                S::Held { turn: Turn::Bystander, .. } | S::Deferred { .. } | S::Foreign { .. },
            )
            | None => "accepted: its turn has come",
        }
    }

    /// Why a SYN is dropped that is no copy of another one.
    pub fn dropped(&self) -> String {
        use Standing as S;
        let to_hash = "dropped: by hash another host's try";
        match (self.before, self.after) {
            // Decided before, and carried out now.
            (Some(S::Foreign { owner: Some(owner), .. }), _) => {
                format!("dropped: {} owns it", name(owner))
            }
            (Some(S::Foreign { owner: None, .. }), Some(_)) => to_hash.to_owned(),
            (_, Some(S::Foreign { owner: Some(owner), .. })) => {
                format!("dropped: {} owns it", name(owner))
            }
            (
                Some(S::Held { turn: Turn::Spectator | Turn::LastResort { .. }, .. }),
                Some(S::Foreign { .. }),
            ) => "dropped: left to a live peer that serves it".to_owned(),
            (Some(S::Held { turn: Turn::Designated { .. }, .. }), Some(S::Foreign { .. })) => {
                "dropped: the try is its own by hash, but its listener is busy".to_owned()
            }
            (None, Some(S::Foreign { .. })) => to_hash.to_owned(),
            // By hash or as a peer serves it: its own turn is over.
            (_, Some(S::Foreign { .. })) => "dropped: left to another host".to_owned(),
            (Some(before), None) if before.ticket().is_some() => {
                "dropped: held too long".to_owned()
            }
            (_, None) => "dropped: there is no room for more".to_owned(),
            (_, Some(_)) => COPY.to_owned(),
        }
    }
}

/// Why a SYN is dropped while another one of the attempt is held.
pub(super) const COPY: &str = "dropped: a copy of the held one";

/// The place of a host that holds a SYN.
fn place(turn: Turn, at: Instant, until: Instant) -> String {
    let wait = short(until.since(at));
    let when = match until <= at {
        true => "its turn is at once".to_owned(),
        false => format!("its turn is in {wait}"),
    };
    match turn {
        Turn::Candidate { rank: 0, .. } => format!("holds it: its kernel knows the ports, {when}"),
        Turn::Candidate { rank, .. } => format!("holds it: rank {rank}, {when}"),
        Turn::Spectator => format!("holds it: spectator, looks on for {wait}"),
        Turn::LastResort { .. } => format!("holds it: last resort, {when}"),
        Turn::Designated { .. } => format!("holds it: its own try by hash, {when}"),
        Turn::Bystander => "by hash another host's try".to_owned(),
    }
}

fn name(node: NodeId) -> String {
    host_of(node).map_or("another host".to_owned(), |host| format!("h{}", host + 1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clusterd::protocol::Ticket;

    use super::*;
    use crate::host::node_id;

    const NOW: Instant = Instant::from_micros(5);

    fn held(turn: Turn, wait: Duration) -> Option<Standing> {
        Some(Standing::Held { ticket: Ticket(1), turn, until: NOW + wait })
    }

    fn foreign(owner: Option<NodeId>) -> Option<Standing> {
        Some(Standing::Foreign { owner, until: NOW })
    }

    #[test]
    fn a_place_is_told_with_its_time() {
        let turn = Turn::Candidate { position: 1, rank: 2 };
        let change = Change { before: None, after: held(turn, Duration::from_millis(1)) };
        assert_eq!(change.words(NOW).unwrap(), "holds it: rank 2, its turn is in 1.00 ms");
        let again = Change { before: change.after, ..change };
        assert_eq!(again.words(NOW), None, "nothing has changed");
        let (ticket, to) = (Some(Ticket(1)), node_id(2));
        let before = Some(Standing::Deferred { ticket, to, until: NOW });
        let after = held(Turn::Designated { wait: false }, Duration::ZERO);
        let told = Change { before, after }.words(NOW).unwrap();
        let expected = "goes on without h3: holds it: its own try by hash, its turn is at once";
        assert_eq!(told, expected);
    }

    #[test]
    fn a_verdict_is_told_with_what_the_core_was_about() {
        let last = held(Turn::LastResort { position: 0 }, Duration::ZERO);
        let accepted =
            |purpose| Some(Standing::Accepted { purpose, reasserted: false, until: NOW });
        let first = held(Turn::Candidate { position: 0, rank: 1 }, Duration::ZERO);
        for (before, purpose, expected) in [
            (first, Purpose::Serve, "accepted eagerly"),
            (first, Purpose::Refuse, "accepted, to be refused: nobody serves it"),
            (last, Purpose::Serve, "accepted as a last resort"),
            (
                accepted(Purpose::Serve),
                Purpose::Serve,
                "accepted once more: it has accepted it before",
            ),
        ] {
            assert_eq!(Change { before, after: accepted(purpose) }.accepted(), expected);
        }
        for (before, after, expected) in [
            (last, foreign(Some(node_id(0))), "dropped: h1 owns it"),
            (last, foreign(None), "dropped: left to a live peer that serves it"),
            (foreign(None), foreign(None), "dropped: by hash another host's try"),
            (first, foreign(None), "dropped: left to another host"),
            (last, None, "dropped: held too long"),
            (None, None, "dropped: there is no room for more"),
            (None, accepted(Purpose::Serve), COPY),
        ] {
            assert_eq!(Change { before, after }.dropped(), expected);
        }
    }
}
