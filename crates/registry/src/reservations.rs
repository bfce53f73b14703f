//! R1–R4.

use bugle_api::{
    Caller, Error, InstanceConfig, Reservation, ReservationList, ReservationRequest,
    ReservationsApi,
};
use bugle_store::{Compare, KeyValue, Op, Revision, Txn};
use bugle_types::{FunctionName, InstanceLabel, Kind, Version};
use bytes::Bytes;
use serde::Deserialize;

use crate::config::CLUSTER;
use crate::functions::{Loaded, STATUS};
use crate::keys::Keys;
use crate::{ATTEMPTS, Registry, conflict, published, unreadable};

const NAME_FORMAT: &str = "funcName format is 0@{serviceName}@{funcName};serviceName can only \
    contains letters、digits and cannot exceed 16 characters; funcName can only contains lowercase \
    letters、digits、- and cannot exceed 127 characters or end with -";

const LABEL_FORMAT: &str =
    "instanceLabel can only contains letters、digits、hyphens、dots,not exceed 63 characters";

const LABEL_LENGTH: usize = 63;
const CLUSTER_LENGTH: usize = 64;
const MOST_INSTANCES: i64 = 1000;

/// Bounds of one label, as many clusters as there may be.
const LABELS_READ: usize = 10_000;

/// What is wanted of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    /// R1.
    Set,
    /// R2: it must be there.
    Change,
}

/// The bounds inside a published value.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Published {
    instance_meta_data: Bounds,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bounds {
    max_instance: i64,
    min_instance: i64,
}

/// The function version that a request names, and the spelling of the version in keys.
struct Target {
    name: FunctionName,
    found: Loaded,
}

impl Target {
    fn version(&self) -> &str {
        &self.found.record.function_version.version
    }
}

impl Registry {
    async fn target(&self, caller: &Caller, request: &ReservationRequest) -> Result<Target, Error> {
        let not_found = || Error::function_not_found(&request.func_name);
        let name: FunctionName = request
            .func_name
            .parse()
            .map_err(|_| Error::field(NAME_FORMAT))?;
        let version: Version = request.version.parse().map_err(|_| not_found())?;
        let found = self
            .find(caller, &name, &version)
            .await?
            .ok_or_else(not_found)?;
        if found.record.kind() != Kind::Faas {
            return Err(not_found());
        }
        Ok(Target { name, found })
    }

    async fn write(
        &self,
        caller: &Caller,
        request: ReservationRequest,
        write: Write,
    ) -> Result<Vec<InstanceConfig>, Error> {
        check_fields(&request)?;
        check_name(&request.func_name)?;
        let label = check_label(&request.instance_label)?;
        if request.instance_config_infos.is_empty() {
            return Err(Error::field("instanceConfigInfos cannot be empty"));
        }
        let configs = self.check_configs(&request.instance_config_infos)?;
        for _ in 0..ATTEMPTS {
            let target = self.target(caller, &request).await?;
            if let Some(stored) = self
                .try_write(caller, &target, &label, &configs, write)
                .await?
            {
                return Ok(stored);
            }
        }
        Err(conflict())
    }

    async fn try_write(
        &self,
        caller: &Caller,
        target: &Target,
        label: &InstanceLabel,
        configs: &[InstanceConfig],
        write: Write,
    ) -> Result<Option<Vec<InstanceConfig>>, Error> {
        let keys = Keys(caller);
        let key =
            |cluster: &str| keys.label(cluster, &target.name, target.version(), label.as_str());
        // Deleting the function collides with this.
        let (mut when, mut then) = (vec![target.found.unchanged()], Vec::new());
        let (collision, mut is_new) = (self.collision(caller, target).await?, false);
        for config in configs {
            let key = key(&config.cluster_id);
            let before = self
                .store
                .get(&key)
                .await
                .map_err(|error| unreadable(&error))?;
            if write == Write::Change && before.is_none() {
                let reason = "failed to find reserve instance config for update";
                return Err(Error::parameter(reason));
            }
            if before.is_none() {
                is_new = true;
                self.check_count(caller, target, &config.cluster_id).await?;
            }
            let revision = before.map_or(Revision(0), |before| before.mod_revision);
            when.push(Compare::ModRevision(key.clone(), revision));
            let value = published::label(config.max_instance, config.min_instance);
            then.push(Op::Put(key, value.into()));
        }
        if is_new {
            let (unchanged, put) = collision;
            when.push(unchanged);
            then.push(put);
        }
        if !self.commit(Txn { when, then }).await? {
            return Ok(None);
        }
        let mut stored = Vec::new();
        for cluster in self.config.all_clusters() {
            let found = self
                .store
                .get(&key(cluster))
                .await
                .map_err(|error| unreadable(&error))?;
            stored.extend(found.and_then(|found| config_of(cluster, &found)));
        }
        Ok(Some(stored))
    }

