//! How far a pool has come.

use std::fmt;

use super::PoolSpec;

/// The status of a pool, by the numbers of the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum PoolStatus {
    /// Accepted; nobody has begun.
    #[default]
    Pending = 0,
    /// Workers are being made, or are not ready yet.
    Creating = 1,
    /// A change was accepted; nobody has begun.
    PendingUpdate = 2,
    /// A change is being made.
    Updating = 3,
    /// As many workers as wanted were ready once.
    Running = 4,
    /// What was asked for last failed; the message says why.
    Failed = 5,
    /// To be deleted; the record goes when everything else is gone.
    PendingDeletion = 6,
}

impl PoolStatus {
    /// Every status, in order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Creating,
        Self::PendingUpdate,
        Self::Updating,
        Self::Running,
        Self::Failed,
        Self::PendingDeletion,
    ];

    /// The number in the API.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The status with `number`, if there is one.
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|status| i64::from(status.number()) == number)
    }

    /// The name in the documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Creating => "Creating",
            Self::PendingUpdate => "Pending Update",
            Self::Updating => "Updating",
            Self::Running => "Running",
            Self::Failed => "Creation Failed",
            Self::PendingDeletion => "Pending Deletion",
        }
    }

    /// Whether whoever makes the pool real may say that it went from this to `next`. What a user
    /// asked for is not taken back that way: nothing leads to what waits for a beginning, and
    /// nothing leads out of deletion but the end of the record.
    pub fn may_become(self, next: Self) -> bool {
        use PoolStatus::{Creating, Failed, Pending, PendingUpdate, Running, Updating};
        // The same status may get another message or count.
        self == next
            || matches!(
                (self, next),
                (Pending, Creating | Running | Failed)
                    | (Creating | Updating, Running | Failed)
                    | (PendingUpdate, Updating | Running | Failed)
                    | (Running, Failed)
                    // What failed is tried again.
                    | (Failed, Creating | Updating | Running)
            )
    }
}

impl fmt::Display for PoolStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What whoever makes a pool real says about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolState {
    /// Its status.
    pub status: PoolStatus,
    /// What is going on or what is wrong, for people.
    pub msg: String,
    /// How many workers can run instances now.
    pub ready_count: u32,
}

/// A pool as it is recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// What is wanted.
    pub spec: PoolSpec,
    /// What there is.
    pub state: PoolState,
    /// When the record was last written: a revision of the store, for writing it back.
    pub revision: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_statuses_are_one_to_one() {
        for (number, status) in (0..).zip(PoolStatus::ALL) {
            assert_eq!(i64::from(status.number()), number);
            assert_eq!(PoolStatus::from_number(number), Some(status));
        }
        for wrong in [-1, 7, i64::MAX] {
            assert_eq!(PoolStatus::from_number(wrong), None);
        }
    }

    #[test]
    fn what_a_user_asked_for_is_never_taken_back() {
        for status in PoolStatus::ALL {
            assert!(status.may_become(status));
            for waits in [
                PoolStatus::Pending,
                PoolStatus::PendingUpdate,
                PoolStatus::PendingDeletion,
            ] {
                assert_eq!(status.may_become(waits), status == waits);
            }
            let deleting = PoolStatus::PendingDeletion;
            assert_eq!(deleting.may_become(status), status == deleting);
        }
    }
}
