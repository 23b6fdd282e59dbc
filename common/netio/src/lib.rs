//! Packet capture, layer-3 emission, kernel guard, links and namespaces of the middlebox.

pub mod links;
pub mod netns;
pub mod offload;
pub mod sysctl;
