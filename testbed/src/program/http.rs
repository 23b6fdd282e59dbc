//! As much of HTTP/1.1 (RFC 9112) as the built-in pair speaks: a head, then `Content-Length` bytes.

use std::io::{self, BufRead, ErrorKind, Read};

/// Longest head accepted, bytes.
const HEAD_LIMIT: u64 = 16 * 1024;

/// The head of a request or a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The request line or status line, without its line end.
    pub start: String,
    /// Value of `Content-Length`, if the sender gave one.
    pub content_length: Option<u64>,
    /// The sender closes, or asks the other to close, after this message.
    pub close: bool,
}

impl Head {
    /// Reads a head up to and including its empty line. `None` if the peer closed before its first
    /// byte, as it may between two requests.
    ///
    /// # Errors
    /// The error of the read; `InvalidData` if the head is too long, ends early or has a
    /// `Content-Length` that is no number.
    pub fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut limited = reader.take(HEAD_LIMIT);
        let Some(start) = line(&mut limited)? else { return Ok(None) };
        let mut head = Self { start, content_length: None, close: false };
        loop {
            let field =
                line(&mut limited)?.ok_or_else(|| invalid("the head ends early or exceeds 16 KiB"))?;
            if field.is_empty() {
                return Ok(Some(head));
            }
            let (name, value) =
                field.split_once(':').ok_or_else(|| invalid("a header field has no colon"))?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                let length = value.parse().map_err(|_| invalid("Content-Length is not a number"))?;
                head.content_length = Some(length);
            } else if name.eq_ignore_ascii_case("connection") {
                head.close = value.eq_ignore_ascii_case("close");
            }
        }
    }

    /// Returns the method and the target of a request line.
    pub fn request(&self) -> Option<(&str, &str)> {
        let mut words = self.start.split(' ');
        Some((words.next()?, words.next()?))
    }

    /// Returns the code of a status line.
    pub fn status(&self) -> Option<u16> {
        self.start.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
    }
}

/// Reads a line without its CRLF or LF; `None` at the end of the stream.
fn line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut text = String::new();
    if reader.read_line(&mut text)? == 0 {
        return Ok(None);
    }
    if !text.ends_with('\n') {
        return Err(invalid("the head ends early or exceeds 16 KiB"));
    }
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(Some(text))
}

fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<Option<Head>> {
        Head::read(&mut text.as_bytes())
    }

    #[test]
    fn reads_a_request_and_leaves_the_body() {
        let mut input =
            "POST /upload HTTP/1.1\r\nCONTENT-length: 3\r\nConnection: close\r\n\r\nabc".as_bytes();
        let head = Head::read(&mut input).unwrap().unwrap();
        assert_eq!(head.request(), Some(("POST", "/upload")));
        assert_eq!((head.content_length, head.close), (Some(3), true));
        assert_eq!(input, b"abc");
    }

    #[test]
    fn reads_a_status() {
        let head = read("HTTP/1.1 404 Not Found\r\n\r\n").unwrap().unwrap();
        assert_eq!(head.status(), Some(404));
        assert_eq!(head.content_length, None);
    }

    #[test]
    fn an_end_before_the_first_byte_is_no_error() {
        assert_eq!(read("").unwrap(), None);
    }

    #[test]
    fn malformed_heads_are_errors() {
        let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(20_000));
        for text in [
            "GET / HTTP/1.1\r\n",
            "GET /",
            "GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            "a\r\nb\r\n\r\n",
            &long,
        ] {
            assert!(read(text).is_err(), "{}", &text[..text.len().min(40)]);
        }
    }
}
