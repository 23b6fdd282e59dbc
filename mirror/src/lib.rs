//! The traffic-mirror pipeline: what a mirror sends in VXLAN or GENEVE is taken out of the tunnel, held against a list
//! of allowed addresses, translated, and sent on; or only looked at.
//!
//! ```text
//!  capture ──► tunnel ──────► inner ──► allowlist ──► nat ──────► emit
//!  AF_PACKET   VXLAN, GENEVE  IP, TCP   longest       rule,       raw IP sockets bound
//!  AF_XDP      lengths, VNI   UDP, ICMP prefix        checksums   to one interface
//!                               └────► observe: what 0-RTT would save
//! ```
//!
//! Every packet that comes in ends in exactly one place: it is sent, or it is counted under one
//! [`DropReason`](reason::DropReason).

pub mod inner;
pub mod observe;
pub mod reason;
