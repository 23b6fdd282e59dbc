//! TCP option lists: against a reader that is written plainly.

use rtt0_core::wire::options::{Options, SynOptions};

/// Reads `data` as an option list, at most the 40 bytes that fit a header.
pub fn run(data: &[u8]) {
    let data = &data[..data.len().min(40)];
    let read: Vec<Option<(u8, usize, &[u8])>> =
        Options::new(data).map(|option| option.ok().map(|o| (o.kind, o.offset, o.value))).collect();
    assert_eq!(read, plainly(data));

    let Ok(options) = SynOptions::parse(Options::new(data), |_| false) else { return };
    let mut written = Vec::new();
    options.write(&mut written);
    assert!(written.len() <= 20 && written.len().is_multiple_of(4));
    assert_eq!(SynOptions::parse(Options::new(&written), |_| false), Ok(options));
}

/// RFC 9293 §3.1: kind, offset and value of each option but END; `None` for a malformed one, which
/// is the last.
fn plainly(data: &[u8]) -> Vec<Option<(u8, usize, &[u8])>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < data.len() && data[at] != 0 {
        if data[at] == 1 {
            found.push(Some((1, at, &[][..])));
            at += 1;
            continue;
        }
        let length = data.get(at + 1).map_or(0, |length| usize::from(*length));
        if length < 2 || at + length > data.len() {
            found.push(None);
            break;
        }
        found.push(Some((data[at], at, &data[at + 2..at + length])));
        at += length;
    }
    found
}
