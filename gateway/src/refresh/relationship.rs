//! What a relationship is: where the partner's bundle is fetched, how its endpoint proves itself, who receives the
//! bundle. Several sources (the configuration, the admin API, each issuer) are merged into one definition a partner.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use federation_specs::{
    bundle::Bundle,
    convert::{Relationship, bundle_from_proto, relationship_from_proto},
    id::TrustDomain,
    profile::{EndpointProfile, EndpointUrl},
    proto::types::FederationRelationship,
};

use ipnet::IpNet;

use super::policy::Policy;
use crate::{
    api::{Origin, managed::Managed},
    settings::{ConfiguredRelationship, Document},
};

/// A relationship created at an issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerRelationship {
    /// The partner.
    pub trust_domain: TrustDomain,
    /// Bundle endpoint URL.
    pub url: EndpointUrl,
    /// Bundle endpoint profile.
    pub profile: EndpointProfile,
    /// The partner's bundle as the issuer holds it.
    pub bundle: Option<Arc<Bundle>>,
}

/// A relationship managed over the admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedRelationship {
    /// What it says.
    pub relationship: ConfiguredRelationship,
    /// The set it was applied with.
    pub set: Option<String>,
    /// Its version.
    pub version: i64,
}

/// Why a relationship of an issuer cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("relationship with `{trust_domain}` cannot be used: {problem}")]
pub struct UnusableRelationship {
    /// The partner as the issuer named it.
    pub trust_domain: String,
    /// What is wrong.
    pub problem: String,
}

impl IssuerRelationship {
    /// Reads what an issuer sent. A bundle that cannot be read counts as none.
    ///
    /// # Errors
    /// [`UnusableRelationship`] when partner, URL or profile cannot be read.
    pub fn from_proto(message: &FederationRelationship) -> Result<Self, UnusableRelationship> {
        let without_bundle = FederationRelationship { trust_domain_bundle: None, ..message.clone() };
        let Relationship { trust_domain, url, profile, .. } =
            relationship_from_proto(&without_bundle).map_err(|cause| UnusableRelationship {
                trust_domain: message.trust_domain.clone(),
                problem: cause.to_string(),
            })?;
        let bundle = message
            .trust_domain_bundle
            .as_ref()
            .and_then(|bundle| bundle_from_proto(bundle).ok())
            .filter(|bundle| *bundle.trust_domain() == trust_domain && !bundle.is_empty())
            .map(Arc::new);
        Ok(Self { trust_domain, url, profile, bundle })
    }
}

/// The first bundle of an `https_spiffe` endpoint's trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bootstrap {
    /// SPIFFE JSON in a file, read when needed.
    File(PathBuf),
    /// What the relationship was given with, or what an issuer holds.
    Bundle(Arc<Bundle>),
}

impl From<Document<Arc<Bundle>>> for Bootstrap {
    fn from(document: Document<Arc<Bundle>>) -> Self {
        match document {
            Document::File(path) => Self::File(path),
            Document::Inline(bundle) => Self::Bundle(bundle),
        }
    }
}

/// Everything one refresh task needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The partner.
    pub trust_domain: TrustDomain,
    /// Bundle endpoint URL.
    pub url: EndpointUrl,
    /// Further URLs of the same bundle, in the order they are asked.
    pub failover_urls: Vec<EndpointUrl>,
    /// Networks that are not public and may be asked for it, besides those of every relationship.
    pub allow_addresses: Vec<IpNet>,
    /// Bundle endpoint profile.
    pub profile: EndpointProfile,
    /// Who defined it.
    pub origin: Origin,
    /// Set and version, if it is managed over the admin API.
    pub managed: Option<Managed>,
    /// Local trust domains that receive the bundle.
    pub receivers: BTreeSet<TrustDomain>,
    /// Local trust domains whose issuer names another endpoint; they receive nothing.
    pub conflicts: BTreeSet<TrustDomain>,
    /// PEM authorities instead of the system's (`https_web`).
    pub ca: Option<Document<Arc<str>>>,
    /// First bundle (`https_spiffe`).
    pub bootstrap: Option<Bootstrap>,
    /// What becomes of changes.
    pub policy: Policy,
}

impl Definition {
    /// Whether both fetch from the same place in the same way.
    pub fn same_endpoint(&self, other: &Self) -> bool {
        self.urls().eq(other.urls())
            && self.allow_addresses == other.allow_addresses
            && self.profile == other.profile
            && self.ca == other.ca
    }

    /// Every URL of the bundle, the first one first.
    pub fn urls(&self) -> impl Iterator<Item = &EndpointUrl> {
        std::iter::once(&self.url).chain(&self.failover_urls)
    }
}

