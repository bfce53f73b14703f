//! The calls that gateways send to instances of a node.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bugle_instances::{
    BrokenBody, CallError, ExitCause, HttpBody, HttpExchange, HttpReplyBody, InstanceId, NoReply,
    UnderWay,
};
use bytes::Bytes;
use h2::server::SendResponse;
use http::Response;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;

use super::ledger::LinkId;
use super::news::Hosted;
use super::{LARGEST_ORDER, Shared, answer_with};
use crate::heads;
use crate::parts::{Fields, Garbage, Kind, Part, json_part, part};
use crate::stream::{Broken, Incoming, send};
use crate::tunnel;
use crate::wire;

/// Pieces of a handler's stream that wait for the connection.
const PIECES: usize = 16;

impl Shared {
    /// Counts a call of an instance that is this link's, until what is returned is dropped.
    fn run(&self, link: LinkId, id: InstanceId) -> Option<(Arc<Hosted>, Running<'_>)> {
        let hosted = self.news.quietly(|desk| {
            let hosted = desk.hosted.get(&id).cloned()?;
            desk.ledger.begin(link, id).then_some(hosted)
        })?;
        let running = Running {
            shared: self,
            id,
            _under_way: self.awake.call(),
        };
        Some((hosted, running))
    }

    pub(super) async fn call(
        &self,
        link: LinkId,
        body: Incoming,
        mut respond: SendResponse<Bytes>,
    ) -> Result<(), Broken> {
        let (id, mut call, streams) = wire::read_call(body.whole(LARGEST_ORDER).await?)?;
        let Some((hosted, _running)) = self.run(link, id) else {
            let gone = CallError::NotSent(ExitCause::Stopped);
            return Ok(answer_with(respond, wire::reply_part(&Err(gone)))?);
        };
        if !streams {
            let answer = hosted.instance.call(call).await;
            return Ok(answer_with(respond, wire::reply_part(&answer))?);
        }
        let (sender, mut pieces) = mpsc::channel(PIECES);
        call.stream = Some(sender);
        let mut stream = respond.send_response(Response::new(()), false)?;
        let mut answer = hosted.instance.call(call);
        let answer = loop {
            tokio::select! {
                biased;
                Some(piece) = pieces.recv() => {
                    // A platform that is gone takes nothing; the call goes on.
                    _ = send(&mut stream, wire::stream_part(&piece)).await;
                }
                answer = &mut answer => break answer,
            }
        };
        while let Ok(piece) = pieces.try_recv() {
            send(&mut stream, wire::stream_part(&piece)).await?;
        }
        send(&mut stream, wire::reply_part(&answer)).await?;
        Ok(stream.send_data(Bytes::new(), true)?)
    }

    pub(super) async fn exchange(
        &self,
        link: LinkId,
        mut body: Incoming,
        mut respond: SendResponse<Bytes>,
    ) -> Result<(), Broken> {
        let Some(Part { payload, .. }) = body.part().await? else {
            return Err(Garbage("an exchange without a head").into());
        };
        let mut fields = Fields(payload);
        let id = InstanceId(fields.u128()?);
        let (request, head) = heads::read_request(fields)?;
        let Some((hosted, _running)) = self.run(link, id) else {
            let gone = CallError::NotSent(ExitCause::Stopped);
            return Ok(answer_with(respond, json_part(Kind::NoReply, &gone))?);
        };
        let (body, tunnel) = if tunnel::is_asked_for(&head) {
            (HttpBody::default(), Some(body))
        } else {
            (HttpBody::Stream(Box::pin(Upload(body))), None)
        };
        let exchange = HttpExchange {
            request,
            head,
            body,
        };
        let reply = match hosted.instance.exchange(exchange).await {
            Ok(reply) => reply,
            Err(no) => {
                let error = match no {
                    NoReply::NotSent(cause, _) => CallError::NotSent(cause),
                    NoReply::Failed(error) => error,
                };
                return Ok(answer_with(respond, json_part(Kind::NoReply, &error))?);
            }
        };
        let mut stream = respond.send_response(Response::new(()), false)?;
        let head = heads::response(&reply.head);
        send(&mut stream, part(Kind::Head, &[&head])).await?;
        let mut answer = match reply.body {
            HttpReplyBody::Stream(answer) => answer,
            HttpReplyBody::Upgraded(server) => {
                // The server agrees to nothing that it was not asked for.
                if let Some(body) = tunnel
                    && let Err(end) = tunnel::to_server(server, stream, body).await
                {
                    tracing::debug!(%end, "an upgraded connection broke");
                }
                return Ok(());
            }
        };
        loop {
            let frame = tokio::select! {
                biased;
                frame = std::future::poll_fn(|cx| answer.as_mut().poll_frame(cx)) => frame,
                _ = std::future::poll_fn(|cx| stream.poll_reset(cx)) => return Ok(()),
            };
            match frame {
                None => return Ok(stream.send_data(Bytes::new(), true)?),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        send(&mut stream, bytes).await?;
                    }
                }
                Some(Err(_)) => {
                    stream.send_reset(h2::Reason::INTERNAL_ERROR);
                    return Ok(());
                }
            }
        }
    }
}

/// A call that runs.
struct Running<'a> {
    shared: &'a Shared,
    id: InstanceId,
    _under_way: UnderWay,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.shared.news.quietly(|desk| {
            if desk.ledger.end(self.id) {
                desk.offer(self.id);
            }
        });
    }
}

/// A caller's body as it comes over the connection.
struct Upload(Incoming);

impl Body for Upload {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        let polled = std::pin::pin!(self.get_mut().0.raw()).poll(cx);
        polled.map(|read| match read {
            Ok(Some(bytes)) => Some(Ok(Frame::data(bytes))),
            Ok(None) => None,
            Err(_) => Some(Err(BrokenBody)),
        })
    }
}
