//! Losses in bursts: a channel that is good or bad (Gilbert 1960, Elliott 1963). In the bad
//! state everything is lost, in the good one nothing.

use crate::chance::Chance;

/// A channel and the state that it is in.
#[derive(Clone, Debug, Default)]
pub struct Burst {
    bad: bool,
    becomes_bad: f64,
    becomes_good: f64,
}

impl Burst {
    /// A channel that loses the share `lost` of all frames in the long run, `mean` of them in a row.
    pub fn new(lost: f64, mean: f64) -> Self {
        let becomes_good = 1.0 / mean;
        Self { bad: false, becomes_bad: becomes_good * lost / (1.0 - lost), becomes_good }
    }

    /// A frame comes: is it lost?
    pub fn loses(&mut self, chance: &mut Chance) -> bool {
        // Nothing is drawn for a channel that is always good.
        if self.becomes_bad > 0.0 {
            let changes = if self.bad { self.becomes_good } else { self.becomes_bad };
            self.bad ^= chance.happens(changes);
        }
        self.bad
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Entity;

    #[test]
    fn as_many_are_lost_as_is_said_and_in_a_row() {
        let mut chance = Chance::new(1, Entity::Load);
        let mut burst = Burst::new(0.2, 10.0);
        let lost: Vec<bool> = (0..400_000).map(|_| burst.loses(&mut chance)).collect();
        let share = lost.iter().filter(|&&lost| lost).count() as f64 / lost.len() as f64;
        let bursts = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count() as f64;
        let mean = share * lost.len() as f64 / bursts;
        assert!((share - 0.2).abs() < 0.01 && (mean - 10.0).abs() < 0.5, "{share} {mean}");
    }
}
