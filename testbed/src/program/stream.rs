//! The reproducible byte stream that fills response and upload bodies.

use sha2::{Digest, Sha256};

/// Seed of the stream unless a test needs another.
pub const SEED: u64 = 0x0072_7474_2d7a_6572;

/// An endless stream of bytes; the same seed gives the same bytes in any process, so that both
/// ends can tell a body's digest without having seen it.
///
/// ```
/// use testbed::program::stream::Stream;
/// let (mut a, mut b) = ([0; 20], [0; 20]);
/// Stream::new(7).fill(&mut a);
/// let mut parts = Stream::new(7);
/// parts.fill(&mut b[..3]);
/// parts.fill(&mut b[3..]);
/// assert_eq!(a, b);
/// ```
#[derive(Debug, Clone)]
pub struct Stream {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Stream {
    /// Starts the stream of `seed` at its first byte.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, word: [0; 8], used: 8 }
    }

    /// Writes the next `buffer.len()` bytes of the stream.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let carried = (8 - self.used).min(buffer.len());
        let (head, rest) = buffer.split_at_mut(carried);
        head.copy_from_slice(&self.word[self.used..self.used + carried]);
        self.used += carried;
        let mut words = rest.chunks_exact_mut(8);
        for chunk in &mut words {
            chunk.copy_from_slice(&self.next_word());
        }
        let tail = words.into_remainder();
        if !tail.is_empty() {
            self.word = self.next_word();
            self.used = tail.len();
            tail.copy_from_slice(&self.word[..self.used]);
        }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): three multiplications for eight bytes, so that making
    /// a body never limits a transfer.
    fn next_word(&mut self) -> [u8; 8] {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }
}

/// Calls `consume` with the first `length` bytes of the stream of `seed`, in pieces of at most
/// 64 KiB.
///
/// # Errors
/// The first error of `consume`.
pub fn for_each_piece<E>(
    seed: u64,
    length: u64,
    mut consume: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut stream = Stream::new(seed);
    let mut buffer = vec![0; 64 * 1024];
    let mut left = length;
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        stream.fill(&mut buffer[..size]);
        consume(&buffer[..size])?;
        left -= size as u64;
    }
    Ok(())
}

/// Returns the SHA-256 of the first `length` bytes of the stream of `seed`.
pub fn digest(seed: u64, length: u64) -> [u8; 32] {
    let mut hasher = Sha256::new();
    let done: Result<(), std::convert::Infallible> = for_each_piece(seed, length, |piece| {
        hasher.update(piece);
        Ok(())
    });
    let Ok(()) = done;
    hasher.finalize().into()
}

/// Writes a digest in lower-case hexadecimal, as `sha256sum` does.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_gives_the_same_bytes() {
        let mut whole = vec![0; 300];
        Stream::new(SEED).fill(&mut whole);
        for step in 1..40 {
            let mut parts = vec![0; 300];
            let mut stream = Stream::new(SEED);
            parts.chunks_mut(step).for_each(|part| stream.fill(part));
            assert_eq!(whole, parts, "pieces of {step} bytes");
        }
    }

    #[test]
    fn digest_is_that_of_the_bytes() {
        let mut bytes = vec![0; 100_001];
        Stream::new(3).fill(&mut bytes);
        let expected: [u8; 32] = Sha256::digest(&bytes).into();
        assert_eq!(digest(3, 100_001), expected);
        assert_ne!(digest(4, 100_001), expected);
    }

    #[test]
    fn seeds_differ() {
        let (mut a, mut b) = ([0; 16], [0; 16]);
        Stream::new(1).fill(&mut a);
        Stream::new(2).fill(&mut b);
        assert_ne!(a, b);
    }
}
