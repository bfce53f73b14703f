//! Why an etcd did not do what it was asked.

/// Why an etcd did not do what it was asked. Cheap to clone: one failure is told to many.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// No member took the request in time. Nothing was written.
    #[error(
        "etcd at {endpoints} does not answer ({reason}); check that most of its members run and \
         can be reached from here"
    )]
    Unreachable {
        /// The members.
        endpoints: String,
        /// What the last of them said.
        reason: String,
    },
    /// A write was sent and not confirmed.
    #[error(
        "etcd did not confirm the write ({reason}), so it may have happened or not; look before \
         you try again"
    )]
    Unsure {
        /// What went wrong.
        reason: String,
    },
    /// The database of etcd is full. Nothing was written; reads and deletions work.
    #[error(
        "etcd is full (alarm NOSPACE) and takes no writes: compact and defragment it, or raise its \
         --quota-backend-bytes, then run `etcdctl alarm disarm`"
    )]
    NoSpace,
    /// etcd does not know the user, or does not let them do this.
    #[error(
        "etcd refuses the user ({reason}); check etcd.user, etcd.password_file and the certificates"
    )]
    Denied {
        /// What etcd said.
        reason: String,
    },
    /// etcd has gone back in time, as one does that was restored from a backup.
    #[error(
        "etcd is at revision {found}, before revision {known} that was seen here: it was replaced \
         or restored; restart bugle to begin from what is there now"
    )]
    Rewound {
        /// The revision it is at.
        found: u64,
        /// The revision it was at.
        known: u64,
    },
    /// Another platform works with the same keys.
    #[error(
        "another bugle works with these keys of etcd ({other}), which only one may at a time; stop \
         that one, or give one of them an etcd.az_prefix of its own"
    )]
    Taken {
        /// Which one, as it said.
        other: String,
    },
    /// Several platforms work together with the same keys, and this one would work alone, or the other
    /// way round.
    #[error(
        "{other}; set cluster.listen for all of the platforms on these keys of etcd or for none, or \
         give this one an etcd.az_prefix of its own"
    )]
    Mixed {
        /// Who works there, and how.
        other: String,
    },
    /// etcd refused a request that is wrong.
    #[error("etcd refused the request ({reason})")]
    Refused {
        /// What etcd said.
        reason: String,
    },
    /// A setting cannot be used.
    #[error("{key} cannot be used: {what}")]
    Setting {
        /// The key of the configuration.
        key: &'static str,
        /// What is wrong.
        what: String,
    },
    /// The thread that talks to etcd could not be started.
    #[error("the system gives no thread for etcd: {reason}")]
    System {
        /// What the system said.
        reason: String,
    },
}

impl Failure {
    /// Whether the same request may succeed later without anybody changing it. One that is unsure
    /// may not be repeated blindly.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NoSpace)
    }
}
