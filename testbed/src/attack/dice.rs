//! Random numbers that a seed repeats.

use crate::program::stream::Stream;

/// A seeded source of numbers.
#[derive(Debug)]
pub struct Dice(Stream);

impl Dice {
    /// Starts the numbers of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Stream::new(seed))
    }

    /// Returns any number.
    pub fn word(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        u32::from_be_bytes(bytes)
    }

    /// Returns a number below `bound`, or 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.word() as usize % bound.max(1)
    }

    /// Returns one of `choices`, which must not be empty.
    ///
    /// # Panics
    /// If it is.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}
