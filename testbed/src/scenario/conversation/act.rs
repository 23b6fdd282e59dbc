//! How a program follows its script.

use super::{Event, Step};
use crate::program::socket;
use crate::program::stream::{SEED, Stream};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;
use socket2::{SockRef, TcpKeepalive};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::Duration;

/// Between two probes of a silent other side, and before the first.
const PROBE: Duration = Duration::from_secs(1);
/// Probes after which it is given up.
const PROBES: u32 = 3;

/// One end of the agreement to wait for one another.
#[derive(Debug)]
pub(super) struct Meeting {
    pub(super) tell: Sender<()>,
    pub(super) hear: Receiver<()>,
    /// What takes longer counts as never.
    pub(super) patience: Duration,
}

/// Makes the event of a system call that failed.
pub(super) fn failed(error: &io::Error) -> Event {
    Event::Failed(error.raw_os_error().unwrap_or(libc::EPROTO))
}

/// Follows a script. A step that fails is seen, and the next one is tried all the same.
pub(super) fn act(mut stream: TcpStream, script: &[Step], meeting: &Meeting) -> Vec<Event> {
    let mut seen = vec![Event::Connected];
    if let Err(error) = stream
        .set_nodelay(true)
        .and_then(|()| stream.set_read_timeout(Some(meeting.patience)))
        .and_then(|()| stream.set_write_timeout(Some(meeting.patience)))
    {
        seen.push(failed(&error));
    }
    let (mut sent, mut received) = (Stream::new(SEED), Stream::new(SEED));
    for step in script {
        match *step {
            Step::Send(bytes) => seen.push(send(&mut stream, &mut sent, bytes)),
            Step::Read(bytes) => read(&mut stream, &mut received, bytes, &mut seen),
            Step::ReadToEnd => read(&mut stream, &mut received, u64::MAX, &mut seen),
            Step::Finish => note(stream.shutdown(Shutdown::Write), &mut seen),
            Step::Meet => {
                // If the other one has gone, its own list tells why.
                let _ = meeting.tell.send(());
                let _ = meeting.hear.recv_timeout(meeting.patience);
            }
            Step::Pause(time) => thread::sleep(time),
            Step::Abort => {
                note(SockRef::from(&stream).set_linger(Some(Duration::ZERO)), &mut seen);
                return seen;
            }
            Step::SendUrgent(byte) => match SockRef::from(&stream).send_out_of_band(&[byte]) {
                Ok(bytes) => seen.push(Event::Sent(bytes as u64)),
                Err(error) => seen.push(failed(&error)),
            },
            Step::ReadUrgent => seen.push(read_urgent(&stream, meeting.patience)),
            Step::KeepAlive => note(keep_alive(&stream), &mut seen),
            Step::Deafen => note(socket::deafen(&stream), &mut seen),
            Step::Vanish => {
                note(socket::repair(&stream), &mut seen);
                return seen;
            }
        }
    }
    seen
}

/// Notes a step that failed; one that went well shows nothing.
fn note(outcome: io::Result<()>, seen: &mut Vec<Event>) {
    if let Err(error) = outcome {
        seen.push(failed(&error));
    }
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let probes = TcpKeepalive::new().with_time(PROBE).with_interval(PROBE).with_retries(PROBES);
    SockRef::from(stream).set_tcp_keepalive(&probes)
}

/// Waits for the byte of urgent data and reads it.
fn read_urgent(stream: &TcpStream, patience: Duration) -> Event {
    let wait = || -> io::Result<u8> {
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        // Without urgent data recv(MSG_OOB) fails instead of waiting.
        poll(&mut [PollFd::new(stream, PollFlags::PRI)], Some(&patience))?;
        let mut byte = [0];
        rustix::net::recv(stream, &mut byte, RecvFlags::OOB)?;
        Ok(byte[0])
    };
    wait().map_or_else(|error| failed(&error), Event::Urgent)
}

fn send(stream: &mut TcpStream, bytes: &mut Stream, length: u64) -> Event {
    let mut piece = vec![0; usize::try_from(length).unwrap_or(0)];
    bytes.fill(&mut piece);
    match stream.write_all(&piece) {
        Ok(()) => Event::Sent(length),
        Err(error) => failed(&error),
    }
}

/// Reads up to `wanted` bytes; fewer if the stream or the connection ends.
fn read(stream: &mut TcpStream, expected: &mut Stream, wanted: u64, seen: &mut Vec<Event>) {
    let (mut bytes, mut intact) = (0, true);
    let mut buffer = vec![0; 64 * 1024];
    let mut compared = buffer.clone();
    let end = loop {
        let room = usize::try_from(wanted - bytes).unwrap_or(usize::MAX).min(buffer.len());
        if room == 0 {
            break None;
        }
        match stream.read(&mut buffer[..room]) {
            Ok(0) => break Some(Event::EndOfStream),
            Ok(count) => {
                expected.fill(&mut compared[..count]);
                intact &= buffer[..count] == compared[..count];
                bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Some(failed(&error)),
        }
    };
    if bytes > 0 {
        seen.push(Event::Received { bytes, intact });
    }
    seen.extend(end);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::sync::mpsc;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn alone() -> Meeting {
        let (tell, hear) = mpsc::channel();
        Meeting { tell, hear, patience: Duration::from_secs(5) }
    }

    #[test]
    fn bytes_and_ends_are_seen_in_order() {
        let (client, server) = pair();
        let sent = act(client, &[Step::Send(70_000)], &alone());
        assert_eq!(sent, [Event::Connected, Event::Sent(70_000)]);
        let seen = act(server, &[Step::Read(10), Step::ReadToEnd], &alone());
        let received = |bytes| Event::Received { bytes, intact: true };
        assert_eq!(seen, [Event::Connected, received(10), received(69_990), Event::EndOfStream]);
    }

    #[test]
    fn wrong_bytes_are_told() {
        let (mut client, server) = pair();
        client.write_all(b"not the stream").unwrap();
        drop(client);
        let seen = act(server, &[Step::ReadToEnd], &alone());
        assert!(seen.contains(&Event::Received { bytes: 14, intact: false }), "{seen:?}");
    }

    #[test]
    fn urgent_data_are_told_apart_from_the_stream() {
        let (client, server) = pair();
        act(client, &[Step::Send(10), Step::SendUrgent(7), Step::Send(10)], &alone());
        let seen = act(server, &[Step::ReadUrgent, Step::ReadToEnd], &alone());
        let received = Event::Received { bytes: 20, intact: true };
        assert_eq!(seen, [Event::Connected, Event::Urgent(7), received, Event::EndOfStream]);
    }

    #[test]
    fn who_is_deaf_hears_nothing_any_more() {
        let (client, server) = pair();
        let patient = Meeting { patience: Duration::from_millis(100), ..alone() };
        let server = thread::spawn(move || act(server, &[Step::Deafen, Step::Read(1)], &patient));
        thread::sleep(Duration::from_millis(20));
        let _client = client.try_clone().unwrap();
        act(client, &[Step::Send(1)], &alone());
        assert_eq!(server.join().unwrap(), [Event::Connected, Event::Failed(libc::EAGAIN)]);
    }

    #[test]
    fn aborting_resets() {
        let (client, server) = pair();
        act(client, &[Step::Abort], &alone());
        let seen = act(server, &[Step::ReadToEnd, Step::Send(1)], &alone());
        let failed = Event::Failed;
        assert_eq!(seen, [Event::Connected, failed(libc::ECONNRESET), failed(libc::EPIPE)]);
    }
}
