//! Wire shapes, API traits with thin handlers, the error envelope, the OpenAPI document.
//!
//! The original's quirks live here and nowhere else: bodies whatever their content type, field names
//! whatever their case, numbers as texts, envelopes that differ by operation. What is behind the
//! traits ([`FunctionsApi`], [`ReservationsApi`], [`PoolsApi`]) sees typed requests and answers with typed values
//! or an [`Error`].
//!
//! [`identity`] is the one place that decides who is asking.

mod container;
mod decode;
mod error;
mod explorer;
mod function;
mod functions;
mod graph;
pub mod identity;
pub mod images;
pub mod members;
pub mod nodes;
pub mod operator;
mod pool;
mod pools;
mod query;
mod reservation;
mod reservations;
mod router;

pub use container::{Violation, check_container};
pub use decode::decoded;
pub use error::{Class, Error, ErrorBody, Operation};
pub use function::{
    Amounts, AutoScaleConfig, ContainerObject, CustomContainerConfig, CustomHealthCheck,
    DeleteAnswer, Device, ExtendedMetaData, FuncLayer, FuncMount, FunctionAnswer, FunctionList,
    FunctionListAnswer, FunctionObject, FunctionPage, FunctionRequest, Initializer, Interface,
    Mount, MountConfig, NetworkController, PageInfo, PublishRequest, ResourceAffinitySelector,
    Rootfs, RuntimeGracefulShutdown, S3CodePath, StorageInfo, UpdateAnswer, says_nothing,
};
pub use functions::{FunctionsApi, functions_router};
pub use graph::{
    AsyncConfig, AsyncInvocation, AsyncInvocations, AsyncQuery, CancelRequest, CodeUpdate,
    ConfigUpdate, CreateRequest, CustomImage, EventsApi, GraphError, GraphFunction, GraphFunctions,
    graph_events_router, graph_router,
};
pub use identity::Caller;
pub use pool::{
    CreatePoolsAnswer, CreatePoolsRequest, FailedPool, FailedPools, IdleRecycleTime, PoolAnswer,
    PoolInfo, PoolList, PoolRequest, PoolsAnswer, ResourceAmounts, SCALES_TWICE, Texts,
    UpdatePoolRequest,
};
pub use pools::{PoolsApi, pools_router};
pub use query::{DeleteQuery, GetQuery, ListQuery, Page, PoolQuery, PoolSelection};
pub use reservation::{
    InstanceConfig, Reservation, ReservationAnswer, ReservationId, ReservationList,
    ReservationRequest,
};
pub use reservations::{ReservationsApi, reservations_router};
pub use router::{BODY_LIMIT, Segment, build, document};
