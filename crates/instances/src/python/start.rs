//! What an instance is told when it starts.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::StartRequest;
use crate::environment::environment;
use crate::stream::WINDOW;

/// The START frame's meta part. `runtimes/python/_bugle/instance.py` reads it.
#[derive(Serialize)]
struct Message<'a> {
    instance: String,
    handler: &'a str,
    initializer: Option<&'a str>,
    initializer_timeout_ms: u64,
    pre_stop: Option<&'a str>,
    pre_stop_timeout_ms: u64,
    code: &'a str,
    environment: BTreeMap<&'a str, String>,
    user_data: &'a BTreeMap<String, String>,
    timeout_ms: u64,
    memory_mb: u64,
    cpu_millis: u32,
    function: Function<'a>,
    stream_window: u64,
}

#[derive(Serialize)]
struct Function<'a> {
    tenant: &'a str,
    service: &'a str,
    name: &'a str,
    version: &'a str,
    label: &'a str,
}

/// The message for `request`, whose code is in `code`; `user` are the function's own variables, and
/// `temporary` is where it writes if it has no `/tmp` of its own.
pub(super) fn message(
    request: &StartRequest,
    code: &Path,
    temporary: Option<&Path>,
    user: &BTreeMap<String, String>,
) -> Result<Vec<u8>, String> {
    let spec = &request.spec;
    let code = code
        .to_str()
        .ok_or_else(|| format!("the code path {} is not UTF-8", code.display()))?;
    let millis =
        |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let message = Message {
        instance: request.id.to_string(),
        handler: &spec.handler,
        initializer: spec.initializer.as_ref().map(|hook| hook.handler.as_str()),
        initializer_timeout_ms: spec
            .initializer
            .as_ref()
            .map_or(0, |hook| millis(hook.timeout)),
        pre_stop: spec.pre_stop.as_ref().map(|hook| hook.handler.as_str()),
        pre_stop_timeout_ms: spec
            .pre_stop
            .as_ref()
            .map_or(0, |hook| millis(hook.timeout)),
        code,
        environment: python_environment(request, code, temporary, user)?,
        user_data: user,
        timeout_ms: millis(spec.timeout),
        memory_mb: request.resources.memory.0,
        cpu_millis: request.resources.cpu.0,
        function: Function {
            tenant: spec.id.tenant.as_str(),
            service: spec.id.name.service(),
            name: spec.id.name.short(),
            version: spec.id.version.shown(spec.kind),
            label: request.label.as_ref().map_or("", |label| label.as_str()),
        },
        stream_window: WINDOW,
    };
    serde_json::to_vec(&message).map_err(|error| error.to_string())
}

/// The whole environment of the process.
fn python_environment<'a>(
    request: &'a StartRequest,
    code: &str,
    temporary: Option<&Path>,
    user: &'a BTreeMap<String, String>,
) -> Result<BTreeMap<&'a str, String>, String> {
    let mut all = environment(request, code, temporary, user)?;
    all.entry("PYTHONUNBUFFERED")
        .or_insert_with(|| "1".to_owned());
    Ok(all)
}
