//! ServerNIC: the NIC VM next to the server. It accepts the offers of a ClientNIC, makes the
//! real handshake with the server and translates between the promised and the real sequence
//! numbers.

pub mod engine;
mod flow;
