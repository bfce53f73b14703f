//! The section `[kubernetes]` of the configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where the cluster is, and what the Pods of pools are made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The kubeconfig file; empty takes the service account of the Pod that the platform runs in.
    pub kubeconfig: String,
    /// The namespace of everything; empty takes the kubeconfig's or the Pod's own.
    pub namespace: String,
    /// The image of workers whose pool names none.
    pub image: String,
    /// The image that prepares workers whose pool names none; empty prepares nothing.
    pub init_image: String,
    /// What a worker runs: the arguments of its image, before those with which it joins.
    pub arguments: Vec<String>,
    /// The service account of the workers, which needs no rights; empty takes the namespace's default.
    pub service_account: String,
    /// Where workers reach the port of nodes, as `HOST:PORT`; empty takes `nodes.listen`, which has to be an
    /// address that Pods reach, then.
    pub join_address: String,
    /// The Secret in which the platform keeps what workers join with, a key for each pool.
    pub join_secret: String,
    /// Directories of nodes that pools may mount, with all below them; empty for none.
    pub host_paths: Vec<String>,
    /// What functions call the cluster's devices: `"huawei.com/Ascend910" = "NPU/Ascend910/count"`. Devices that are not
    /// here have the cluster's name.
    pub devices: BTreeMap<String, String>,
    /// The user and group that workers run as. Not 0: that would be root.
    pub user: u32,
    /// The port at which a worker answers whether it is ready; 0 takes a running worker for ready.
    pub health_port: u16,
    /// How long a worker that is to end has to let its calls finish elsewhere or there, in seconds.
    pub drain_seconds: u32,
    /// The Lease by which the platform's processes agree on the one that acts.
    pub lease: String,
    /// How long a process that has died keeps that Lease, in seconds.
    pub lease_seconds: u32,
    /// The longest that a request to the cluster may take, in seconds.
    pub request_seconds: u32,
    /// The Pod that the platform runs in, where it runs in one. Found out, never configured.
    #[serde(skip)]
    pub own_pod: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kubeconfig: String::new(),
            namespace: String::new(),
            image: "bugle:latest".to_owned(),
            init_image: String::new(),
            arguments: vec!["node".to_owned()],
            service_account: String::new(),
            join_address: String::new(),
            join_secret: "bugle-join".to_owned(),
            host_paths: Vec::new(),
            devices: BTreeMap::new(),
            user: 65_532,
            health_port: 31_184,
            drain_seconds: 30,
            lease: "bugle-pools".to_owned(),
            lease_seconds: 15,
            request_seconds: 10,
            own_pod: None,
        }
    }
}

impl Config {
    /// What is wrong with it, if anything is.
    ///
    /// # Errors
    /// The name of the key and its rule.
    pub fn check(&self) -> Result<(), String> {
        if self.user == 0 {
            return Err("kubernetes.user is 0: workers do not run as root".to_owned());
        }
        if self.lease_seconds < 2 {
            return Err("kubernetes.lease_seconds is less than 2".to_owned());
        }
        if self.join_secret.is_empty() {
            return Err("kubernetes.join_secret is empty: workers could not join".to_owned());
        }
        if self.request_seconds == 0 {
            return Err("kubernetes.request_seconds is 0".to_owned());
        }
        if let Some(path) = self.host_paths.iter().find(|path| !path.starts_with('/')) {
            return Err(format!(
                "kubernetes.host_paths has {path:?}, which is not absolute"
            ));
        }
        Ok(())
    }

    /// Whether workers join a platform: whether they are told where it is.
    pub(crate) fn joins(&self) -> bool {
        !self.join_address.is_empty()
    }

    /// Whether a claim is one of the platform's own: a `StatefulSet` calls those of its Pod `{set}-{n}`
    /// `{volume}-{set}-{n}`.
    pub(crate) fn is_claim_of_ours(&self, claim: &str) -> bool {
        let set_of = |name: &str| {
            let (set, number) = name.rsplit_once('-')?;
            let counted = !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit());
            counted.then(|| set.to_owned())
        };
        let own = self.own_pod.as_deref().and_then(set_of);
        let claim = set_of(claim);
        own.zip(claim)
            .is_some_and(|(own, claim)| claim.ends_with(&format!("-{own}")))
    }

    pub(crate) fn lease_time(&self) -> Duration {
        Duration::from_secs(self.lease_seconds.into())
    }

    pub(crate) fn request_time(&self) -> Duration {
        Duration::from_secs(self.request_seconds.into())
    }
}
