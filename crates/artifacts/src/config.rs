//! The section `packages` of the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::archive::Limits;

/// Code packages: where they come from, what they may hold, and where they are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The largest package, in bytes as it is sent.
    pub max_package_bytes: u64,
    /// The most files, directories and links in a package.
    pub max_files: u64,
    /// What all files of a package may hold together, in bytes.
    pub max_unpacked_bytes: u64,
    /// The largest file in a package, in bytes.
    pub max_file_bytes: u64,
    /// How many bytes may come out of one byte of a package that holds more than 10 MiB.
    pub max_ratio: u64,
    /// What unpacked packages may take on the disk, in bytes; those of running instances stay.
    pub cache_bytes: u64,
    /// What uploaded packages may take in the data folder, in bytes.
    pub store_bytes: u64,
    /// How long an uploaded package stays when no version uses it, in seconds.
    pub unused_seconds: u64,
    /// How long a store may send nothing before a download is resumed, in seconds.
    pub stall_seconds: u32,
    /// How long a download may take in all, in seconds.
    pub download_seconds: u32,
    /// The S3 store of functions that name none, as `https://host[:port]`; empty for Amazon's. The
    /// credentials are sent there alone, and plain `http://` is allowed to it.
    pub s3_endpoint: String,
    /// The region that requests are signed for; empty takes `AWS_REGION`, else `us-east-1`.
    pub s3_region: String,
    /// The access key; empty takes `AWS_ACCESS_KEY_ID` and the other usual variables.
    pub s3_access_key_id: String,
    /// The secret of the access key.
    pub s3_secret_access_key: String,
    /// Whether the bucket is part of the host's name, as Amazon has it, and not of the path.
    pub s3_virtual_hosts: bool,
    /// A bucket of that store in which uploaded packages are kept; empty keeps them in the data
    /// folder.
    pub upload_bucket: String,
}

impl Default for Config {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            max_package_bytes: limits.max_package_bytes,
            max_files: limits.max_files,
            max_unpacked_bytes: limits.max_unpacked_bytes,
            max_file_bytes: limits.max_file_bytes,
            max_ratio: limits.max_ratio,
            cache_bytes: 10 << 30,
            store_bytes: 10 << 30,
            unused_seconds: 24 * 3600,
            stall_seconds: 15,
            download_seconds: 300,
            s3_endpoint: String::new(),
            s3_region: String::new(),
            s3_access_key_id: String::new(),
            s3_secret_access_key: String::new(),
            s3_virtual_hosts: false,
            upload_bucket: String::new(),
        }
    }
}

impl Config {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_package_bytes: self.max_package_bytes,
            max_files: self.max_files,
            max_unpacked_bytes: self.max_unpacked_bytes,
            max_file_bytes: self.max_file_bytes,
            max_ratio: self.max_ratio,
        }
    }

    pub(crate) fn stall(&self) -> Duration {
        Duration::from_secs(self.stall_seconds.max(1).into())
    }

    pub(crate) fn download(&self) -> Duration {
        Duration::from_secs(self.download_seconds.max(1).into())
    }
}
