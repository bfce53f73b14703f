//! The variables that an instance's process starts with, whatever runtime it is of.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bugle_types::{FunctionId, Resources, SealedEnvironment};

use crate::StartRequest;

/// Decrypts the variables of a function; the error says why that is not possible.
pub type EnvironmentOpener = Arc<
    dyn Fn(&FunctionId, &SealedEnvironment) -> Result<BTreeMap<String, String>, String>
        + Send
        + Sync,
>;

/// The whole environment of the process (`runtimes` contract 4.1 and 4.2, as far as it applies).
///
/// The user's variables come over what any process has, and below what the platform says. The
/// three names of the contract that hold paths of the reference's own image are left out.
/// `temporary` is where the process writes if it has no `/tmp` of its own.
pub(crate) fn environment<'a>(
    request: &'a StartRequest,
    code: &str,
    temporary: Option<&Path>,
    user: &'a BTreeMap<String, String>,
) -> Result<BTreeMap<&'a str, String>, String> {
    let spec = &request.spec;
    let mut all: BTreeMap<&str, String> = BTreeMap::new();
    let temporary = temporary
        .unwrap_or_else(|| Path::new("/tmp"))
        .to_string_lossy();
    for (name, value) in [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", &*temporary),
        ("TMPDIR", &*temporary),
        ("LANG", "C.UTF-8"),
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
