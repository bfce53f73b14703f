//! Nodes: the operator's routes to them, typed.

use bugle_api::nodes::{NodeList, NodeToken, NodeTokenRequest};
use http::Method;

use crate::control::{parse, segment};
use crate::{Control, Operation};

const NODES: &str = "/bugle/v1/nodes";

impl Control {
    /// The nodes.
    pub fn nodes(&self) -> Operation<NodeList> {
        self.get(NODES.to_owned())
    }

    /// A token with which one node may join.
    pub fn node_token(&self, request: &NodeTokenRequest) -> Operation<NodeToken> {
        let path = format!("{NODES}/tokens");
        let call = self.call(Method::POST, path, Some(request));
        self.operation(call, parse)
    }

    /// Moves everything away from a node.
    pub fn drain_node(&self, name: &str) -> Operation<()> {
        self.change_node(Method::POST, &format!("{}/drain", segment(name)))
    }

    /// Lets a node that was drained have instances again.
    pub fn resume_node(&self, name: &str) -> Operation<()> {
        self.change_node(Method::DELETE, &format!("{}/drain", segment(name)))
    }

    /// Forgets a node.
    pub fn remove_node(&self, name: &str) -> Operation<()> {
        self.change_node(Method::DELETE, &segment(name))
    }

    fn change_node(&self, method: Method, path: &str) -> Operation<()> {
        let call = self.call(method, format!("{NODES}/{path}"), None::<&()>);
        self.operation(call, |_| Ok(()))
    }
}
