//! GENEVE header (RFC 8926 §3.4) and its options (§3.5).
//!
//! ```text
//!  version, 2 bits   options' length, 6 bits   O C reserved, 6 bits   protocol type, 16 bits   VNI, 24   reserved, 8
//!  option: class, 16 bits   critical, 1   type, 7   reserved, 3   length, 5   data
//! ```
//!
//! Lengths are in words of four bytes. No option is understood here, so none may be critical. Those of AWS's Gateway
//! Load Balancer (class 0x0108, types 1 to 3: endpoint, attachment, flow cookie) are not.

use super::frame::{ETHERNET, Version};
use super::{Carries, Header};
use crate::reason::DropReason;

/// Length of the header without options, in bytes.
const HEADER: usize = 8;
/// Length of an option without its data, in bytes.
const OPTION_HEADER: usize = 4;
/// The flag of control packets, which carry nothing to forward.
const CONTROL: u8 = 0x80;
/// The bit of an option's type that says that it must be understood.
const CRITICAL: u8 = 0x80;

/// Reads the header and passes over the options, at most 63.
pub(super) fn read(bytes: &[u8]) -> Result<Header, DropReason> {
    let ([first, flags, protocol @ .., v0, v1, v2, _], rest) =
        bytes.split_first_chunk::<HEADER>().ok_or(DropReason::TunnelMalformed)?;
    if first >> 6 != 0 {
        return Err(DropReason::TunnelMalformed);
    }
    let length = usize::from(first & 0x3f) * 4;
    pass(rest.get(..length).ok_or(DropReason::TunnelMalformed)?)?;
    if flags & CONTROL != 0 {
        return Err(DropReason::TunnelProtocol);
    }
    let carries = match u16::from_be_bytes(*protocol) {
        ETHERNET => Carries::Ethernet,
        other => Carries::Ip(Version::of(other).ok_or(DropReason::TunnelProtocol)?),
    };
    Ok(Header { vni: u32::from_be_bytes([0, *v0, *v1, *v2]), length: HEADER + length, carries })
}

/// Passes over the options. The header's C flag is not asked: it only says that one of them is critical, and the options
/// say so themselves.
fn pass(mut options: &[u8]) -> Result<(), DropReason> {
    while !options.is_empty() {
        let ([_, _, kind, length], rest) =
            options.split_first_chunk::<OPTION_HEADER>().ok_or(DropReason::TunnelMalformed)?;
        options = rest.get(usize::from(length & 0x1f) * 4..).ok_or(DropReason::TunnelMalformed)?;
        if kind & CRITICAL != 0 {
            return Err(DropReason::CriticalOption);
        }
    }
    Ok(())
}
