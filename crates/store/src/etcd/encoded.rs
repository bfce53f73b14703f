//! Requests that are encoded already: what is sent again need not be encoded again, and its buffer is
//! as large as it needs to be from the beginning. Registrations that go together are some 70 KiB.

use std::marker::PhantomData;

use bytes::{BufMut as _, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

/// What gRPC puts before a message.
const HEADER: usize = 5;

/// Sends a request as it is, and reads its answer.
pub(super) struct Encoded<R> {
    length: usize,
    answer: PhantomData<fn() -> R>,
}

impl<R> Encoded<R> {
    /// For a request of so many bytes.
    pub(super) fn new(length: usize) -> Self {
        Self {
            length,
            answer: PhantomData,
        }
    }
}

impl<R: Message + Default + 'static> Codec for Encoded<R> {
    type Encode = Bytes;
    type Decode = R;
    type Encoder = Whole;
    type Decoder = ProstDecoder<R>;

    fn encoder(&mut self) -> Whole {
        Whole(self.length)
    }

    fn decoder(&mut self) -> ProstDecoder<R> {
        ProstDecoder::default()
    }
}

/// Writes a request of so many bytes.
pub(super) struct Whole(usize);

impl Encoder for Whole {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, request: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(request);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        // All of it is there at once, so there is nothing to yield for.
        BufferSettings::new(self.0 + HEADER, usize::MAX)
    }
}
