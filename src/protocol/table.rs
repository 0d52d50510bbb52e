//! The attempts that a node remembers, found by id and, once answered, by flow.
//!
//! An attempt stays in its slot until it is forgotten, and the hash chains run
//! through the slots: unlike a hash map, the table never moves its contents and
//! never rehashes, so no event pays for the ones before it, and in steady
//! state, when slots are used again, nothing is allocated.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;

use super::attempt::Attempt;
use crate::flow::{AttemptId, FlowKey};

/// Where an attempt lies in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(NonZeroU32);

impl Slot {
    /// The slot with that index, counted from zero.
    pub fn nth(index: usize) -> Self {
        let number = u32::try_from(index + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("fewer than 2^32 attempts"))
    }

    pub fn index(self) -> usize {
        self.number() - 1
    }

    /// Counted from one.
    pub fn number(self) -> usize {
        self.0.get() as usize
    }
}

#[derive(Clone, Debug)]
struct Kept {
    id: AttemptId,
    attempt: Attempt,
}

/// The table of attempts.
#[derive(Clone, Debug)]
pub(super) struct Attempts {
    /// Anybody can compute attempt ids, and choose ports and sequence numbers
    /// until many of them share a chain; only a secret of this process keeps
    /// chains short. Nothing but speed depends on it.
    secret: RandomState,
    slots: Vec<Kept>,
    /// Slots to be used again, the one forgotten last first: it is in the cache.
    free: Vec<Slot>,
    by_id: Chains,
    /// Attempts that this node has answered, the latest of each flow.
    by_flow: Chains,
}

impl Attempts {
    /// An empty table, with room for `limit` attempts.
    pub fn with_capacity(limit: usize) -> Self {
        Self {
            secret: RandomState::new(),
            slots: Vec::with_capacity(limit),
            free: Vec::with_capacity(limit),
            by_id: Chains::with_capacity(limit),
            by_flow: Chains::with_capacity(limit),
        }
    }

    /// Attempts remembered.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub fn find(&self, id: AttemptId) -> Option<Slot> {
        let hash = self.secret.hash_one(id);
        self.find_in(self.by_id.list(hash), id)
    }

    fn find_in(&self, list: List<'_>, id: AttemptId) -> Option<Slot> {
        list.find(|slot| self.slots[slot.index()].id == id)
    }

    /// [`Attempts::find`] and [`Attempts::answered`], which for a new SYN both look into
    /// memory not used for long: here the processor fetches both at once.
    pub fn find_both(&self, id: AttemptId, flow: &FlowKey) -> (Option<Slot>, Option<Slot>) {
        let hashes = (self.secret.hash_one(id), self.flow_hash(flow));
        let lists = (self.by_id.list(hashes.0), self.by_flow.list(hashes.1));
        (self.find_in(lists.0, id), self.answered_in(lists.1, flow))
    }

    /// The attempt that this node answered last of those of a flow.
    pub fn answered(&self, flow: &FlowKey) -> Option<Slot> {
        self.answered_in(self.by_flow.list(self.flow_hash(flow)), flow)
    }

    fn answered_in(&self, list: List<'_>, flow: &FlowKey) -> Option<Slot> {
        list.find(|slot| self.get(slot).flow.as_ref() == Some(flow))
    }

    /// The secret hash of a flow, of few words: what is derived for its types hashes
    /// a dozen small fields.
    fn flow_hash(&self, flow: &FlowKey) -> u64 {
        let ip = |ip| match ip {
            IpAddr::V4(ip) => u128::from(ip.to_bits()),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        let FlowKey { protocol, client, service } = flow;
        let ports = [u16::from(protocol.number()), client.port(), service.port()];
        let ports = ports.into_iter().fold(0, |all, port| all << 16 | u128::from(port));
        self.secret.hash_one([ip(client.ip()), ip(service.ip()), ports])
    }

    /// The attempts that [`Attempts::answered`] finds. Walks the whole table, and not
    /// its chains, whose order is another in each process.
    pub fn all_answered(&self) -> impl Iterator<Item = Slot> {
        (0..self.slots.len()).map(Slot::nth).filter(|&slot| {
            let Attempt { flow, state, .. } = self.get(slot);
            // A slot that is free still shows its last attempt.
            state.answered() && flow.is_some_and(|flow| self.answered(&flow) == Some(slot))
        })
    }

    pub fn id(&self, slot: Slot) -> AttemptId {
        self.slots[slot.index()].id
    }

    pub fn get(&self, slot: Slot) -> &Attempt {
        &self.slots[slot.index()].attempt
    }

    pub fn get_mut(&mut self, slot: Slot) -> &mut Attempt {
        &mut self.slots[slot.index()].attempt
    }

    /// Remembers an attempt that is not in the table.
    pub fn insert(&mut self, id: AttemptId, attempt: Attempt) -> Slot {
        let slot = match self.free.pop() {
            Some(slot) => {
                let kept = &mut self.slots[slot.index()];
                kept.id = id;
                kept.attempt.renew(attempt);
                slot
            }
            None => {
                self.slots.push(Kept { id, attempt });
                Slot::nth(self.slots.len() - 1)
            }
        };
        self.by_id.insert(self.secret.hash_one(id), slot);
        slot
    }

    /// Forgets an attempt, which is not to be found as answered any more.
    pub fn remove(&mut self, slot: Slot) {
        self.by_id.remove(self.secret.hash_one(self.id(slot)), slot);
        self.free.push(slot);
    }

    /// Makes [`Attempts::answered`] find this attempt, and no other of its flow.
    pub fn set_answered(&mut self, slot: Slot, flow: &FlowKey) {
        let hash = self.flow_hash(flow);
        if let Some(earlier) = self.answered_in(self.by_flow.list(hash), flow) {
            self.by_flow.remove(hash, earlier);
        }
        self.by_flow.insert(hash, slot);
    }

    /// Undoes that, unless another attempt of the flow has been answered since.
    pub fn clear_answered(&mut self, slot: Slot, flow: &FlowKey) {
        self.by_flow.remove(self.flow_hash(flow), slot);
    }
}

