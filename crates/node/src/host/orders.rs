//! What gateways order: starts and ends of instances, and to whom they belong.

use std::sync::Arc;
use std::time::Duration;

use bugle_instances::{Exit, ExitCause, Instance, InstanceId, StartError, StartRequest, Started};
use bytes::Bytes;
use h2::server::SendResponse;
use tokio::time::Instant;

use super::ledger::LinkId;
use super::news::Hosted;
use super::{LARGEST_ORDER, Shared, answer_with};
use crate::parts::{Fields, Kind, json_part};
use crate::stream::{Broken, Incoming};
use crate::wire::{self, Ended, NotUp, StartAnswer, StartOrder, Up};

impl Shared {
    /// An instance, if it is this link's.
    fn find(&self, link: LinkId, id: InstanceId) -> Option<Arc<Hosted>> {
        self.news.quietly(|desk| {
            let hosted = desk.hosted.get(&id).cloned();
            hosted.filter(|_| desk.ledger.is_of(id, link))
        })
    }

    pub(super) async fn start(
        self: &Arc<Self>,
        link: LinkId,
        body: Incoming,
        mut respond: SendResponse<Bytes>,
    ) -> Result<(), Broken> {
        let order: StartOrder = wire::json(&body.whole(LARGEST_ORDER).await?)?;
        let Some(reserved) = self.reserve(link, &order) else {
            let others = self.news.quietly(|desk| desk.ledger.others(link));
            let answer: StartAnswer = Err(NotUp::Full(others));
            let text = serde_json::to_vec(&answer).unwrap_or_default();
            return Ok(answer_with(respond, text.into())?);
        };
        let started = tokio::select! {
            biased;
            // The gateway has given it up: what comes up is killed with the future.
            _ = std::future::poll_fn(|cx| respond.poll_reset(cx)) => return Ok(()),
            started = self.bring_up(&order) => started,
        };
        let (answer, instance): (StartAnswer, _) = match started {
            Err(error) => (Err(NotUp::Failed(error)), None),
            Ok(Started { instance, phases }) => {
                self.keep(reserved, &order, &instance);
                let pid = instance.pid();
                (Ok(Up { pid, phases }), Some(instance))
            }
        };
        let text = serde_json::to_vec(&answer).unwrap_or_default();
        let told = answer_with(respond, text.into());
        if let (Err(_), Some(instance)) = (&told, instance) {
            instance.kill();
        }
        Ok(told?)
    }

    /// Takes room for an instance, until it is kept or what is returned is dropped.
    fn reserve(self: &Arc<Self>, link: LinkId, order: &StartOrder) -> Option<Reserved> {
        let wanted = (&order.spec.id.tenant, &order.resources);
        let reserved = self.news.with(|desk| {
            let alone = order.alone;
            desk.ledger.reserve(link, order.id, wanted, alone).is_ok()
        });
        reserved.then(|| Reserved {
            shared: Arc::clone(self),
            id: order.id,
            is_kept: false,
        })
    }

    async fn bring_up(&self, order: &StartOrder) -> Result<Started, StartError> {
        let spec = Arc::new(order.spec.clone());
        (self.prepare)(Arc::clone(&spec)).await?;
        let request = StartRequest {
            id: order.id,
            spec,
            resources: order.resources.clone(),
            label: order.label.clone(),
        };
        self.driver.start(request).await
    }

    /// Remembers an instance until it ends.
    fn keep(
        self: &Arc<Self>,
        mut reserved: Reserved,
        order: &StartOrder,
        instance: &Arc<dyn Instance>,
    ) {
        reserved.is_kept = true;
        let id = order.id;
        let hosted = Arc::new(Hosted {
            instance: Arc::clone(instance),
            order: order.without_secrets(),
        });
        let is_owned = self.news.quietly(|desk| {
            desk.hosted.insert(id, hosted);
            desk.ledger.up(id)
        });
        if !is_owned {
            instance.kill();
        }
        let (shared, instance) = (Arc::clone(self), Arc::clone(instance));
        self.tasks.spawn(async move {
            let exit: Exit = instance.exited().await;
            shared.news.with(|desk| {
                let hosted = desk.hosted.remove(&id);
                match (desk.ledger.gone(id), hosted) {
                    (Some(owner), _) => {
                        desk.tell(owner, json_part(Kind::Exit, &Ended { id, exit }));
                    }
                    (None, Some(hosted)) => desk.withdraw(&hosted.order, None),
                    (None, None) => {}
                }
            });
        });
    }

    pub(super) async fn stop(
        &self,
        link: LinkId,
        body: Incoming,
        respond: SendResponse<Bytes>,
    ) -> Result<(), Broken> {
        let mut fields = Fields(body.whole(LARGEST_ORDER).await?);
        let id = InstanceId(fields.u128()?);
        let grace = Duration::from_millis(fields.u64()?);
        if let Some(hosted) = self.find(link, id) {
            hosted.instance.stop(grace).await;
        } else {
            self.tell_gone(link, id);
        }
        Ok(answer_with(respond, Bytes::new())?)
    }

    pub(super) async fn kill(
        &self,
        link: LinkId,
        body: Incoming,
        respond: SendResponse<Bytes>,
    ) -> Result<(), Broken> {
        let mut fields = Fields(body.whole(LARGEST_ORDER).await?);
        let id = InstanceId(fields.u128()?);
        if let Some(hosted) = self.find(link, id) {
            hosted.instance.kill();
        } else {
            self.tell_gone(link, id);
        }
        Ok(answer_with(respond, Bytes::new())?)
    }

    /// Gives an orphan to the gateway that asks for it, if it is one still.
    pub(super) async fn take(
        &self,
        link: LinkId,
        body: Incoming,
        respond: SendResponse<Bytes>,
    ) -> Result<(), Broken> {
        let id = InstanceId(Fields(body.whole(LARGEST_ORDER).await?).u128()?);
        let taken = self.news.with(|desk| {
            let taken = desk.ledger.take(link, id);
            if let Some(hosted) = desk.hosted.get(&id).filter(|_| taken).cloned() {
                desk.withdraw(&hosted.order, Some(link));
            }
            taken
        });
        Ok(answer_with(
            respond,
            Bytes::copy_from_slice(&[u8::from(taken)]),
        )?)
    }

    /// Takes an instance back that its gateway leaves to another.
    pub(super) async fn leave(
        &self,
        link: LinkId,
        body: Incoming,
        respond: SendResponse<Bytes>,
    ) -> Result<(), Broken> {
        let id = InstanceId(Fields(body.whole(LARGEST_ORDER).await?).u128()?);
        self.news.with(|desk| {
            if desk.ledger.let_go(link, id, Instant::now()) {
                desk.offer(id);
            }
        });
        Ok(answer_with(respond, Bytes::new())?)
    }

    /// Whoever asks for the end of what is gone missed the news of it.
    fn tell_gone(&self, link: LinkId, id: InstanceId) {
        let exit = Exit {
            cause: ExitCause::Stopped,
            peak_memory: 0,
        };
        let gone = json_part(Kind::Exit, &Ended { id, exit });
        self.news.quietly(|desk| desk.tell(link, gone));
    }
}

/// Room for an instance that comes up.
struct Reserved {
    shared: Arc<Shared>,
    id: InstanceId,
    is_kept: bool,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.is_kept {
            self.shared.news.with(|desk| desk.ledger.gone(self.id));
        }
    }
}
