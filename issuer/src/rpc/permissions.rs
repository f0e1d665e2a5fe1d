//! Who may call what: one row for each method of every service the issuer serves.
//!
//! This table is the only place where access is written down. A test compares it with the protobuf descriptors, so a
//! method without a row cannot be served.

/// The kinds of caller a method accepts. A method is permitted when any of them applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Anybody, with or without a certificate.
    pub anyone: bool,
    /// Callers on the issuer's Unix socket.
    pub local: bool,
    /// SPIFFE IDs listed in `admin_ids`, and IDs of entries marked `admin`.
    pub admin: bool,
    /// IDs of entries marked `downstream`.
    pub downstream: bool,
    /// Attested agents that are neither banned nor expired.
    pub agent: bool,
}

const NOBODY: Access = Access { anyone: false, local: false, admin: false, downstream: false, agent: false };
const ANYONE: Access = Access { anyone: true, ..NOBODY };
const AGENT: Access = Access { agent: true, ..NOBODY };
const DOWNSTREAM: Access = Access { downstream: true, ..NOBODY };
const LOCAL: Access = Access { local: true, ..NOBODY };
const LOCAL_OR_ADMIN: Access = Access { local: true, admin: true, ..NOBODY };
const LOCAL_ADMIN_OR_AGENT: Access = Access { local: true, admin: true, agent: true, ..NOBODY };

/// One served gRPC service and the access of each of its methods.
#[derive(Debug)]
pub struct ServiceRules {
    /// Fully qualified protobuf name of the service.
    pub service: &'static str,
    /// Served on the Unix socket only; over TCP the service does not exist.
    pub local_only: bool,
    /// Method name and who may call it.
    pub methods: &'static [(&'static str, Access)],
}

/// Every service of the issuer.
pub const SERVICES: &[ServiceRules] = &[
    ServiceRules {
        service: "spire.api.server.agent.v1.Agent",
        local_only: false,
        methods: &[
            ("CountAgents", LOCAL_OR_ADMIN),
            ("ListAgents", LOCAL_OR_ADMIN),
            ("GetAgent", LOCAL_OR_ADMIN),
            ("DeleteAgent", LOCAL_OR_ADMIN),
            ("BanAgent", LOCAL_OR_ADMIN),
            ("AttestAgent", ANYONE),
            ("RenewAgent", AGENT),
            ("CreateJoinToken", LOCAL_OR_ADMIN),
            ("PostStatus", AGENT),
        ],
    },
    ServiceRules {
        service: "spire.api.server.bundle.v1.Bundle",
        local_only: false,
        methods: &[
            ("CountBundles", LOCAL_OR_ADMIN),
            ("GetBundle", ANYONE),
            ("AppendBundle", LOCAL_OR_ADMIN),
            ("PublishJWTAuthority", DOWNSTREAM),
            ("PublishWITAuthority", DOWNSTREAM),
            ("ListFederatedBundles", LOCAL_OR_ADMIN),
            ("GetFederatedBundle", LOCAL_ADMIN_OR_AGENT),
            ("BatchCreateFederatedBundle", LOCAL_OR_ADMIN),
            ("BatchUpdateFederatedBundle", LOCAL_OR_ADMIN),
            ("BatchSetFederatedBundle", LOCAL_OR_ADMIN),
            ("BatchDeleteFederatedBundle", LOCAL_OR_ADMIN),
        ],
    },
    ServiceRules {
        service: "spire.api.server.entry.v1.Entry",
        local_only: false,
        methods: &[
            ("CountEntries", LOCAL_OR_ADMIN),
            ("ListEntries", LOCAL_OR_ADMIN),
            ("GetEntry", LOCAL_OR_ADMIN),
            ("BatchCreateEntry", LOCAL_OR_ADMIN),
            ("BatchUpdateEntry", LOCAL_OR_ADMIN),
            ("BatchDeleteEntry", LOCAL_OR_ADMIN),
            ("GetAuthorizedEntries", AGENT),
            ("SyncAuthorizedEntries", AGENT),
        ],
    },
    ServiceRules {
        service: "spire.api.server.svid.v1.SVID",
        local_only: false,
        methods: &[
            ("MintX509SVID", LOCAL_OR_ADMIN),
            ("MintJWTSVID", LOCAL_OR_ADMIN),
            ("MintWITSVID", LOCAL_OR_ADMIN),
            ("BatchNewX509SVID", AGENT),
            ("NewJWTSVID", AGENT),
            ("BatchNewWITSVID", AGENT),
            ("NewDownstreamX509CA", DOWNSTREAM),
        ],
    },
    ServiceRules {
        service: "spire.api.server.trustdomain.v1.TrustDomain",
        local_only: false,
        methods: &[
            ("ListFederationRelationships", LOCAL_OR_ADMIN),
            ("GetFederationRelationship", LOCAL_OR_ADMIN),
            ("BatchCreateFederationRelationship", LOCAL_OR_ADMIN),
            ("BatchUpdateFederationRelationship", LOCAL_OR_ADMIN),
            ("BatchDeleteFederationRelationship", LOCAL_OR_ADMIN),
            ("RefreshBundle", LOCAL_OR_ADMIN),
        ],
    },
    ServiceRules {
        service: "spire.api.server.localauthority.v1.LocalAuthority",
        local_only: false,
        methods: &[
            ("GetJWTAuthorityState", LOCAL_OR_ADMIN),
            ("PrepareJWTAuthority", LOCAL_OR_ADMIN),
            ("ActivateJWTAuthority", LOCAL_OR_ADMIN),
            ("TaintJWTAuthority", LOCAL_OR_ADMIN),
            ("RevokeJWTAuthority", LOCAL_OR_ADMIN),
            ("GetX509AuthorityState", LOCAL_OR_ADMIN),
            ("PrepareX509Authority", LOCAL_OR_ADMIN),
            ("ActivateX509Authority", LOCAL_OR_ADMIN),
            ("TaintX509Authority", LOCAL_OR_ADMIN),
            ("TaintX509UpstreamAuthority", LOCAL_OR_ADMIN),
            ("RevokeX509Authority", LOCAL_OR_ADMIN),
            ("RevokeX509UpstreamAuthority", LOCAL_OR_ADMIN),
            ("GetWITAuthorityState", LOCAL_OR_ADMIN),
            ("PrepareWITAuthority", LOCAL_OR_ADMIN),
            ("ActivateWITAuthority", LOCAL_OR_ADMIN),
            ("TaintWITAuthority", LOCAL_OR_ADMIN),
            ("RevokeWITAuthority", LOCAL_OR_ADMIN),
        ],
    },
    ServiceRules {
        service: "entente.federation.v1.FederationWork",
        local_only: false,
        methods: &[("WatchRelationships", LOCAL_OR_ADMIN), ("ReportRefresh", LOCAL_OR_ADMIN)],
    },
    ServiceRules { service: "spire.api.server.debug.v1.Debug", local_only: true, methods: &[("GetInfo", LOCAL)] },
    ServiceRules {
        service: "spire.api.server.logger.v1.Logger",
        local_only: true,
        methods: &[("GetLogger", LOCAL), ("SetLogLevel", LOCAL), ("ResetLogLevel", LOCAL)],
    },
    ServiceRules {
        service: "grpc.health.v1.Health",
        local_only: true,
        methods: &[("Check", LOCAL), ("List", LOCAL), ("Watch", LOCAL)],
    },
];

