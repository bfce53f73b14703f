//! Inner codes: the numbers clients branch on.
//!
//! This is the only table of numbers (`errors` contract 1 and 4, `invocation` contract 6). Codes of
//! four digits are the user's errors, of six digits the system's. The HTTP status is not here: it
//! depends on the operation for the meta service and is written beside each in `api`.

use std::fmt;

/// Generates the enum, its number and its lookup from one list.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// An inner code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Code {
            $($(#[$doc])* $name = $number,)*
        }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The number sent to clients.
            pub fn number(self) -> u32 {
                self as u32
            }

            /// The code's public name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

codes! {
    // Meta service.
    /// The function name is taken.
    FunctionNameExist = 4101,
    /// A parameter is wrong, or a failure without a code of its own.
    InvalidUserParam = 4104,
    /// An alias routes to the version.
    FunctionVersionDeletionForbidden = 4105,
    /// Too many published versions.
    FunctionVersionOutOfLimit = 4110,
    /// The version label is taken.
    RepeatedPublishmentError = 4114,
    /// No such function, version or alias in the tenant.
    FunctionNotFound = 4115,
    /// No such version.
    FunctionVersionNotFound = 4116,
    /// No such pool.
    PoolNotFound = 4120,
    /// The page cannot be served.
    PageInfoError = 4123,
    /// A package has too many files.
    ZipFileCountError = 4127,
    /// A package has an entry whose name or kind is not allowed.
    ZipFilePathError = 4128,
    /// What is in a package is too large.
    ZipFileUnzipSizeError = 4129,
    /// A package is too large.
    ZipFileSizeError = 4130,
    /// The revision is not the draft's.
    RevisionIDError = 4134,
    /// A URN of another tenant, or one that contradicts the qualifier.
    InvalidQueryURN = 121_046,
    /// The qualifier is neither a version nor an alias.
    InvalidQualifier = 121_047,
    /// The name inside a URN is not a function name.
    FunctionNameFormatErr = 121_058,
    /// A record was expected and is not there.
    KVNotFound = 122_001,
    /// The store cannot be read.
    EtcdError = 122_002,
    /// A write conflicted or was refused.
    TransactionFailed = 122_003,
    /// A stored record cannot be read.
    UnmarshalFailed = 122_004,
    /// The body is missing, not JSON, or a field has the wrong type.
    InvalidParamErrorCode = 130_600,

    // Invocation: the user's function.
    /// The handler cannot be found or loaded (and, in the reference's Python, any exception).
    EntryNotFound = 4001,
    /// The handler raised.
    FunctionException = 4002,
    /// The result is larger than the limit.
    ResponseTooLarge = 4004,
    /// The result cannot be written as JSON.
    ResultNotSerializable = 4007,
    /// The call ran longer than the function's timeout.
    FunctionTimeout = 4010,
    /// The tenant sends more than it may.
    TenantRateExceeded = 4021,
    /// The instance session is invalid.
    SessionConfigInvalid = 4037,
    /// The request body is larger than the limit.
    RequestTooLarge = 4140,
    /// The initializer failed.
    InitializationFailed = 4201,
    /// The instance ran out of memory.
    OutOfMemory = 4205,
    /// The instance wrote more than it may.
    OutOfDisk = 4207,
    /// The initializer took too long.
    InitializationTimeout = 4211,
    /// The instance ended during the call.
    InstanceExited = 1007,

    // Invocation: scheduling.
    /// The function is not registered.
    FunctionMetadataNotFound = 150_424,
    /// The function may have no instance.
    MaxInstancesReached = 150_429,
    /// No instance became free in time.
    AcquireTimeout = 150_430,
    /// No instance can be had.
    NoInstanceAvailable = 150_431,
    /// The label has no reserved instances.
    InstanceLabelNotFound = 150_444,
    /// The scheduler failed, or its queue is full.
    SchedulerInternal = 150_500,

    // Invocation: the gateway.
    /// The request is not well formed.
    BadRequest = 200_400,
    /// Nothing is there.
    NotFound = 200_404,
    /// The gateway failed.
    GatewayInternal = 200_500,
    /// The gateway is out of memory for bodies.
    HeavyLoad = 214_503,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}
