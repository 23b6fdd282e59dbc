//! A growing array that never moves what it holds.

/// Elements of a chunk, a power of two.
const CHUNK: usize = 4096;

/// Like a `Vec`, but it grows by a chunk at a time: no growth copies a million flows while packets
/// wait, and none leaves half of the memory unused.
#[derive(Debug)]
pub(super) struct Chunks<T> {
    chunks: Vec<Vec<T>>,
    /// The most elements there will be; chunks are made no larger.
    bound: usize,
}

impl<T> Chunks<T> {
    pub(super) fn new(bound: usize) -> Self {
        Self { chunks: Vec::new(), bound }
    }

    pub(super) fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    pub(super) fn get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let index = index as usize;
        self.chunks.get_mut(index / CHUNK)?.get_mut(index % CHUNK)
    }

    pub(super) fn push(&mut self, value: T) {
        let length = self.len();
        if length.is_multiple_of(CHUNK) {
            let capacity = self.bound.saturating_sub(length).clamp(1, CHUNK);
            self.chunks.push(Vec::with_capacity(capacity));
        }
        if let Some(last) = self.chunks.last_mut() {
            last.push(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_stay_where_they_are_across_chunks() {
        let mut chunks = Chunks::new(CHUNK + 3);
        for number in 0..CHUNK as u32 + 3 {
            assert_eq!(chunks.len(), number as usize);
            chunks.push(number);
        }
        *chunks.get_mut(CHUNK as u32).unwrap() += 7;
        assert_eq!([CHUNK - 1, CHUNK].map(|index| *chunks.get(index as u32).unwrap()), [4095, 4103]);
        assert_eq!((chunks.get(CHUNK as u32 + 3), chunks.get(u32::MAX)), (None, None));
        assert_eq!(chunks.chunks[1].capacity(), 3, "no more than the bound");
    }
}
