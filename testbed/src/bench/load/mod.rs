//! Who generates the load, and who takes it.
//!
//! [`stream`] is a few connections with a thread each: echoes and large transfers. [`crowd`] is very
//! many connections on one thread at each end; its server is a process of its own, since one
//! process may not have descriptors for both ends. [`segments`] is packets of established connections
//! without their ends.

pub mod crowd;
pub mod crowd_server;
pub mod reply;
pub mod segments;
pub mod stream;