/// Lists of slots by hash. Each slot is in one list at most.
#[derive(Clone, Debug)]
struct Chains {
    first: Vec<Option<NonZeroU32>>,
    /// The place of each slot in its list, by index.
    links: Vec<Link>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    after: Option<Slot>,
    /// Another part of the hash than that which chooses the list: whoever looks for
    /// something else need not touch the slot itself, which is seldom in the cache.
    tag: u32,
}

impl Link {
    fn tag(hash: u64) -> u32 {
        (hash >> 32) as u32
    }
}

impl Chains {
    fn with_capacity(slots: usize) -> Self {
        // All zero bits, so that untouched pages cost no memory.
        let first = vec![None; slots.next_power_of_two()];
        Self { first, links: Vec::with_capacity(slots) }
    }

    fn list(&self, hash: u64) -> List<'_> {
        let first = self.first[self.chain(hash)].map(Slot);
        List { first, tag: Link::tag(hash), links: &self.links }
    }

    fn insert(&mut self, hash: u64, slot: Slot) {
        let chain = self.chain(hash);
        if self.links.len() < slot.number() {
            self.links.resize(slot.number(), Link::default());
        }
        let after = self.first[chain].replace(slot.0).map(Slot);
        self.links[slot.index()] = Link { after, tag: Link::tag(hash) };
    }

    /// Takes the slot out of the list of `hash` if it is there.
    fn remove(&mut self, hash: u64, slot: Slot) {
        let chain = self.chain(hash);
        let after = self.links.get(slot.index()).and_then(|link| link.after);
        if self.first[chain] == Some(slot.0) {
            self.first[chain] = after.map(|after| after.0);
            return;
        }
        let comes_before = |it: &Slot| self.links[it.index()].after == Some(slot);
        let before = self.list(hash).members().find(comes_before);
        if let Some(before) = before {
            self.links[before.index()].after = after;
        }
    }

    fn chain(&self, hash: u64) -> usize {
        hash as usize & (self.first.len() - 1)
    }
}

/// The list for one hash.
struct List<'a> {
    first: Option<Slot>,
    tag: u32,
    links: &'a [Link],
}

impl<'a> List<'a> {
    fn members(self) -> impl Iterator<Item = Slot> + 'a {
        std::iter::successors(self.first, move |slot| self.links[slot.index()].after)
    }

    fn find(self, is: impl Fn(Slot) -> bool) -> Option<Slot> {
        let (tag, links) = (self.tag, self.links);
        self.members().find(|&slot| links[slot.index()].tag == tag && is(slot))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::Instant;
    use crate::protocol::attempt::State;

    fn flow(number: u8) -> FlowKey {
        FlowKey::tcp(([10, 0, 0, 200], u16::from(number)), ([10, 0, 0, 2], 80))
    }

    fn attempt(flow: FlowKey) -> Attempt {
        Attempt {
            flow: Some(flow),
            arrived: Instant(0),
            seen: true,
            incumbent: false,
            tries: 0,
            excluded: vec![],
            more: vec![],
            contested: false,
            state: State::Owned { until: Instant(0) },
        }
    }

    proptest! {
        /// Few slots for many attempts, so that chains are long and slots used again.
        #[test]
        fn attempts_are_found_as_in_hash_maps(
            ops in prop::collection::vec((0..12u8, 0..4u8), 1..300),
        ) {
            let mut attempts = Attempts::with_capacity(4);
            let (mut slots, mut answered) = (HashMap::new(), HashMap::new());
            for (number, op) in ops {
                let (id, flow) = (AttemptId([number; 16]), flow(number % 3));
                match (op, slots.get(&id).copied()) {
                    (0 | 1, None) => {
                        let slot = attempts.insert(id, attempt(flow));
                        slots.insert(id, slot);
                    }
                    (1 | 2, Some(slot)) if answered.get(&flow) != Some(&slot) => {
                        attempts.set_answered(slot, &flow);
                        answered.insert(flow, slot);
                    }
                    (3, Some(slot)) => {
                        attempts.clear_answered(slot, &flow);
                        if answered.get(&flow) == Some(&slot) {
                            answered.remove(&flow);
                        }
                        attempts.remove(slot);
                        slots.remove(&id);
                    }
                    _ => {}
                }
                prop_assert_eq!(attempts.len(), slots.len());
                for number in 0..12 {
                    let id = AttemptId([number; 16]);
                    prop_assert_eq!(attempts.find(id), slots.get(&id).copied());
                    prop_assert!(attempts.find(id).is_none_or(|slot| attempts.id(slot) == id));
                }
                prop_assert_eq!(attempts.all_answered().count(), answered.len());
                for flow in [0, 1, 2].map(self::flow) {
                    prop_assert_eq!(attempts.answered(&flow), answered.get(&flow).copied());
                }
            }
            prop_assert!(attempts.slots.len() <= 12, "slots are used again");
        }
    }
}
