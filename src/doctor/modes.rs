//! Something for each MAC mode.

use std::ops::{Index, IndexMut};

use crate::io::cluster_mac::MacMode;

/// A value for each mode, in the order of [`MacMode::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerMode<T>(pub [T; 4]);

fn position(mode: MacMode) -> usize {
    match mode {
        MacMode::Multicast => 0,
        MacMode::Igmp => 1,
        MacMode::Stealth => 2,
        MacMode::Shared => 3,
    }
}

impl<T> Index<MacMode> for PerMode<T> {
    type Output = T;

    fn index(&self, mode: MacMode) -> &T {
        &self.0[position(mode)]
    }
}

impl<T> IndexMut<MacMode> for PerMode<T> {
    fn index_mut(&mut self, mode: MacMode) -> &mut T {
        &mut self.0[position(mode)]
    }
}

/// Some of the modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModeSet(u8);

impl FromIterator<MacMode> for ModeSet {
    fn from_iter<I: IntoIterator<Item = MacMode>>(modes: I) -> Self {
        Self(modes.into_iter().fold(0, |bits, mode| bits | 1 << position(mode)))
    }
}

impl ModeSet {
    /// These modes.
    pub fn of(modes: &[MacMode]) -> Self {
        modes.iter().copied().collect()
    }

    /// One bit for each mode; unknown bits are ignored.
    pub fn from_bits(bits: u8) -> Self {
        Self(bits & 0xf)
    }

    /// See [`ModeSet::from_bits`].
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Is it one of them?
    pub fn contains(self, mode: MacMode) -> bool {
        self.0 & 1 << position(mode) != 0
    }

    /// They, in the order of [`MacMode::ALL`].
    pub fn iter(self) -> impl Iterator<Item = MacMode> {
        MacMode::ALL.into_iter().filter(move |&mode| self.contains(mode))
    }
}
