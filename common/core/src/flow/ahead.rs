//! The flows of the packets that come next.

/// Packets that are looked at ahead; a worker's batch has no more.
pub(super) const BATCH: usize = 64;
/// Flows among which that of the next packet is sought: nobody looks up a flow whose packet is dropped at
/// the door.
const CHOICE: usize = 2;

/// The numbers of these flows, in the order of the packets.
#[derive(Debug)]
pub(super) struct Ahead {
    numbers: [u32; BATCH],
    next: usize,
    count: usize,
}

impl Ahead {
    pub(super) fn new() -> Self {
        Self { numbers: [0; BATCH], next: 0, count: 0 }
    }

    pub(super) fn clear(&mut self) {
        (self.next, self.count) = (0, 0);
    }

    /// Adds the flow of the next packet, unless it is that of the packet before.
    pub(super) fn push(&mut self, number: u32) {
        if self.count < BATCH && self.rest().last() != Some(&number) {
            self.numbers[self.count] = number;
            self.count += 1;
        }
    }

    /// Returns the numbers that have not been looked up yet.
    pub(super) fn rest(&self) -> &[u32] {
        &self.numbers[self.next..self.count]
    }

    /// Finds the number that `is_it` accepts, if its turn has come.
    pub(super) fn find(&self, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        self.rest().iter().take(CHOICE).copied().find(|number| is_it(*number))
    }

    /// Takes note that a flow was looked up: if its turn had come, those behind it are next.
    pub(super) fn pass(&mut self, number: u32) {
        if let Some(skipped) = self.rest().iter().take(CHOICE).position(|other| *other == number) {
            self.next += skipped + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ahead(numbers: &[u32]) -> Ahead {
        let mut ahead = Ahead::new();
        numbers.iter().for_each(|number| ahead.push(*number));
        ahead
    }

    #[test]
    fn each_is_found_when_its_turn_has_come() {
        let mut ahead = ahead(&[7, 7, 8, 7, 9]);
        for number in [7, 8, 7, 9] {
            assert_eq!(ahead.find(|it| it == number), Some(number));
            ahead.pass(number);
        }
        assert_eq!(ahead.rest(), []);
    }

    #[test]
    fn one_may_be_left_out() {
        let mut ahead = ahead(&[1, 2, 3, 4]);
        assert_eq!((ahead.find(|it| it == 2), ahead.find(|it| it == 3)), (Some(2), None));
        ahead.pass(2);
        ahead.pass(99);
        assert_eq!(ahead.rest(), [3, 4]);
    }

    #[test]
    fn there_are_no_more_than_a_batch() {
        let mut ahead = ahead(&(0..BATCH as u32 + 9).collect::<Vec<_>>());
        assert_eq!(ahead.rest().len(), BATCH);
        ahead.clear();
        assert_eq!(ahead.rest(), []);
    }
}
