//! What the platform and a cell say to each other.
//!
//! A cell is a process of ours that has gone as far as it can without knowing which function it is
//! for (`cell`). It is told twice: first to park, then what to become. It answers once each time,
//! and silence after the second means that the program runs.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The longest message: command line and environment of a function are bounded far below it.
const LONGEST: u32 = 4 * 1024 * 1024;

/// What a cell does while nobody waits for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Park {
    /// An empty directory to build on.
    pub(super) stage: PathBuf,
    /// The port that takes over its connections to the outside; none has no outside.
    pub(super) outside: Option<u16>,
    /// Keeps the machine's mounts and all rights: what it becomes needs them, and takes them away.
    pub(super) bare: bool,
    /// The size of `/dev/shm`, in bytes.
    pub(super) shm_bytes: u64,
    /// The filter of system calls, in hexadecimal.
    pub(super) seccomp: String,
    /// Names of resource limits and their values.
    pub(super) limits: Vec<(String, u64)>,
}

/// What a cell becomes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Orders {
    /// The layers of the image, lowest first.
    pub(super) layers: Vec<PathBuf>,
    /// Where the instance's own changes go, and what overlayfs needs beside them.
    pub(super) upper: PathBuf,
    pub(super) work: PathBuf,
    /// The directory that is `/tmp` where the root is read-only.
    pub(super) tmp: PathBuf,
    pub(super) read_only: bool,
    pub(super) argv: Vec<String>,
    /// The whole environment, in order.
    pub(super) environment: Vec<(String, String)>,
    pub(super) directory: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// What it may write in all, in bytes.
    pub(super) disk_bytes: u64,
    pub(super) hostname: String,
    /// Files in `/etc` that are the platform's.
    pub(super) etc: Vec<(String, String)>,
    pub(super) binds: Vec<Bind>,
    /// Leaves the rest to a runtime of the Open Container Initiative.
    pub(super) oci: Option<Oci>,
}

/// A directory of the machine that the container sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bind {
    pub(super) source: PathBuf,
    pub(super) target: String,
    pub(super) read_only: bool,
}

/// The command that makes a container of a bundle.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Oci {
    pub(super) command: Vec<String>,
    /// Where the root file system is put together.
    pub(super) root: PathBuf,
    /// Whether a tree of control groups is taken out of its sight that it would refuse.
    pub(super) hide_unified: bool,
}

/// Sends one message.
///
/// # Errors
///
/// The other side is gone.
pub(super) fn send<T: Serialize>(to: &mut impl Write, what: &T) -> io::Result<()> {
    let mut message = vec![0; 4];
    serde_json::to_writer(&mut message, what)?;
    let length = u32::try_from(message.len() - 4).ok();
    let length = length.filter(|length| *length <= LONGEST);
    let length = length.ok_or_else(|| io::Error::other("the message is too long"))?;
    message[..4].copy_from_slice(&length.to_be_bytes());
    to.write_all(&message)
}

/// Waits for a message; none when the other side has nothing more to say.
///
/// # Errors
///
/// What came is no message, or did not come in time.
pub(super) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_be_bytes(length);
    if length > LONGEST {
        return Err(io::Error::other("the message is too long"));
    }
    let mut message = vec![0; length as usize];
    from.read_exact(&mut message)?;
    Ok(Some(serde_json::from_slice(&message)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_as_it_was_sent_and_silence_is_none() {
        let mut wire = Vec::new();
        let binds = vec![Bind {
            source: "/srv".into(),
            target: "/mnt/data".to_owned(),
            read_only: true,
        }];
        let orders = Orders {
            binds: binds.clone(),
            ..Orders::default()
        };
        send(&mut wire, &orders).unwrap();
        let mut wire = &wire[..];
        let seen: Orders = receive(&mut wire).unwrap().unwrap();
        assert_eq!(seen.binds, binds);
        assert!(receive::<Orders>(&mut wire).unwrap().is_none());
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_it_is_read() {
        let claim = u32::MAX.to_be_bytes();
        assert!(receive::<String>(&mut &claim[..]).is_err());
    }
}
