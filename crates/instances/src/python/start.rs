//! What an instance is told when it starts.

use std::collections::BTreeMap;
use std::path::Path;

use bugle_types::Resources;
use serde::Serialize;

use crate::StartRequest;
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

/// The message for `request`, whose code is in `code`; `user` are the function's own variables.
pub(super) fn message(
    request: &StartRequest,
    code: &Path,
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
        environment: environment(request, code, user)?,
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

/// The whole environment of the process (`runtimes` contract 4.1 and 4.2, as far as it applies).
///
/// The user's variables come over what any process has, and below what the platform says. The
/// three names of the contract that hold paths of the reference's own image are left out.
fn environment<'a>(
    request: &'a StartRequest,
    code: &str,
    user: &'a BTreeMap<String, String>,
) -> Result<BTreeMap<&'a str, String>, String> {
    let spec = &request.spec;
    let mut all: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", "/tmp"),
        ("TMPDIR", "/tmp"),
        ("LANG", "C.UTF-8"),
        ("PYTHONUNBUFFERED", "1"),
    ] {
        all.insert(name, value.to_owned());
    }
    for (name, value) in user {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(format!("the environment variable {name:?} cannot be set"));
        }
        all.insert(name, value.clone());
    }
    let library_path = match user.get("LD_LIBRARY_PATH") {
        Some(path) => format!("{code}:{code}/lib:{path}"),
        None => format!("{code}:{code}/lib"),
    };
    let Resources { cpu, memory, .. } = &request.resources;
    let user_data = serde_json::to_string(user).map_err(|error| error.to_string())?;
    let seconds = |duration: std::time::Duration| duration.as_secs().to_string();
    all.extend([
        ("LD_LIBRARY_PATH", library_path),
        ("RUNTIME_PROJECT_ID", spec.id.tenant.to_string()),
        ("RUNTIME_PACKAGE", spec.id.name.service().to_owned()),
        ("RUNTIME_FUNC_NAME", spec.id.name.short().to_owned()),
        (
            "RUNTIME_FUNC_VERSION",
            spec.id.version.shown(spec.kind).to_owned(),
        ),
        ("RUNTIME_SERVICE_FUNC_VERSION", spec.id.name.to_string()),
        ("RUNTIME_HANDLER", spec.handler.clone()),
        ("RUNTIME_TIMEOUT", seconds(spec.timeout)),
        ("RUNTIME_CPU", cpu.0.to_string()),
        ("RUNTIME_MEMORY", memory.0.to_string()),
        ("RUNTIME_CODE_ROOT", code.to_owned()),
        ("RUNTIME_MAX_RESP_BODY_SIZE", "6291456".to_owned()),
        ("RUNTIME_USERDATA", user_data),
        ("ENV_DELEGATE_DOWNLOAD", code.to_owned()),
        ("FUNCTION_LIB_PATH", code.to_owned()),
        ("YR_FUNCTION_LIB_PATH", code.to_owned()),
        ("INSTANCE_ID", request.id.to_string()),
        ("YR_RUNTIME_ID", request.id.to_string()),
        ("YR_TENANT_ID", spec.id.tenant.to_string()),
    ]);
    if let Some(hook) = &spec.initializer {
        all.insert("RUNTIME_INITIALIZER_HANDLER", hook.handler.clone());
        all.insert("RUNTIME_INITIALIZER_TIMEOUT", seconds(hook.timeout));
    }
    if let Some(hook) = &spec.pre_stop {
        all.insert("PRE_STOP_HANDLER", hook.handler.clone());
        all.insert("PRE_STOP_TIMEOUT", seconds(hook.timeout));
    }
    Ok(all)
}
