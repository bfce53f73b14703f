//! The controller against a cluster: the one that `K8S_TEST_KUBECONFIG` names, in a namespace of its own, else the
//! server of this workspace. What only that server can do to a cluster is in `trouble`.
#![cfg(test)]

mod pools;
mod stage;
mod trouble;
