//! Kernel parameters of a network namespace, through `/proc/sys/net`.
//!
//! The kernel resolves `/proc/sys/net` by the namespace of the thread that opens the file
//! (`proc_sys(5)`), so the file is opened inside.

use std::io;
use std::path::{Path, PathBuf};

use crate::netns::Namespace;

/// What went wrong with one parameter.
#[derive(Debug, thiserror::Error)]
#[error("cannot set kernel parameter {name} to {value:?}")]
pub struct SysctlError {
    /// The parameter, such as `net.ipv4.ip_forward`.
    pub name: String,
    /// What was to be written.
    pub value: String,
    /// The error of `open(2)` or `write(2)`.
    #[source]
    pub source: io::Error,
}

/// Sets kernel parameters in `namespace`, in order. Names are written with dots; a dot inside an
/// interface's name is written as a slash, as `sysctl(8)` does.
///
/// # Errors
/// The first parameter that could not be set: `ENOENT` if the kernel does not have it, `EACCES`
/// without `CAP_NET_ADMIN` in the namespace (or being its root user).
pub fn set(namespace: &Namespace, parameters: &[(&str, &str)]) -> Result<(), SysctlError> {
    let outcome = namespace.enter(|| set_here(parameters));
    outcome.unwrap_or_else(|source| Err(failed("(any)", "", source)))
}

/// Sets kernel parameters in the namespace of the calling thread, as [`set`] does. Unlike that it
/// needs no `CAP_SYS_ADMIN`.
///
/// # Errors
/// As [`set`].
pub fn set_here(parameters: &[(&str, &str)]) -> Result<(), SysctlError> {
    parameters.iter().try_for_each(|&(name, value)| {
        std::fs::write(path(name), value).map_err(|source| failed(name, value, source))
    })
}

/// Reads a kernel parameter of the calling thread's namespace, without the final newline.
///
/// # Errors
/// The error of `open(2)` or `read(2)`.
pub fn read_here(name: &str) -> io::Result<String> {
    std::fs::read_to_string(path(name)).map(|text| text.trim_end().to_owned())
}

/// Reads a kernel parameter of `namespace`, without the final newline.
///
/// # Errors
/// The error of `setns(2)`, `open(2)` or `read(2)`.
pub fn read(namespace: &Namespace, name: &str) -> io::Result<String> {
    namespace.enter(|| read_here(name))?
}

fn failed(name: &str, value: &str, source: io::Error) -> SysctlError {
    SysctlError { name: name.to_owned(), value: value.to_owned(), source }
}

fn path(name: &str) -> PathBuf {
    let swapped: String = name
        .chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    Path::new("/proc/sys").join(swapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_and_slashes_change_places() {
        assert_eq!(
            path("net.ipv4.conf.eth0/7.rp_filter"),
            Path::new("/proc/sys/net/ipv4/conf/eth0.7/rp_filter")
        );
    }

    #[test]
    fn a_parameter_is_set_in_its_namespace_only() {
        let (one, two) = match (Namespace::create(), Namespace::create()) {
            (Err(error), _) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
                return;
            }
            (one, two) => (one.unwrap(), two.unwrap()),
        };
        set(&one, &[("net.ipv4.ip_forward", "1")]).unwrap();
        assert_eq!(read(&one, "net.ipv4.ip_forward").unwrap(), "1");
        assert_eq!(read(&two, "net.ipv4.ip_forward").unwrap(), "0");
        let error = set(&one, &[("net.ipv4.absent", "1")]).unwrap_err();
        assert!(error.to_string().contains("net.ipv4.absent"), "{error}");
    }
}
