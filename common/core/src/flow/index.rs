//! From a hash to the place of a flow: open addressing in cells of 8 bytes.

/// Cells of a new index.
const FIRST: usize = 64;
/// Cells that move on with each flow that is put in: more than two, so that all have moved before the
/// next growth.
const MOVES: usize = 8;

/// Where a flow is, by its hash.
///
/// A cell holds 32 bits of its flow's hash besides the flow's number: a look-up touches one cache line
/// here and then, but for one collision in billions, the flow's own. There are two to four cells for
/// each flow, so that few flows take few cache lines. Growing never makes packets wait: the flows move
/// from the old cells to the new ones a few at a time.
#[derive(Debug)]
pub(super) struct Index {
    cells: Cells,
    /// What has not moved yet, while it grows.
    old: Option<Cells>,
    /// The cell of the old ones that moves next; those before it are empty.
    next: usize,
    length: usize,
}

impl Index {
    /// Makes an empty index.
    pub(super) fn new() -> Self {
        Self { cells: Cells::new(FIRST), old: None, next: 0, length: 0 }
    }

    /// Finds the number of a flow with this hash that `is_it` accepts.
    pub(super) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let found = self.cells.find(hash, &mut is_it);
        found.or_else(|| self.old.as_ref().and_then(|old| old.find(hash, is_it)))
    }

    /// Puts a number in, that is not there yet.
    pub(super) fn insert(&mut self, hash: u32, number: u32) {
        if self.length * 2 >= self.cells.cells.len() {
            let wider = Cells::new(self.cells.cells.len() * 2);
            self.old = Some(std::mem::replace(&mut self.cells, wider));
            self.next = 0;
        }
        self.move_on();
        self.cells.insert(hash, number);
        self.length += 1;
    }

    /// Takes a number out.
    pub(super) fn remove(&mut self, hash: u32, number: u32) {
        let removed =
            self.cells.remove(hash, number) || self.old.as_mut().is_some_and(|old| old.remove(hash, number));
        self.length -= usize::from(removed);
    }

    /// Reads some of the cell where a search for this hash begins.
    pub(super) fn touch(&self, hash: u32) -> u32 {
        self.cells.cells[hash as usize & self.cells.mask] as u32
    }

    /// Counts the cells that a search for this hash reads at most.
    #[cfg(test)]
    pub(super) fn steps(&self, hash: u32) -> usize {
        let Cells { cells, mask } = &self.cells;
        (0..cells.len()).find(|step| cells[(hash as usize + step) & mask] == 0).unwrap_or(cells.len())
    }

    fn move_on(&mut self) {
        let Some(old) = &mut self.old else { return };
        for _ in 0..MOVES {
            let Some(cell) = old.cells.get(self.next) else {
                self.old = None;
                return;
            };
            // Others may move up into the cell that becomes empty.
            match split(*cell) {
                Some((hash, number)) => {
                    old.remove(hash, number);
                    self.cells.insert(hash, number);
                }
                None => self.next += 1,
            }
        }
    }
}

#[derive(Debug)]
struct Cells {
    /// The hash above, the number plus one below; 0 if empty. Never full.
    cells: Vec<u64>,
    mask: usize,
}

impl Cells {
    fn new(count: usize) -> Self {
        Self { cells: vec![0; count], mask: count - 1 }
    }

    fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = hash as usize & self.mask;
        loop {
            let (tag, number) = split(self.cells[at])?;
            if tag == hash && is_it(number) {
                return Some(number);
            }
            at = (at + 1) & self.mask;
        }
    }

    fn insert(&mut self, hash: u32, number: u32) {
        let mut at = hash as usize & self.mask;
        while self.cells[at] != 0 {
            at = (at + 1) & self.mask;
        }
        self.cells[at] = u64::from(hash) << 32 | u64::from(number + 1);
    }

    /// Takes a number out. Cells behind it move up, so that no trace of it lengthens a search.
    fn remove(&mut self, hash: u32, number: u32) -> bool {
        let wanted = u64::from(hash) << 32 | u64::from(number + 1);
        let mut hole = hash as usize & self.mask;
        while self.cells[hole] != wanted {
            if self.cells[hole] == 0 {
                return false;
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
        true
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
            let mut index = Index::new();
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
                let used = |cells: &Cells| cells.cells.iter().filter(|cell| **cell != 0).count();
                let used = used(&index.cells) + index.old.as_ref().map_or(0, used);
                prop_assert_eq!((used, index.length), (oracle.len(), oracle.len()));
            }
        }

        /// While it grows, and is cut back, and grows.
        #[test]
        fn loses_nothing_while_it_grows(
            steps in proptest::collection::vec((0u32..300, 0u32..9, any::<bool>()), 1..20),
        ) {
            let mut index = Index::new();
            let mut oracle = std::collections::BTreeSet::new();
            // Many hashes share their low bits, and some all.
            let hash = |number: u32| (number / 2).wrapping_mul(0x9e37_79b9) >> 3;
            for (first, step, put) in steps {
                for number in (0..300).map(|count| first + count * (step + 1)) {
                    if put && oracle.insert(number) {
                        index.insert(hash(number), number);
                    } else if !put && oracle.remove(&number) {
                        index.remove(hash(number), number);
                    }
                }
                prop_assert_eq!(index.length, oracle.len());
                prop_assert!(index.cells.cells.len() >= 2 * oracle.len());
                for number in 0..3_000 {
                    let found = index.find(hash(number), |it| it == number).is_some();
                    prop_assert_eq!(found, oracle.contains(&number), "{}", number);
                }
            }
        }
    }
}
