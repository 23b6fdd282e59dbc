//! What the kernel and the daemon say of themselves, read and put into types. Nothing is judged here.

pub mod capabilities;
pub mod cloud;
pub mod counters;
pub mod daemon;
pub mod drops;
pub mod firewall;
pub mod ingress;
pub mod interval;
pub mod links;
pub mod neighbours;
pub mod network;
pub mod parameters;
pub mod processes;
pub mod programs;
pub mod routes;
