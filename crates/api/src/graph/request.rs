//! Requests of FunctionGraph's clients, as registrations.

use std::collections::BTreeMap;

use bugle_types::{GraphUrn, ImageRuntime, Runtime};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Refusal;
use crate::{
    CustomHealthCheck, ExtendedMetaData, FuncMount, FunctionObject, FunctionRequest, Initializer,
    Interface, MountConfig, NetworkController, RuntimeGracefulShutdown, Violation, check_container,
};

/// The memory that may be asked for, in MB.
const MEMORY: [i64; 15] = [
    128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 8192, 10_240,
];

/// The bounds of a call's time, in seconds, and what it is when nothing is said.
const TIMEOUT: std::ops::RangeInclusive<i64> = 3..=259_200;
const DEFAULT_TIMEOUT: i64 = 3;

/// The most instances of a function, and how many it may have when nothing is said.
const MOST_INSTANCES: i64 = 1000;
const DEFAULT_INSTANCES: i64 = 400;

const MOST_CONCURRENT: i64 = 1000;

/// Variables of each kind, and their characters together.
const MOST_VARIABLES: usize = 20;
const VARIABLE_CHARACTERS: usize = 4096;

const DESCRIPTION: usize = 512;

/// The characters of the texts that override an image, as they are sent.
const OVERRIDES: usize = 5120;

/// The only kind of code that is taken here.
const CODE_TYPE: &str = "Custom-Image-Swr";

/// An image, and what a function overrides of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CustomImage {
    /// Must not be false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// `host[:port]/path[:tag][@digest]`.
    pub image: String,
    /// Takes the place of the entry point: texts with commas between them, or a JSON list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Takes the place of the arguments, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<String>,
    /// Absolute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// 1003 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<Value>,
    /// 1003 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<Value>,
}

/// How many instances, and how many calls each serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StrategyConfig {
    /// The most instances, -1 to 1000; -1 is 1000, 0 disables the function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<i64>,
    /// Calls that one instance serves at once, 1 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent_num: Option<i64>,
}

/// Settings that both a creation and an update may have.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct ConfigUpdate {
    /// At most 512 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `-`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// Seconds, 3 to 259200.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    /// MB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_size: Option<i64>,
    /// A JSON object of texts, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// The same, for values that are not given back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted_user_data: Option<String>,
    /// `-`: `POST /init` is a part of the start; `none`: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initializer_handler: Option<String>,
    /// Seconds, 1 to 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initializer_timeout: Option<i64>,
    /// `-`: `POST /pre-stop` before the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_stop_handler: Option<String>,
    /// Seconds, 1 to 90.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_stop_timeout: Option<i64>,
    /// How many instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy_config: Option<StrategyConfig>,
    /// MB: 512 or 10240.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral_storage: Option<i64>,
    /// Kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xrole: Option<String>,
    /// The image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_image: Option<CustomImage>,
    /// How its health is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_health_check: Option<CustomHealthCheck>,
    /// How it is told to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_graceful_shutdown: Option<RuntimeGracefulShutdown>,
    /// What it can reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_controller: Option<NetworkController>,
    /// Directories of the host that it sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_config: Option<Mounts>,
}

/// Directories of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct Mounts {
    /// At most five.
    pub func_mounts: Vec<FuncMount>,
}

/// The body of a creation.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct CreateRequest {
    /// 1 to 60 letters, digits, `_` and `-`.
    pub func_name: String,
    /// 1 to 16 letters and digits; `default` when absent.
    pub package: String,
    /// `Custom Image` for events, `http` for a web server.
    pub runtime: String,
    /// `Custom-Image-Swr`.
    pub code_type: String,
    /// The settings.
    #[serde(flatten)]
    pub settings: ConfigUpdate,
}

/// The body of a deployment.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(default)]
pub struct CodeUpdate {
    /// `Custom-Image-Swr`.
    pub code_type: String,
    /// The image; what is left out of it goes back to the image's own.
    pub custom_image: Option<CustomImage>,
}

