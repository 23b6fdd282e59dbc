//! What the fuzz targets do with their input. Each `run` takes any bytes and panics if something
//! does not hold.
//!
//! `fuzz/` drives these under libFuzzer with a nightly toolchain; `tests/corpus.rs` drives them on
//! stable over `fuzz/corpus` and seeded mutations of it.
#![allow(clippy::unwrap_used, reason = "a panic is how a target reports")]

pub mod engine;
pub mod mirror;
pub mod offer;
pub mod options;
pub mod wire;

#[path = "../../core/tests/packets/mod.rs"]
mod packets;
mod script;

/// A target: its name, which is also its corpus's, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 5] = [
    ("wire", wire::run),
    ("options", options::run),
    ("offer", offer::run),
    ("engine", engine::run),
    ("mirror", mirror::run),
];

/// Returns the big-endian number that `data` begins with, as if zeros followed it.
fn number<const N: usize>(data: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let length = data.len().min(N);
    bytes[..length].copy_from_slice(&data[..length]);
    bytes
}
