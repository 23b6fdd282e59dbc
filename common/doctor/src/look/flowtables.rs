//! Flowtables of nftables: flows that the kernel forwards at an interface's ingress, past everything later. Needs
//! CAP_NET_ADMIN.

use netlink_bindings::nftables::{self, IterableFlowtableAttrs, Nfgenmsg};
use netlink_socket2::NetlinkSocket;

/// NFT_FLOWTABLE_HW_OFFLOAD.
const HARDWARE: u32 = 1;

/// A flowtable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flowtable {
    /// The table it is in, and its name.
    pub name: String,
    /// When it looks at packets: lower is earlier.
    pub priority: i32,
    /// The device itself forwards.
    pub is_hardware: bool,
    /// The interfaces.
    pub interfaces: Vec<String>,
}

/// Lists all of them.
///
/// # Errors
/// Why the kernel does not tell.
pub fn read() -> Result<Vec<Flowtable>, String> {
    let request = nftables::Request::new().op_getflowtable_dump(&Nfgenmsg::default());
    let mut socket = NetlinkSocket::new();
    let mut replies = socket.request(&request).map_err(|error| error.to_string())?;
    let mut tables = Vec::new();
    while let Some(reply) = replies.recv() {
        let (_, attributes) = reply.map_err(|error| error.to_string())?;
        tables.extend(flowtable(&attributes));
    }
    Ok(tables)
}

fn flowtable(attributes: &IterableFlowtableAttrs<'_>) -> Option<Flowtable> {
    let hook = attributes.get_hook().ok()?;
    let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
    Some(Flowtable {
        name: format!("{} {}", text(attributes.get_table().ok()?), text(attributes.get_name().ok()?)),
        priority: hook.get_priority().ok()?.cast_signed(),
        is_hardware: attributes.get_flags().unwrap_or_default() & HARDWARE != 0,
        interfaces: hook.get_devs().map(|devices| devices.get_name().map(text).collect()).unwrap_or_default(),
    })
}
