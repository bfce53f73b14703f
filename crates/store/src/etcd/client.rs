//! Requests to an etcd: the members in turn, the login, and what may be tried again.
//!
//! A request that reached no member, or that a member says it did not take, is tried with the next
//! one until its time is over. A write that was sent and not answered is tried again only if doing
//! it twice is the same as doing it once.

use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use parking_lot::Mutex;
use prost::Message;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::config::{EtcdConfig, Login};
use super::encoded::Encoded;
use super::failure::Failure;
use super::wire::{AuthenticateRequest, AuthenticateResponse, path};

/// The pause before the next member is asked, so that a cluster that elects a leader is not
/// hammered.
const PAUSE: Duration = Duration::from_millis(50);

/// A member that does not answer something that may be asked again gets this long before the next
/// one is asked.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Whether a request may be sent again although it may have been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// Doing it twice is the same as doing it once.
    Harmless,
    /// Only if it was certainly not done.
    OnlyUndone,
}

/// What an error says about the request.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It was not done; another member, or the same one later, may do it.
    Undone,
    /// It may have been done.
    Unknown,
    /// The login has to be made anew; it was not done.
    LoggedOut,
    /// It will never be done.
    Final(Failure),
}

/// The connections to the members of a cluster.
pub(super) struct Client {
    members: Vec<Channel>,
    shown: String,
    /// The one that is asked; those after it follow when it fails.
    current: AtomicUsize,
    login: Option<Login>,
    token: Mutex<Option<MetadataValue<Ascii>>>,
    timeout: Duration,
}

impl Client {
    /// Connections that are made when they are first used. Needs a runtime around it.
    pub(super) fn new(config: &EtcdConfig) -> Result<Self, Failure> {
        let members = config.members()?;
        Ok(Self {
            members: members.iter().map(Endpoint::connect_lazy).collect(),
            shown: config.shown(),
            current: AtomicUsize::new(0),
            login: config.login()?,
            token: Mutex::new(None),
            timeout: config.request_timeout(),
        })
    }

    /// How long a request may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// No member answered, for this reason.
    pub(super) fn unreachable(&self, reason: String) -> Failure {
        Failure::Unreachable {
            endpoints: self.shown.clone(),
            reason,
        }
    }

