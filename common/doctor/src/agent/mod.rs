//! The doctor at the far end: says what arrives of what another doctor sends, and sends the other way.
//!
//! # What it gives away, and to whom
//!
//! It asks nobody who they are: the key of the NICs belongs to the daemons, and a host without one may be examined, too. So
//! what it does must be harmless whoever asks. It is, because everything is about the asking host alone, whose address is
//! proven by the handshake of its TCP connection:
//!
//! - It tells header fields of segments that came from that address to ports which the agent itself has taken
//!   ([`crate::peer::station::PORTS`], and one more that may be named): what the asking host has sent, or another that goes by the
//!   same address. Data is not told, only whether it is the doctors' own. A port that anybody else has is never taken; nobody else can
//!   have those that are taken, for two minutes at most.
//! - It tells ICMP errors about what it has sent there.
//! - It counts, layer by layer, marked probes from that address for one port, and names rules and programs that may have dropped
//!   them. This names parts of the host's firewall, as its purpose is: hence the advice to listen at an address that only
//!   the other NIC reaches.
//! - It sends segments of three shapes to that address and to no other, from ports of its own where no connection can be: no more
//!   than 4,000 to a client, two milliseconds apart, so that nobody can be flooded but whoever asked for it.
//!
//! It runs only while an operator wants it, ten minutes at most. Four are served at a time, each for no longer than two minutes
//! and half a minute without a word; lines are bounded, and what is not understood is answered with an error. A fifth is told so.
//! What it takes (ports, taps, watches) ends with the connection or with the process, however that dies.

mod session;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::talk::message::{Line, Reply};

/// Clients at a time.
const CLIENTS: usize = 4;
/// How long one is served at most.
const LIFE: Duration = Duration::from_secs(120);
/// Between two looks at the clock while nobody comes.
const LOOK: Duration = Duration::from_millis(250);

/// Serves other doctors until `patience` has passed.
///
/// # Errors
/// If the address can't be had. A capability that is missing is told to whoever asks for what needs it.
pub fn listen(address: SocketAddr, patience: Duration) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let seconds = patience.as_secs();
    eprintln!("listening on {} for other doctors, {seconds} s", listener.local_addr()?);
    serve(&listener, Instant::now() + patience)
}

/// Serves whoever connects to `listener` until `end`.
///
/// # Errors
/// The kernel's, when nobody can be accepted any more.
pub fn serve(listener: &TcpListener, end: Instant) -> io::Result<()> {
    let clients = Arc::new(AtomicUsize::new(0));
    // Of a listening socket this bounds accept(2).
    SockRef::from(listener).set_read_timeout(Some(LOOK))?;
    while Instant::now() < end {
        match listener.accept() {
            Ok((stream, client)) => {
                let left = end.saturating_duration_since(Instant::now()).min(LIFE);
                begin(stream, client, left, &clients);
            }
            // A client that has gone already, or the end of a wait.
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), ConnectionAborted | Interrupted | TimedOut | WouldBlock)
}

/// A client's place among those that are served.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(clients: &Arc<AtomicUsize>) -> Option<Self> {
        let taken = clients.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < CLIENTS).then_some(count + 1)
        });
        taken.is_ok().then(|| Self(Arc::clone(clients)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn begin(stream: TcpStream, client: SocketAddr, life: Duration, clients: &Arc<AtomicUsize>) {
    let Ok(local) = stream.local_addr() else { return };
    let ends = (local.ip().to_canonical(), client.ip().to_canonical());
    let mut line = Line::new(stream, life);
    let Some(place) = Place::take(clients) else {
        // Whether it hears is its own affair.
        let _ = line.write(&Reply::Error { why: format!("{CLIENTS} others are being served") });
        return;
    };
    // Without a thread it is as if it had not come.
    let _ = thread::Builder::new().name("client".to_owned()).spawn(move || {
        session::Session::new(line, ends.0, ends.1).run();
        drop(place);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};

    /// Returns an agent that lives for a while.
    fn agent(life: Duration) -> (SocketAddr, thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (address, thread::spawn(move || serve(&listener, Instant::now() + life).unwrap()))
    }

    fn ask(stream: &TcpStream, line: &str) -> String {
        (&*stream).write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    }

    #[test]
    fn what_is_not_understood_is_answered_and_the_connection_goes_on() {
        let (address, agent) = agent(Duration::from_millis(1500));
        let stream = TcpStream::connect(address).unwrap();
        assert!(ask(&stream, "{\"ask\":\"open\"}").contains("hello comes first"));
        assert!(ask(&stream, "{\"ask\":\"hello\",\"version\":7}").contains("version 1"));
        for odd in [
            "",
            "{}",
            "[[[[",
            "{\"ask\":\"send\",\"shots\":-1}",
            "{\"ask\":\"catch\",\"expected\":-1,\"patience\":1e99}",
            "\u{1F600}",
        ] {
            assert!(ask(&stream, odd).contains("\"say\":\"error\""), "{odd}");
        }
        let hello = ask(&stream, "{\"ask\":\"hello\",\"version\":1}");
        assert!(hello.contains("\"address\":\"127.0.0.1\""), "{hello}");
        for odd in [
            "{\"ask\":\"send\",\"shots\":[]}",
            "{\"ask\":\"catch\",\"expected\":1,\"patience\":1}",
            "{\"ask\":\"report\"}",
        ] {
            assert!(ask(&stream, odd).contains("\"say\":\"error\""), "{odd}");
        }
        agent.join().unwrap();
    }

    #[test]
    fn a_fifth_client_is_told_so_and_a_place_becomes_free() {
        let (address, agent) = agent(Duration::from_secs(3));
        let connect = || TcpStream::connect(address).unwrap();
        let hello = "{\"ask\":\"hello\",\"version\":1}";
        let mut four: Vec<_> = (0..CLIENTS).map(|_| connect()).collect();
        four.iter().for_each(|stream| assert!(ask(stream, hello).contains("hello")));
        assert!(ask(&connect(), hello).contains("others are being served"));
        drop(four.pop());
        thread::sleep(Duration::from_millis(300));
        assert!(ask(&connect(), hello).contains("127.0.0.1"));
        agent.join().unwrap();
    }
}
