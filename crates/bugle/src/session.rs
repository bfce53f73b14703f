//! A conversation with a platform: where it is, who is asking, how to show what it says.

use std::future::Future;

use bugle_client::{Answer, Base, Call, Control, Error, Operation};
use http::HeaderValue;
use http::header::ACCEPT;
use tokio::sync::OnceCell;

use crate::arguments::{Format, Global};
use crate::failure::{Failure, Outcome, exit};
use crate::output;

/// The tenant of those who name none.
const TENANT: &str = "default";

/// The content type of a stream of events.
pub(crate) const EVENTS: &str = "text/event-stream";

/// What the commands share.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) control: Control,
    pub(crate) format: Format,
    pub(crate) quiet: bool,
    /// Requests are shown, not sent.
    pub(crate) curl: bool,
    pub(crate) tenant: String,
    gateway: OnceCell<Base>,
}

impl Session {
    pub(crate) fn new(global: &Global) -> Outcome<Self> {
        let gateway = global.gateway.as_deref().map(str::parse).transpose()?;
        let header = |tenant: &String| {
            HeaderValue::from_str(tenant)
                .map_err(|_| Failure::usage(format!("the tenant {tenant:?} is not text")))
        };
        Ok(Self {
            control: Control {
                base: global.server.parse()?,
                tenant: global.tenant.as_ref().map(header).transpose()?,
            },
            format: global.output,
            quiet: global.quiet,
            curl: global.curl,
            tenant: global.tenant.clone().unwrap_or_else(|| TENANT.to_owned()),
            gateway: OnceCell::new_with(gateway),
        })
    }

    /// Where functions are called.
    pub(crate) async fn gateway(&self) -> Outcome<&Base> {
        self.gateway
            .get_or_try_init(async || Ok(self.control.info().send().await?.gateway.parse()?))
            .await
    }

    /// Carries out what the command is for; with `--curl` the request is shown instead, and there
    /// is nothing left to do.
    pub(crate) async fn perform<T>(&self, operation: Operation<T>) -> Outcome<T> {
        if self.curl {
            Self::show_curl(&operation.base, &operation.call, None)?;
            return Err(Failure::done());
        }
        Ok(operation.send().await?)
    }

    /// Calls a function.
    pub(crate) async fn invoke(&self, call: Call) -> Outcome<Answer> {
        self.gateway()
            .await?
            .send(call)
            .await
            .map_err(|error| match error {
                Error::Connect { .. } => Failure::from(error).hint(
                    "this is the invocation gateway's address; --gateway names another, and \
                     without it the platform is asked",
                ),
                error => error.into(),
            })
    }

    /// Says something on standard error, unless that is not wanted.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            output::note(text);
        }
    }

    /// Prints the curl command of a request. `data` is what curl reads the body from, where it is
    /// not at hand here: `@FILE`, or `@-` for standard input.
    pub(crate) fn show_curl(base: &Base, call: &Call, data: Option<&str>) -> Outcome {
        output::line(&curl(base, call, data))
    }
}

/// The curl command of a request, for a POSIX shell.
pub(crate) fn curl(base: &Base, call: &Call, data: Option<&str>) -> String {
    // What is streamed should be seen as it comes.
    let is_stream = call
        .headers
        .get(ACCEPT)
        .is_some_and(|accept| accept == EVENTS);
    let mut command = format!(
        "curl {}-X {} {}",
        if is_stream { "-N " } else { "" },
        call.method,
        quote(&format!("{base}{}", call.path))
    );
    for (name, value) in &call.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        // With a colon and nothing behind it, curl leaves the header out.
        let header = if value.is_empty() {
            format!("{name};")
        } else {
            format!("{name}: {value}")
        };
        command.push_str(" -H ");
        command.push_str(&quote(&header));
    }
    if let Some(data) = data {
        command.push_str(" --data-binary ");
        command.push_str(&quote(data));
    } else if !call.body.is_empty() {
        // A body that begins with `@` is no file's name. All bodies made here are text.
        command.push_str(" --data-raw ");
        command.push_str(&quote(&String::from_utf8_lossy(&call.body)));
    }
    command
}

/// The text for a shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Runs a command that talks to a platform; Ctrl-C ends it.
pub(crate) fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    uninterrupted(async {
        tokio::select! {
            biased;
            outcome = command => outcome,
            _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
        }
    })
}

/// Runs what ends in its own way when Ctrl-C comes.
pub(crate) fn uninterrupted(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime =
        runtime.map_err(|error| Failure::new(exit::REFUSED, format!("no runtime: {error}")))?;
    let outcome = runtime.block_on(command);
    // A read of standard input may never end; it must not hold the process.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(body: &'static str, headers: &[(&'static str, &'static str)]) -> Call {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        Call {
            method: http::Method::POST,
            path: "/x".to_owned(),
            headers: headers.collect(),
            body: body.into(),
            limit: std::time::Duration::ZERO,
        }
    }

    #[test]
    fn a_shown_request_can_be_pasted_into_a_shell() {
        let base: Base = "http://127.0.0.1:1".parse().unwrap();
        assert_eq!(
            curl(&base, &call("\"it's\"", &[("a", "b"), ("c", "")]), None),
            r#"curl -X POST 'http://127.0.0.1:1/x' -H 'a: b' -H 'c;' --data-raw '"it'\''s"'"#
        );
        assert_eq!(
            curl(&base, &call("", &[("accept", EVENTS)]), Some("@a'b")),
            r"curl -N -X POST 'http://127.0.0.1:1/x' -H 'accept: text/event-stream' --data-binary '@a'\''b'"
        );
    }
}