impl CreateRequest {
    /// The registration that is meant.
    pub(super) fn into_request(self) -> Result<FunctionRequest, Refusal> {
        let name = GraphUrn::name(&self.package, &self.func_name)
            .map_err(|error| Refusal::bad("FSS.1002", format!("Invalid function name. {error}")))?;
        let runtime = Runtime::of_image(self.runtime.trim());
        let Runtime::Image(kind) = runtime else {
            return Err(Refusal::bad(
                "FSS.1003",
                format!(
                    "runtime {:?} must be Custom Image or http here",
                    self.runtime
                ),
            ));
        };
        code_type(&self.code_type)?;
        if self.settings.memory_size.is_none() {
            return Err(Refusal::bad("FSS.1007", "memory_size is required"));
        }
        let mut request = FunctionRequest {
            name: Some(name.to_string()),
            runtime: Some(match kind {
                ImageRuntime::Event => ImageRuntime::Event.to_string(),
                ImageRuntime::Http => ImageRuntime::Http.to_string(),
            }),
            kind: Some("faas".to_owned()),
            interface: Interface::FunctionGraph,
            handler: Some("-".to_owned()),
            timeout: Some(DEFAULT_TIMEOUT),
            min_instance: Some("0".to_owned()),
            max_instance: Some(DEFAULT_INSTANCES.to_string()),
            concurrent_num: Some("1".to_owned()),
            extended_meta_data: Some(ExtendedMetaData::default()),
            ..FunctionRequest::default()
        };
        if self.settings.custom_image.is_none() {
            return Err(Violation::NoImage.into());
        }
        self.settings.apply(&mut request)?;
        Ok(request)
    }
}

impl CodeUpdate {
    pub(super) fn apply(self, request: &mut FunctionRequest) -> Result<(), Refusal> {
        code_type(&self.code_type)?;
        let image = self.custom_image.ok_or(Violation::NoImage)?;
        image.apply(settings(request))
    }
}

fn code_type(code_type: &str) -> Result<(), Refusal> {
    if matches!(code_type, "" | CODE_TYPE) {
        return Ok(());
    }
    let why = format!("code_type {code_type:?} must be {CODE_TYPE} here");
    Err(Refusal::bad("FSS.0400", why))
}

fn settings(request: &mut FunctionRequest) -> &mut ExtendedMetaData {
    request.extended_meta_data.get_or_insert_default()
}

impl CustomImage {
    fn apply(self, settings: &mut ExtendedMetaData) -> Result<(), Refusal> {
        if self.enabled == Some(false) {
            return Err(Violation::NoImage.into());
        }
        let texts = [&self.command, &self.args, &self.working_dir];
        let characters = texts.into_iter().flatten().map(|text| text.chars().count());
        let characters = characters.sum();
        if characters > OVERRIDES {
            return Err(Violation::Overrides(characters).into());
        }
        let container = &mut settings.custom_container_config;
        container.image = self.image;
        container.command = list("command", self.command)?;
        container.args = list("args", self.args)?;
        container.working_dir = self.working_dir.unwrap_or_default();
        container.uid = user(self.uid)?;
        container.gid = user(self.gid)?;
        Ok(())
    }
}

/// Texts with commas between them, or a JSON list where texts have commas themselves.
fn list(field: &str, text: Option<String>) -> Result<Option<Vec<String>>, Refusal> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    if !text.starts_with('[') {
        return Ok(Some(text.split(',').map(str::to_owned).collect()));
    }
    serde_json::from_str(&text).map(Some).map_err(|error| {
        let why = format!("{field} begins like a JSON list and is none: {error}");
        Refusal::bad("FSS.0400", why)
    })
}

/// A user or group; -1 where none is named.
fn user(value: Option<Value>) -> Result<i64, Refusal> {
    let number = match value {
        None | Some(Value::Null) => return Ok(-1),
        Some(Value::String(text)) if text.is_empty() => return Ok(-1),
        Some(Value::String(text)) => text.parse().ok(),
        Some(other) => other.as_i64(),
    };
    // Zero is nobody in the other interface, and root here.
    number
        .filter(|number| *number != 0)
        .ok_or_else(|| Violation::User.into())
}

