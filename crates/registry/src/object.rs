//! The function object that answers show of a record.

use bugle_api::{Caller, Error, FuncLayer, FunctionObject, Rootfs};
use bugle_types::{BUSINESS, Code, FunctionName};

use crate::image;
use crate::keyring::Keyring;
use crate::record::Record;

/// What is shown in the place of a secret.
const MASK: &str = "******";

/// The one variable that is never given back (contract 3.1, built-in variables).
const PASSPHRASE: &str = "YR_SSL_PASSPHRASE";

/// Which operation shows the object: the original's answers differ in how they show what is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// F1, F2, F5, F6: no layers are an empty list, no custom resources null.
    Listed,
    /// F3, F4: no layers are null, no custom resources what the request sent.
    Queried,
}

/// The object of a record, every field filled.
pub(crate) fn object(
    keyring: &Keyring,
    caller: &Caller,
    name: &FunctionName,
    record: Record,
    shown: Shown,
) -> Result<FunctionObject, Error> {
    let urn = caller.urn(name.clone()).to_string();
    let version_urn = format!("{urn}:{}", record.function_version.version);
    let mut environment = keyring
        .open_environment(&caller.tenant, name, &record.environment())
        .map_err(|error| {
            tracing::error!(function = %name, %error, "stored variables cannot be read");
            Error::other(Code::UnmarshalFailed, error.to_string())
        })?;
    if let Some(passphrase) = environment.get_mut(PASSPHRASE) {
        MASK.clone_into(passphrase);
    }
    let last_modified = record.last_modified().to_owned();
    let Record {
        function,
        function_version: version,
        ..
    } = record;
    Ok(FunctionObject {
        id: version_urn.clone(),
        created: function.create_time.clone(),
        create_time: function.create_time,
        update_time: function.update_time,
        function_urn: urn,
        name: function.name,
        tenant_id: caller.tenant.to_string(),
        business_id: BUSINESS.to_owned(),
        product_id: caller
            .product
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        reversed_concurrency: 0,
        description: function.description,
        tag: function.tag,
        function_version_urn: version_urn,
        container: image::shown(&version),
        revision_id: version.revision_id,
        storage_type: version.package.storage_type,
        code_size: 0,
        code_sha256: version.package.signature,
        code_path: version.package.code_path,
        bucket_id: version.package.bucket_id,
        object_id: version.package.object_id,
        handler: version.handler,
        layers: None,
        cpu: version.cpu,
        memory: version.memory,
        runtime: version.runtime,
        timeout: version.timeout,
        version_number: version.version,
        version_desc: version.description,
        environment,
        custom_resources: version
            .custom_resources
            .filter(|amounts| shown == Shown::Queried || !amounts.0.is_empty()),
        stateful_flag: 0,
        last_modified,
        published: version.publish_time,
        min_instance: version.min_instance,
        max_instance: version.max_instance,
        concurrent_num: version.concurrent_num,
        enable_metrics: version.enable_metrics,
        func_layer: (shown == Shown::Listed).then(Vec::<FuncLayer>::new),
        status: "unavailable".to_owned(),
        instance_num: 0,
        device: version.device,
        kind: version.kind,
        rootfs: masked(version.rootfs_spec_meta),
        priority_az: version.priority_az,
        sandbox_type: version.sandbox_type,
    })
}

fn masked(mut rootfs: Rootfs) -> Rootfs {
    let info = &mut rootfs.storage_info;
    for secret in [&mut info.access_key, &mut info.secret_key] {
        if !secret.is_empty() {
            MASK.clone_into(secret);
        }
    }
    rootfs
}
