//! The registry's own record of a function version: the value of `/repo/FunctionVersion`
//! (contract 7.2.1), with a format number of ours.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bugle_api::{
    Amounts, AutoScaleConfig, CustomContainerConfig, CustomHealthCheck, Device, Error, MountConfig,
    NetworkController, Rootfs, RuntimeGracefulShutdown, says_nothing,
};
use bugle_types::{Code, Kind, RevisionId, SealedEnvironment, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{foreign, json};

/// The form of the records that this program writes; a larger one is not read.
pub(crate) const FORMAT: u32 = 1;

/// A function version, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Record {
    bugle_format: u32,
    pub(crate) function: FunctionPart,
    pub(crate) function_version: VersionPart,
}

/// Handlers by their hooks. Most are the platform's own, the same for every function.
pub(crate) type Hooks = BTreeMap<Cow<'static, str>, Cow<'static, str>>;

/// What all versions of a function share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct FunctionPart {
    pub(crate) name: String,
    /// The label of the last publish.
    pub(crate) version: String,
    pub(crate) description: String,
    pub(crate) tag: Option<BTreeMap<String, String>>,
    pub(crate) create_time: String,
    pub(crate) update_time: String,
}

/// The version itself. What is not set is left out: a function sets a quarter of all this, and the
/// rest would be most of what a registration writes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[expect(clippy::struct_excessive_bools, reason = "the contract's switches")]
pub(crate) struct VersionPart {
    #[serde(skip_serializing_if = "Package::is_empty")]
    pub(crate) package: Package,
    #[serde(rename = "RevisionID", skip_serializing_if = "String::is_empty")]
    pub(crate) revision_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) handler: String,
    #[serde(rename = "CPU", skip_serializing_if = "says_nothing")]
    pub(crate) cpu: i64,
    #[serde(skip_serializing_if = "says_nothing")]
    pub(crate) memory: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) runtime: String,
    #[serde(skip_serializing_if = "says_nothing")]
    pub(crate) timeout: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) version: String,
    /// Encrypted.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) environment: String,
    #[serde(skip_serializing_if = "says_nothing")]
    pub(crate) custom_resources: Option<Amounts>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) publish_time: String,
    #[serde(skip_serializing_if = "says_nothing")]
    pub(crate) min_instance: i64,
    #[serde(skip_serializing_if = "says_nothing")]
    pub(crate) max_instance: i64,
    #[serde(skip_serializing_if = "says_nothing")]
    pub(crate) concurrent_num: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) kind: String,
    #[serde(skip_serializing_if = "says_nothing")]
    pub(crate) hook_handler: Hooks,
    #[serde(skip_serializing_if = "says_nothing")]
    pub(crate) extended_handler: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub(crate) extended_timeout: BTreeMap<String, i64>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub(crate) cache_instance: i64,
    #[serde(skip_serializing_if = "Device::is_empty")]
    pub(crate) device: Device,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) pool_label: String,
    #[serde(rename = "PoolID", skip_serializing_if = "String::is_empty")]
    pub(crate) pool_id: String,
    #[serde(skip_serializing_if = "says_nothing")]
    pub(crate) enable_metrics: bool,
    #[serde(skip_serializing_if = "says_nothing")]
    pub(crate) enable_agent_session: bool,
    #[serde(skip_serializing_if = "says_nothing")]
    pub(crate) enable_session_ctx: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) scale_policy: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) schedule_policy: String,
    #[serde(rename = "PriorityAZ", skip_serializing_if = "String::is_empty")]
    pub(crate) priority_az: String,
    #[serde(skip_serializing_if = "says_nothing")]
    pub(crate) idle_time: i64,
    #[serde(skip_serializing_if = "says_nothing")]
    pub(crate) auto_scale_config: AutoScaleConfig,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) warmup_type: String,
    /// Its keys are encrypted.
    #[serde(skip_serializing_if = "Rootfs::is_empty")]
    pub(crate) rootfs_spec_meta: Rootfs,
    #[serde(skip_serializing_if = "CustomContainerConfig::is_empty")]
    pub(crate) custom_container_config: CustomContainerConfig,
    #[serde(skip_serializing_if = "says_nothing")]
    pub(crate) custom_health_check: CustomHealthCheck,
    /// Of a function that is an image, and of no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) container: Option<ContainerPart>,
    #[serde(skip_serializing_if = "says_nothing")]
    pub(crate) is_func_public: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) sandbox_type: String,
}

/// What is kept of an image beside the original's settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerPart {
    /// What the image's name stood for; empty if nobody could tell.
    pub(crate) image_digest: String,
    pub(crate) runtime_graceful_shutdown: RuntimeGracefulShutdown,
    pub(crate) network_controller: NetworkController,
    pub(crate) mount_config: MountConfig,
    pub(crate) ephemeral_storage: i64,
    pub(crate) xrole: String,
    pub(crate) secret_variables: Vec<String>,
}

/// Where the code is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Package {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) storage_type: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) code_upload_type: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) signature: String,
    #[serde(rename = "BucketID", skip_serializing_if = "String::is_empty")]
    pub(crate) bucket_id: String,
    #[serde(rename = "ObjectID", skip_serializing_if = "String::is_empty")]
    pub(crate) object_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) bucket_url: String,
    /// Encrypted.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) token: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) code_path: String,
}

impl Package {
    /// Whether nothing is set.
    fn is_empty(&self) -> bool {
        let Self {
            storage_type,
            code_upload_type,
            signature,
            bucket_id,
            object_id,
            bucket_url,
            token,
            code_path,
        } = self;
        [storage_type, code_upload_type, signature, bucket_id]
            .into_iter()
            .chain([object_id, bucket_url, token, code_path])
            .all(String::is_empty)
    }
}

impl Record {
    pub(crate) fn new(function: FunctionPart, function_version: VersionPart) -> Self {
        Self {
            bugle_format: FORMAT,
            function,
            function_version,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        json::text(self, 1024)
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, Error> {
        let read = serde_json::from_slice(value);
        let record: Self = read.or_else(|error| {
            foreign::record(value).ok_or_else(|| {
                tracing::error!(%error, "a stored record cannot be read");
                Error::other(Code::UnmarshalFailed, "failed to unmarshal")
            })
        })?;
        if record.bugle_format > FORMAT {
            let message = format!(
                "the record has format {}, this program knows up to {FORMAT}; use a newer bugle",
                record.bugle_format
            );
            return Err(Error::other(Code::UnmarshalFailed, message));
        }
        Ok(record)
    }

    pub(crate) fn kind(&self) -> Kind {
        // Only valid kinds are ever written.
        self.function_version.kind.parse().unwrap_or(Kind::Yrlib)
    }

    pub(crate) fn revision(&self) -> RevisionId {
        RevisionId::from_text(&self.function_version.revision_id)
    }

    pub(crate) fn environment(&self) -> SealedEnvironment {
        SealedEnvironment(self.function_version.environment.clone())
    }

    /// When it was last changed: updated, else registered.
    pub(crate) fn last_modified(&self) -> &str {
        let FunctionPart {
            update_time,
            create_time,
            ..
        } = &self.function;
        if update_time.is_empty() {
            create_time
        } else {
            update_time
        }
    }

    /// Stamps a change of the draft.
    pub(crate) fn touch(&mut self, now: Timestamp) {
        let next = RevisionId::next(now, Some(&self.revision()));
        next.as_str()
            .clone_into(&mut self.function_version.revision_id);
        self.function.update_time = now.to_string();
    }
}
