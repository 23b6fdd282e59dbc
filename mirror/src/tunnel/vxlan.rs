//! VXLAN header (RFC 7348 §5).
//!
//! ```text
//!  R R R R I R R R   reserved, 24 bits        VNI, 24 bits   reserved, 8 bits
//! ```

use super::{Carries, Header};
use crate::reason::DropReason;

/// Length of the header in bytes.
const HEADER: usize = 8;
/// The flag that says that the VNI is valid.
const I: u8 = 0x08;

/// Reads the header. Flags other than I are ignored on receipt, as §5 has it: so is what VXLAN-GBP says in them.
pub(super) fn read(bytes: &[u8]) -> Result<Header, DropReason> {
    let [flags, _, _, _, v0, v1, v2, _] = bytes.first_chunk::<HEADER>().ok_or(DropReason::TunnelMalformed)?;
    if flags & I == 0 {
        return Err(DropReason::TunnelMalformed);
    }
    let vni = u32::from_be_bytes([0, *v0, *v1, *v2]);
    Ok(Header { vni, length: HEADER, carries: Carries::Ethernet })
}
