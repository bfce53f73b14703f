//! A conversation with a platform: where it is, who is asking, how to show what it says.

use std::future::Future;

use bugle_client::{Base, Call, Control};
use http::HeaderValue;
use tokio::sync::OnceCell;

use crate::arguments::{Format, Global};
use crate::failure::{Failure, Outcome, exit};
use crate::output;

/// The tenant of those who name none.
const TENANT: &str = "default";

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
            .get_or_try_init(async || Ok(self.control.info().await?.gateway.parse()?))
            .await
    }

    /// Says something on standard error, unless that is not wanted.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            output::note(text);
        }
    }

    /// Prints the curl command of a request.
    pub(crate) fn show_curl(base: &Base, call: &Call) -> Outcome {
        output::line(&curl(base, call))
    }
}

fn curl(base: &Base, call: &Call) -> String {
    let mut command = format!(
        "curl -X {} {}",
        call.method,
        quote(&format!("{base}{}", call.path))
    );
    for (name, value) in &call.headers {
        let header = format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()));
        command.push_str(" -H ");
        command.push_str(&quote(&header));
    }
    if !call.body.is_empty() {
        command.push_str(" --data-binary ");
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime =
        runtime.map_err(|error| Failure::new(exit::REFUSED, format!("no runtime: {error}")))?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            biased;
            outcome = command => outcome,
            _ = tokio::signal::ctrl_c() => Err(Failure::new(exit::INTERRUPTED, "interrupted")),
        }
    });
    // A read of standard input may never end; it must not hold the process.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_request_can_be_pasted_into_a_shell() {
        let base: Base = "http://127.0.0.1:1".parse().unwrap();
        let control = Control {
            base: base.clone(),
            tenant: None,
        };
        let call = control.call(http::Method::POST, "/x".to_owned(), Some(&"it's"));
        assert_eq!(
            curl(&base, &call),
            r#"curl -X POST 'http://127.0.0.1:1/x' -H 'content-type: application/json' --data-binary '"it'\''s"'"#
        );
    }
}
