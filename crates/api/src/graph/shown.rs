//! Functions as FunctionGraph's clients see them.

use std::collections::BTreeMap;

use bugle_types::{FunctionId, FunctionName, ShownUrn, TenantId, Version};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::request::{CustomImage, Mounts, StrategyConfig};
use crate::{CustomHealthCheck, FunctionObject, NetworkController, RuntimeGracefulShutdown};

/// A function.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct GraphFunction {
    /// The URN with the version.
    pub func_urn: String,
    /// Its name.
    pub func_name: String,
    /// Its project.
    pub project_name: String,
    /// Its project as well.
    pub namespace: String,
    /// Its package.
    pub package: String,
    /// `Custom Image` or `http`.
    pub runtime: String,
    /// Seconds.
    pub timeout: i64,
    /// `-`.
    pub handler: String,
    /// MB.
    pub memory_size: i64,
    /// Thousandths of a core.
    pub cpu: i64,
    /// `Custom-Image-Swr`.
    pub code_type: String,
    /// The variables that are no secrets: a JSON object, as text.
    pub user_data: String,
    /// The names of the others, with empty values: a JSON object, as text.
    pub encrypted_user_data: String,
    /// What the image's name stood for when it was deployed, `sha256:…`; empty if nobody could tell.
    pub digest: String,
    /// `latest` or the version.
    pub version: String,
    /// What the version is.
    pub version_description: String,
    /// The image.
    pub image_name: String,
    /// The agency.
    pub xrole: String,
    /// What the function is for.
    pub description: String,
    /// When it was last changed.
    pub last_modified: String,
    /// `POST /init`.
    pub initializer_handler: String,
    /// Seconds.
    pub initializer_timeout: i64,
    /// `POST /pre-stop`.
    pub pre_stop_handler: String,
    /// Seconds.
    pub pre_stop_timeout: i64,
    /// How many instances.
    pub strategy_config: StrategyConfig,
    /// MB.
    pub ephemeral_storage: i64,
    /// `v2`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The image, and what is overridden of it.
    pub custom_image: CustomImage,
    /// How its health is checked.
    pub custom_health_check: CustomHealthCheck,
    /// How it is told to end.
    pub runtime_graceful_shutdown: RuntimeGracefulShutdown,
    /// What it can reach.
    pub network_controller: NetworkController,
    /// Directories of the host that it sees.
    pub mount_config: Mounts,
}

/// A page of functions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct GraphFunctions {
    /// The functions.
    pub functions: Vec<GraphFunction>,
    /// Where the next page begins.
    pub next_marker: usize,
    /// How many there are on this page.
    pub count: usize,
}

impl GraphFunction {
    /// A function of the registry, in a region.
    pub(super) fn of(function: &FunctionObject, region: &str) -> Self {
        let container = function.container.clone().unwrap_or_default();
        let settings = container.settings;
        let (package, name) = match function.name.parse::<FunctionName>() {
            Ok(name) => (name.service().to_owned(), name.short().to_owned()),
            Err(_) => (String::new(), function.name.clone()),
        };
        let is_secret = |name: &String| settings.secret_variables.contains(name);
        let variables = |secret: bool| {
            let shown: BTreeMap<&String, &str> = function
                .environment
                .iter()
                .filter(|(name, _)| is_secret(name) == secret)
                .map(|(name, value)| (name, if secret { "" } else { value }))
                .collect();
            serde_json::to_string(&shown).expect("maps of texts are always JSON")
        };
        let image = &settings.custom_container_config;
        let list = |list: &Option<Vec<String>>| list.as_deref().map(joined);
        let user = |id: i64| if id <= 0 { 1003 } else { id }.to_string().into();
        Self {
            func_urn: urn(function, region),
            func_name: name,
            project_name: function.tenant_id.clone(),
            namespace: function.tenant_id.clone(),
            package,
            runtime: match function.runtime.as_str() {
                "custom image" => "Custom Image".to_owned(),
                other => other.to_owned(),
            },
            timeout: function.timeout,
            handler: function.handler.clone(),
            memory_size: function.memory,
            cpu: function.cpu,
            code_type: "Custom-Image-Swr".to_owned(),
            user_data: variables(false),
            encrypted_user_data: variables(true),
            digest: container.image_digest,
            version: function.version_number.clone(),
            version_description: function.version_desc.clone(),
            image_name: image.image.clone(),
            xrole: settings.xrole.clone(),
            description: function.description.clone(),
            last_modified: function.last_modified.clone(),
            initializer_handler: settings.initializer.initializer_handler.clone(),
            initializer_timeout: settings.initializer.initializer_timeout,
            pre_stop_handler: container.pre_stop_handler,
            pre_stop_timeout: container.pre_stop_timeout,
            strategy_config: StrategyConfig {
                concurrency: Some(function.max_instance),
                concurrent_num: Some(function.concurrent_num),
            },
            ephemeral_storage: match settings.ephemeral_storage {
                0 => 512,
                megabytes => megabytes,
            },
            kind: "v2".to_owned(),
            custom_image: CustomImage {
                enabled: Some(true),
                image: image.image.clone(),
                command: list(&image.command),
                args: list(&image.args),
                working_dir: Some(image.working_dir.clone()).filter(|path| !path.is_empty()),
                uid: Some(user(image.uid)),
                gid: Some(user(image.gid)),
            },
            custom_health_check: settings.custom_health_check,
            runtime_graceful_shutdown: settings.runtime_graceful_shutdown,
            network_controller: settings.network_controller,
            mount_config: Mounts {
                func_mounts: settings.mount_config.func_mounts,
            },
        }
    }
}

/// A list as it can be sent again: with commas, or as JSON where a text has one itself.
fn joined(list: &[String]) -> String {
    if list.iter().any(|text| text.contains(','))
        || list.first().is_some_and(|f| f.starts_with('['))
    {
        return serde_json::to_string(list).expect("texts are always JSON");
    }
    list.join(",")
}

fn urn(function: &FunctionObject, region: &str) -> String {
    let parsed = (
        function.tenant_id.parse::<TenantId>(),
        function.name.parse::<FunctionName>(),
        function.version_number.parse::<Version>(),
    );
    let (Ok(tenant), Ok(name), Ok(version)) = parsed else {
        return function.function_version_urn.clone();
    };
    let id = FunctionId {
        tenant,
        product: None,
        name,
        version,
    };
    ShownUrn { region, id: &id }.to_string()
}
