//! What a registration may say about an image (contract `container-image` 2.2, 2.3, 10), one rule
//! for both interfaces that it can come through.

use bugle_types::ImageReference;

use crate::{CustomContainerConfig, ExtendedMetaData, FuncMount};

/// The characters of command, arguments and working directory together.
const OVERRIDES: usize = 5120;

/// The longest that `POST /init` may take, in seconds.
const LONGEST_INIT: i64 = 300;

const MOST_MOUNTS: usize = 5;

/// What may be written, in MB.
const STORAGE: [i64; 3] = [0, 512, 10_240];

/// Where nothing can be mounted: what an image needs to run, and what the platform puts there.
const SYSTEM: [&str; 13] = [
    "/proc", "/sys", "/dev", "/etc", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
    "/usr", "/boot", "/run",
];

/// A rule that a registration breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// No image.
    #[error("an image function needs custom_container_config.image")]
    NoImage,
    /// The image's name cannot be one.
    #[error("Invalid image URL. {0}")]
    Image(bugle_types::ParseError),
    /// Too long.
    #[error("command, args and working_dir have {0} characters together, more than {OVERRIDES}")]
    Overrides(usize),
    /// The working directory is not absolute.
    #[error("working_dir {0:?} must start with /")]
    WorkingDir(String),
    /// A user or group that nobody may be.
    #[error(
        "The user ID and user group ID must be an integer from -1 to 65,534, excluding 0, 1000, \
         and 1002."
    )]
    User,
    /// A time that `POST /init` cannot take.
    #[error("initializer_timeout {0} must be between 1 and {LONGEST_INIT} seconds")]
    InitializerTimeout(i64),
    /// A negative setting.
    #[error("{0} must not be negative")]
    Negative(&'static str),
    /// Storage that is not offered.
    #[error("ephemeral_storage {0} must be 512 or 10240 MB")]
    Storage(i64),
    /// Too many mounts.
    #[error("{0} mounts are more than {MOST_MOUNTS}")]
    Mounts(usize),
    /// A mount of a kind that is not offered.
    #[error("mount_type {0:?} is not offered; use host with a name from the operator's list")]
    MountType(String),
    /// A mount without a name.
    #[error("a mount needs mount_resource, a name from the operator's list")]
    MountName,
    /// A mount somewhere that is not allowed.
    #[error("failed to mount exist system path: {0:?}")]
    MountPath(String),
    /// Two mounts in one place.
    #[error("two mounts at {0:?}")]
    MountTwice(String),
    /// A variable that belongs to the platform.
    #[error("the variable {0} belongs to the platform; names that begin with RUNTIME_ do")]
    Variable(String),
}

impl Violation {
    /// The code under which FunctionGraph's interface reports it.
    pub fn fss(&self) -> &'static str {
        match self {
            Self::Image(_) | Self::NoImage => "FSS.1034",
            Self::User => "FSS.1075",
            Self::InitializerTimeout(_) => "FSS.1405",
            Self::Mounts(_) => "FSS.1049",
            Self::MountType(_) => "FSS.1096",
            Self::MountName => "FSS.1050",
            Self::MountPath(_) => "FSS.1039",
            Self::MountTwice(_) => "FSS.1038",
            Self::Variable(_) => "FSS.1009",
            Self::Overrides(_) | Self::WorkingDir(_) | Self::Negative(_) | Self::Storage(_) => {
                "FSS.0400"
            }
        }
    }
}

/// Checks everything about the image of a function that can be checked without asking anybody.
/// `variables` are the names of the function's own.
///
/// # Errors
///
/// The first rule that is broken.
pub fn check_container<'a>(
    settings: &ExtendedMetaData,
    variables: impl IntoIterator<Item = &'a str>,
) -> Result<ImageReference, Violation> {
    let container = &settings.custom_container_config;
    if container.image.is_empty() {
        return Err(Violation::NoImage);
    }
    let image = container.image.parse().map_err(Violation::Image)?;
    overrides(container)?;
    for id in [container.uid, container.gid] {
        // 0 is what a client sends that sets nothing: the field is a number there.
        if !(-1..=65_534).contains(&id) || matches!(id, 1000 | 1002) {
            return Err(Violation::User);
        }
    }
    let initializer = &settings.initializer;
    if !(0..=LONGEST_INIT).contains(&initializer.initializer_timeout) {
        return Err(Violation::InitializerTimeout(
            initializer.initializer_timeout,
        ));
    }
    let health = &settings.custom_health_check;
    for (name, value) in [
        ("timeoutSeconds", health.timeout_seconds),
        ("periodSeconds", health.period_seconds),
        ("failureThreshold", health.failure_threshold),
        (
            "maxShutdownTimeout",
            settings.runtime_graceful_shutdown.max_shutdown_timeout,
        ),
    ] {
        if value < 0 {
            return Err(Violation::Negative(name));
        }
    }
    if !STORAGE.contains(&settings.ephemeral_storage) {
        return Err(Violation::Storage(settings.ephemeral_storage));
    }
    mounts(&settings.mount_config.func_mounts)?;
    match variables
        .into_iter()
        .find(|name| name.starts_with("RUNTIME_"))
    {
        Some(name) => Err(Violation::Variable(name.to_owned())),
        None => Ok(image),
    }
}

