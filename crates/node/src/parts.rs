//! What travels inside the bodies of a connection to a node: parts of bytes, each with its kind and
//! its length, and the fields inside them.
//!
//! A call and its answer are made of numbers, lengths and the bytes of the user: nothing of a call is
//! turned into text and back. Whatever comes from the other side is bounded and checked here.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// The largest part. A body of a call has at most 6 MiB.
const LARGEST: usize = 8 * 1024 * 1024;

/// The bytes before each part.
const HEADER: usize = 5;

/// The other side sent what is not of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Garbage(pub(crate) &'static str);

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One write of a handler to its stream.
    Message,
    /// A program's headers before its event stream.
    StreamHead,
    /// A piece of a program's event stream.
    Events,
    /// The answer of user code.
    Reply,
    /// Why there is none, as JSON.
    NoReply,
    /// Method, path and headers of a caller's request, or status and headers of its answer.
    Head,
    /// What a node says of itself, as JSON; the first part of its news.
    Hello,
    /// An instance that runs without a gateway, as JSON.
    Found,
    /// One is no such any more: it has ended, or another gateway has it.
    Gone,
    /// What others have of the node, as JSON.
    Others,
    /// A roster has been heard and acted upon, as JSON.
    Told,
    /// An instance ended, as JSON.
    Exit,
    /// A line of user code, as JSON.
    Log,
    /// The node wants to end.
    Draining,
    /// The node takes nothing more, as nobody has anything there.
    Closed,
    /// It does again.
    Open,
}

const KINDS: [Kind; 16] = [
    Kind::Message,
    Kind::StreamHead,
    Kind::Events,
    Kind::Reply,
    Kind::NoReply,
    Kind::Head,
    Kind::Hello,
    Kind::Found,
    Kind::Exit,
    Kind::Log,
    Kind::Draining,
    Kind::Gone,
    Kind::Others,
    Kind::Told,
    Kind::Closed,
    Kind::Open,
];

/// One part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) kind: Kind,
    pub(crate) payload: Bytes,
}

/// A part whose payload is `pieces` one after the other.
pub(crate) fn part(kind: Kind, pieces: &[&[u8]]) -> Bytes {
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut bytes = BytesMut::with_capacity(HEADER + length);
    let number = KINDS.iter().position(|known| *known == kind);
    bytes.put_u8(u8::try_from(number.unwrap_or_default()).unwrap_or_default());
    bytes.put_u32_le(u32::try_from(length).unwrap_or(u32::MAX));
    for piece in pieces {
        bytes.extend_from_slice(piece);
    }
    bytes.freeze()
}

/// A part of JSON.
pub(crate) fn json_part(kind: Kind, value: &impl serde::Serialize) -> Bytes {
    // The shapes of this crate have no keys that are not text.
    let text = serde_json::to_vec(value).unwrap_or_default();
    part(kind, &[&text])
}

