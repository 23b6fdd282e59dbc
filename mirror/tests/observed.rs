//! Real connections between two kernels, copied into a tunnel: the report tells how many there were, and which would
//! have been faster.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rig::site::Site;
use rig::{crafted, listen};
use serde_json::Value;

const CONNECTIONS: usize = 20;
const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// Makes connections from the box to the analyser, one after the other; returns all their frames in the order in which
/// they were seen at either end.
fn connections(site: &Site) -> Vec<Vec<u8>> {
    let server = site.analyser.enter(|| TcpListener::bind("172.30.82.95:80").unwrap()).unwrap();
    let (here, there) = (listen::frames(&site.middle), listen::frames(&site.analyser));
    let mut frames = Vec::new();
    for _ in 0..CONNECTIONS {
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = server.accept().unwrap();
                stream.read_exact(&mut [0; REQUEST.len()]).unwrap();
                stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
            });
            let connect = || TcpStream::connect("172.30.82.95:80").unwrap();
            let mut stream = site.middle.enter(connect).unwrap();
            stream.write_all(REQUEST).unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap();
        });
        // Both ends' last segments.
        thread::sleep(Duration::from_millis(30));
        let (towards_client, towards_server) = (here.take(), there.take());
        frames.extend(interleaved(towards_server, towards_client));
    }
    frames
}

/// Puts the frames of one connection, which were seen at two ends, into one order: request and answer by turns, as TCP's
/// numbers have it: a segment goes before all that acknowledge it.
fn interleaved(there: Vec<Vec<u8>>, here: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let tcp = |frame: &Vec<u8>| frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&6);
    let mut there = there.into_iter().filter(tcp).peekable();
    let mut here = here.into_iter().filter(tcp).peekable();
    let number = |frame: &[u8], at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    let mut all: Vec<Vec<u8>> = there.next().into_iter().collect();
    let mut sent_by_client = all.first().map_or(0, |syn| number(syn, 38).wrapping_add(1));
    loop {
        // What the server sends comes as soon as the client has sent what it acknowledges.
        let is_next =
            here.peek().is_some_and(|frame| number(frame, 42).wrapping_sub(sent_by_client) as i32 <= 0);
        let Some(frame) = (if is_next { here.next() } else { there.next().or_else(|| here.next()) }) else {
            return all;
        };
        if !is_next {
            let header = 34 + usize::from(frame[46] >> 4) * 4;
            let total = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
            let length = (total - header) as u32 + u32::from(frame[47] & 1);
            sent_by_client = number(&frame, 38).wrapping_add(length);
        }
        all.push(frame);
    }
}

#[test]
fn real_connections_are_told() {
    let Some(site) = Site::new() else { return };
    let frames = connections(&site);
    let directory = tempfile::tempdir().unwrap();
    let (configuration, page) = (directory.path().join("mirror.toml"), directory.path().join("report.html"));
    std::fs::write(&configuration, "interface = \"in0\"\n[[tunnel]]\nkind = \"vxlan\"\nvnis = [1]\n")
        .unwrap();
    let spawn = || {
        Command::new(Path::new(env!("CARGO_BIN_EXE_mirror")))
            .args(["observe", "--json", "--seconds", "4", "--config"])
            .arg(&configuration)
            .arg("--html")
            .arg(&page)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
    };
    let daemon = site.middle.enter(spawn).unwrap().unwrap();
    thread::sleep(Duration::from_millis(1500));
    let socket = site.tunnel(4789);
    for frame in &frames {
        socket.send(&crafted::vxlan(1, frame)).unwrap();
        // Apart, as they would come.
        thread::sleep(Duration::from_micros(500));
    }
    let output = daemon.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines().rev();
    let report: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    let last: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!((last["final"].as_bool(), last["sent"].as_u64()), (Some(true), Some(0)));
    assert_eq!(last["observed"].as_u64(), Some(frames.len() as u64), "{last}");
    let connections = &report["report"]["all"]["connections"];
    assert_eq!(connections["begun"], CONNECTIONS, "{report:#}");
    assert_eq!(connections["answered"], CONNECTIONS, "{report:#}");
    // The first is learned from.
    assert_eq!(report["report"]["all"]["zero_rtt"], CONNECTIONS - 1, "{report:#}");
    assert!(std::fs::read_to_string(&page).unwrap().contains("172.30.82.95:80"));
}
