//! The traffic-mirror pipeline: what a mirror sends in VXLAN or GENEVE is taken out of the tunnel, held against a list
//! of allowed addresses, translated, and sent on; or only looked at.
//!
//! ```text
//!  capture ──► tunnel ──────► inner ──► allowlist ──► nat ──────► emit
//!  AF_PACKET   VXLAN, GENEVE  IP, TCP   longest       rule,       raw IP sockets bound
//!  AF_XDP      lengths, VNI   UDP, ICMP prefix        checksums   to one interface
//!                               └────► observe: what 0-RTT would save
//!  emit ◄──────────────────────────────────────── nat ◄────── capture: replies
//! ```
//!
//! Every packet that comes in ends in exactly one place: it is sent, or it is counted under one
//! [`DropReason`](reason::DropReason).

#![forbid(unsafe_code)]

pub mod allowlist;
pub mod cli;
pub mod config;
pub mod counts;
pub mod examples;
pub mod forward;
pub mod inner;
pub mod instance;
pub mod judgement;
pub mod metrics;
pub mod nat;
pub mod observe;
pub mod observing;
pub mod pipeline;
mod program;
pub mod reason;
pub mod replied;
pub mod restore;
pub mod run;
pub mod snapshot;
pub mod tunnel;
pub mod watchdog;

pub use program::main_from;