fn overrides(container: &CustomContainerConfig) -> Result<(), Violation> {
    let joined = |list: &Option<Vec<String>>| match list.as_deref() {
        None | Some([]) => 0,
        // As the list would be written with commas.
        Some(items) => {
            let characters: usize = items.iter().map(|item| item.chars().count()).sum();
            characters + items.len() - 1
        }
    };
    let directory = &container.working_dir;
    let characters =
        joined(&container.command) + joined(&container.args) + directory.chars().count();
    if characters > OVERRIDES {
        return Err(Violation::Overrides(characters));
    }
    if !directory.is_empty() && !directory.starts_with('/') {
        return Err(Violation::WorkingDir(directory.clone()));
    }
    Ok(())
}

fn mounts(mounts: &[FuncMount]) -> Result<(), Violation> {
    if mounts.len() > MOST_MOUNTS {
        return Err(Violation::Mounts(mounts.len()));
    }
    for (at, mount) in mounts.iter().enumerate() {
        if mount.mount_type != "host" {
            return Err(Violation::MountType(mount.mount_type.clone()));
        }
        if mount.mount_resource.is_empty() {
            return Err(Violation::MountName);
        }
        let path = &mount.local_mount_path;
        if !is_free(path) {
            return Err(Violation::MountPath(path.clone()));
        }
        if mounts[..at]
            .iter()
            .any(|other| other.local_mount_path == *path)
        {
            return Err(Violation::MountTwice(path.clone()));
        }
    }
    Ok(())
}

/// Whether a path is absolute, in its shortest form, and no directory of the system.
fn is_free(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else {
        return false;
    };
    let is_plain = rest
        .split('/')
        .all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'));
    is_plain
        && !SYSTEM.iter().any(|system| {
            path.strip_prefix(system)
                .is_some_and(|below| below.is_empty() || below.starts_with('/'))
        })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize as _;
    use serde_json::{Value, json};

    use super::*;

    fn check(settings: &Value) -> Result<(), Violation> {
        let settings: ExtendedMetaData = ExtendedMetaData::deserialize(settings).unwrap();
        check_container(&settings, ["A"]).map(|_| ())
    }

    fn of(container: &Value) -> Value {
        let mut all = json!({"image": "r.example/a:1"});
        for (key, value) in container.as_object().unwrap() {
            all[key] = value.clone();
        }
        json!({"custom_container_config": all})
    }

    #[test]
    fn an_image_and_nothing_else_will_do() {
        assert_eq!(check(&of(&json!({}))), Ok(()));
        assert_eq!(check(&json!({})), Err(Violation::NoImage));
        assert!(matches!(
            check(&of(&json!({"image": "a b"}))),
            Err(Violation::Image(_))
        ));
    }

    #[test]
    fn command_arguments_and_directory_share_5120_characters() {
        let with = |letters: usize| {
            of(
                &json!({"command": ["/bin/sh", "ü"], "args": ["x".repeat(letters)],
                "working_dir": "/srv"}),
            )
        };
        // "/bin/sh,ü" has 9 characters, "/srv" 4.
        assert_eq!(check(&with(5120 - 13)), Ok(()));
        assert_eq!(check(&with(5121 - 13)), Err(Violation::Overrides(5121)));
        assert_eq!(
            check(&of(&json!({"working_dir": "srv"}))),
            Err(Violation::WorkingDir("srv".to_owned()))
        );
    }

    #[test]
    fn root_and_reserved_users_are_refused() {
        for id in [-1, 0, 1, 1001, 1003, 65_534] {
            assert_eq!(check(&of(&json!({"uid": id, "gid": id}))), Ok(()), "{id}");
        }
        for id in [-2, 1000, 1002, 65_535] {
            assert_eq!(
                check(&of(&json!({"uid": id}))),
                Err(Violation::User),
                "{id}"
            );
            assert_eq!(
                check(&of(&json!({"gid": id}))),
                Err(Violation::User),
                "{id}"
            );
        }
    }

    #[test]
    fn mounts_go_where_no_system_is() {
        let at = |path: &str| {
            let mut settings = of(&json!({}));
            settings["mount_config"] = json!({"func_mounts": [{"mount_type": "host",
                "mount_resource": "data", "local_mount_path": path}]});
            check(&settings)
        };
        for path in ["/mnt/data", "/libs", "/home/a/b", "/user"] {
            assert_eq!(at(path), Ok(()), "{path}");
        }
        for path in [
            "",
            "/",
            "mnt",
            "/proc",
            "/usr/x",
            "/lib",
            "/lib64/a",
            "/a/../etc",
            "/a/./b",
            "//etc",
            "/a/",
            "/run/x",
        ] {
            assert_eq!(
                at(path),
                Err(Violation::MountPath(path.to_owned())),
                "{path}"
            );
        }
    }

    #[test]
    fn the_platforms_variables_cannot_be_set() {
        let settings: ExtendedMetaData = serde_json::from_value(of(&json!({}))).unwrap();
        assert_eq!(
            check_container(&settings, ["RUNTIME_X"]),
            Err(Violation::Variable("RUNTIME_X".to_owned()))
        );
    }
}
