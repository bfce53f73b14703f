//! The way to the cluster.

use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};

use crate::config::Config;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Why there is no way to the cluster.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The configuration contradicts itself.
    #[error("{0}")]
    Configuration(String),
    /// The kubeconfig cannot be read, or has no such context.
    #[error("the kubeconfig {path} cannot be used")]
    Kubeconfig {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// No kubeconfig is named, and this is no Pod.
    #[error("this is no Pod with a service account; set kubernetes.kubeconfig")]
    NotInCluster(#[source] Box<kube::config::InClusterError>),
    /// The client cannot be made, usually because of a certificate.
    #[error("the client of the cluster cannot be made")]
    Client(#[source] Box<kube::Error>),
}

/// A client and where it works. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Reads how the cluster is reached. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn new(config: &Config) -> Result<Self, ConnectError> {
        config.check().map_err(ConnectError::Configuration)?;
        // TLS takes the provider of the process; that there is one already is fine.
        let _known = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut found = if config.kubeconfig.is_empty() {
            kube::Config::incluster()
                .map_err(|source| ConnectError::NotInCluster(Box::new(source)))?
        } else {
            let wrong = |source| ConnectError::Kubeconfig {
                path: config.kubeconfig.clone(),
                source: Box::new(source),
            };
            let file = Kubeconfig::read_from(&config.kubeconfig).map_err(wrong)?;
            let options = KubeConfigOptions::default();
            kube::Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(wrong)?
        };
        found.connect_timeout = Some(CONNECT);
        let namespace = if config.namespace.is_empty() {
            found.default_namespace.clone()
        } else {
            config.namespace.clone()
        };
        let client =
            Client::try_from(found).map_err(|source| ConnectError::Client(Box::new(source)))?;
        Ok(Self { client, namespace })
    }

    /// The namespace of everything.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The objects of a kind in the namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}
