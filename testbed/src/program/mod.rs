//! The programs that talk across the testbed: a built-in HTTP/1.1 server and client, and drivers
//! for curl, nginx and HAProxy where those are installed.
//!
//! The built-in pair exists because it can do what no stock program does: set the congestion
//! control per socket, use TCP Fast Open on demand, and hand out the kernel's own view of each
//! connection ([`tcp_info::TcpInfo`]).

pub mod client;
pub mod curl;
pub mod established;
pub mod haproxy;
pub mod http;
pub mod installed;
pub mod memory_file;
pub mod nft;
pub mod nginx;
pub mod paced;
pub mod ready;
pub mod realtime;
pub mod server;
pub mod socket;
pub mod stream;
pub mod tcp_info;
