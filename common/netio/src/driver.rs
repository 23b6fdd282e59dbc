//! Counters that a device's driver keeps besides the kernel's own (`ethtool -S`), by the `SIOCETHTOOL` ioctl.

use std::io;

use crate::offload::Device;

/// Commands of `<linux/ethtool.h>`.
mod command {
    pub(super) const GET_STRINGS: u32 = 0x1b;
    pub(super) const GET_STATS: u32 = 0x1d;
    pub(super) const GET_SET_INFO: u32 = 0x37;
}

/// `ETH_SS_STATS`.
const STATS: u32 = 1;
/// `ETH_GSTRING_LEN`: bytes of a name.
const NAME: usize = 32;
/// More counters than any driver has.
const MOST: usize = 16_384;

/// Reads the counters of the driver of `interface`, by the driver's own names; none if it has none. Needs no capability.
/// Acts in the namespace of the calling thread.
///
/// # Errors
/// The error of `ioctl(2)`: `ENODEV` if there is no such device.
pub fn counters(interface: &str) -> io::Result<Vec<(String, u64)>> {
    let device = Device::open(interface)?;
    let count = match count(&device) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => 0,
        outcome => outcome?,
    };
    if count == 0 || count > MOST {
        return Ok(Vec::new());
    }
    let names = names(&device, count)?;
    let values = values(&device, count)?;
    // The driver may have got other queues, and so other counters, between the two.
    if names.len() != values.len() {
        return Err(io::Error::other("the driver's counters changed while they were read"));
    }
    Ok(names.into_iter().zip(values).filter(|(name, _)| !name.is_empty()).collect())
}

/// Asks how many there are: `struct ethtool_sset_info` with one set in its mask.
fn count(device: &Device) -> io::Result<usize> {
    let mut words = [command::GET_SET_INFO, 0, 1 << STATS, 0, 0];
    if cfg!(target_endian = "big") {
        words.swap(2, 3);
    }
    // SAFETY: the kernel writes the structure's 16 bytes and one word for each set in the mask.
    unsafe { device.run(words.as_mut_ptr().cast()) }?;
    // A set that the driver does not have is taken out of the mask.
    Ok(if words[2] | words[3] == 0 { 0 } else { words[4] as usize })
}

/// Asks for the names: `struct ethtool_gstrings`, three words before the names.
fn names(device: &Device, count: usize) -> io::Result<Vec<String>> {
    let head = 3;
    let mut words = room(head, count, NAME / 4);
    words[..head].copy_from_slice(&[command::GET_STRINGS, STATS, count as u32]);
    // SAFETY: the kernel writes as many names as the driver has now, for which `room` has left enough.
    unsafe { device.run(words.as_mut_ptr().cast()) }?;
    let told = (words[2] as usize).min(count);
    let bytes: Vec<u8> = words[head..].iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(bytes.chunks_exact(NAME).take(told).map(name).collect())
}

/// Asks for the values: `struct ethtool_stats`, two words before the values of two words each.
fn values(device: &Device, count: usize) -> io::Result<Vec<u64>> {
    let head = 2;
    let mut words = room(head, count, 2);
    words[..head].copy_from_slice(&[command::GET_STATS, count as u32]);
    // SAFETY: the kernel writes as many values as the driver has now, for which `room` has left enough.
    unsafe { device.run(words.as_mut_ptr().cast()) }?;
    let told = (words[1] as usize).min(count);
    let value = |pair: &[u32]| {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&pair[0].to_ne_bytes());
        bytes[4..].copy_from_slice(&pair[1].to_ne_bytes());
        u64::from_ne_bytes(bytes)
    };
    Ok(words[head..].chunks_exact(2).take(told).map(value).collect())
}

/// Makes room for a structure of `head` words and `count` entries of `size` words. Older kernels write as many entries as the
/// driver has by then, whatever they were told: a driver that has got more queues meanwhile must find room for all.
fn room(head: usize, count: usize, size: usize) -> Vec<u32> {
    vec![0; head + (count + MOST) * size]
}

fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::{Links, VethEnd};
    use crate::netns::Namespace;

    #[test]
    fn a_veth_has_counters_of_its_own_and_loopback_has_none() {
        let namespace = match Namespace::create() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
                return;
            }
            outcome => outcome.unwrap(),
        };
        let end = |name| VethEnd { namespace: &namespace, name };
        Links::add_veth(end("a0"), end("b0"), 1500).unwrap();
        let (veth, lo, absent) =
            namespace.enter(|| (counters("a0").unwrap(), counters("lo").unwrap(), counters("c0"))).unwrap();
        assert!(veth.iter().any(|(name, value)| name == "peer_ifindex" && *value > 0), "{veth:?}");
        assert!(veth.iter().any(|(name, _)| name.ends_with("_drops")), "{veth:?}");
        assert_eq!(lo, []);
        assert_eq!(absent.unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn names_end_at_their_first_zero() {
        assert_eq!(name(b"rx_drops\0rest"), "rx_drops");
        assert_eq!(name(&[0xff; 4]).chars().count(), 4);
    }
}
