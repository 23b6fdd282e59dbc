//! What the path between two NICs does to packets: what left here against what arrived there.

use std::net::SocketAddr;

use crate::patient::Patient;
use crate::report::Report;

/// Sends crafted segments to the peer's doctor and reports what the path has changed.
pub fn compare(_patient: &Patient, _peer: SocketAddr, _report: &mut Report) {}
