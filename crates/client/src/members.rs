//! Gateways on the same etcd: the operator's route to them, typed.

use bugle_api::members::MemberList;

use crate::{Control, Operation};

impl Control {
    /// The gateways that share the functions.
    pub fn members(&self) -> Operation<MemberList> {
        self.get("/bugle/v1/members".to_owned())
    }
}