/// The relationships of every issuer, by local trust domain and partner.
pub type ByIssuer = BTreeMap<TrustDomain, BTreeMap<TrustDomain, IssuerRelationship>>;

/// The one definition of a partner from the configuration, from the admin API and from each issuer's relationships; `None`
/// if nobody names the partner.
///
/// The configuration wins, as in SPIRE, and then what is managed; among issuers the first by name of its trust domain
/// does. An issuer that names the same endpoint joins the receivers; one that names another is listed as a conflict and receives nothing, because
/// a partner has one bundle. Relationships of issuers have `default_policy`.
pub fn merge(
    partner: &TrustDomain,
    configured: Option<&ConfiguredRelationship>,
    managed: Option<&ManagedRelationship>,
    by_issuer: &ByIssuer,
    default_policy: Policy,
) -> Option<Definition> {
    let mut merged = match (configured, managed) {
        (Some(item), _) => Some(definition(item, Origin::Config, None)),
        (None, Some(ManagedRelationship { relationship, set, version })) => {
            let managed = Managed { set: set.clone(), version: *version };
            Some(definition(relationship, Origin::Managed, Some(managed)))
        }
        (None, None) => None,
    };
    for (local, relationships) in by_issuer.iter().filter(|(local, _)| *local != partner) {
        let Some(item) = relationships.get(partner) else { continue };
        match &mut merged {
            None => {
                merged = Some(Definition {
                    trust_domain: item.trust_domain.clone(),
                    url: item.url.clone(),
                    failover_urls: Vec::new(),
                    allow_addresses: Vec::new(),
                    profile: item.profile.clone(),
                    origin: Origin::Issuer,
                    managed: None,
                    receivers: BTreeSet::from([local.clone()]),
                    conflicts: BTreeSet::new(),
                    ca: None,
                    bootstrap: item.bundle.clone().map(Bootstrap::Bundle),
                    policy: default_policy,
                });
            }
            Some(definition) if definition.urls().any(|url| *url == item.url) && definition.profile == item.profile => {
                definition.receivers.insert(local.clone());
                if definition.bootstrap.is_none() {
                    definition.bootstrap = item.bundle.clone().map(Bootstrap::Bundle);
                }
            }
            Some(definition) if definition.receivers.contains(local) => {
                // It is already said where this issuer's copy comes from.
            }
            Some(definition) => {
                definition.conflicts.insert(local.clone());
            }
        }
    }
    merged
}

