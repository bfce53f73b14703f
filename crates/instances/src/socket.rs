//! The platform's end of an instance's socket.
//!
//! Its readiness is watched for reading alone. A socket that is watched for writing as well wakes
//! the platform whenever the instance has taken a frame out of it: once for every call, at the very
//! moment at which the handler begins to run.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::BytesMut;
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The least and the most that is read at once.
const LEAST: usize = 4 * 1024;
const MOST: usize = 256 * 1024;

/// A connected stream socket that does not block.
#[derive(Debug)]
pub(crate) struct Socket(AsyncFd<OwnedFd>);

impl Socket {
    /// # Errors
    ///
    /// The system's limit of watched descriptors.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        watch(socket, Interest::READABLE).map(Self)
    }

    /// Appends what has arrived, after waiting until something has; 0 at the end.
    ///
    /// Cancel safe: what was read is in `buffer`, also when the future is dropped.
    ///
    /// # Errors
    ///
    /// The socket is broken.
    pub(crate) async fn read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            // The more of a large frame has arrived, the more is taken at once.
            let room = buffer.len().clamp(LEAST, MOST);
            match self.receive(buffer, room) {
                Ok(count) => {
                    if count < room {
                        // There is no more; asking for it would cost as much as reading it.
                        ready.clear_ready();
                    }
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Appends at most `room` bytes of what has arrived, without waiting.
    pub(crate) fn receive(&self, buffer: &mut BytesMut, room: usize) -> io::Result<usize> {
        let filled = buffer.len();
        buffer.resize(filled + room, 0);
        let received = rustix::net::recv(self, &mut buffer[filled..], RecvFlags::DONTWAIT);
        let count = received.map_or(0, |(count, _)| count);
        buffer.truncate(filled + count);
        received.map(|_| count).map_err(io::Error::from)
    }

    /// A second view of the socket that is watched for writing.
    ///
    /// # Errors
    ///
    /// The system's limit of descriptors.
    pub(crate) fn for_writing(&self) -> io::Result<Writable> {
        let socket = self.as_fd().try_clone_to_owned()?;
        watch(socket, Interest::WRITABLE).map(Writable)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

/// A socket that is waited for to have room.
#[derive(Debug)]
pub(crate) struct Writable(AsyncFd<OwnedFd>);

impl Writable {
    /// Calls `write` whenever there is room, until it says that all is written. Cancel safe.
    ///
    /// # Errors
    ///
    /// The socket is broken.
    pub(crate) async fn until(&self, mut write: impl FnMut() -> bool) -> io::Result<()> {
        loop {
            let mut ready = self.0.writable().await?;
            if write() {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}

#[expect(
    deprecated,
    reason = "unsound for a type that changes its descriptor; an OwnedFd keeps the one it has"
)]
fn watch(socket: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, interest)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (Socket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Socket::new(ours.into()).unwrap(), theirs)
    }

    #[tokio::test]
    async fn everything_is_read_in_order_to_the_end() {
        let (socket, mut theirs) = pair();
        let sent: Vec<u8> = (0..1_000_003_u32).map(|n| n.to_le_bytes()[0]).collect();
        let expected = sent.clone();
        let writer = std::thread::spawn(move || theirs.write_all(&sent).unwrap());
        let mut read = BytesMut::new();
        while socket.read(&mut read).await.unwrap() > 0 {}
        writer.join().unwrap();
        assert!(read == expected[..]);
    }

    #[tokio::test]
    async fn a_reader_that_gave_up_has_lost_nothing() {
        let (socket, mut theirs) = pair();
        let mut read = BytesMut::new();
        assert!(
            futures_util::FutureExt::now_or_never(socket.read(&mut read)).is_none(),
            "nothing has been sent"
        );
        theirs.write_all(b"late").unwrap();
        assert_eq!(socket.read(&mut read).await.unwrap(), 4);
        assert_eq!(&read[..], b"late");
    }

    #[tokio::test]
    async fn a_full_socket_is_written_when_it_has_room() {
        let (socket, mut theirs) = pair();
        let mut sent = 0_usize;
        let send = |sent: &mut usize| {
            let flags = rustix::net::SendFlags::DONTWAIT;
            while let Ok(count) = rustix::net::send(&socket, &[7; 4096], flags) {
                *sent += count;
            }
        };
        send(&mut sent);
        let full = sent;
        let writing = socket.for_writing().unwrap();
        let reader = std::thread::spawn(move || {
            let mut taken = vec![0; full];
            theirs.read_exact(&mut taken).unwrap();
            theirs
        });
        let more = writing.until(|| {
            send(&mut sent);
            sent > full
        });
        more.await.unwrap();
        reader.join().unwrap();
    }
}
