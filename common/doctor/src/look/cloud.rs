//! Whether this host is an instance of EC2, and which: its firmware's tables, and the instance metadata service.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Where the metadata service is, on EC2 and nowhere else.
const METADATA: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);
/// How long it may take, all in all.
const PATIENCE: Duration = Duration::from_millis(300);
/// Longest answer that is read, in bytes.
const LONGEST: u64 = 4096;

/// An instance of EC2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its id, such as `i-0123456789abcdef0`, if it is told.
    pub id: Option<String>,
}

/// Tells whether this host is an instance of EC2. Sends packets only if the firmware says that it is.
pub fn instance() -> Option<Instance> {
    let dmi = |name: &str| fs::read_to_string(format!("/sys/class/dmi/id/{name}")).unwrap_or_default();
    let (vendor, tag) = (dmi("sys_vendor"), dmi("board_asset_tag"));
    is_ec2(&vendor, &tag).then(|| {
        // On Nitro the tag is the id; on Xen the metadata service has to be asked.
        let id = is_id(tag.trim()).then(|| tag.trim().to_owned());
        Instance { id: id.or_else(|| ask(METADATA).ok().filter(|id| is_id(id))) }
    })
}

fn is_ec2(vendor: &str, tag: &str) -> bool {
    vendor.trim() == "Amazon EC2" || is_id(tag.trim())
}

fn is_id(text: &str) -> bool {
    let digits = text.strip_prefix("i-").unwrap_or_default();
    (8..=32).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Asks for the instance's id, as the second version of the service wants it: by a token.
fn ask(service: SocketAddr) -> io::Result<String> {
    let end = Instant::now() + PATIENCE;
    let token = request(service, end, "PUT /latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60")?;
    let token = format!("X-aws-ec2-metadata-token: {token}");
    request(service, end, "GET /latest/meta-data/instance-id", &token)
}

/// Sends one request of HTTP/1.0, after whose answer the service hangs up, and returns the answer's body.
fn request(service: SocketAddr, end: Instant, what: &str, header: &str) -> io::Result<String> {
    let left = || {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok::<_, io::Error>(left) }
    };
    let mut stream = TcpStream::connect_timeout(&service, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    stream.set_read_timeout(Some(left()?))?;
    write!(stream, "{what} HTTP/1.0\r\nHost: {}\r\n{header}\r\nContent-Length: 0\r\n\r\n", service.ip())?;
    let mut answer = Vec::new();
    let mut limited = stream.take(LONGEST);
    let mut piece = [0; 512];
    loop {
        match limited.read(&mut piece)? {
            0 => break,
            length => answer.extend_from_slice(piece.get(..length).unwrap_or_default()),
        }
        limited.get_ref().set_read_timeout(Some(left()?))?;
    }
    body(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Returns the body of an answer that says 200, if it is one line of printable characters.
fn body(answer: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.lines().next()?.split(' ').nth(1)?;
    let body = body.trim_end();
    (status == "200" && body.bytes().all(|byte| byte.is_ascii_graphic())).then(|| body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn only_firmware_of_ec2_is_taken_for_it() {
        assert!(is_ec2("Amazon EC2\n", ""));
        assert!(is_ec2("Xen", "i-0123456789abcdef0\n"));
        assert!(!is_ec2("QEMU", "Not Specified"));
        assert!(!is_ec2("", "i-"));
        assert!(!is_ec2("", "i-0123456789abcdeg"));
    }

    #[test]
    fn the_service_is_asked_with_a_token() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let mut asked = Vec::new();
            for answer in ["abc==", "i-0123456789abcdef0"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut buffer = [0; 1024];
                let mut got = Vec::new();
                while !got.ends_with(b"\r\n\r\n") {
                    let length = stream.read(&mut buffer).unwrap();
                    got.extend_from_slice(&buffer[..length]);
                }
                asked.push(String::from_utf8(got).unwrap());
                write!(stream, "HTTP/1.1 200 OK\r\nServer: x\r\n\r\n{answer}").unwrap();
            }
            asked
        });
        assert_eq!(ask(address).unwrap(), "i-0123456789abcdef0");
        let asked = server.join().unwrap();
        assert!(asked[0].starts_with("PUT /latest/api/token HTTP/1.0\r\n"));
        assert!(asked[1].contains("\r\nX-aws-ec2-metadata-token: abc==\r\n"));
    }

    #[test]
    fn a_silent_service_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let start = Instant::now();
        assert!(ask(listener.local_addr().unwrap()).is_err());
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    proptest! {
        #[test]
        fn nothing_panics_on_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = body(&bytes);
        }
    }
}
