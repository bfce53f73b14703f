//! Wire shapes of the operator route about gateways on the same etcd: `/bugle/v1/members`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /bugle/v1/members`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MemberList {
    /// The gateways that share the functions, those that have been there longest first.
    pub members: Vec<MemberObject>,
}

/// A gateway at this moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberObject {
    /// Its name, which it gets when it joins.
    pub id: String,
    /// Where the others reach it.
    pub address: String,
    /// Its machine and process.
    pub host: String,
    /// `live`, or `leaving` while it finishes its last calls.
    pub state: String,
    /// Whether it is the one that answers this.
    pub here: bool,
    /// When it joined, as a revision of the store.
    pub since: u64,
}