    /// What new labels of a version collide in, so that each is counted before the next comes: its
    /// status record, which is written again as it is. Read it before counting.
    async fn collision(&self, caller: &Caller, target: &Target) -> Result<(Compare, Op), Error> {
        let key = Keys(caller).status(&target.name, target.version());
        let found = self.store.get(&key).await;
        let revision = found
            .map_err(|error| unreadable(&error))?
            .map_or(Revision(0), |found| found.mod_revision);
        let put = Op::Put(key.clone(), Bytes::from_static(STATUS));
        Ok((Compare::ModRevision(key, revision), put))
    }

    /// A new label must fit (D21).
    async fn check_count(
        &self,
        caller: &Caller,
        target: &Target,
        cluster: &str,
    ) -> Result<(), Error> {
        let max = self.config.max_labels;
        let labels = self.labels(caller, target, cluster).await?;
        if labels.len() >= max {
            return Err(Error::parameter(format!("label count reached max({max})")));
        }
        Ok(())
    }

    async fn labels(
        &self,
        caller: &Caller,
        target: &Target,
        cluster: &str,
    ) -> Result<Vec<KeyValue>, Error> {
        let prefix = Keys(caller).labels(cluster, &target.name, target.version());
        let found = self.store.range(&prefix, None, LABELS_READ).await;
        Ok(found.map_err(|error| unreadable(&error))?.items)
    }

    fn check_configs(&self, configs: &[InstanceConfig]) -> Result<Vec<InstanceConfig>, Error> {
        let mut checked: Vec<InstanceConfig> = Vec::new();
        for config in configs {
            let mut config = config.clone();
            if config.cluster_id.is_empty() {
                CLUSTER.clone_into(&mut config.cluster_id);
            }
            let InstanceConfig {
                cluster_id,
                max_instance,
                min_instance,
            } = &config;
            if !self.config.all_clusters().any(|known| known == cluster_id) {
                return Err(Error::parameter(format!(
                    "clusterID {cluster_id} is not found"
                )));
            }
            if checked.iter().any(|other| other.cluster_id == *cluster_id) {
                return Err(Error::parameter(format!(
                    "clusterID {cluster_id} is repeated"
                )));
            }
            if max_instance < min_instance {
                return Err(Error::parameter(format!(
                    "maxInstance {max_instance} is less than minInstance {min_instance}"
                )));
            }
            checked.push(config);
        }
        Ok(checked)
    }
}

/// Every field by itself, all violations at once.
fn check_fields(request: &ReservationRequest) -> Result<(), Error> {
    let mut violations = Vec::new();
    for (field, value) in [
        ("funcName", &request.func_name),
        ("version", &request.version),
    ] {
        if value.is_empty() {
            violations.push(format!(
                "ReserveInsBaseInfo.{field}: non zero value required"
            ));
        }
    }
    let label = &request.instance_label;
    if label.chars().count() > LABEL_LENGTH {
        violations.push(format!(
            "ReserveInsBaseInfo.instanceLabel: {label} does not validate as \
             maxstringlength({LABEL_LENGTH})"
        ));
    }
    for (at, config) in request.instance_config_infos.iter().enumerate() {
        let place = format!("InstanceConfigInfos.{at}.instanceConfigInfos");
        if config.cluster_id.chars().count() > CLUSTER_LENGTH {
            let cluster = &config.cluster_id;
            violations.push(format!(
                "{place}: {cluster} does not validate as maxstringlength({CLUSTER_LENGTH})"
            ));
        }
        for number in [config.max_instance, config.min_instance] {
            if !(0..=MOST_INSTANCES).contains(&number) {
                violations.push(format!(
                    "{place}: {number} does not validate as range(0|{MOST_INSTANCES})"
                ));
            }
        }
    }
    if violations.is_empty() {
        return Ok(());
    }
    violations.sort();
    Err(Error::field(violations.join(";")))
}

