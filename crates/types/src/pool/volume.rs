//! Volumes and where they are mounted.

use serde::{Deserialize, Serialize};

use super::fields::Findings;
use super::names::{entry_key, inner_path, machine_path, object_name, volume_name};
use super::quantity::Quantity;

/// `Volume`, of the kinds that a pool may have.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Volume {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_path: Option<HostPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config_map: Option<ConfigMap>,
    #[serde(skip_serializing_if = "Option::is_none")]
    empty_dir: Option<EmptyDir>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    projected: Option<Projected>,
    #[serde(skip_serializing_if = "Option::is_none")]
    persistent_volume_claim: Option<Claim>,
}

#[derive(Serialize, Deserialize)]
struct HostPath {
    path: String,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigMap {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_mode: Option<i32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    items: Vec<Item>,
    #[serde(skip_serializing_if = "Option::is_none")]
    optional: Option<bool>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Secret {
    #[serde(rename = "secretName")]
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_mode: Option<i32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    items: Vec<Item>,
    #[serde(skip_serializing_if = "Option::is_none")]
    optional: Option<bool>,
}

#[derive(Serialize, Deserialize)]
struct Item {
    key: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<i32>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EmptyDir {
    #[serde(skip_serializing_if = "Option::is_none")]
    medium: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_limit: Option<Quantity>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claim {
    claim_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_only: Option<bool>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Projected {
    #[serde(skip_serializing_if = "Option::is_none")]
    default_mode: Option<i32>,
    #[serde(default)]
    sources: Vec<Source>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    #[serde(skip_serializing_if = "Option::is_none")]
    config_map: Option<SourceObject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<SourceObject>,
    #[serde(rename = "downwardAPI", skip_serializing_if = "Option::is_none")]
    downward_api: Option<Downward>,
    /// Read to be refused: user code must not speak for the platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    service_account_token: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct SourceObject {
    name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    items: Vec<Item>,
    #[serde(skip_serializing_if = "Option::is_none")]
    optional: Option<bool>,
}

#[derive(Serialize, Deserialize)]
struct Downward {
    items: Vec<DownwardItem>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DownwardItem {
    path: String,
    field_ref: FieldRef,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<i32>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FieldRef {
    field_path: String,
}

impl Volume {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Checks it; false if it is of no kind that is known, which is left out.
    pub(super) fn check(&self, at: &str, findings: &mut Findings) -> bool {
        let name = &self.name;
        match self.kinds() {
            0 => {
                findings.ignore(
                    at,
                    &format!(
                        "volume {name:?} is none of hostPath, configMap, emptyDir, secret, \
                         projected and persistentVolumeClaim"
                    ),
                );
                return false;
            }
            1 => {}
            _ => findings.refuse(at, "it may be of one kind only"),
        }
        findings.demand(&format!("{at}: name {name:?}"), volume_name(name));
        self.check_kind(at, findings);
        true
    }

    fn kinds(&self) -> usize {
        [
            self.host_path.is_some(),
            self.config_map.is_some(),
            self.empty_dir.is_some(),
            self.secret.is_some(),
            self.projected.is_some(),
            self.persistent_volume_claim.is_some(),
        ]
        .into_iter()
        .filter(|given| *given)
        .count()
    }

    fn check_kind(&self, at: &str, findings: &mut Findings) {
        if let Some(host) = &self.host_path {
            host.check(at, findings);
        }
        if let Some(map) = &self.config_map {
            findings.demand(
                &format!("{at}: configMap {:?}", map.name),
                object_name(&map.name),
            );
            check_mode(at, map.default_mode, findings);
            check_items(at, &map.items, findings);
        }
        if let Some(folder) = &self.empty_dir {
            let medium = folder.medium.as_deref().unwrap_or_default();
            if !matches!(medium, "" | "Memory") && !medium.starts_with("HugePages") {
                findings.refuse(at, &format!("medium {medium:?} is not known"));
            }
        }
        if let Some(secret) = &self.secret {
            let name = &secret.name;
            findings.demand(&format!("{at}: secret {name:?}"), object_name(name));
            check_mode(at, secret.default_mode, findings);
            check_items(at, &secret.items, findings);
        }
        if let Some(projected) = &self.projected {
            projected.check(at, findings);
        }
        if let Some(claim) = &self.persistent_volume_claim {
            let name = &claim.claim_name;
            findings.demand(&format!("{at}: claim {name:?}"), object_name(name));
        }
    }
}

impl HostPath {
    fn check(&self, at: &str, findings: &mut Findings) {
        const KINDS: [&str; 8] = [
            "",
            "DirectoryOrCreate",
            "Directory",
            "FileOrCreate",
            "File",
            "Socket",
            "CharDevice",
            "BlockDevice",
        ];
        findings.demand(
            &format!("{at}: path {:?}", self.path),
            machine_path(&self.path),
        );
        let kind = self.kind.as_deref().unwrap_or_default();
        if !KINDS.contains(&kind) {
            findings.refuse(at, &format!("hostPath type {kind:?} is not known"));
        }
    }
}

impl Projected {
    fn check(&self, at: &str, findings: &mut Findings) {
        check_mode(at, self.default_mode, findings);
        for (index, source) in self.sources.iter().enumerate() {
            let at = format!("{at}.projected.sources[{index}]");
            if source.service_account_token.is_some() {
                findings.refuse(&at, "the token of a service account cannot be mounted");
            }
            let kinds = [
                source.config_map.is_some(),
                source.secret.is_some(),
                source.downward_api.is_some(),
                source.service_account_token.is_some(),
            ];
            if kinds.into_iter().filter(|given| *given).count() != 1 {
                findings.refuse(&at, "it must be one of configMap, secret and downwardAPI");
            }
            for object in source.config_map.iter().chain(&source.secret) {
                findings.demand(
                    &format!("{at}: name {:?}", object.name),
                    object_name(&object.name),
                );
                check_items(&at, &object.items, findings);
            }
            for item in source
                .downward_api
                .iter()
                .flat_map(|downward| &downward.items)
            {
                findings.demand(
                    &format!("{at}: path {:?}", item.path),
                    inner_path(&item.path),
                );
                check_mode(&at, item.mode, findings);
                let field = &item.field_ref.field_path;
                if !is_downward(field) {
                    findings.refuse(&at, &format!("field {field:?} is not known"));
                }
            }
        }
    }
}

/// Whether a field of a Pod can be shown inside it as a file.
fn is_downward(field: &str) -> bool {
    matches!(
        field,
        "metadata.name"
            | "metadata.namespace"
            | "metadata.uid"
            | "metadata.labels"
            | "metadata.annotations"
    ) || field.starts_with("metadata.labels['")
        || field.starts_with("metadata.annotations['")
}

fn check_items(at: &str, items: &[Item], findings: &mut Findings) {
    for item in items {
        findings.demand(&format!("{at}: key {:?}", item.key), entry_key(&item.key));
        findings.demand(
            &format!("{at}: path {:?}", item.path),
            inner_path(&item.path),
        );
        check_mode(at, item.mode, findings);
    }
}

fn check_mode(at: &str, mode: Option<i32>, findings: &mut Findings) {
    if mode.is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        findings.refuse(at, "a mode is from 0 to 0777 (511)");
    }
}

/// `VolumeMount`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VolumeMount {
    name: String,
    mount_path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_only: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub_path_expr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mount_propagation: Option<String>,
}

impl VolumeMount {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn path(&self) -> &str {
        &self.mount_path
    }

    pub(super) fn check(&self, at: &str, findings: &mut Findings) {
        if self.mount_path.is_empty() || self.mount_path.contains(':') {
            findings.refuse(
                at,
                &format!(
                    "mountPath {:?} must not be empty or contain ':'",
                    self.mount_path
                ),
            );
        }
        let inner = [&self.sub_path, &self.sub_path_expr];
        for path in inner.into_iter().flatten().filter(|path| !path.is_empty()) {
            findings.demand(&format!("{at}: path {path:?}"), inner_path(path));
        }
        if inner
            .into_iter()
            .flatten()
            .filter(|path| !path.is_empty())
            .count()
            > 1
        {
            findings.refuse(at, "subPath and subPathExpr exclude each other");
        }
        match self.mount_propagation.as_deref().unwrap_or_default() {
            "" | "None" | "HostToContainer" => {}
            "Bidirectional" => {
                findings.refuse(at, "Bidirectional is for privileged containers only");
            }
            other => findings.refuse(at, &format!("mountPropagation {other:?} is not known")),
        }
    }
}
