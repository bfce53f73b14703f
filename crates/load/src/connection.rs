//! A keep-alive connection of a thread that blocks.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::answer::Reader;
use crate::watch::GRACE;
use crate::{Answer, Error, Watch};

/// How long a connection is waited for.
const CONNECT: Duration = Duration::from_secs(5);

/// Between two looks at the limit while an answer is waited for.
const LOOK: Duration = Duration::from_millis(100);

/// A server may close what was idle for this long; before it is used again, it is looked at.
const IDLE: Duration = Duration::from_millis(500);

/// A connection that is opened again when it breaks.
#[derive(Debug)]
pub(crate) struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
    pub(crate) reader: Reader,
    used: Instant,
}

impl Connection {
    /// Opens it.
    pub(crate) fn open(address: SocketAddr, keep: usize) -> Result<Self, Error> {
        let mut connection = Self {
            address,
            stream: None,
            reader: Reader::new(keep),
            used: Instant::now(),
        };
        connection.stream = Some(connection.connect()?);
        Ok(connection)
    }

    fn connect(&self) -> Result<TcpStream, Error> {
        let open = || {
            let stream = TcpStream::connect_timeout(&self.address, CONNECT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LOOK))?;
            stream.set_write_timeout(Some(LOOK))?;
            Ok(stream)
        };
        open().map_err(|source| Error::Connect {
            address: self.address,
            source,
        })
    }

    /// Sends `request` and reads its answer, for at most `limit`.
    pub(crate) fn exchange(
        &mut self,
        request: &[u8],
        limit: Duration,
        watch: &Watch,
    ) -> Result<&Answer, Error> {
        let stream = match self.stream.take() {
            Some(stream) if self.used.elapsed() < IDLE || is_open(&stream) => stream,
            _ => self.connect()?,
        };
        let mut patience = Patience {
            begin: Instant::now(),
            limit,
            watch,
            stopped: None,
        };
        self.reader.begin();
        write(&stream, request, &mut patience)?;
        read(&stream, &mut self.reader, &mut patience)?;
        self.used = Instant::now();
        if self.reader.is_reusable() {
            self.stream = Some(stream);
        }
        Ok(&self.reader.answer)
    }
}

/// Whether the other side has neither closed it nor said anything out of turn.
fn is_open(stream: &TcpStream) -> bool {
    let look = || {
        stream.set_nonblocking(true)?;
        let seen = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        seen
    };
    look().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

fn write(
    mut stream: &TcpStream,
    mut rest: &[u8],
    patience: &mut Patience<'_>,
) -> Result<(), Error> {
    while !rest.is_empty() {
        match stream.write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) => patience.bear(error)?,
        }
    }
    Ok(())
}

fn read(
    mut stream: &TcpStream,
    reader: &mut Reader,
    patience: &mut Patience<'_>,
) -> Result<(), Error> {
    let mut piece = [0; 16 << 10];
    while !reader.advance()? {
        match stream.read(&mut piece) {
            Ok(0) => return reader.closed(),
            Ok(read) => {
                reader.bytes.extend_from_slice(&piece[..read]);
                // What comes in many pieces is looked at as often as what does not come.
                patience.check()?;
            }
            Err(error) => patience.bear(error)?,
        }
    }
    Ok(())
}

/// How long an answer is still waited for.
struct Patience<'a> {
    begin: Instant,
    limit: Duration,
    watch: &'a Watch,
    stopped: Option<Instant>,
}

impl Patience<'_> {
    /// Nothing if the error only says that nothing has happened yet.
    fn bear(&mut self, error: std::io::Error) -> Result<(), Error> {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => self.check(),
            _ => Err(Error::Broken(error)),
        }
    }

    fn check(&mut self) -> Result<(), Error> {
        if self.begin.elapsed() >= self.limit {
            return Err(Error::Timeout { limit: self.limit });
        }
        if self.watch.is_stopped()
            && self.stopped.get_or_insert_with(Instant::now).elapsed() >= GRACE
        {
            return Err(Error::Stopped);
        }
        Ok(())
    }
}

/// One request with its answer on a connection of its own; blocks. The body is kept whole.
///
/// # Errors
///
/// [`Error`]; a status of failure is an answer, not an error.
pub fn once(address: SocketAddr, request: &[u8], limit: Duration) -> Result<Answer, Error> {
    let mut connection = Connection::open(address, usize::MAX)?;
    connection.exchange(request, limit, &Watch::default())?;
    Ok(connection.reader.answer)
}