    /// Asks the next member from now on.
    pub(super) fn move_on(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    fn member(&self) -> Grpc<Channel> {
        let at = self.current.load(Ordering::Relaxed) % self.members.len();
        // A page of a range has as many bytes as its values have; their number is what is limited.
        Grpc::new(self.members[at].clone()).max_decoding_message_size(usize::MAX)
    }

    /// Sends a request until it is answered, refused, or its time is over.
    ///
    /// # Errors
    ///
    /// [`Failure`]; [`Failure::Unsure`] only for a request that may not be repeated.
    pub(super) async fn ask<M, R>(
        &self,
        path: &'static str,
        message: M,
        again: Again,
    ) -> Result<R, Failure>
    where
        M: Message,
        R: Message + Default + 'static,
    {
        let message = message.encode_to_vec().into();
        self.ask_encoded(path, message, again).await
    }

    /// The same for a request that is encoded already.
    ///
    /// # Errors
    ///
    /// As above.
    pub(super) async fn ask_encoded<R>(
        &self,
        path: &'static str,
        message: Bytes,
        again: Again,
    ) -> Result<R, Failure>
    where
        R: Message + Default + 'static,
    {
        let deadline = Instant::now() + self.timeout;
        let mut reason = "it gave no answer in time".to_owned();
        let mut logins = 0;
        loop {
            let until = match again {
                Again::Harmless => deadline.min(Instant::now() + ATTEMPT),
                Again::OnlyUndone => deadline,
            };
            let verdict = match timeout_at(until, self.attempt(path, message.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => {
                    reason = words(&status);
                    judge(&status)
                }
                Err(_) => Verdict::Unknown,
            };
            match verdict {
                Verdict::Final(failure) => return Err(failure),
                Verdict::LoggedOut if logins < 2 && self.login.is_some() => {
                    logins += 1;
                    *self.token.lock() = None;
                    continue;
                }
                Verdict::LoggedOut => return Err(Failure::Denied { reason }),
                Verdict::Unknown if again == Again::OnlyUndone => {
                    self.move_on();
                    return Err(Failure::Unsure { reason });
                }
                Verdict::Unknown | Verdict::Undone => self.move_on(),
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(self.unreachable(reason));
            }
            sleep(PAUSE).await;
        }
    }

    async fn attempt<R>(&self, path: &'static str, message: Bytes) -> Result<R, Status>
    where
        R: Message + Default + 'static,
    {
        let codec = Encoded::<R>::new(message.len());
        let request = self.request(message).await?;
        let mut member = self.member();
        ready(&mut member).await?;
        let path = PathAndQuery::from_static(path);
        let answer = member.unary(request, path, codec);
        Ok(answer.await?.into_inner())
    }

    /// Opens a stream of answers; the requests must not end before it. Members are not changed here:
    /// who reads the stream does that.
    pub(super) async fn stream<M, R>(
        &self,
        path: &'static str,
        requests: impl Stream<Item = M> + Send + 'static,
    ) -> Result<Streaming<R>, Failure>
    where
        M: Message + 'static,
        R: Message + Default + 'static,
    {
        let open = async {
            let request = self.request(requests).await?;
            let mut member = self.member();
            ready(&mut member).await?;
            let path = PathAndQuery::from_static(path);
            let answer = member.streaming(request, path, ProstCodec::<M, R>::default());
            Ok::<_, Status>(answer.await?.into_inner())
        };
        match timeout(self.timeout, open).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(status)) => Err(self.lost(&status)),
            Err(_) => Err(self.unreachable("it opens no watch in time".to_owned())),
        }
    }

    /// What the end of a stream means.
    pub(super) fn lost(&self, status: &Status) -> Failure {
        match judge(status) {
            Verdict::Final(failure) => failure,
            Verdict::LoggedOut => {
                *self.token.lock() = None;
                self.unreachable(words(status))
            }
            Verdict::Undone | Verdict::Unknown => self.unreachable(words(status)),
        }
    }

    /// A request with what every one has: the token, and the wish that a member without a leader
    /// says so instead of keeping still.
    async fn request<T>(&self, message: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = self.token().await? {
            metadata.insert("token", token);
        }
        Ok(request)
    }

    /// The token of the login; none without a user.
    async fn token(&self) -> Result<Option<MetadataValue<Ascii>>, Status> {
        let Some(Login { user, password }) = &self.login else {
            return Ok(None);
        };
        let known = self.token.lock().clone();
        if known.is_some() {
            return Ok(known);
        }
        let login = AuthenticateRequest {
            name: user.clone(),
            password: password.clone(),
        };
        let mut member = self.member();
        ready(&mut member).await?;
        let path = PathAndQuery::from_static(path::AUTHENTICATE);
        let codec = ProstCodec::<_, AuthenticateResponse>::default();
        let answer = member.unary(Request::new(login), path, codec).await?;
        let token = MetadataValue::try_from(answer.into_inner().token)
            .map_err(|_| Status::internal("etcd gave a token that no header can hold"))?;
        *self.token.lock() = Some(token.clone());
        Ok(Some(token))
    }
}

async fn ready(member: &mut Grpc<Channel>) -> Result<(), Status> {
    let ready = member.ready().await;
    ready.map_err(|error| Status::unavailable(format!("{NOT_SENT}: {}", chain(&error))))
}

/// How a status begins that was made here because there is no connection.
const NOT_SENT: &str = "no connection";

/// What a status says about the request. etcd's own texts are part of its interface: many share a
/// code.
fn judge(status: &Status) -> Verdict {
    let text = status.message();
    let says = |part: &str| text.contains(part);
    let reason = || words(status);
    match status.code() {
        _ if says("database space exceeded") => Verdict::Final(Failure::NoSpace),
        _ if says("invalid auth token") || says("revision of auth store is old") => {
            Verdict::LoggedOut
        }
        Code::Unauthenticated | Code::PermissionDenied => {
            Verdict::Final(Failure::Denied { reason: reason() })
        }
        _ if says("authentication failed") || says("user name is empty") => {
            Verdict::Final(Failure::Denied { reason: reason() })
        }
        _ if says("no leader") || says("too many requests") || says(NOT_SENT) => Verdict::Undone,
        Code::Unavailable if is_unconnected(status) => Verdict::Undone,
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::Aborted => Verdict::Unknown,
        _ => Verdict::Final(Failure::Refused { reason: reason() }),
    }
}

/// Whether the request never left.
fn is_unconnected(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// A status as a person reads it.
fn words(status: &Status) -> String {
    let text = status.message().trim_start_matches("etcdserver: ");
    match status.source().map(chain) {
        Some(cause) if !cause.contains(text) => format!("{text}: {cause}"),
        Some(cause) => cause,
        None => text.to_owned(),
    }
}

/// An error and what caused it, each said once.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_certainly_not_done_is_undone() {
        let verdict = |code, text: &str| judge(&Status::new(code, text));
        for text in ["etcdserver: no leader", "etcdserver: too many requests"] {
            assert_eq!(verdict(Code::Unavailable, text), Verdict::Undone, "{text}");
        }
        for text in [
            "etcdserver: leader changed",
            "etcdserver: request timed out",
            "etcdserver: request timed out, possibly due to previous leader failure",
            "h2 protocol error: http2 error",
        ] {
            assert_eq!(verdict(Code::Unavailable, text), Verdict::Unknown, "{text}");
        }
    }

    #[test]
    fn a_login_that_has_become_old_is_made_anew_and_a_wrong_one_is_final() {
        let verdict = |code, text: &str| judge(&Status::new(code, text));
        for (code, text) in [
            (Code::Unauthenticated, "etcdserver: invalid auth token"),
            (
                Code::InvalidArgument,
                "etcdserver: revision of auth store is old",
            ),
        ] {
            assert_eq!(verdict(code, text), Verdict::LoggedOut, "{text}");
        }
        for (code, text) in [
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
            ),
            (Code::PermissionDenied, "etcdserver: permission denied"),
        ] {
            let verdict = verdict(code, text);
            assert!(
                matches!(verdict, Verdict::Final(Failure::Denied { .. })),
                "{verdict:?}"
            );
        }
    }

    #[test]
    fn a_full_database_is_told_from_a_busy_one() {
        let full = Status::resource_exhausted("etcdserver: mvcc: database space exceeded");
        assert_eq!(judge(&full), Verdict::Final(Failure::NoSpace));
    }
}
