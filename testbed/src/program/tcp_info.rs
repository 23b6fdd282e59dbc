//! The kernel's view of a TCP connection: `struct tcp_info` of `linux/tcp.h` (see tcp(7)).

use std::fmt;
use std::time::Duration;

/// What `getsockopt(TCP_INFO)` told about a connection. Fields that the running kernel does not
/// report are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpInfo {
    /// Connection state, `TCP_ESTABLISHED` = 1 and so on.
    pub state: u8,
    /// `TCPI_OPT_*` bits of what was negotiated; see the methods.
    pub options: u8,
    /// Shift of the windows the peer announces (RFC 7323), 0–14.
    pub snd_wscale: u8,
    /// Shift of the windows this end announces, 0–14.
    pub rcv_wscale: u8,
    /// Largest segment this end sends, bytes of payload.
    pub snd_mss: u32,
    /// Largest segment seen from the peer, as this end estimates it; bytes of payload.
    pub rcv_mss: u32,
    /// MSS this end announced, bytes.
    pub advmss: u32,
    /// Path MTU, bytes.
    pub pmtu: u32,
    /// Retransmission time-out.
    pub rto: Duration,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Mean deviation of the round-trip time.
    pub rttvar: Duration,
    /// Least round-trip time of the kernel's window (5 min by default); zero if no sample was taken.
    pub min_rtt: Duration,
    /// Congestion window, segments.
    pub snd_cwnd: u32,
    /// Segments sent more than once, over the connection's life (SYN and SYN-ACK included).
    pub total_retrans: u32,
    /// Payload bytes the peer has acknowledged.
    pub bytes_acked: u64,
    /// Payload bytes received.
    pub bytes_received: u64,
    /// Payload bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Payload bytes sent again.
    pub bytes_retrans: u64,
    /// Segments sent, pure ACKs included.
    pub segs_out: u32,
    /// Segments received, pure ACKs included.
    pub segs_in: u32,
}

impl TcpInfo {
    /// Size of the buffer that holds what today's kernels report, with room to spare.
    pub const BUFFER: usize = 512;

    /// Reads the structure from what the kernel wrote. Kernels grow it at its end, so a shorter
    /// one is an older kernel's and what is missing reads as zero.
    pub fn parse(bytes: &[u8]) -> Self {
        let raw = Raw(bytes);
        Self {
            state: raw.u8(0),
            options: raw.u8(5),
            // Two bit fields of four bits share this byte, the sender's first.
            snd_wscale: if cfg!(target_endian = "little") { raw.u8(6) & 0xf } else { raw.u8(6) >> 4 },
            rcv_wscale: if cfg!(target_endian = "little") { raw.u8(6) >> 4 } else { raw.u8(6) & 0xf },
            rto: raw.micros(8),
            snd_mss: raw.u32(16),
            rcv_mss: raw.u32(20),
            pmtu: raw.u32(60),
            rtt: raw.micros(68),
            rttvar: raw.micros(72),
            snd_cwnd: raw.u32(80),
            advmss: raw.u32(84),
            total_retrans: raw.u32(100),
            bytes_acked: raw.u64(120),
            bytes_received: raw.u64(128),
            segs_out: raw.u32(136),
            segs_in: raw.u32(140),
            min_rtt: match raw.u32(148) {
                u32::MAX => Duration::ZERO,
                micros => Duration::from_micros(micros.into()),
            },
            bytes_sent: raw.u64(200),
            bytes_retrans: raw.u64(208),
        }
    }

    /// Tells whether timestamps are in use (RFC 7323).
    pub fn timestamps(&self) -> bool {
        self.options & 1 != 0
    }

    /// Tells whether selective acknowledgement was negotiated (RFC 2018).
    pub fn sack(&self) -> bool {
        self.options & 2 != 0
    }

    /// Tells whether window scaling was negotiated (RFC 7323).
    pub fn window_scaling(&self) -> bool {
        self.options & 4 != 0
    }

    /// Tells whether ECN was negotiated (RFC 3168).
    pub fn ecn(&self) -> bool {
        self.options & 8 != 0
    }

    /// Tells whether data sent with the SYN was accepted (RFC 7413).
    pub fn syn_data(&self) -> bool {
        self.options & 32 != 0
    }
}

impl fmt::Display for TcpInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |on| if on { "yes" } else { "no" };
        write!(
            f,
            "mss {}/{} wscale {}/{} sack {} ts {} ecn {} srtt {:.1} ms min {:.1} ms retrans {}",
            self.snd_mss,
            self.rcv_mss,
            self.snd_wscale,
            self.rcv_wscale,
            yes(self.sack()),
            yes(self.timestamps()),
            yes(self.ecn()),
            self.rtt.as_secs_f64() * 1e3,
            self.min_rtt.as_secs_f64() * 1e3,
            self.total_retrans,
        )
    }
}

/// Native-endian fields at fixed offsets; what lies beyond the end reads as zero.
struct Raw<'a>(&'a [u8]);

impl Raw<'_> {
    fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.0.get(offset..offset + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
    }

    fn u8(&self, offset: usize) -> u8 {
        self.array::<1>(offset)[0]
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.array(offset))
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.array(offset))
    }

    fn micros(&self, offset: usize) -> Duration {
        Duration::from_micros(self.u32(offset).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..=255).collect();
        bytes[5] = 0b0010_0111;
        bytes[6] = 0xa7;
        bytes[16..20].copy_from_slice(&1448_u32.to_ne_bytes());
        bytes[68..72].copy_from_slice(&50_123_u32.to_ne_bytes());
        bytes[148..152].copy_from_slice(&50_001_u32.to_ne_bytes());
        bytes
    }

    #[test]
    fn fields_are_where_the_kernel_puts_them() {
        let info = TcpInfo::parse(&sample());
        assert_eq!((info.snd_wscale, info.rcv_wscale), (7, 10));
        assert_eq!(info.snd_mss, 1448);
        assert_eq!(info.rtt, Duration::from_micros(50_123));
        assert_eq!(info.min_rtt, Duration::from_micros(50_001));
        assert!(info.timestamps() && info.sack() && info.window_scaling() && info.syn_data() && !info.ecn());
    }

    #[test]
    fn any_length_is_read_and_what_is_missing_is_zero() {
        let bytes = sample();
        for length in 0..=bytes.len() {
            let info = TcpInfo::parse(&bytes[..length]);
            assert_eq!(info.snd_mss, if length >= 20 { 1448 } else { 0 }, "length {length}");
            assert_eq!(info.rtt.is_zero(), length < 72, "length {length}");
            assert_eq!(info.bytes_retrans == 0, length < 216, "length {length}");
        }
    }

    #[test]
    fn no_sample_is_no_round_trip_time() {
        let mut bytes = sample();
        bytes[148..152].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(TcpInfo::parse(&bytes).min_rtt, Duration::ZERO);
    }
}
