//! What destinations may be promised for, where the kernel's program looks it up.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use aya::Pod;
use aya::maps::{HashMap, MapData};
use rtt0_core::profile::{Board, Posted};
use rtt0_core::wire::segment::Endpoint;

/// `struct destination`; the address in network byte order, IPv4 as IPv4-mapped.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Destination {
    address: [u8; 16],
    port: [u8; 2],
    zero: [u8; 2],
}

/// `struct promise`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Promise {
    /// Of the monotonic clock, ns.
    until: u64,
    mss: u16,
    window: u16,
    scale: u8,
    zero: [u8; 3],
}

// SAFETY: both consist of integers without padding, so that any bytes are valid and none is uninitialised.
unsafe impl Pod for Destination {}
// SAFETY: as above.
unsafe impl Pod for Promise {}

/// The map of promises. One that does not fit is not kept: the daemon answers itself, then.
pub(super) struct KernelBoard(Mutex<HashMap<MapData, Destination, Promise>>);

impl KernelBoard {
    pub(super) fn new(map: HashMap<MapData, Destination, Promise>) -> Self {
        Self(Mutex::new(map))
    }
}

impl fmt::Debug for KernelBoard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelBoard").finish_non_exhaustive()
    }
}

impl Board for KernelBoard {
    fn post(&self, (address, port): &Endpoint, posted: Option<&Posted>) -> bool {
        let address = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        };
        let key = Destination { address, port: port.to_be_bytes(), zero: [0; 2] };
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match posted {
            Some(posted) => {
                let until = posted.expires.as_micros().saturating_mul(1000);
                let Posted { mss, window, window_scale: scale, .. } = *posted;
                map.insert(key, Promise { until, mss, window, scale, zero: [0; 3] }, 0)
            }
            None => map.remove(&key),
        };
        if let Err(error) = &outcome {
            tracing::debug!(%error, "the kernel's promises are not changed");
        }
        outcome.is_ok()
    }
}