impl ConfigUpdate {
    /// Changes what the request speaks of.
    pub(super) fn apply(self, request: &mut FunctionRequest) -> Result<(), Refusal> {
        if let Some(text) = self.description {
            if text.chars().count() > DESCRIPTION {
                let why = format!("description is longer than {DESCRIPTION} characters");
                return Err(Refusal::bad("FSS.1019", why));
            }
            request.description = Some(text);
        }
        if let Some(seconds) = self.timeout {
            if !TIMEOUT.contains(&seconds) {
                let why = format!("timeout {seconds} must be 3 to 259200 seconds");
                return Err(Refusal::bad("FSS.1006", why));
            }
            request.timeout = Some(seconds);
        }
        if let Some(memory) = self.memory_size {
            if !MEMORY.contains(&memory) {
                let why = format!("memory_size {memory} is not one of {MEMORY:?}");
                return Err(Refusal::bad("FSS.1007", why));
            }
            request.memory = Some(memory);
            request.cpu = Some(memory * 100 / 128 + 200);
        }
        hooks(
            request,
            "initializer",
            (self.initializer_handler, self.initializer_timeout),
        )?;
        hooks(
            request,
            "pre_stop",
            (self.pre_stop_handler, self.pre_stop_timeout),
        )?;
        if let Some(strategy) = self.strategy_config {
            strategy.apply(request)?;
        }
        variables(request, self.user_data, self.encrypted_user_data)?;
        let settings = settings(request);
        if let Some(image) = self.custom_image {
            image.apply(settings)?;
        }
        if let Some(megabytes) = self.ephemeral_storage {
            settings.ephemeral_storage = megabytes;
        }
        if let Some(role) = self.xrole {
            settings.xrole = role;
        }
        if let Some(check) = self.custom_health_check {
            settings.custom_health_check = check;
        }
        if let Some(shutdown) = self.runtime_graceful_shutdown {
            settings.runtime_graceful_shutdown = shutdown;
        }
        if let Some(network) = self.network_controller {
            settings.network_controller = network;
        }
        if let Some(mounts) = self.mount_config {
            settings.mount_config = MountConfig {
                func_mounts: mounts.func_mounts,
            };
        }
        Ok(())
    }
}

/// Sets a handler that runs outside of calls; an empty one takes it away.
fn hooks(
    request: &mut FunctionRequest,
    name: &str,
    (handler, seconds): (Option<String>, Option<i64>),
) -> Result<(), Refusal> {
    let (longest, code) = match name {
        "initializer" => (300, "FSS.1405"),
        _ => (90, "FSS.0400"),
    };
    if let Some(seconds) = seconds
        && !(1..=longest).contains(&seconds)
    {
        let why = format!("{name}_timeout {seconds} must be 1 to {longest} seconds");
        return Err(Refusal::bad(code, why));
    }
    let handlers = request.extended_handler.get_or_insert_default();
    let timeouts = request.extended_timeout.get_or_insert_default();
    match handler.as_deref() {
        None => {}
        Some("") => {
            handlers.remove(name);
            timeouts.remove(name);
        }
        Some(handler) => {
            handlers.insert(name.to_owned(), handler.to_owned());
            timeouts.entry(name.to_owned()).or_insert(DEFAULT_TIMEOUT);
        }
    }
    if let Some(seconds) = seconds {
        timeouts.insert(name.to_owned(), seconds);
    }
    Ok(())
}

impl StrategyConfig {
    fn apply(self, request: &mut FunctionRequest) -> Result<(), Refusal> {
        if let Some(instances) = self.concurrency {
            if !(-1..=MOST_INSTANCES).contains(&instances) {
                let why = format!("concurrency {instances} must be -1 to {MOST_INSTANCES}");
                return Err(Refusal::bad("FSS.0400", why));
            }
            let instances = if instances == -1 {
                MOST_INSTANCES
            } else {
                instances
            };
            request.max_instance = Some(instances.to_string());
        }
        if let Some(calls) = self.concurrent_num {
            if !(1..=MOST_CONCURRENT).contains(&calls) {
                let why = format!("concurrent_num {calls} must be 1 to {MOST_CONCURRENT}");
                return Err(Refusal::bad("FSS.0400", why));
            }
            request.concurrent_num = Some(calls.to_string());
        }
        Ok(())
    }
}

type Variables = BTreeMap<String, String>;

/// Sets the variables of each kind that the request speaks of; those of the other kind stay.
fn variables(
    request: &mut FunctionRequest,
    plain: Option<String>,
    secret: Option<String>,
) -> Result<(), Refusal> {
    let plain = plain.map(|text| read_variables(&text)).transpose()?;
    let secret = secret.map(|text| read_variables(&text)).transpose()?;
    let mut all = request.environment.take().unwrap_or_default();
    let secrets = &mut settings(request).secret_variables;
    if let Some(plain) = plain {
        all.retain(|name, _| secrets.contains(name));
        secrets.retain(|name| !plain.contains_key(name));
        all.extend(plain);
    }
    if let Some(secret) = secret {
        all.retain(|name, _| !secrets.contains(name));
        *secrets = secret.keys().cloned().collect();
        all.extend(secret);
    }
    request.environment = Some(all);
    Ok(())
}

