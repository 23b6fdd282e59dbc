//! What two doctors say to one another: one JSON object a line.
//!
//! ```text
//!  > {"ask":"hello","version":1}
//!  < {"say":"hello","version":1,"address":"10.1.1.1"}
//!  > {"ask":"open","service":443}
//!  < {"say":"opened","ports":[9643,9644,9645,9646,443],"mtu":1500}
//!  > {"ask":"catch","expected":1,"patience":150}
//!  < {"say":"caught","items":[{"segment":{"source":"10.1.1.1:9643", …}}]}
//!  > {"ask":"anything else"}
//!  < {"say":"error","why":"unknown variant …"}
//! ```

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::peer::arrival::Caught;
use crate::peer::station::{Shot, Unsent};
use crate::probe::sighting::{Protocol, Sighting};

/// Version of all this. Another one is refused.
pub const VERSION: u32 = 1;
/// Bytes of a line at most.
const LONGEST: u64 = 64 << 10;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    /// The first of all.
    Hello {
        /// [`VERSION`].
        version: u32,
    },
    /// Take ports and a tap for a path check; none from before are kept.
    Open {
        /// The last of the ports, if nobody has it.
        service: Option<u16>,
    },
    /// Send these to whoever asks.
    Send {
        /// What, 64 at most.
        shots: Vec<Shot>,
    },
    /// Tell what has come.
    Catch {
        /// Segments after which there is no need to wait.
        expected: usize,
        /// How long to wait at most, in milliseconds.
        patience: u64,
    },
    /// Begin to count, layer by layer, what arrives from whoever asks.
    Watch {
        /// Of which kind.
        protocol: Protocol,
        /// For which port.
        port: u16,
    },
    /// End that, and tell.
    Report,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum Reply {
    /// To the first.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// Where the asking seems to come from.
        address: IpAddr,
    },
    /// Ports and tap are there.
    Opened {
        /// The ports.
        ports: Vec<u16>,
        /// Largest packet in bytes.
        mtu: u16,
    },
    /// All were sent, but for these.
    Sent(Unsent),
    /// What has come.
    Caught {
        /// That.
        items: Vec<Caught>,
    },
    /// It counts.
    Ready,
    /// What was counted.
    Sightings {
        /// That.
        sightings: Vec<Sighting>,
    },
    /// It can't be done.
    Error {
        /// Why.
        why: String,
    },
}

/// A control connection that ends at a set time, come what may.
#[derive(Debug)]
pub struct Line {
    reader: BufReader<Bounded>,
}

/// Reads no longer than until the deadline, however slowly bytes drip.
#[derive(Debug)]
struct Bounded {
    stream: TcpStream,
    deadline: Instant,
    end: Instant,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline.min(self.end))?))?;
        self.stream.read(buffer)
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

impl Line {
    /// Takes a connection, for `life` at most.
    pub fn new(stream: TcpStream, life: Duration) -> Self {
        // Answers are short, and wait for one another.
        let _ = stream.set_nodelay(true);
        let end = Instant::now() + life;
        Self { reader: BufReader::new(Bounded { stream, deadline: end, end }) }
    }

    /// Reads the next message, for which it waits no longer than `patience`. `None` at the end of all; what is no message of the
    /// kind is an error in words.
    ///
    /// # Errors
    /// The kernel's, a line too long, or a time-out, after which there is nothing more to be had.
    pub fn read<T: DeserializeOwned>(&mut self, patience: Duration) -> io::Result<Option<Result<T, String>>> {
        self.reader.get_mut().deadline = Instant::now() + patience;
        let mut line = Vec::new();
        (&mut self.reader).take(LONGEST).read_until(b'\n', &mut line)?;
        match line.last() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(serde_json::from_slice(&line).map_err(|error| error.to_string()))),
            Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end")),
        }
    }

    /// Writes a message.
    ///
    /// # Errors
    /// The kernel's, or a time-out.
    pub fn write(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let bounded = self.reader.get_mut();
        bounded.stream.set_write_timeout(Some(left(bounded.end)?.min(Duration::from_secs(5))))?;
        bounded.stream.write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair(life: Duration) -> (Line, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Line::new(listener.accept().unwrap().0, life), stream)
    }

    #[test]
    fn lines_are_bounded_in_length_and_time() {
        let (mut line, mut stream) = pair(Duration::from_secs(5));
        stream.write_all(b"{\"ask\":\"open\"}\nrubbish\n").unwrap();
        let second = Duration::from_secs(1);
        assert_eq!(line.read::<Request>(second).unwrap(), Some(Ok(Request::Open { service: None })));
        assert!(line.read::<Request>(second).unwrap().unwrap().is_err());
        let start = Instant::now();
        assert!(line.read::<Request>(Duration::from_millis(50)).is_err());
        assert!(start.elapsed() < second);
        let writer = std::thread::spawn(move || stream.write_all(&vec![b'x'; 2 * LONGEST as usize]));
        assert_eq!(line.read::<Request>(second).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(line);
        let _ = writer.join();
    }

    #[test]
    fn dripping_bytes_gain_no_time() {
        let (mut line, mut stream) = pair(Duration::from_millis(300));
        let writer = std::thread::spawn(move || {
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let start = Instant::now();
        assert!(line.read::<Request>(Duration::from_secs(9)).is_err());
        assert!(start.elapsed() < Duration::from_secs(3));
        drop(line);
        writer.join().unwrap();
    }
}
