//! The frames between the platform and an instance (`docs/runtime-protocol.md`).
//!
//! A frame is a header of 24 bytes, a meta part and a body. This module is the codec alone: it
//! reads no socket and keeps no state, so that hostile bytes can be tried on it.

use bytes::{Buf, Bytes, BytesMut};

/// The size of a header.
pub(crate) const HEADER_LEN: usize = 24;

/// The largest meta part taken from an instance. The largest honest one is a stack trace of 64 Ki
/// characters, each of which may be six bytes of JSON.
const MAX_META: u32 = 512 * 1024;

/// The largest body taken from an instance: a result at its limit of 6 MiB.
const MAX_BODY: u32 = 6 * 1024 * 1024;

/// Kinds of frames that the platform sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ToInstance {
    /// What to load, as JSON in the meta part.
    Start = 1,
    /// A call.
    Call = 2,
    /// No further calls come; `value` is the grace in milliseconds.
    Stop = 3,
    /// `value` units of a call's stream were taken.
    Acknowledge = 4,
}

/// Kinds of frames that an instance sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FromInstance {
    /// The code is loaded and the initializer has run.
    Ready = 16,
    /// It could not be loaded, or the initializer raised.
    StartFailed = 17,
    /// The result of a call.
    Result = 18,
    /// A call failed.
    Failure = 19,
    /// A message of a call's stream.
    Stream = 20,
    /// Lines of output.
    Log = 21,
    /// The most memory used so far.
    Memory = 22,
}

impl FromInstance {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            16 => Self::Ready,
            17 => Self::StartFailed,
            18 => Self::Result,
            19 => Self::Failure,
            20 => Self::Stream,
            21 => Self::Log,
            22 => Self::Memory,
            _ => return None,
        })
    }
}

/// Flag of a call: the body may be JSON.
pub(crate) const BODY_IS_JSON: u8 = 1;

/// Flag of a call: somebody reads its stream.
pub(crate) const STREAM_WANTED: u8 = 2;

/// Flag of a log frame: the lines come from standard error.
pub(crate) const FROM_STDERR: u8 = 1;

/// What a stream message counts beside its bytes, so that many empty ones are bounded as well.
pub(crate) const STREAM_OVERHEAD: u64 = 64;

/// The header of a frame to an instance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    /// The kind.
    pub(crate) kind: ToInstance,
    /// Flags of the kind.
    pub(crate) flags: u8,
    /// A small number of the kind: for a call the length of the request id in the meta part.
    pub(crate) status: u16,
    /// The call.
    pub(crate) id: u32,
    /// A number of the kind.
    pub(crate) value: u64,
}

impl Header {
    /// The bytes of a header in front of parts of these lengths.
    pub(crate) fn encode(self, meta: u32, body: u32) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&meta.to_le_bytes());
        bytes[4..8].copy_from_slice(&body.to_le_bytes());
        bytes[8] = self.kind as u8;
        bytes[9] = self.flags;
        bytes[10..12].copy_from_slice(&self.status.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.value.to_le_bytes());
        bytes
    }
}

/// A frame from an instance.
#[derive(Debug)]
pub(crate) struct Frame {
    /// The kind.
    pub(crate) kind: FromInstance,
    /// Flags of the kind.
    pub(crate) flags: u8,
    /// The HTTP status of a result, 0 for a plain one.
    pub(crate) status: u16,
    /// The call, 0 for none.
    pub(crate) id: u32,
    /// A number of the kind.
    pub(crate) value: u64,
    /// The meta part.
    pub(crate) meta: Bytes,
    /// The body.
    pub(crate) body: Bytes,
}

/// Bytes that are not of the protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// The kind is unknown.
    #[error("it sent a frame of the unknown kind {0}")]
    Kind(u8),
    /// A part is larger than any honest one.
    #[error("it announced a frame with {meta} bytes of meta and {body} of body")]
    Size { meta: u32, body: u32 },
}

/// Takes the first frame out of `buffer`, or nothing while it is not complete; then room for the
/// rest of it is reserved.
pub(crate) fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(header) = buffer.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let header = *header;
    let word = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let (meta, body) = (word(0), word(4));
    if meta > MAX_META || body > MAX_BODY {
        return Err(FrameError::Size { meta, body });
    }
    let kind = FromInstance::from_number(header[8]).ok_or(FrameError::Kind(header[8]))?;
    let (meta, body) = (meta as usize, body as usize);
    let total = HEADER_LEN + meta + body;
    if buffer.len() < total {
        buffer.reserve(total - buffer.len());
        return Ok(None);
    }
    buffer.advance(HEADER_LEN);
    let meta = take(buffer, meta);
    let body = take(buffer, body);
    Ok(Some(Frame {
        kind,
        flags: header[9],
        status: u16::from_le_bytes([header[10], header[11]]),
        id: word(12),
        value: u64::from(word(16)) | u64::from(word(20)) << 32,
        meta,
        body,
    }))
}

/// Small parts are copied, so that they do not keep the whole read buffer alive.
fn take(buffer: &mut BytesMut, len: usize) -> Bytes {
    const COPIED: usize = 4096;
    if len == 0 {
        Bytes::new()
    } else if len <= COPIED {
        let part = Bytes::copy_from_slice(&buffer[..len]);
        buffer.advance(len);
        part
    } else {
        buffer.split_to(len).freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: u8, meta: &[u8], body: &[u8]) -> BytesMut {
        let header = Header {
            kind: ToInstance::Call,
            flags: 3,
            status: 404,
            id: 7,
            value: u64::MAX - 1,
        };
        let mut header = header.encode(
            u32::try_from(meta.len()).unwrap(),
            u32::try_from(body.len()).unwrap(),
        );
        header[8] = kind;
        let mut buffer = BytesMut::from(&header[..]);
        buffer.extend_from_slice(meta);
        buffer.extend_from_slice(body);
        buffer
    }

    #[test]
    fn a_frame_survives_the_way_through_bytes() {
        let mut buffer = bytes(18, b"meta", b"the body");
        buffer.extend_from_slice(b"next");
        let frame = decode(&mut buffer).unwrap().unwrap();
        assert_eq!(frame.kind, FromInstance::Result);
        assert_eq!((frame.flags, frame.status, frame.id), (3, 404, 7));
        assert_eq!(frame.value, u64::MAX - 1);
        assert_eq!(&frame.meta[..], b"meta");
        assert_eq!(&frame.body[..], b"the body");
        assert_eq!(&buffer[..], b"next");
    }

    #[test]
    fn an_incomplete_frame_is_left_in_the_buffer() {
        let whole = bytes(20, b"m", &[b'x'; 9000]);
        for end in [
            0,
            1,
            HEADER_LEN - 1,
            HEADER_LEN,
            HEADER_LEN + 1,
            whole.len() - 1,
        ] {
            let mut part = BytesMut::from(&whole[..end]);
            assert!(decode(&mut part).unwrap().is_none(), "{end}");
            assert_eq!(part.len(), end);
        }
    }

    #[test]
    fn unknown_kinds_and_absurd_sizes_are_refused() {
        assert_eq!(
            decode(&mut bytes(99, b"", b"")).unwrap_err(),
            FrameError::Kind(99)
        );
        let mut huge = bytes(18, b"", b"");
        huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            decode(&mut huge).unwrap_err(),
            FrameError::Size {
                meta: 0,
                body: u32::MAX
            }
        );
    }
}