fn read_variables(text: &str) -> Result<Variables, Refusal> {
    if text.is_empty() {
        return Ok(Variables::new());
    }
    if text.chars().count() > VARIABLE_CHARACTERS {
        let why = format!("user data is longer than {VARIABLE_CHARACTERS} characters");
        return Err(Refusal::bad("FSS.1018", why));
    }
    let variables: Variables = serde_json::from_str(text).map_err(|error| {
        let why = format!("user data must be a JSON object of texts, as text: {error}");
        Refusal::bad("FSS.1009", why)
    })?;
    if variables.len() > MOST_VARIABLES {
        let why = format!("user data has more than {MOST_VARIABLES} entries");
        return Err(Refusal::bad("FSS.1017", why));
    }
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
    };
    match variables.keys().find(|name| !is_name(name)) {
        Some(name) => {
            let why = format!("{name:?} is no name of a variable");
            Err(Refusal::bad("FSS.1009", why))
        }
        None => Ok(variables),
    }
}

/// Checks what the registry would refuse without a code of FunctionGraph's.
pub(super) fn check(request: &FunctionRequest) -> Result<(), Refusal> {
    let names = request.environment.iter().flatten();
    let settings = request.extended_meta_data.clone().unwrap_or_default();
    check_container(&settings, names.map(|(name, _)| name.as_str()))?;
    Ok(())
}

/// The count of a reservation; what it does not do is refused rather than forgotten.
pub(super) fn reserved(wanted: &Value) -> Result<i64, Refusal> {
    let bad = |why: &str| Err(Refusal::bad("FSS.0400", why));
    if wanted["idle_mode"].as_bool() == Some(true) {
        return bad("idle_mode is not offered");
    }
    let is_set = |value: &Value| value.as_array().is_some_and(|list| !list.is_empty());
    let tactics = &wanted["tactics_config"];
    if is_set(&tactics["cron_configs"]) || is_set(&tactics["metric_configs"]) {
        return bad("tactics_config is not offered");
    }
    match wanted["count"].as_i64() {
        Some(count) if (0..=MOST_INSTANCES).contains(&count) => Ok(count),
        _ => bad("count must be 0 to 1000"),
    }
}

/// The update that changes nothing of a function.
pub(super) fn current(function: &FunctionObject) -> FunctionRequest {
    let container = function.container.clone().unwrap_or_default();
    let Initializer {
        initializer_handler: handler,
        initializer_timeout: seconds,
    } = container.settings.initializer.clone();
    let mut handlers = BTreeMap::new();
    let mut timeouts = BTreeMap::new();
    for (name, handler, seconds) in [
        ("initializer", handler, seconds),
        (
            "pre_stop",
            container.pre_stop_handler,
            container.pre_stop_timeout,
        ),
    ] {
        if !handler.is_empty() {
            handlers.insert(name.to_owned(), handler);
            timeouts.insert(name.to_owned(), seconds);
        }
    }
    FunctionRequest {
        revision_id: Some(function.revision_id.clone()),
        kind: Some(function.kind.clone()),
        description: Some(function.description.clone()),
        handler: Some(function.handler.clone()),
        cpu: Some(function.cpu),
        memory: Some(function.memory),
        timeout: Some(function.timeout),
        custom_resources: function.custom_resources.clone(),
        environment: Some(function.environment.clone()),
        extended_handler: Some(handlers),
        extended_timeout: Some(timeouts),
        min_instance: Some(function.min_instance.to_string()),
        max_instance: Some(function.max_instance.to_string()),
        concurrent_num: Some(function.concurrent_num.to_string()),
        device: Some(function.device.clone()),
        priority_az: Some(function.priority_az.clone()),
        enable_metrics: Some(function.enable_metrics),
        extended_meta_data: Some(ExtendedMetaData {
            // The handler and its time are among the others.
            initializer: Initializer::default(),
            ..container.settings
        }),
        ..FunctionRequest::default()
    }
}