/// What the table says about a request path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The method exists on this listener.
    Method(Access),
    /// The service exists, the method does not.
    UnknownMethod,
    /// The service does not exist on this listener.
    UnknownService,
}

/// Looks up `/package.Service/Method`. `local` says which listener the request arrived on.
pub fn lookup(service: &str, method: &str, local: bool) -> Lookup {
    let Some(rules) = SERVICES.iter().find(|rules| rules.service == service && (local || !rules.local_only)) else {
        return Lookup::UnknownService;
    };
    match rules.methods.iter().find(|(name, _)| *name == method) {
        Some((_, access)) => Lookup::Method(*access),
        None => Lookup::UnknownMethod,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn the_table_and_the_descriptors_name_the_same_methods() {
        let set =
            prost_types::FileDescriptorSet::decode(federation_specs::proto::FILE_DESCRIPTOR_SET).expect("descriptors");
        let mut described: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for file in &set.file {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                let methods = service.method.iter().map(|method| method.name().to_owned()).collect();
                described.insert(name, methods);
            }
        }
        for rules in SERVICES {
            let listed: BTreeSet<String> = rules.methods.iter().map(|(name, _)| (*name).to_owned()).collect();
            assert_eq!(described.get(rules.service), Some(&listed), "{}", rules.service);
            assert_eq!(listed.len(), rules.methods.len(), "{} lists a method twice", rules.service);
        }
        for name in described.keys().filter(|name| name.starts_with("spire.api.server.")) {
            assert!(SERVICES.iter().any(|rules| rules.service == name), "{name} has no rules");
        }
    }

    #[test]
    fn local_only_services_do_not_exist_over_tcp() {
        let health = "grpc.health.v1.Health";
        assert_eq!(lookup(health, "Check", true), Lookup::Method(LOCAL));
        assert_eq!(lookup(health, "Check", false), Lookup::UnknownService);
        assert_eq!(lookup("spire.api.server.agent.v1.Agent", "NoSuch", true), Lookup::UnknownMethod);
        assert_eq!(lookup("nosuch.Service", "NoSuch", true), Lookup::UnknownService);
    }

    #[test]
    fn only_attestation_and_the_bundle_are_open_to_everybody() {
        let open: Vec<_> = SERVICES
            .iter()
            .flat_map(|rules| rules.methods.iter().filter(|(_, access)| access.anyone))
            .map(|(name, _)| *name)
            .collect();
        assert_eq!(open, ["AttestAgent", "GetBundle"]);
    }
}
