//! What no key can say about itself: whether keys that were set fit each other and this machine.

use bugle_pools::Backend;

use super::{Config, Error};

/// Finds the first thing that is wrong.
pub(super) fn check(config: &Config) -> Result<(), Error> {
    listeners(config)?;
    nodes(config)?;
    pods(config)?;
    let cluster = config.cluster.check(config.store.kind);
    cluster.map_err(|(key, message)| wrong(key, message))?;
    let (first, last) = (config.programs.first_port, config.programs.last_port);
    if first == 0 || first > last {
        return Err(Error::NoPorts { first, last });
    }
    let kubernetes = config.kubernetes.check();
    kubernetes.map_err(|rule| wrong("kubernetes", rule))?;
    for path in &config.server.code_roots {
        std::fs::read_dir(path).map_err(|source| Error::CodeRoot {
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

fn wrong(key: &str, message: impl Into<String>) -> Error {
    Error::WrongValue {
        key: key.to_owned(),
        place: "the configuration".to_owned(),
        message: message.into(),
    }
}

fn listeners(config: &Config) -> Result<(), Error> {
    let server = &config.server;
    for (key, address) in [
        ("server.control_listen", server.control_listen),
        ("server.gateway_listen", server.gateway_listen),
    ] {
        if !address.ip().is_loopback() && !server.insecure_listen_without_authentication {
            return Err(Error::NotLoopback { key, address });
        }
    }
    Ok(())
}

fn nodes(config: &Config) -> Result<(), Error> {
    let address = config.nodes.address().map_err(|error| {
        wrong(
            "nodes.listen",
            format!("{error}; it is an address and a port, or empty"),
        )
    })?;
    let everywhere = address.is_some_and(|address| address.ip().is_unspecified());
    if everywhere && !config.cluster.listen.is_empty() && config.nodes.advertise.is_empty() {
        let message = "nodes cannot reach every address: set the one under which they reach this \
                       gateway, as they have a connection to each";
        return Err(wrong("nodes.advertise", message));
    }
    Ok(())
}

/// Pods of pools have to be told where they join.
fn pods(config: &Config) -> Result<(), Error> {
    if config.pools.backend != Backend::Kubernetes {
        return Ok(());
    }
    let Ok(Some(address)) = config.nodes.address() else {
        let message = "it is empty, and pools.backend is kubernetes: Pods of pools join the \
                       platform there, for instance 0.0.0.0:31183";
        return Err(wrong("nodes.listen", message));
    };
    let key = "kubernetes.join_address";
    if !config.kubernetes.join_address.is_empty() {
        return Ok(());
    }
    if address.ip().is_unspecified() {
        let message = "it is empty, and nodes.listen is every address of this machine: Pods \
                       have to be told one, such as the name of a Service with its port";
        return Err(wrong(key, message));
    }
    if !config.cluster.listen.is_empty() {
        // Otherwise Pods would be made anew whenever another gateway is the one that makes them.
        let message = "it is empty, and there are several gateways: Pods have to be told one \
                       address for all of them, such as the name of a Service with its port";
        return Err(wrong(key, message));
    }
    Ok(())
}
