//! ClientNIC: the NIC VM next to the client. It answers SYNs to known destinations early and
//! makes offers to the ServerNIC; where there is none it translates by itself.

pub mod engine;
mod flow;
mod spoof;
