//! What platform and node say to each other.
//!
//! The node opens the connection, and then the platform asks over it: `/start`, `/call`, `/exchange`,
//! `/stop`, `/kill` and `/news`; where several gateways share the node, also `/take` and `/leave` for
//! instances that change hands, and `/gateways` to say who they are. `/close` and `/open` are about a node that nobody
//! uses and that is to go, `/alive` and `/refused` about two processes that both are the same node. What goes on the way of a call is bytes ([`crate::parts`]); the rest is JSON. Both are of the same build or they do not speak ([`PROTOCOL`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bugle_instances::{
    CallError, CallRequest, Exit, InstanceId, LogStream, Reply, ReplyBody, StartError, StartPhases,
    StreamPart,
};
use bugle_scheduler::placement::Others;
use bugle_types::{FunctionId, FunctionSpec, InstanceLabel, Resources, SealedEnvironment};
use bytes::{BufMut as _, Bytes};
use serde::{Deserialize, Serialize};

use crate::parts::{Fields, Garbage, Kind, Part, Writer, json_part, part};

/// Changes whenever a shape in this crate does.
pub(crate) const PROTOCOL: u32 = 4;

/// The protocol of a connection over which the platform asks.
pub(crate) const ALPN_NODE: &[u8] = b"bugle-node/1";

/// The protocol of a connection over which the node asks.
pub(crate) const ALPN_PLATFORM: &[u8] = b"bugle-platform/1";

/// An instance, as it is ordered and as a node remembers it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StartOrder {
    pub(crate) id: InstanceId,
    /// Its variables are in clear: the node has no key.
    pub(crate) spec: FunctionSpec,
    pub(crate) resources: Resources,
    pub(crate) label: Option<InstanceLabel>,
    /// Whether its tenant shares the node with no other.
    #[serde(default)]
    pub(crate) alone: bool,
    /// The platform's mark on it ([`crate::orders`]).
    #[serde(default)]
    pub(crate) mark: String,
}

impl StartOrder {
    /// What is remembered: whatever is secret in it is in the instance alone.
    pub(crate) fn without_secrets(&self) -> Self {
        let mut order = self.clone();
        order.spec.environment = SealedEnvironment::default();
        order
    }
}

/// An instance that is up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Up {
    pub(crate) pid: Option<u32>,
    pub(crate) phases: StartPhases,
}

/// Why an instance is not up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum NotUp {
    /// It did not start.
    Failed(StartError),
    /// The node has no room for it; what others have of it.
    Full(Others),
}

/// The answer to an order.
pub(crate) type StartAnswer = Result<Up, NotUp>;

/// What a node says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u32,
    pub(crate) build: String,
    /// Which process it is.
    pub(crate) process: String,
    pub(crate) cpu: u64,
    pub(crate) memory: u64,
    pub(crate) custom: BTreeMap<String, i64>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) pool: Option<String>,
    pub(crate) group: Option<String>,
}

/// An instance that runs without a gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) order: StartOrder,
    pub(crate) pid: Option<u32>,
    /// Whether it runs a call still: it is for nobody before that has ended.
    pub(crate) busy: bool,
}

/// One that is no such any more: it has ended, or a gateway has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Gone {
    pub(crate) function: FunctionId,
    pub(crate) id: InstanceId,
}

/// One of several gateways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayAddress {
    /// Which member it is.
    pub id: String,
    /// Where nodes reach it, as `host:port`.
    pub address: String,
}

/// The gateways at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// Which moment: more is later.
    pub revision: u64,
    /// The member that says it; none while it is no member.
    pub me: Option<String>,
    /// All of them.
    pub gateways: Vec<GatewayAddress>,
}

/// Everything that a roster makes orphans has been offered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) revision: u64,
}

/// An instance that ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) id: InstanceId,
    pub(crate) exit: Exit,
}

/// A line that user code wrote.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) function: FunctionId,
    pub(crate) instance: InstanceId,
    pub(crate) request: Option<String>,
    pub(crate) stream: LogStream,
    pub(crate) text: String,
}

