//! Chance: one stream of random numbers for each thing that draws any.
//!
//! Streams of their own are what makes variants comparable (*common random
//! numbers*): the tenth client arrives at the same moment and wants the same, whatever rule the
//! hosts follow. Delays and losses are drawn in the order of events, so variants meet the same ones until they
//! differ first, and as many of each size after that.

use clusterd::protocol::Instant;
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Who draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entity {
    /// Arrivals of connections, and what each wants.
    Load,
    /// The way between clients and the segment.
    Access,
    /// A port of a switch, or the hub as port 0.
    Port(u16),
    /// When the thread of a host runs.
    Scheduler(u16),
    /// A host's kernel: sequence numbers.
    Kernel(u16),
    /// Loss and duplication at a receiver.
    Receiver(u16),
    /// A balancer that draws.
    Balancer,
    /// What a swarm draws its scenarios from.
    Swarm,
    /// The interface of a host.
    Interrupts(u16),
    /// What keeps a host's daemon from running.
    Pauses(u16),
    /// Whose client starts anew.
    Reboots,
    /// A rule that draws, as random back-off does.
    Rule(u16),
}

impl Entity {
    /// The number of its stream: any two entities have different ones.
    fn stream(self) -> u64 {
        let (kind, index) = match self {
            Entity::Load => (1, 0),
            Entity::Access => (2, 0),
            Entity::Port(index) => (3, index),
            Entity::Scheduler(index) => (4, index),
            Entity::Kernel(index) => (5, index),
            Entity::Receiver(index) => (6, index),
            Entity::Swarm => (7, 0),
            Entity::Interrupts(index) => (8, index),
            Entity::Rule(index) => (9, index),
            Entity::Balancer => (10, 0),
            Entity::Pauses(index) => (11, index),
            Entity::Reboots => (12, 0),
        };
        kind << 16 | u64::from(index)
    }
}

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Chance(ChaCha8Rng);

impl Chance {
    /// The stream of `entity` in the run with this seed.
    pub fn new(seed: u64, entity: Entity) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(entity.stream());
        Self(generator)
    }

    /// True with this probability.
    pub fn happens(&mut self, probability: f64) -> bool {
        // Nothing is drawn for what never happens: most probabilities are 0 in most runs.
        probability > 0.0 && self.0.random::<f64>() < probability
    }

    /// At least 0, below 1.
    pub fn unit(&mut self) -> f64 {
        self.0.random()
    }

    /// Any 32-bit number.
    pub fn number(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// At least 0, below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.random_range(0..bound.max(1))
    }

    /// The generator itself, for distributions.
    pub fn generator(&mut self) -> &mut impl Rng {
        &mut self.0
    }
}

/// Nanoseconds later, as simulated delays are drawn.
pub fn after(now: Instant, nanoseconds: u64) -> Instant {
    Instant(now.0.saturating_add(nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let draw = |seed, entity| {
            let mut chance = Chance::new(seed, entity);
            [chance.number(), chance.number(), chance.number()]
        };
        assert_eq!(draw(1, Entity::Port(3)), draw(1, Entity::Port(3)));
        assert_ne!(draw(1, Entity::Port(3)), draw(1, Entity::Port(4)));
        assert_ne!(draw(1, Entity::Port(3)), draw(1, Entity::Kernel(3)));
        assert_ne!(draw(1, Entity::Port(3)), draw(2, Entity::Port(3)));
    }
}
