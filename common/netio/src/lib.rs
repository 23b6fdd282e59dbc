//! Packet capture, layer-3 emission, kernel guard, links and namespaces of the middlebox.
//!
//! This crate is the only one with unsafe code: whatever needs a system call without a safe
//! wrapper stands here. The way of a packet:
//!
//! ```text
//!  capture ──────► worker ───────► emit
//!  AF_PACKET       drives an       raw IP sockets: checksums and segments
//!  BPF filter      engine          finished, routed by the kernel
//! ```
//!
//! The kernel must not forward besides what [`worker`] forwards: [`guard`] sees to that.

pub mod attached;
pub mod awake;
pub mod capture;
pub mod clock;
pub mod counters;
pub mod crafted;
mod device;
pub mod driver;
pub mod drop_reasons;
pub mod emit;
pub mod fast_path;
pub mod guard;
pub mod interface;
pub mod links;
mod mapping;
pub mod netns;
pub mod offload;
mod pace;
pub mod privilege;
pub mod probe;
pub mod replies;
pub mod ruleset_dump;
pub mod sighting;
pub mod store;
pub mod sysctl;
pub mod trace;
pub mod worker;
pub mod xdp;
