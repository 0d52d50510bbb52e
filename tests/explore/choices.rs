//! What the adversary does, as a sequence of numbers: run again with the next
//! sequence until there is none, and every possibility was tried.

/// One way through a step: the answers to its questions, in order.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    taken: Vec<u8>,
    of: Vec<u8>,
    asked: usize,
}

impl Choices {
    /// Answers the questions of a step as they were answered before.
    pub fn again(taken: &[u8]) -> Self {
        Self { taken: taken.to_vec(), of: vec![u8::MAX; taken.len()], asked: 0 }
    }

    /// One of `of` possibilities; the first is what happens on a good day.
    pub fn pick(&mut self, of: usize) -> usize {
        if of <= 1 {
            return 0;
        }
        if self.asked == self.taken.len() {
            self.taken.push(0);
            self.of.push(u8::try_from(of).expect("few possibilities"));
        }
        let picked = self.taken[self.asked];
        self.asked += 1;
        picked.into()
    }

    /// Turns to the next way through the step. False when there is none.
    pub fn advance(&mut self) -> bool {
        self.taken.truncate(self.asked);
        self.of.truncate(self.asked);
        self.asked = 0;
        while let (Some(last), Some(of)) = (self.taken.last_mut(), self.of.last()) {
            if *last + 1 < *of {
                *last += 1;
                return true;
            }
            self.taken.pop();
            self.of.pop();
        }
        false
    }

    pub fn taken(&self) -> &[u8] {
        &self.taken[..self.asked]
    }

    /// How far this is from a good day.
    pub fn cost(&self) -> u32 {
        self.taken().iter().filter(|&&picked| picked > 0).count() as u32
    }
}