/// Cuts bytes into parts.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Takes what has arrived. What cannot become a part of a good length is refused by
    /// [`Decoder::next`], so no more than one part and what came with it is ever held.
    pub(crate) fn push(&mut self, bytes: &Bytes) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole part.
    pub(crate) fn next(&mut self) -> Result<Option<Part>, Garbage> {
        if self.buffer.len() < HEADER {
            return Ok(None);
        }
        let kind = KINDS
            .get(usize::from(self.buffer[0]))
            .copied()
            .ok_or(Garbage("a part of no known kind"))?;
        let mut length = &self.buffer[1..HEADER];
        let length = usize::try_from(length.get_u32_le()).unwrap_or(usize::MAX);
        if length > LARGEST {
            return Err(Garbage("a part that is longer than 8 MiB"));
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        let payload = self.buffer.split_to(length).freeze();
        Ok(Some(Part { kind, payload }))
    }

    /// What came after the last part.
    pub(crate) fn rest(&mut self) -> Bytes {
        self.buffer.split().freeze()
    }

    /// Whether something came that is no whole part.
    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

/// Reads fields out of a payload.
#[derive(Debug)]
pub(crate) struct Fields(pub(crate) Bytes);

const SHORT: Garbage = Garbage("a part that is too short");

impl Fields {
    pub(crate) fn bytes(&mut self, length: usize) -> Result<Bytes, Garbage> {
        if self.0.len() < length {
            return Err(SHORT);
        }
        Ok(self.0.split_to(length))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Garbage> {
        self.0.try_get_u8().map_err(|_| SHORT)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Garbage> {
        self.0.try_get_u16_le().map_err(|_| SHORT)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Garbage> {
        self.0.try_get_u32_le().map_err(|_| SHORT)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Garbage> {
        self.0.try_get_u64_le().map_err(|_| SHORT)
    }

    pub(crate) fn u128(&mut self) -> Result<u128, Garbage> {
        self.0.try_get_u128_le().map_err(|_| SHORT)
    }

    /// A piece with its length before it.
    pub(crate) fn piece(&mut self) -> Result<Bytes, Garbage> {
        let length = self.u32()?;
        self.bytes(usize::try_from(length).map_err(|_| SHORT)?)
    }

    pub(crate) fn text(&mut self) -> Result<String, Garbage> {
        let piece = self.piece()?;
        String::from_utf8(piece.into()).map_err(|_| Garbage("text that is not UTF-8"))
    }

    /// Names and values.
    pub(crate) fn pairs(&mut self) -> Result<Vec<(String, String)>, Garbage> {
        let count = self.u16()?;
        (0..count)
            .map(|_| Ok((self.text()?, self.text()?)))
            .collect()
    }

    pub(crate) fn rest(self) -> Bytes {
        self.0
    }
}

/// Writes fields.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) BytesMut);

impl Writer {
    pub(crate) fn piece(&mut self, piece: &[u8]) -> &mut Self {
        self.0
            .put_u32_le(u32::try_from(piece.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(piece);
        self
    }

    pub(crate) fn pairs<'a>(
        &mut self,
        pairs: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> &mut Self {
        let count = u16::try_from(pairs.len()).unwrap_or(u16::MAX);
        self.0.put_u16_le(count);
        for (name, value) in pairs.take(usize::from(count)) {
            self.piece(name).piece(value);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_arrive_whole_however_they_are_cut() {
        let all: Vec<u8> = [
            part(Kind::Message, &[b"ab", b"c"]),
            part(Kind::Draining, &[]),
            part(Kind::Reply, &[&[7; 300]]),
        ]
        .concat();
        for size in [1, 3, 7, 1000] {
            let mut decoder = Decoder::default();
            let mut parts = Vec::new();
            for chunk in all.chunks(size) {
                decoder.push(&Bytes::copy_from_slice(chunk));
                while let Some(part) = decoder.next().unwrap() {
                    parts.push((part.kind, part.payload.len()));
                }
            }
            let expected = [(Kind::Message, 3), (Kind::Draining, 0), (Kind::Reply, 300)];
            assert_eq!(parts, expected);
            assert!(decoder.is_empty());
        }
    }

    #[test]
    fn what_is_no_part_is_refused_before_it_is_held() {
        let mut decoder = Decoder::default();
        decoder.push(&Bytes::from_static(&[200, 0, 0, 0, 0]));
        assert!(decoder.next().is_err());
        let mut decoder = Decoder::default();
        decoder.push(&Bytes::from_static(&[0, 255, 255, 255, 255]));
        assert!(decoder.next().is_err());
    }

    #[test]
    fn fields_beyond_the_end_are_refused() {
        let mut fields = Fields(Bytes::from_static(&[255, 255, 255, 255, 1]));
        assert!(fields.piece().is_err());
        let mut fields = Fields(Bytes::from_static(&[255, 255]));
        assert!(fields.pairs().is_err());
        assert!(Fields(Bytes::new()).u128().is_err());
    }

    #[test]
    fn pairs_come_back_as_they_were_written() {
        let mut writer = Writer::default();
        let pairs = [("a", "1"), ("b", "")];
        writer.pairs(pairs.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
        let read = Fields(writer.0.freeze()).pairs().unwrap();
        assert_eq!(read, pairs.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }
}
