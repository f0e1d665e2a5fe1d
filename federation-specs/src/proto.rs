//! Messages, clients and servers generated from the `.proto` files of this
//! crate: the SPIFFE Workload API, the SPIRE Server and agent APIs, the SPIFFE
//! Broker API, gRPC health and Entente's own federation service.
//!
//! The rules for their content are in the other modules ([`crate::convert`] crosses between the two).

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::large_futures)]

mod redacted;

/// Every file of this module as an encoded `google.protobuf.FileDescriptorSet`,
/// imports included, for gRPC reflection and JSON rendering.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// `SpiffeWorkloadAPI`, which has no protobuf package.
pub mod workload {
    tonic::include_proto!("_");
}

/// `spiffe.broker`.
pub mod broker {
    tonic::include_proto!("spiffe.broker");
}

/// `grpc.health.v1`.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// `google.rpc`.
pub mod rpc {
    tonic::include_proto!("google.rpc");
}

// The generated code names other packages by relative module path, so the
// modules must nest exactly as the packages do.
mod packages {
    pub mod spire {
        pub mod agent {
            pub mod debug {
                pub mod v1 {
                    tonic::include_proto!("spire.agent.debug.v1");
                }
            }
        }
        pub mod api {
            pub mod types {
                tonic::include_proto!("spire.api.types");
            }
            pub mod agent {
                pub mod delegatedidentity {
                    pub mod v1 {
                        tonic::include_proto!("spire.api.agent.delegatedidentity.v1");
                    }
                }
                pub mod logger {
                    pub mod v1 {
                        tonic::include_proto!("spire.api.agent.logger.v1");
                    }
                }
            }
            pub mod server {
                pub mod agent {
                    pub mod v1 {
                        tonic::include_proto!("spire.api.server.agent.v1");
                    }
                }
                pub mod bundle {
                    pub mod v1 {
                        tonic::include_proto!("spire.api.server.bundle.v1");
                    }
                }
                pub mod debug {
                    pub mod v1 {
                        tonic::include_proto!("spire.api.server.debug.v1");
                    }
                }
                pub mod entry {
                    pub mod v1 {
                        tonic::include_proto!("spire.api.server.entry.v1");
                    }
                }
                pub mod localauthority {
                    pub mod v1 {
                        tonic::include_proto!("spire.api.server.localauthority.v1");
                    }
                }
                pub mod logger {
                    pub mod v1 {
                        tonic::include_proto!("spire.api.server.logger.v1");
                    }
                }
                pub mod svid {
                    pub mod v1 {
                        tonic::include_proto!("spire.api.server.svid.v1");
                    }
                }
                pub mod trustdomain {
                    pub mod v1 {
                        tonic::include_proto!("spire.api.server.trustdomain.v1");
                    }
                }
            }
        }
    }
    pub mod entente {
        pub mod federation {
            pub mod v1 {
                tonic::include_proto!("entente.federation.v1");
            }
        }
    }
}

/// `spire.api.types`.
pub use packages::spire::api::types;

/// The SPIRE Server API, one module a service (`spire.api.server.*.v1`).
pub mod server {
    pub use super::packages::spire::api::server::agent::v1 as agent;
    pub use super::packages::spire::api::server::bundle::v1 as bundle;
    pub use super::packages::spire::api::server::debug::v1 as debug;
    pub use super::packages::spire::api::server::entry::v1 as entry;
    pub use super::packages::spire::api::server::localauthority::v1 as localauthority;
    pub use super::packages::spire::api::server::logger::v1 as logger;
    pub use super::packages::spire::api::server::svid::v1 as svid;
    pub use super::packages::spire::api::server::trustdomain::v1 as trustdomain;
}

/// The agent's local APIs (`spire.agent.debug.v1`, `spire.api.agent.*.v1`).
pub mod agent {
    pub use super::packages::spire::agent::debug::v1 as debug;
    pub use super::packages::spire::api::agent::delegatedidentity::v1 as delegatedidentity;
    pub use super::packages::spire::api::agent::logger::v1 as logger;
}

/// Entente's own services.
pub mod entente {
    pub use super::packages::entente::federation::v1 as federation;
}
