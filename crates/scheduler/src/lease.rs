//! The right to send one call to an instance.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::{Instance, StartPhases};
use bugle_types::FunctionSpec;

use crate::core::{Event, Key};
use crate::function::Inner;

/// A slot of an instance, for one call. Dropping it gives the slot to the next call, so it must be
/// kept until the instance is done, whether or not the client still waits.
pub struct Lease {
    pub(crate) function: Arc<Inner>,
    pub(crate) key: Key,
    pub(crate) instance: Arc<dyn Instance>,
    pub(crate) spec: Arc<FunctionSpec>,
    /// How long the call waited for it.
    pub queued: Duration,
    /// The start that the call waited for, if it did.
    pub cold: Option<ColdStart>,
    /// What the end of the lease says.
    pub(crate) ending: Ending,
}

/// How a lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Answered,
    /// Without the instance.
    GivenUp,
}

/// How long a start took that a call waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColdStart {
    /// From the decision to start until the instance was ready.
    pub total: Duration,
    /// Its phases.
    pub phases: StartPhases,
}

impl Lease {
    /// The instance.
    pub fn instance(&self) -> &Arc<dyn Instance> {
        &self.instance
    }

    /// The code that the instance runs; older than the function's during an update.
    pub fn spec(&self) -> &Arc<FunctionSpec> {
        &self.spec
    }

    /// The call passed its deadline and was answered, but the instance still works on it: the
    /// instance gets no further call, is killed when its other calls are done, and is replaced.
    pub fn overdue(mut self) {
        self.ending = Ending::GivenUp;
    }

    /// The instance ended or broke the protocol during the call. It gets no further call, also in
    /// the moment before its end is noticed, and is replaced.
    pub fn lost(mut self) {
        self.ending = Ending::GivenUp;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let event = match self.ending {
            Ending::Answered => Event::Answered(self.key),
            Ending::GivenUp => Event::GivenUp(self.key),
        };
        self.function.on(event);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("instance", &self.instance.id())
            .field("queued", &self.queued)
            .field("cold", &self.cold)
            .finish_non_exhaustive()
    }
}
