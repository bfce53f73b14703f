//! A node that nobody uses and that is to go: it takes nothing more, and every gateway is told.
//!
//! Only the node knows that no gateway has anything there or is about to, so it is asked rather than closed.

use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use tokio::time::Instant;

use super::{Host, Shared, answer_with};
use crate::parts::{Kind, part};
use crate::stream::Broken;

/// Within this time a closed node is asked to end. If not, whoever closed it is gone, and it opens again.
const CLOSED: Duration = Duration::from_secs(30);

impl Shared {
    /// Takes nothing more, if there is nothing.
    pub(super) fn close(&self, respond: SendResponse<Bytes>) -> Result<(), Broken> {
        let closed = self.news.quietly(|desk| {
            let closed = desk.ledger.close(Instant::now() + CLOSED);
            if closed {
                desk.tell_all(&part(Kind::Closed, &[]), None);
            }
            closed
        });
        let answer = Bytes::copy_from_slice(&[u8::from(closed)]);
        Ok(answer_with(respond, answer)?)
    }

    /// Takes instances again.
    pub(super) fn open(&self, respond: SendResponse<Bytes>) -> Result<(), Broken> {
        self.reopen_if(|_| true);
        Ok(answer_with(respond, Bytes::new())?)
    }

    fn reopen_if(&self, due: impl FnOnce(&super::ledger::Ledger) -> bool) {
        self.news.quietly(|desk| {
            if desk.ledger.is_closed() && due(&desk.ledger) {
                desk.ledger.reopen();
                desk.tell_all(&part(Kind::Open, &[]), None);
            }
        });
    }
}

impl Host {
    /// Takes instances again if the node was to go and did not.
    pub(crate) fn reopen_overdue(&self) {
        let now = Instant::now();
        self.0.reopen_if(|ledger| ledger.is_overdue(now));
    }
}
