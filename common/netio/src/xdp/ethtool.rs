//! What a driver says of its device: ioctl(SIOCETHTOOL), which needs no privilege for these questions.

use std::ffi::c_char;
use std::fs;
use std::mem;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

/// `SIOCETHTOOL` of linux/sockios.h, `ETHTOOL_GDRVINFO` and `ETHTOOL_GCHANNELS` of linux/ethtool.h.
const SIOCETHTOOL: u32 = 0x8946;
const DRIVER: u32 = 0x03;
const CHANNELS: u32 = 0x3c;

/// `struct ethtool_drvinfo`: what is asked, then 32 bytes with the driver's name, then more that is not looked at.
#[repr(C)]
struct DriverInfo {
    command: u32,
    name: [u8; 32],
    rest: [u8; 160],
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    most: [u32; 4],
    receive: u32,
    transmit: u32,
    other: u32,
    combined: u32,
}

/// Returns the name of the interface's driver, if it tells.
pub(super) fn driver(interface: &str) -> Option<String> {
    let mut info = DriverInfo { command: DRIVER, name: [0; 32], rest: [0; 160] };
    ask(interface, &mut info)?;
    let name: Vec<u8> = info.name.iter().copied().take_while(|byte| *byte != 0).collect();
    String::from_utf8(name).ok()
}

/// Returns how many receive queues the interface has: as the driver says, else as `/sys` shows, else one.
pub(super) fn receive_queues(interface: &str, index: u32) -> u32 {
    let mut channels = Channels { command: CHANNELS, ..Channels::default() };
    let told = ask(interface, &mut channels).map(|()| channels.receive.saturating_add(channels.combined));
    told.filter(|count| *count != 0).or_else(|| shown(interface, index)).unwrap_or(1)
}

/// Counts the queues under `/sys`, if that shows this namespace's interfaces.
fn shown(interface: &str, index: u32) -> Option<u32> {
    let folder = format!("/sys/class/net/{interface}");
    if fs::read_to_string(format!("{folder}/ifindex")).ok()?.trim().parse() != Ok(index) {
        return None;
    }
    let entries = fs::read_dir(format!("{folder}/queues")).ok()?.filter_map(Result::ok);
    let count = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"rx-")).count();
    u32::try_from(count).ok().filter(|count| *count != 0)
}

/// Has the driver fill in `answer`, which begins with the number of what is asked.
fn ask<T>(interface: &str, answer: &mut T) -> Option<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).ok()?;
    // SAFETY: `ifreq` is plain old data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // The last byte stays 0: the kernel never has longer names.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(interface.bytes()) {
        *to = from as c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(answer).cast();
    // SAFETY: the request points to the structure that belongs to the command at its beginning, consists of integers, and
    // outlives the call, as the request does.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL.into(), &raw mut request) };
    (result == 0).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_kernels() {
        assert_eq!((size_of::<DriverInfo>(), size_of::<Channels>()), (196, 36));
    }

    #[test]
    fn whatever_does_not_tell_has_one_queue() {
        assert_eq!(receive_queues("nosuch0", 9999), 1);
        assert_eq!(driver("nosuch0"), None);
        assert!(receive_queues("lo", 1) >= 1);
    }
}
