//! What nodes ask the platform: to join, for a new certificate, for a package.

use std::sync::Arc;

use bugle_scheduler::placement::NodeId;
use bugle_types::{TenantId, report};
use bytes::Bytes;
use futures_util::StreamExt as _;
use h2::server::SendResponse;
use http::{Request, Response, StatusCode};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::hub::{PackageBytes, Shared, twins};
use crate::members::Error;
use crate::stream::{Broken, Incoming, STREAM_WINDOW, send};
use crate::token::JoinToken;
use crate::wire;

/// A request of a node: a token, a name, a key.
const LARGEST_REQUEST: usize = 16 * 1024;

#[derive(Serialize, Deserialize)]
pub(crate) struct JoinRequest {
    pub(crate) token: String,
    pub(crate) node: String,
    pub(crate) public_key: Vec<u8>,
    /// The uid of the Pod that it is, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<String>,
}

/// A node asks for a new certificate.
#[derive(Serialize, Deserialize)]
pub(crate) struct RenewRequest {
    pub(crate) public_key: Vec<u8>,
    /// Which process of the node asks.
    pub(crate) process: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct JoinAnswer {
    pub(crate) certificate: Vec<u8>,
    pub(crate) authority: Vec<u8>,
}

impl Shared {
    /// Answers a node that asks.
    pub(crate) async fn serve_requests(
        self: &Arc<Self>,
        stream: TlsStream<TcpStream>,
        certificate: Option<CertificateDer<'static>>,
    ) -> Result<(), h2::Error> {
        let mut connection = h2::server::Builder::new()
            .max_concurrent_streams(4)
            .initial_window_size(STREAM_WINDOW)
            .handshake::<_, Bytes>(stream)
            .await?;
        while let Some(accepted) = connection.accept().await {
            let (request, respond) = accepted?;
            let (shared, certificate) = (Arc::clone(self), certificate.clone());
            self.tasks.spawn(async move {
                if let Err(error) = shared.answer(request, respond, certificate).await {
                    tracing::debug!(%error, "a request of a node broke");
                }
            });
        }
        Ok(())
    }

    async fn answer(
        &self,
        request: Request<h2::RecvStream>,
        respond: SendResponse<Bytes>,
        certificate: Option<CertificateDer<'static>>,
    ) -> Result<(), Broken> {
        let (head, body) = request.into_parts();
        let body = Incoming::new(body).whole(LARGEST_REQUEST).await?;
        let path = head.uri.path();
        if path == "/join" {
            return reply(respond, self.join(&body).await);
        }
        let known = match &certificate {
            Some(certificate) => self.members.who(certificate).await,
            None => Err(Error::Certificate),
        };
        let node = match known {
            Ok(node) => node,
            Err(error) => return reply(respond, Err(report(&error))),
        };
        if path == "/known" {
            return reply(respond, Ok(Vec::new()));
        }
        if path == "/renew" {
            return self.renew(&node, &body, respond).await;
        }
        let package = path.strip_prefix("/package/").and_then(|rest| {
            let (tenant, digest) = rest.split_once('/')?;
            Some((tenant.parse::<TenantId>().ok()?, digest.to_owned()))
        });
        let Some((tenant, digest)) = package else {
            return reply(respond, Err("no such thing is to be had here".to_owned()));
        };
        match (self.packages)(tenant, digest).await {
            Ok(bytes) => give(respond, bytes).await,
            Err(reason) => reply(respond, Err(reason)),
        }
    }

    /// A new certificate makes the former one worthless, so only the process gets one that is connected, if there is one.
    async fn renew(
        &self,
        node: &NodeId,
        body: &Bytes,
        respond: SendResponse<Bytes>,
    ) -> Result<(), Broken> {
        let RenewRequest {
            public_key,
            process,
        } = wire::json(body)?;
        if let Some(twin) = self.twin_of(node, &process).await {
            twins::tell(&twin, &process);
            return answer(respond, StatusCode::CONFLICT, twins::reason(&twin).into());
        }
        let renewed = self.members.renew(node, &public_key).await;
        reply(respond, self.shown(renewed))
    }

    async fn join(&self, body: &Bytes) -> Result<Vec<u8>, String> {
        let wrong = |_| "this is no request of a node that joins".to_owned();
        let JoinRequest {
            token,
            node,
            public_key,
            pod,
        } = wire::json(body).map_err(wrong)?;
        let token: JoinToken = token.parse().map_err(|error| report(&error))?;
        let node: NodeId = node.parse().map_err(|error| report(&error))?;
        let joined = match pod {
            None => self.members.join(&token, &node, &public_key).await,
            Some(uid) => self.join_pod(&token, &node, &uid, &public_key).await,
        };
        if joined.is_ok() {
            tracing::info!(%node, "a node has joined");
        }
        self.shown(joined)
    }

    /// Takes a Pod in that the cluster has.
    async fn join_pod(
        &self,
        token: &JoinToken,
        node: &NodeId,
        uid: &str,
        public_key: &[u8],
    ) -> Result<CertificateDer<'static>, Error> {
        let pool = (self.pods)(node.to_string(), uid.to_owned()).await;
        let pool = pool.map_err(Error::Cluster)?;
        let pool = pool.ok_or_else(|| Error::NoPod(node.clone()))?;
        let pod = (uid, pool.as_str());
        self.members.join_pod(token, node, pod, public_key).await
    }

    fn shown(&self, made: Result<CertificateDer<'static>, Error>) -> Result<Vec<u8>, String> {
        let certificate = made.map_err(|error| report(&error))?;
        let answer = JoinAnswer {
            certificate: certificate.to_vec(),
            authority: self.members.authority().certificate().to_vec(),
        };
        serde_json::to_vec(&answer).map_err(|error| error.to_string())
    }
}

/// What was asked for, or why not.
fn reply(respond: SendResponse<Bytes>, made: Result<Vec<u8>, String>) -> Result<(), Broken> {
    match made {
        Ok(made) => answer(respond, StatusCode::OK, made.into()),
        Err(reason) => answer(respond, StatusCode::FORBIDDEN, reason.into()),
    }
}

fn answer(mut respond: SendResponse<Bytes>, status: StatusCode, body: Bytes) -> Result<(), Broken> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    let mut stream = respond.send_response(response, false)?;
    Ok(stream.send_data(body, true)?)
}

async fn give(mut respond: SendResponse<Bytes>, mut bytes: PackageBytes) -> Result<(), Broken> {
    let mut stream = respond.send_response(Response::new(()), false)?;
    while let Some(chunk) = bytes.next().await {
        match chunk {
            Ok(chunk) => send(&mut stream, chunk).await?,
            Err(error) => {
                tracing::warn!(%error, "a package cannot be read for a node");
                stream.send_reset(h2::Reason::INTERNAL_ERROR);
                return Ok(());
            }
        }
    }
    Ok(stream.send_data(Bytes::new(), true)?)
}