/// The strict grammar of names in these operations (contract 2.8).
fn check_name(text: &str) -> Result<(), Error> {
    let refuse = || Error::field(NAME_FORMAT);
    let rest = text.strip_prefix("0@").ok_or_else(refuse)?;
    let (service, name) = rest.split_once('@').ok_or_else(refuse)?;
    let is_service =
        (1..=16).contains(&service.len()) && service.bytes().all(|c| c.is_ascii_alphanumeric());
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = name.as_bytes();
    let is_name = match bytes {
        [one] => one.is_ascii_lowercase(),
        [first, .., last] => {
            bytes.len() <= 128
                && inner(*first)
                && inner(*last)
                && bytes.iter().all(|&c| inner(c) || c == b'-')
        }
        [] => false,
    };
    if is_service && is_name {
        Ok(())
    } else {
        Err(refuse())
    }
}

fn check_label(text: &str) -> Result<InstanceLabel, Error> {
    if text.is_empty() {
        return Err(Error::field("instanceLabel cannot be empty"));
    }
    text.parse().map_err(|_| Error::field(LABEL_FORMAT))
}

fn config_of(cluster: &str, found: &KeyValue) -> Option<InstanceConfig> {
    let published: Published = serde_json::from_slice(&found.value).ok()?;
    let Bounds {
        max_instance,
        min_instance,
    } = published.instance_meta_data;
    Some(InstanceConfig {
        cluster_id: cluster.to_owned(),
        max_instance,
        min_instance,
    })
}

impl ReservationsApi for Registry {
    async fn reserve(
        &self,
        caller: &Caller,
        request: ReservationRequest,
    ) -> Result<Vec<InstanceConfig>, Error> {
        self.write(caller, request, Write::Set).await
    }

    async fn update_reservation(
        &self,
        caller: &Caller,
        request: ReservationRequest,
    ) -> Result<Vec<InstanceConfig>, Error> {
        self.write(caller, request, Write::Change).await
    }

    async fn reservations(
        &self,
        caller: &Caller,
        request: ReservationRequest,
    ) -> Result<ReservationList, Error> {
        check_name(&request.func_name)?;
        let target = self.target(caller, &request).await?;
        // Newest first; the key decides among those of one transaction.
        let mut found: Vec<(Revision, String, InstanceConfig)> = Vec::new();
        for cluster in self.config.all_clusters() {
            for item in self.labels(caller, &target, cluster).await? {
                let label = label_of(&item.key);
                found.extend(config_of(cluster, &item).map(|c| (item.mod_revision, label, c)));
            }
        }
        found.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        let mut results: Vec<Reservation> = Vec::new();
        for (_, label, config) in found {
            match results
                .iter_mut()
                .find(|known| known.instance_label == label)
            {
                Some(known) => known.instance_config_infos.push(config),
                None => results.push(Reservation {
                    instance_label: label,
                    instance_config_infos: vec![config],
                }),
            }
        }
        Ok(ReservationList {
            total: results.len(),
            results,
        })
    }

    async fn delete_reservation(
        &self,
        caller: &Caller,
        request: ReservationRequest,
    ) -> Result<(), Error> {
        check_fields(&request)?;
        check_name(&request.func_name)?;
        let label = match request.instance_label.as_str() {
            "" => None,
            text => Some(check_label(text)?),
        };
        let target = self.target(caller, &request).await?;
        let keys = Keys(caller);
        let then = self
            .config
            .all_clusters()
            .map(|cluster| match &label {
                Some(label) => {
                    let label = label.as_str();
                    Op::Delete(keys.label(cluster, &target.name, target.version(), label))
                }
                None => Op::DeletePrefix(keys.labels(cluster, &target.name, target.version())),
            })
            .collect();
        self.commit(Txn {
            when: Vec::new(),
            then,
        })
        .await?;
        Ok(())
    }
}

/// The last part of a label's key.
fn label_of(key: &Bytes) -> String {
    let text = String::from_utf8_lossy(key);
    text.rsplit('/').next().unwrap_or_default().to_owned()
}
