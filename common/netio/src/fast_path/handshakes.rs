//! Which handshakes the kernel begins by itself, and the program that does.

use aya::Ebpf;
use aya::Pod;
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::SchedClassifier;
use rtt0_core::offer::Keys;

use super::{OffloadError, map_error, program, program_error, take};

/// How the kernel is to begin handshakes by itself.
#[derive(Debug, Clone, Copy)]
pub struct HandshakeOptions<'a> {
    /// The one that signs is used.
    pub keys: &'a Keys,
    /// Workers of the daemon; 1 or more.
    pub workers: usize,
    /// Which handshakes.
    pub which: Handshakes,
}

/// Which handshakes the kernel begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshakes {
    /// Those of clients: it answers their SYNs, to destinations on its [`Board`](rtt0_core::profile::Board).
    Answered {
        /// Largest MSS to promise in bytes, for (IPv4, IPv6).
        mss_clamp: (u16, u16),
        /// Bytes beyond which an upload may change what is promised: no SYN is answered then until the workers have looked.
        large_upload: u32,
    },
    /// Those with servers: it accepts offers.
    Accepted,
}

/// What the programs take `settings.begins` for; 0: none.
const ANSWERS: u32 = 1;
const ACCEPTS: u32 = 2;

impl Handshakes {
    /// What `settings` says of them.
    pub(super) fn begins(self) -> u32 {
        match self {
            Self::Answered { .. } => ANSWERS,
            Self::Accepted => ACCEPTS,
        }
    }

    /// Maps that are of no use with them, and may take some MB.
    pub(super) fn without(which: Option<Self>) -> &'static [&'static str] {
        match which {
            None => &["begun", "left", "opened", "openings", "promises"],
            Some(Self::Answered { .. }) => &["opened", "openings"],
            Some(Self::Accepted) => &["begun", "promises"],
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Answered { .. } => "answer",
            Self::Accepted => "accept",
        }
    }
}

/// `struct secret`: the key as SipHash takes it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Secret {
    halves: [u64; 2],
    id: u32,
    zero: u32,
}

impl From<&Keys> for Secret {
    fn from(keys: &Keys) -> Self {
        let secret = u128::from_le_bytes(keys.signing_secret());
        Self { halves: [secret as u64, (secret >> 64) as u64], id: keys.signing().into(), zero: 0 }
    }
}

// SAFETY: it consists of integers without padding, so that any bytes are valid and none is uninitialised.
unsafe impl Pod for Secret {}

/// The program that begins handshakes, where `forward` finds it. The kernel forgets it as soon as nobody holds this map.
pub(super) struct Beginner {
    _program: ProgramArray<MapData>,
    secrets: Array<MapData, Secret>,
    pub(super) which: Handshakes,
}

impl Beginner {
    /// Loads it.
    pub(super) fn start(ebpf: &mut Ebpf, options: &HandshakeOptions<'_>) -> Result<Self, OffloadError> {
        let name = options.which.program();
        let mut secrets: Array<MapData, Secret> = take(ebpf, "secrets")?;
        secrets.set(0, Secret::from(options.keys), 0).map_err(map_error("secrets"))?;
        let mut beginners: ProgramArray<MapData> = take(ebpf, "beginners")?;
        let beginner: &mut SchedClassifier = program(ebpf, name)?;
        beginner.load().map_err(program_error(name))?;
        let beginner = beginner.fd().map_err(program_error(name))?;
        beginners.set(0, beginner, 0).map_err(map_error("beginners"))?;
        Ok(Self { _program: beginners, secrets, which: options.which })
    }

    /// Has it use other keys.
    pub(super) fn rekey(&mut self, keys: &Keys) -> Result<(), OffloadError> {
        self.secrets.set(0, Secret::from(keys), 0).map_err(map_error("secrets"))
    }
}
