//! What the kernel and the daemon say of themselves, read and put into types. Nothing is judged here.

pub mod counters;
pub mod drops;
pub mod firewall;
pub mod programs;
