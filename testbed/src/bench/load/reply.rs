//! What client and server of a crowd say to each other: a request and an answer of fixed length.

/// Length of a request in bytes: a packet, together with what leads to it.
pub const REQUEST: usize = 64;
/// Length of an answer in bytes.
pub const ANSWER: usize = 128;

/// What the server does after its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It closes first, so that TIME-WAIT is the server's and the client's ports are free again.
    Close,
    /// It keeps the connection, idle.
    Hold,
}

impl Then {
    /// Returns the request that asks for it.
    pub fn request(self) -> [u8; REQUEST] {
        match self {
            Self::Close => [b'c'; REQUEST],
            Self::Hold => [b'h'; REQUEST],
        }
    }

    /// Reads the first byte of a request; `None` if it is none.
    pub fn read(byte: u8) -> Option<Self> {
        match byte {
            b'c' => Some(Self::Close),
            b'h' => Some(Self::Hold),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_understood() {
        for then in [Then::Close, Then::Hold] {
            assert_eq!(Then::read(then.request()[0]), Some(then));
        }
        assert_eq!(Then::read(b'G'), None);
    }
}
