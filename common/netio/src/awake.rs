//! Keeping processors from sleeping between packets.
//!
//! An idle processor sleeps, and waking it takes from some microseconds to, on virtual machines, milliseconds: there a
//! sleeping processor is the hypervisor's, until that gives it back. While somebody asks the kernel for a wake-up latency of 0 µs
//! (Documentation/power/pm_qos_interface.rst), idle processors of the whole host spin instead, at the cost of their power, and of
//! what else the hypervisor would have done with them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};

/// Where the kernel takes what is asked for. It forgets it when the file is closed, also by the end of the process.
const DEVICE: &str = "/dev/cpu_dma_latency";

/// No processor of the host sleeps while this is there.
#[derive(Debug)]
pub struct Awake {
    _device: File,
}

/// Why processors can't be kept awake.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep processors awake by {DEVICE}{}", remedy(.0))]
pub struct AwakeError(#[source] io::Error);

impl AwakeError {
    /// Tells whether it is for want of privileges.
    pub fn is_permission_denied(&self) -> bool {
        self.0.kind() == io::ErrorKind::PermissionDenied
    }
}

impl Awake {
    /// Keeps them awake, until it is dropped.
    ///
    /// # Errors
    /// [`AwakeError`]: the device is not there or not for this user.
    pub fn keep() -> Result<Self, AwakeError> {
        let mut device = OpenOptions::new().write(true).open(DEVICE).map_err(AwakeError)?;
        // Microseconds, an i32 in this machine's byte order.
        device.write_all(&0i32.to_ne_bytes()).map_err(AwakeError)?;
        Ok(Self { _device: device })
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            ", which by default is root's: run as root, or give the program's group the right to write there"
        }
        io::ErrorKind::NotFound => {
            ", which is not there: a container or a service's sandbox may hide it; let it in, or go without"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_device_and_what_to_do() {
        let told = |kind: io::ErrorKind| AwakeError(kind.into()).to_string();
        assert!(
            told(io::ErrorKind::PermissionDenied)
                .contains("/dev/cpu_dma_latency, which by default is root's")
        );
        assert!(told(io::ErrorKind::NotFound).contains("which is not there"));
        assert!(told(io::ErrorKind::InvalidInput).ends_with("/dev/cpu_dma_latency"));
    }
}