fn definition(item: &ConfiguredRelationship, origin: Origin, managed: Option<Managed>) -> Definition {
    Definition {
        trust_domain: item.trust_domain.clone(),
        url: item.url.clone(),
        failover_urls: item.failover_urls.clone(),
        allow_addresses: item.allow_addresses.clone(),
        profile: item.profile.clone(),
        origin,
        managed,
        receivers: item.local_trust_domains.clone(),
        conflicts: BTreeSet::new(),
        ca: item.ca.clone(),
        bootstrap: item.bootstrap.clone().map(Bootstrap::from),
        policy: item.policy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use federation_specs::proto::types::{
        Bundle as ProtoBundle, HttpsWebProfile, HttpsspiffeProfile, federation_relationship::BundleEndpointProfile,
    };

    fn td(name: &str) -> TrustDomain {
        TrustDomain::parse(name).unwrap()
    }

    fn message(name: &str, url: &str) -> FederationRelationship {
        FederationRelationship {
            trust_domain: name.to_owned(),
            bundle_endpoint_url: url.to_owned(),
            bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsWeb(HttpsWebProfile {})),
            trust_domain_bundle: None,
        }
    }

    fn at_issuer(name: &str, url: &str) -> IssuerRelationship {
        IssuerRelationship::from_proto(&message(name, url)).unwrap()
    }

    fn configured(name: &str, url: &str, receivers: &[&str]) -> ConfiguredRelationship {
        ConfiguredRelationship {
            trust_domain: td(name),
            local_trust_domains: receivers.iter().map(|name| td(name)).collect(),
            url: EndpointUrl::parse(url).unwrap(),
            failover_urls: Vec::new(),
            allow_addresses: Vec::new(),
            profile: EndpointProfile::HttpsWeb,
            ca: None,
            bootstrap: None,
            policy: Policy::default(),
        }
    }

    #[test]
    fn reads_what_an_issuer_sends() {
        let mut spiffe = message("spiffe://partner.example", "https://p.example/");
        spiffe.bundle_endpoint_profile = Some(BundleEndpointProfile::HttpsSpiffe(HttpsspiffeProfile {
            endpoint_spiffe_id: "spiffe://partner.example/gw".to_owned(),
        }));
        let read = IssuerRelationship::from_proto(&spiffe).unwrap();
        assert_eq!(read.trust_domain, td("partner.example"));
        assert!(matches!(read.profile, EndpointProfile::HttpsSpiffe { .. }));

        let mut without = message("partner.example", "https://p.example/");
        without.bundle_endpoint_profile = None;
        let error = IssuerRelationship::from_proto(&without).unwrap_err().to_string();
        assert!(error.contains("unsupported bundle endpoint profile"), "{error}");
        assert!(IssuerRelationship::from_proto(&message("partner.example", "http://p.example/")).is_err());
        assert!(IssuerRelationship::from_proto(&message("Not A Domain", "https://p.example/")).is_err());

        // A bundle of another domain, or without keys, is none.
        let mut foreign = message("partner.example", "https://p.example/");
        foreign.trust_domain_bundle =
            Some(ProtoBundle { trust_domain: "other.example".to_owned(), ..ProtoBundle::default() });
        assert_eq!(IssuerRelationship::from_proto(&foreign).unwrap().bundle, None);
    }

    fn issuer(local: &str, items: impl IntoIterator<Item = IssuerRelationship>) -> ByIssuer {
        let items = items.into_iter().map(|item| (item.trust_domain.clone(), item)).collect();
        BTreeMap::from([(td(local), items)])
    }

    #[test]
    fn the_configuration_wins_and_conflicts_are_listed() {
        let configured = configured("p.example", "https://one.example/", &["a.example"]);
        let mut by_issuer = issuer("a.example", [at_issuer("p.example", "https://two.example/")]);
        by_issuer.extend(issuer("b.example", [at_issuer("p.example", "https://one.example/")]));
        let both = [at_issuer("p.example", "https://three.example/"), at_issuer("c.example", "https://x/")];
        by_issuer.extend(issuer("c.example", both));
        let merged = |name: &str, configured| merge(&td(name), configured, None, &by_issuer, Policy::default());
        assert_eq!(merged("c.example", None), None, "no domain is a partner of its own");
        assert_eq!(merged("other.example", None), None);
        let definition = merged("p.example", Some(&configured)).unwrap();
        assert_eq!(definition.url.to_string(), "https://one.example/");
        assert_eq!(definition.origin, Origin::Config);
        assert_eq!(definition.receivers, BTreeSet::from([td("a.example"), td("b.example")]));
        assert_eq!(definition.conflicts, BTreeSet::from([td("c.example")]));
    }

    #[test]
    fn the_configuration_comes_before_what_is_managed_and_that_before_issuers() {
        let of_config = configured("p.example", "https://one.example/", &["a.example"]);
        let managed = ManagedRelationship {
            relationship: configured("p.example", "https://two.example/", &["a.example"]),
            set: Some("s".to_owned()),
            version: 7,
        };
        let mut by_issuer = issuer("a.example", [at_issuer("p.example", "https://three.example/")]);
        by_issuer.extend(issuer("b.example", [at_issuer("p.example", "https://two.example/")]));
        by_issuer.extend(issuer("c.example", [at_issuer("p.example", "https://three.example/")]));
        let merged = |configured| merge(&td("p.example"), configured, Some(&managed), &by_issuer, Policy::default());
        let both = merged(Some(&of_config)).unwrap();
        assert_eq!((both.origin, both.managed), (Origin::Config, None));
        let alone = merged(None).unwrap();
        assert_eq!((alone.origin, alone.managed.map(|it| it.version)), (Origin::Managed, Some(7)));
        assert_eq!(alone.url.to_string(), "https://two.example/");
        assert_eq!(alone.receivers, BTreeSet::from([td("a.example"), td("b.example")]));
        assert_eq!(alone.conflicts, BTreeSet::from([td("c.example")]));
    }

    #[test]
    fn issuers_share_one_definition_a_partner() {
        let mut by_issuer = issuer("a.example", [at_issuer("p.example", "https://one.example/")]);
        let both = [at_issuer("p.example", "https://one.example/"), at_issuer("q.example", "https://q/")];
        by_issuer.extend(issuer("b.example", both));
        let merged = |name: &str| merge(&td(name), None, None, &by_issuer, Policy::default()).unwrap();
        assert_eq!(merged("p.example").receivers.len(), 2);
        assert_eq!(merged("p.example").origin, Origin::Issuer);
        assert_eq!(merged("q.example").receivers, BTreeSet::from([td("b.example")]));
    }
}
