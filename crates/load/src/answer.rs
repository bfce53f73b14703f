//! Reads an answer from the bytes of a connection; performs no I/O itself.
//!
//! Both loops share it, the one that blocks and the one that does not. Of a body only the beginning
//! is kept: an answer may be as long as it likes.

use crate::Error;

/// More headers than any answer has that a function may make.
const MOST_HEADERS: usize = 128;

/// A head longer than this is not one of the platform's.
const LONGEST_HEAD: usize = 128 << 10;

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The platform's own code; 0 for none.
    pub code: u32,
    /// What the answer says about how it was served: JSON, or empty.
    pub summary: String,
    /// Whether the answer says when to come back.
    pub retry_after: bool,
    /// The beginning of the body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Whether the call did what it was for.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.status < 400 && self.code == 0
    }

    /// Whether the call waited for the start of an instance, where the answer tells.
    #[must_use]
    pub fn is_cold(&self) -> Option<bool> {
        if self.summary.contains(r#""start":"cold""#) {
            Some(true)
        } else if self.summary.contains(r#""start":"warm""#) {
            Some(false)
        } else {
            None
        }
    }
}

/// Where in an answer the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// Bytes of the body that are missing.
    Length(u64),
    ChunkSize,
    /// Bytes of the chunk that are missing, with the line end behind it.
    Chunk(u64),
    Trailers,
    /// The body ends with the connection.
    Close,
    Done,
}

/// The answer that is being read.
#[derive(Debug)]
pub(crate) struct Reader {
    /// What was read from the connection; `consumed` of it is understood.
    pub(crate) bytes: Vec<u8>,
    consumed: usize,
    state: State,
    /// Bytes of a body that are kept.
    keep: usize,
    reusable: bool,
    pub(crate) answer: Answer,
}

impl Reader {
    pub(crate) fn new(keep: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(16 << 10),
            consumed: 0,
            state: State::Head,
            keep,
            reusable: true,
            answer: Answer::default(),
        }
    }

    /// Gets ready for the next answer.
    pub(crate) fn begin(&mut self) {
        self.bytes.clear();
        self.consumed = 0;
        self.state = State::Head;
        self.reusable = true;
        self.answer.body.clear();
    }

    /// Whether another request may be sent on the connection.
    pub(crate) fn is_reusable(&self) -> bool {
        self.reusable && self.state == State::Done
    }

    /// The connection was closed by the other side.
    pub(crate) fn closed(&mut self) -> Result<(), Error> {
        if self.state != State::Close {
            return Err(Error::Closed);
        }
        self.state = State::Done;
        Ok(())
    }

    /// Goes through what was read since; whether the answer is complete.
    pub(crate) fn advance(&mut self) -> Result<bool, Error> {
        while self.state != State::Done {
            let before = (self.state, self.consumed);
            match self.state {
                State::Head => self.head()?,
                State::Length(left) => {
                    self.state = match left - self.body(left) {
                        0 => State::Done,
                        left => State::Length(left),
                    };
                }
                State::ChunkSize => self.chunk_size()?,
                State::Chunk(left) => self.chunk(left),
                State::Trailers => self.trailers(),
                State::Close => {
                    self.body(u64::MAX);
                }
                State::Done => {}
            }
            if before == (self.state, self.consumed) {
                break;
            }
        }
        if self.consumed == self.bytes.len() {
            self.bytes.clear();
            self.consumed = 0;
        }
        Ok(self.state == State::Done)
    }

    fn head(&mut self) -> Result<(), Error> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut head = httparse::Response::new(&mut headers);
        let parsed = head
            .parse(&self.bytes[self.consumed..])
            .map_err(|_| Error::Malformed("its head cannot be read"))?;
        let httparse::Status::Complete(length) = parsed else {
            if self.bytes.len() - self.consumed > LONGEST_HEAD {
                return Err(Error::Malformed("its head is too long"));
            }
            return Ok(());
        };
        let status = head.code.unwrap_or_default();
        let mut body = State::Close;
        let answer = &mut self.answer;
        answer.status = status;
        answer.code = 0;
        answer.retry_after = false;
        answer.summary.clear();
        let mut reusable = head.version == Some(1);
        for httparse::Header { name, value } in head.headers.iter() {
            let text = || std::str::from_utf8(value).unwrap_or_default().trim();
            if name.eq_ignore_ascii_case("content-length") {
                let length = text().parse();
                let length = length.map_err(|_| Error::Malformed("its length is no number"))?;
                if body == State::Close {
                    body = State::Length(length);
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                body = State::ChunkSize;
            } else if name.eq_ignore_ascii_case("x-inner-code") {
                answer.code = text().parse().unwrap_or_default();
            } else if name.eq_ignore_ascii_case("x-invoke-summary") {
                answer.summary.push_str(text());
            } else if name.eq_ignore_ascii_case("retry-after") {
                answer.retry_after = true;
            } else if name.eq_ignore_ascii_case("connection") {
                reusable &= !text().eq_ignore_ascii_case("close");
            }
        }
        self.consumed += length;
        self.state = match status {
            // Something else follows that is the answer.
            100..200 => State::Head,
            204 | 304 => State::Done,
            _ if body == State::Length(0) => State::Done,
            _ => body,
        };
        self.reusable = reusable && body != State::Close;
        Ok(())
    }

    /// Takes what is there of `most` bytes of the body; how many that were.
    fn body(&mut self, most: u64) -> u64 {
        let there = &self.bytes[self.consumed..];
        let take = usize::try_from(most).map_or(there.len(), |most| most.min(there.len()));
        let room = self.keep.saturating_sub(self.answer.body.len());
        self.answer.body.extend_from_slice(&there[..take.min(room)]);
        self.consumed += take;
        take as u64
    }

    fn chunk_size(&mut self) -> Result<(), Error> {
        let parsed = httparse::parse_chunk_size(&self.bytes[self.consumed..])
            .map_err(|_| Error::Malformed("the size of a chunk cannot be read"))?;
        if let httparse::Status::Complete((length, size)) = parsed {
            self.consumed += length;
            self.state = match size {
                0 => State::Trailers,
                size => State::Chunk(size.saturating_add(LINE_END)),
            };
        }
        Ok(())
    }

    fn chunk(&mut self, left: u64) {
        let left = left - self.body(left.saturating_sub(LINE_END));
        if left > LINE_END {
            self.state = State::Chunk(left);
            return;
        }
        let there = (self.bytes.len() - self.consumed) as u64;
        let end = there.min(left);
        self.consumed += usize::try_from(end).unwrap_or_default();
        self.state = match left - end {
            0 => State::ChunkSize,
            left => State::Chunk(left),
        };
    }

    /// Lines up to an empty one.
    fn trailers(&mut self) {
        let rest = &self.bytes[self.consumed..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            return;
        };
        if rest[..end].trim_ascii().is_empty() {
            self.state = State::Done;
        }
        self.consumed += end + 1;
    }
}

