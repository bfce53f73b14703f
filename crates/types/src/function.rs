//! What the platform needs to know to run a function.
//!
//! The whole registered record lives in the registry; this is the part that the scheduler and the
//! instances see. It is immutable: a change makes a new one with another [`Generation`].

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pool::PoolChoice;
use crate::{
    ContainerSpec, FunctionName, FunctionUrn, InstanceLabel, ParseError, ProductId, Resources,
    Runtime, TenantId, Version,
};

/// The kind of a function (contract 2.8). It decides how the draft is spelled and where the
/// function is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// A function service.
    Faas,
    /// A function of the distributed SDK; the default.
    Yrlib,
    /// An agent function.
    Agent,
    /// Accepted, with hook handlers of the request only.
    Custom,
    /// Accepted, without hook handlers.
    PosixRuntimeCustom,
}

impl Kind {
    /// The name used in requests and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Faas => "faas",
            Self::Yrlib => "yrlib",
            Self::Agent => "agent",
            Self::Custom => "custom",
            Self::PosixRuntimeCustom => "posix-runtime-custom",
        }
    }

    /// How the draft is spelled for this kind.
    pub fn draft(self) -> &'static str {
        match self {
            Self::Faas => "latest",
            _ => "$latest",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Ok(match text {
            "faas" => Self::Faas,
            "yrlib" | "" => Self::Yrlib,
            "agent" => Self::Agent,
            "custom" => Self::Custom,
            // The contract's section 2.8 and its runtime page each use one of the two spellings.
            "posix-runtime-custom" | "posix-custom-runtime" => Self::PosixRuntimeCustom,
            _ => {
                return Err(ParseError::new(
                    "kind",
                    text,
                    "faas, yrlib, agent, custom or posix-runtime-custom",
                ));
            }
        })
    }
}

/// One version of one function of one tenant: the key under which it is found and run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FunctionId {
    /// The owner.
    pub tenant: TenantId,
    /// The product inside the tenant, normally none.
    pub product: Option<ProductId>,
    /// The function.
    pub name: FunctionName,
    /// The version.
    pub version: Version,
}

impl FunctionId {
    /// The function version that `urn` addresses; a missing version is the draft.
    pub fn from_urn(urn: FunctionUrn) -> Self {
        let version = urn.version.unwrap_or(Version::Draft);
        Self {
            tenant: urn.tenant,
            product: urn.product,
            name: urn.name,
            version,
        }
    }

    /// The URN with the version.
    pub fn to_urn(&self) -> FunctionUrn {
        FunctionUrn {
            tenant: self.tenant.clone(),
            product: self.product.clone(),
            name: self.name.clone(),
            version: Some(self.version.clone()),
        }
    }
}

impl fmt::Display for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tenant, self.name, self.version)
    }
}

/// Where the code of a function is (contract 3.1 `storageType`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CodeLocation {
    /// A directory, used in place.
    Local(String),
    /// A directory, copied into a cache before use.
    Copy(String),
    /// A package in an object store.
    S3 {
        /// Bucket name.
        bucket: String,
        /// Object name.
        object: String,
        /// Address of the store; empty means the configured one.
        endpoint: String,
        /// What `sha512sum` prints of the package; empty when not given.
        sha512: String,
    },
    /// A container image.
    Image(Box<ContainerSpec>),
    /// No code was given.
    None,
}

/// A handler that runs outside of calls, with its time limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hook {
    /// `module.function`.
    pub handler: String,
    /// The longest it may take.
    pub timeout: Duration,
}

/// How many instances there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scale {
    /// Kept running without traffic.
    pub min: u32,
    /// Never exceeded; 0 disables the function.
    pub max: u32,
}

/// The bounds of one labelled set of reserved instances (contract 4).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LabelledScale {
    /// The label of the set.
    pub label: InstanceLabel,
    /// Its bounds.
    pub scale: Scale,
}

/// Environment variables, encrypted; only the code that starts an instance opens them. Those of a
/// function that another platform published in clear are kept as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SealedEnvironment(pub String);

impl SealedEnvironment {
    /// Variables that nobody encrypted.
    pub fn clear(variables: &std::collections::BTreeMap<String, String>) -> Self {
        Self(serde_json::json!(variables).to_string())
    }

    /// Whether nobody encrypted them: an object of JSON cannot be taken for Base64.
    pub fn is_clear(&self) -> bool {
        self.0.starts_with('{')
    }
}

/// Tells apart what needs other instances: two specifications with the same generation may share
/// instances. It covers everything but `scale` and `labels`, which change without a restart
/// (`scaling` contract 1).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Generation(pub Box<str>);

/// One version of a function, as it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionSpec {
    /// Which function version this is.
    pub id: FunctionId,
    /// Its kind.
    pub kind: Kind,
    /// Which instances may serve it.
    pub generation: Generation,
    /// What runs it.
    pub runtime: Runtime,
    /// `module.function` for Python.
    pub handler: String,
    /// Run once after start, before the first call.
    pub initializer: Option<Hook>,
    /// Run before the instance stops.
    pub pre_stop: Option<Hook>,
    /// The longest a call may run.
    pub timeout: Duration,
    /// What an instance may use.
    pub resources: Resources,
    /// Calls that one instance serves at once.
    pub concurrency: NonZeroU32,
    /// Bounds of the set without label.
    pub scale: Scale,
    /// Bounds of the labelled sets, in order of label.
    pub labels: Vec<LabelledScale>,
    /// How long an instance idles before it goes; none takes the platform's default.
    pub idle: Option<Duration>,
    /// Which pools its instances use.
    pub pool: PoolChoice,
    /// Where the code is.
    pub code: CodeLocation,
    /// The user's variables.
    pub environment: SealedEnvironment,
}
