//! Proof that the platform ordered an instance.
//!
//! A node remembers the orders of its instances and offers them to gateways that come later. What it
//! offers is taken for true only with the mark that a gateway of this platform put on the order: a
//! node that lies could otherwise say that it runs any function, and would be sent its calls.

use aws_lc_rs::hmac;
use bugle_scheduler::placement::NodeId;

use crate::token::{hex, unhex};
use crate::wire::StartOrder;

/// What orders are marked with; the same on all gateways of a platform.
#[derive(Clone)]
pub(crate) struct OrderKey(hmac::Key);

impl OrderKey {
    /// From what the gateways of a platform alone have.
    pub(crate) fn new(secret: &str) -> Self {
        let secret = format!("orders of instances\n{secret}");
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))
    }

    /// Marks an order to a node. Whatever is secret in it does not count, as nodes do not keep it.
    pub(crate) fn mark(&self, node: &NodeId, order: &mut StartOrder) {
        let mark = hmac::sign(&self.0, &text(node, order));
        order.mark = hex(mark.as_ref());
    }

    /// Whether an order to that node has the mark.
    pub(crate) fn has_marked(&self, node: &NodeId, order: &StartOrder) -> bool {
        let mark = unhex(&order.mark);
        mark.is_some_and(|mark| hmac::verify(&self.0, &text(node, order), &mark).is_ok())
    }
}

fn text(node: &NodeId, order: &StartOrder) -> Vec<u8> {
    let mut order = order.without_secrets();
    order.mark.clear();
    let mut text = format!("{node}\n").into_bytes();
    // An order has no keys that are not text.
    _ = serde_json::to_writer(&mut text, &order);
    text
}

#[cfg(test)]
mod tests {
    use bugle_instances::InstanceId;
    use bugle_scheduler::testing::spec;
    use bugle_types::SealedEnvironment;

    use super::*;

    fn order() -> StartOrder {
        let spec = spec("shop", "1", 1, 0, 9);
        StartOrder {
            id: InstanceId(7),
            resources: spec.resources.clone(),
            spec,
            label: None,
            alone: false,
            mark: String::new(),
        }
    }

    #[test]
    fn a_mark_is_of_one_order_to_one_node() {
        let key = OrderKey::new("secret");
        let (one, two): (NodeId, NodeId) = ("one".parse().unwrap(), "two".parse().unwrap());
        let mut marked = order();
        assert!(!key.has_marked(&one, &marked));
        key.mark(&one, &mut marked);
        assert!(key.has_marked(&one, &marked));
        assert!(!key.has_marked(&two, &marked));
        assert!(!OrderKey::new("other").has_marked(&one, &marked));
        let mut other = marked.clone();
        other.id = InstanceId(8);
        assert!(!key.has_marked(&one, &other));
        other = marked.clone();
        other.spec.id = spec("bank", "1", 1, 0, 9).id;
        assert!(!key.has_marked(&one, &other));
    }

    #[test]
    fn what_a_node_sends_back_without_secrets_has_the_mark_still() {
        let key = OrderKey::new("secret");
        let node = "one".parse().unwrap();
        let mut marked = order();
        marked.spec.environment = SealedEnvironment("{\"KEY\":\"value\"}".to_owned());
        key.mark(&node, &mut marked);
        let text = serde_json::to_vec(&marked.without_secrets()).unwrap();
        let back: StartOrder = serde_json::from_slice(&text).unwrap();
        assert!(key.has_marked(&node, &back));
    }
}
