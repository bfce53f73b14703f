//! What a pool says about itself.

use bugle_types::pool::PoolStatus;

use super::{Decision, Setback};
use crate::observed::Workload;

impl Decision<'_> {
    /// The plain word while all is well; else how many workers are ready, and what is wrong.
    pub(super) fn message(
        &self,
        status: PoolStatus,
        target: u32,
        workload: Option<&Workload>,
        setback: Option<&Setback>,
    ) -> String {
        let word = match status {
            PoolStatus::Running => "Running",
            PoolStatus::Updating | PoolStatus::PendingUpdate => "Updating",
            _ => "Creating",
        };
        let ready = self.ready();
        let trouble = self.trouble(workload, setback);
        let lost = status == PoolStatus::Running && ready < target;
        if trouble.is_none() && !lost {
            return word.to_owned();
        }
        let mut message = format!("{word}: {ready} of {target} workers are ready");
        if let Some(trouble) = trouble {
            message.push_str("; ");
            message.push_str(&trouble);
        }
        message
    }

    /// The first thing that is wrong: what keeps the platform, then the Deployment, then a Pod from going on.
    fn trouble(&self, workload: Option<&Workload>, setback: Option<&Setback>) -> Option<String> {
        if let Some(setback) = setback {
            return Some(setback.message.clone());
        }
        if let Some(failure) = workload.and_then(|workload| workload.failure.clone()) {
            return Some(failure);
        }
        let workers = || self.observed.of(self.id.as_str());
        let pending = workers().find_map(|(name, worker)| {
            let alarm = self.alarm(worker)?;
            let reason = worker.trouble.as_ref();
            let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
            Some(format!("Pod {name}, {alarm}{reason}"))
        });
        pending.or_else(|| {
            workers().find_map(|(name, worker)| {
                let trouble = worker.trouble.as_ref().filter(|_| !worker.ready)?;
                Some(format!("Pod {name}: {trouble}"))
            })
        })
    }
}