/// The length of what ends a line.
const LINE_END: u64 = 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads `bytes` in pieces of this length; the reader, once the answer is complete.
    fn read(bytes: &[u8], piece: usize) -> Option<Reader> {
        let mut reader = Reader::new(8);
        reader.begin();
        for piece in bytes.chunks(piece) {
            reader.bytes.extend_from_slice(piece);
            if reader.advance().unwrap() {
                return Some(reader);
            }
        }
        None
    }

    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nt: 1\r\n\r\n";
    const REFUSED: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 2\r\n\
        x-inner-code: 150429\r\ncontent-length: 12\r\nconnection: close\r\n\r\nabcdefghijkl";
    const COLD: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\
        x-invoke-summary: {\"version\":\"v1\",\"start\":\"cold\"}\r\n\r\n";

    proptest! {
        #[test]
        fn an_answer_is_the_same_in_whatever_pieces_it_comes(piece in 1_usize..200) {
            let reader = read(CHUNKED, piece).unwrap();
            prop_assert!(reader.is_reusable() && reader.answer.is_success());
            prop_assert_eq!(reader.answer.body, b"abcdefg");

            let reader = read(REFUSED, piece).unwrap();
            prop_assert!(!reader.is_reusable() && !reader.answer.is_success());
            prop_assert_eq!((reader.answer.status, reader.answer.code), (429, 150_429));
            prop_assert!(reader.answer.retry_after);
            prop_assert_eq!(reader.answer.body, b"abcdefgh", "only the beginning is kept");

            let reader = read(COLD, piece).unwrap();
            prop_assert_eq!(reader.answer.status, 204);
            prop_assert_eq!(reader.answer.is_cold(), Some(true));
        }
    }

    #[test]
    fn a_part_of_an_answer_is_no_answer() {
        for whole in [CHUNKED, REFUSED, COLD] {
            assert!(read(&whole[..whole.len() - 1], 7).is_none());
        }
    }

    #[test]
    fn a_body_without_a_length_ends_with_the_connection() {
        let mut reader = Reader::new(8);
        reader.begin();
        reader.bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\n\r\nab");
        assert!(!reader.advance().unwrap());
        reader.closed().unwrap();
        assert_eq!(reader.answer.body, b"ab");
        assert!(!reader.is_reusable());

        reader.begin();
        reader.bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        assert!(!reader.advance().unwrap());
        assert!(matches!(reader.closed(), Err(Error::Closed)));
    }

    #[test]
    fn what_is_not_http_is_refused() {
        let mut reader = Reader::new(8);
        reader.bytes.extend_from_slice(b"SSH-2.0-x\r\n\r\n");
        assert!(matches!(reader.advance(), Err(Error::Malformed(_))));
    }
}
