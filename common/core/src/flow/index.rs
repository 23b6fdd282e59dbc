//! From a hash to the place of a flow: open addressing in cells of 8 bytes.

/// Where a flow is, by its hash.
///
/// All cells are there from the beginning, twice as many as flows at most, so that nothing is ever
/// rehashed while packets wait. (Memory that no cell has been written to is not occupied.) A cell
/// holds 32 bits of its flow's hash besides the flow's number: a look-up touches one cache line here
/// and then, but for one collision in billions, the flow's own.
#[derive(Debug)]
pub(super) struct Index {
    /// The hash above, the number plus one below; 0 if empty.
    cells: Vec<u64>,
    mask: usize,
}

impl Index {
    /// Makes an empty index for at most `bound` flows.
    pub(super) fn new(bound: usize) -> Self {
        let cells = bound.max(4).saturating_mul(2).next_power_of_two();
        Self { cells: vec![0; cells], mask: cells - 1 }
    }

    /// Finds the number of a flow with this hash that `is_it` accepts.
    pub(super) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = hash as usize & self.mask;
        loop {
            let (tag, number) = split(self.cells[at])?;
            if tag == hash && is_it(number) {
                return Some(number);
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Puts a number in. The caller sees to the bound, and that it is not there yet.
    pub(super) fn insert(&mut self, hash: u32, number: u32) {
        let mut at = hash as usize & self.mask;
        while self.cells[at] != 0 {
            at = (at + 1) & self.mask;
        }
        self.cells[at] = u64::from(hash) << 32 | u64::from(number + 1);
    }

    /// Takes a number out. Cells behind it move up, so that no trace of it lengthens a search.
    pub(super) fn remove(&mut self, hash: u32, number: u32) {
        let wanted = u64::from(hash) << 32 | u64::from(number + 1);
        let mut hole = hash as usize & self.mask;
        while self.cells[hole] != wanted {
            if self.cells[hole] == 0 {
                return;
            }
            hole = (hole + 1) & self.mask;
        }
        let mut at = hole;
        loop {
            at = (at + 1) & self.mask;
            let Some((tag, _)) = split(self.cells[at]) else { break };
            let from_home = at.wrapping_sub(tag as usize) & self.mask;
            if from_home >= at.wrapping_sub(hole) & self.mask {
                self.cells[hole] = self.cells[at];
                hole = at;
            }
        }
        self.cells[hole] = 0;
    }

    /// Reads the cell where a search for this hash begins: the number there, if it is likely the one.
    pub(super) fn peek(&self, hash: u32) -> Option<u32> {
        split(self.cells[hash as usize & self.mask]).filter(|(tag, _)| *tag == hash).map(|(_, number)| number)
    }
}

fn split(cell: u64) -> Option<(u32, u32)> {
    let number = (cell as u32).checked_sub(1)?;
    Some(((cell >> 32) as u32, number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a plain list, with few hashes, so that cells collide and wrap around.
        #[test]
        fn finds_what_was_put_in_and_not_taken_out(
            steps in proptest::collection::vec((0u32..10, 0u32..8, any::<bool>()), 1..200),
        ) {
            let mut index = Index::new(80);
            let mut oracle = std::collections::BTreeSet::new();
            for (hash, number, put) in steps {
                // The last cells, so that chains wrap around.
                let (hash, number) = (u32::MAX - hash / 2, hash * 8 + number);
                if !put {
                    index.remove(hash, number);
                    oracle.remove(&(hash, number));
                } else if oracle.insert((hash, number)) {
                    index.insert(hash, number);
                }
                for hash in 0..5 {
                    for number in 0..80 {
                        let known = oracle.contains(&(u32::MAX - hash, number));
                        let found = index.find(u32::MAX - hash, |it| it == number);
                        prop_assert_eq!(found, known.then_some(number));
                    }
                }
                let used = index.cells.iter().filter(|cell| **cell != 0).count();
                prop_assert_eq!(used, oracle.len());
            }
        }
    }
}