const WITH_JSON: u8 = 1;
const WITH_STREAM: u8 = 2;

/// The body of a call: its head, then `meta`, then the body as the client sent it.
pub(crate) fn call_head(instance: InstanceId, request: &CallRequest) -> Writer {
    let mut writer = Writer::default();
    writer.0.reserve(128);
    writer.0.put_u128_le(instance.0);
    writer
        .0
        .put_u64_le(u64::try_from(request.timeout.as_millis()).unwrap_or(u64::MAX));
    let json = if request.json { WITH_JSON } else { 0 };
    let stream = request.stream.as_ref().map_or(0, |_| WITH_STREAM);
    writer.0.put_u8(json | stream);
    writer.piece(request.request.as_bytes());
    writer
        .0
        .put_u32_le(u32::try_from(request.meta.len()).unwrap_or(u32::MAX));
    writer
}

/// A call as a node reads it; its stream is the caller's to add.
pub(crate) fn read_call(bytes: Bytes) -> Result<(InstanceId, CallRequest, bool), Garbage> {
    let mut fields = Fields(bytes);
    let instance = InstanceId(fields.u128()?);
    let timeout = Duration::from_millis(fields.u64()?);
    let flags = fields.u8()?;
    let request: Arc<str> = fields.text()?.into();
    let meta = fields.u32()?;
    let meta = fields.bytes(usize::try_from(meta).unwrap_or(usize::MAX))?;
    let call = CallRequest {
        request,
        body: fields.rest(),
        meta,
        json: flags & WITH_JSON != 0,
        timeout,
        stream: None,
    };
    Ok((instance, call, flags & WITH_STREAM != 0))
}

const FORM_JSON: u8 = 0;
const FORM_HTTP: u8 = 1;
const FORM_STREAMED: u8 = 2;
const FORM_ERROR: u8 = 3;

#[derive(Serialize, Deserialize)]
struct UserError {
    code: u32,
    message: String,
    kind: Option<String>,
    trace: Option<String>,
}

/// An answer as a part.
pub(crate) fn reply_part(answer: &Result<Reply, CallError>) -> Bytes {
    let reply = match answer {
        Ok(reply) => reply,
        Err(error) => return json_part(Kind::NoReply, error),
    };
    let mut writer = Writer::default();
    let micros = u64::try_from(reply.run.as_micros()).unwrap_or(u64::MAX);
    writer.0.put_u64_le(micros);
    writer.0.put_u64_le(reply.peak_memory);
    writer.piece(&reply.log_tail);
    let error;
    let body: &[u8] = match &reply.body {
        ReplyBody::Json(body) => {
            writer.0.put_u8(FORM_JSON);
            body
        }
        ReplyBody::Http {
            status,
            headers,
            body,
        } => {
            writer.0.put_u8(FORM_HTTP);
            writer.0.put_u16_le(*status);
            let pairs = headers.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
            writer.pairs(pairs);
            body
        }
        ReplyBody::Streamed => {
            writer.0.put_u8(FORM_STREAMED);
            &[]
        }
        ReplyBody::Error {
            code,
            message,
            kind,
            trace,
        } => {
            writer.0.put_u8(FORM_ERROR);
            let user = UserError {
                code: *code,
                message: message.clone(),
                kind: kind.clone(),
                trace: trace.clone(),
            };
            error = serde_json::to_vec(&user).unwrap_or_default();
            &error
        }
    };
    part(Kind::Reply, &[&writer.0, body])
}

/// An answer as the platform reads it.
pub(crate) fn read_reply(payload: Bytes) -> Result<Reply, Garbage> {
    let mut fields = Fields(payload);
    let run = Duration::from_micros(fields.u64()?);
    let peak_memory = fields.u64()?;
    let log_tail = fields.piece()?.to_vec();
    let body = match fields.u8()? {
        FORM_JSON => ReplyBody::Json(fields.rest()),
        FORM_HTTP => {
            let status = fields.u16()?;
            if !(100..600).contains(&status) {
                return Err(Garbage("a status that is none"));
            }
            ReplyBody::Http {
                status,
                headers: fields.pairs()?,
                body: fields.rest(),
            }
        }
        FORM_STREAMED => ReplyBody::Streamed,
        FORM_ERROR => {
            let user: UserError = json(&fields.rest())?;
            ReplyBody::Error {
                code: user.code,
                message: user.message,
                kind: user.kind,
                trace: user.trace,
            }
        }
        _ => return Err(Garbage("an answer of no known form")),
    };
    Ok(Reply {
        body,
        run,
        peak_memory,
        log_tail,
    })
}

/// A piece of a handler's stream as a part.
pub(crate) fn stream_part(piece: &StreamPart) -> Bytes {
    match piece {
        StreamPart::Message(bytes) => part(Kind::Message, &[bytes]),
        StreamPart::Head(headers) => {
            let mut writer = Writer::default();
            writer.pairs(headers.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
            part(Kind::StreamHead, &[&writer.0])
        }
        StreamPart::Events(bytes) => part(Kind::Events, &[bytes]),
    }
}

/// A piece of a handler's stream, if the part is one.
pub(crate) fn read_stream(part: Part) -> Result<StreamPart, Garbage> {
    match part.kind {
        Kind::Message => Ok(StreamPart::Message(part.payload)),
        Kind::StreamHead => Ok(StreamPart::Head(Fields(part.payload).pairs()?)),
        Kind::Events => Ok(StreamPart::Events(part.payload)),
        _ => Err(Garbage("a part that has no place in an answer")),
    }
}

/// A value that the other side sent as JSON.
pub(crate) fn json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Garbage> {
    serde_json::from_slice(bytes).map_err(|_| Garbage("JSON of another shape"))
}

#[cfg(test)]
mod tests {
    use bugle_instances::ExitCause;
    use bytes::BytesMut;

    use super::*;

    #[test]
    fn a_call_comes_out_as_it_went_in() {
        let call = CallRequest {
            request: "trace-1".into(),
            body: Bytes::from_static(b"{\"a\":1}"),
            meta: Bytes::from_static(b"{}"),
            json: true,
            timeout: Duration::from_millis(2500),
            stream: None,
        };
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(&call_head(InstanceId(77), &call).0);
        bytes.extend_from_slice(&call.meta);
        bytes.extend_from_slice(&call.body);
        let (instance, read, streams) = read_call(bytes.freeze()).unwrap();
        assert_eq!((instance, streams), (InstanceId(77), false));
        assert_eq!((read.body, read.meta), (call.body, call.meta));
        assert_eq!((read.timeout, read.json), (call.timeout, call.json));
        assert_eq!(&*read.request, "trace-1");
    }

    #[test]
    fn every_form_of_an_answer_comes_out_as_it_went_in() {
        let bodies = [
            ReplyBody::Json(Bytes::from_static(b"1")),
            ReplyBody::Streamed,
            ReplyBody::Http {
                status: 204,
                headers: vec![("a".to_owned(), "b".to_owned())],
                body: Bytes::from_static(b"x"),
            },
            ReplyBody::Error {
                code: 4002,
                message: "boom".to_owned(),
                kind: None,
                trace: Some("at".to_owned()),
            },
        ];
        for body in bodies {
            let shown = format!("{body:?}");
            let reply = Reply {
                body,
                run: Duration::from_micros(9),
                peak_memory: 3,
                log_tail: b"tail".to_vec(),
            };
            let bytes = reply_part(&Ok(reply));
            let read = read_reply(bytes.slice(5..)).unwrap();
            assert_eq!(format!("{:?}", read.body), shown);
            assert_eq!(read.log_tail, b"tail");
        }
        let error = CallError::Exited(ExitCause::Code(3));
        let bytes = reply_part(&Err(error.clone()));
        assert_eq!(json::<CallError>(&bytes[5..]).unwrap(), error);
    }
}
