//! The admin listener and who may do what there.

use std::net::SocketAddr;

use federation_specs::{
    dns_name,
    id::{SpiffeId, TrustDomain},
};

use super::{
    error::{SettingsError, error},
    trust_domains::{EndpointSvidSettings, LocalDomain},
    values::{endpoint_id, non_empty, socket_address},
};
use crate::{api::Role, config};

/// Most entries of `admin.roles`; each request goes through all of them.
const MAX_ROLES: usize = 1000;

/// The admin listener.
#[derive(Debug, Clone)]
pub struct AdminListener {
    /// Address to listen on.
    pub address: SocketAddr,
    /// SPIFFE ID of the X509-SVID it presents.
    pub endpoint_id: SpiffeId,
    /// Where that comes from.
    pub endpoint_svid: EndpointSvidSettings,
    /// DNS names in it, if it is minted.
    pub dns_names: Vec<String>,
    /// Who may do what.
    pub roles: Roles,
}

/// Who may do what at the admin listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roles(Vec<(Holder, Role)>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Holder {
    One(SpiffeId),
    /// A trust domain, and the beginning of a path with a slash at its end.
    Below(TrustDomain, String),
    Members(TrustDomain),
}

impl Holder {
    fn trust_domain(&self) -> &TrustDomain {
        match self {
            Self::One(id) => id.trust_domain(),
            Self::Below(trust_domain, _) | Self::Members(trust_domain) => trust_domain,
        }
    }

    fn is(&self, id: &SpiffeId) -> bool {
        match self {
            Self::One(expected) => id == expected,
            Self::Below(trust_domain, prefix) => {
                id.is_member_of(trust_domain) && id.path().starts_with(prefix.as_str())
            }
            Self::Members(trust_domain) => id.is_member_of(trust_domain),
        }
    }
}

impl Roles {
    /// The highest role `id` has, `None` if it has none.
    pub fn of(&self, id: &SpiffeId) -> Option<Role> {
        self.0.iter().filter(|(holder, _)| holder.is(id)).map(|(_, role)| *role).max()
    }

    /// The trust domains whose members can have a role, each once.
    pub fn trust_domains(&self) -> Vec<TrustDomain> {
        let mut names: Vec<_> = self.0.iter().map(|(holder, _)| holder.trust_domain().clone()).collect();
        names.sort();
        names.dedup();
        names
    }
}

pub(super) fn listener(admin: &config::Admin, domains: &[LocalDomain]) -> Result<AdminListener, SettingsError> {
    let id = endpoint_id("admin.endpoint_id", &admin.endpoint_id)?;
    let endpoint_svid = match &admin.endpoint_svid {
        None => EndpointSvidSettings::Issuer,
        Some(_) if !admin.dns_names.is_empty() => {
            return Err(error("admin.dns_names", "cannot be had of a Workload API, which gives what its entry says"));
        }
        Some(svid) => EndpointSvidSettings::WorkloadApi {
            socket: non_empty("admin.endpoint_svid.workload_api.socket_path", &svid.workload_api.socket_path)?,
        },
    };
    let domain = domains.iter().find(|domain| domain.name == *id.trust_domain());
    if matches!(endpoint_svid, EndpointSvidSettings::Issuer) && domain.is_none_or(|domain| domain.issuer.is_none()) {
        let problem = format!(
            "the issuer of `{}` would have to mint `{id}`, but that trust domain is not served here with an issuer; \
             choose one that is, or set endpoint_svid",
            id.trust_domain()
        );
        return Err(error("admin.endpoint_id", problem));
    }
    for (index, name) in admin.dns_names.iter().enumerate() {
        let key = format!("admin.dns_names[{index}]");
        dns_name::check(name).map_err(|cause| error(key, format!("{cause}")))?;
    }
    let mut partners = Vec::with_capacity(admin.partner_trust_domains.len());
    for (index, name) in admin.partner_trust_domains.iter().enumerate() {
        let key = format!("admin.partner_trust_domains[{index}]");
        let name = TrustDomain::parse(name).map_err(|cause| error(&key, format!("{cause}")))?;
        if domains.iter().any(|domain| domain.name == name) {
            return Err(error(
                key,
                format!("`{name}` is served here, so its members may have roles anyway; leave it out"),
            ));
        }
        partners.push(name);
    }
    if admin.roles.is_empty() || admin.roles.len() > MAX_ROLES {
        return Err(error("admin.roles", format!("has {} items; write 1 to {MAX_ROLES}", admin.roles.len())));
    }
    let mut roles = Vec::with_capacity(admin.roles.len());
    for (index, entry) in admin.roles.iter().enumerate() {
        let key = format!("admin.roles[{index}]");
        let holder = holder(&key, entry)?;
        let trust_domain = holder.trust_domain();
        if !domains.iter().any(|domain| domain.name == *trust_domain) && !partners.contains(trust_domain) {
            let problem = format!(
                "trust domain `{trust_domain}` is neither served here nor in admin.partner_trust_domains, so nobody of it \
                 can be verified; name it there if its members may have a role"
            );
            return Err(error(key, problem));
        }
        roles.push((holder, entry.role));
    }
    if let Some(unused) = partners.iter().find(|name| !roles.iter().any(|(holder, _)| holder.trust_domain() == *name)) {
        return Err(error("admin.partner_trust_domains", format!("nobody of `{unused}` has a role; leave it out")));
    }
    Ok(AdminListener {
        address: socket_address("admin.bind_address", &admin.bind_address, admin.bind_port)?,
        endpoint_id: id,
        endpoint_svid,
        dns_names: admin.dns_names.clone(),
        roles: Roles(roles),
    })
}

fn holder(key: &str, entry: &config::RoleEntry) -> Result<Holder, SettingsError> {
    match (&entry.spiffe_id, &entry.spiffe_id_prefix, &entry.trust_domain) {
        (Some(id), None, None) => {
            let id = SpiffeId::parse(id).map_err(|cause| error(format!("{key}.spiffe_id"), format!("{cause}")))?;
            if id.path().is_empty() {
                return Err(error(
                    format!("{key}.spiffe_id"),
                    "names a trust domain; use trust_domain for all its members",
                ));
            }
            Ok(Holder::One(id))
        }
        (None, Some(prefix), None) => {
            let key = format!("{key}.spiffe_id_prefix");
            let folder = prefix.strip_suffix('/').ok_or_else(|| {
                error(&key, format!("`{prefix}` does not end with a slash, so names that only begin alike would match"))
            })?;
            let id = SpiffeId::parse(folder).map_err(|cause| error(&key, format!("{cause}")))?;
            if id.path().is_empty() {
                return Err(error(key, "names a trust domain; use trust_domain for all its members"));
            }
            Ok(Holder::Below(id.trust_domain().clone(), format!("{}/", id.path())))
        }
        (None, None, Some(name)) => {
            let name =
                TrustDomain::parse(name).map_err(|cause| error(format!("{key}.trust_domain"), format!("{cause}")))?;
            Ok(Holder::Members(name))
        }
        _ => Err(error(key, "write exactly one of spiffe_id, spiffe_id_prefix and trust_domain")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{api::Role, config::Config, settings::Settings};

    fn check(admin: Value) -> Result<Settings, String> {
        let config: Config = serde_json::from_value(json!({
            "data_dir": "/d",
            "listeners": {"https_spiffe": {}},
            "trust_domains": [
                {"name": "cloud.example", "endpoint_id": "spiffe://cloud.example/gateway", "issuer": {"socket_path": "/s"}},
                {"name": "file.example", "sources": [{"file": {"path": "/b.json"}}]},
            ],
            "admin": admin,
        }))
        .map_err(|cause| cause.to_string())?;
        Settings::check(&config).map_err(|cause| cause.to_string())
    }

    #[test]
    fn the_highest_matching_role_counts_and_the_default_is_none() {
        let settings = check(json!({
            "endpoint_id": "spiffe://cloud.example/admin",
            "partner_trust_domains": ["partner.example"],
            "roles": [
                {"trust_domain": "cloud.example", "role": "viewer"},
                {"spiffe_id_prefix": "spiffe://cloud.example/sre/", "role": "operator"},
                {"spiffe_id": "spiffe://cloud.example/sre/ada", "role": "admin"},
                {"spiffe_id": "spiffe://partner.example/auditor", "role": "viewer"},
            ],
        }))
        .unwrap();
        let roles = settings.admin.unwrap().roles;
        let of = |id: &str| roles.of(&id.parse().unwrap());
        assert_eq!(of("spiffe://cloud.example/any"), Some(Role::Viewer));
        assert_eq!(of("spiffe://cloud.example/sre/bob"), Some(Role::Operator));
        assert_eq!(of("spiffe://cloud.example/sre/ada"), Some(Role::Admin));
        assert_eq!(of("spiffe://cloud.example/sre-evil/bob"), Some(Role::Viewer));
        assert_eq!(of("spiffe://cloud.example/sre"), Some(Role::Viewer));
        assert_eq!(of("spiffe://partner.example/auditor"), Some(Role::Viewer));
        assert_eq!(of("spiffe://partner.example/sre/ada"), None);
        assert_eq!(of("spiffe://file.example/sre/ada"), None);
        let names: Vec<_> = roles.trust_domains().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["cloud.example", "partner.example"]);
    }

    #[test]
    fn what_would_let_nobody_or_anybody_in_is_refused() {
        let roles = json!([{"trust_domain": "cloud.example", "role": "viewer"}]);
        let id = "spiffe://cloud.example/admin";
        let cases = [
            (json!({"roles": roles}), "missing field `endpoint_id`"),
            (json!({"endpoint_id": "spiffe://file.example/admin", "roles": roles}), "not served here with an issuer"),
            (json!({"endpoint_id": "spiffe://other.example/admin", "roles": roles}), "not served here with an issuer"),
            (json!({"endpoint_id": id, "dns_names": ["a b"], "roles": roles}), "admin.dns_names[0]"),
            (
                json!({"endpoint_id": id, "endpoint_svid": {"workload_api": {"socket_path": "/w"}}, "dns_names": ["a.b"], "roles": roles}),
                "cannot be had of a Workload API",
            ),
            (json!({"endpoint_id": id, "roles": []}), "admin.roles: has 0 items"),
            (json!({"endpoint_id": id, "roles": [{"role": "viewer"}]}), "admin.roles[0]: write exactly one"),
            (
                json!({"endpoint_id": id, "roles": [{"trust_domain": "other.example", "role": "admin"}]}),
                "admin.roles[0]: trust domain `other.example` is neither served here",
            ),
            (
                json!({"endpoint_id": id, "roles": [{"spiffe_id_prefix": "spiffe://cloud.example/sre", "role": "admin"}]}),
                "does not end with a slash",
            ),
            (
                json!({"endpoint_id": id, "roles": [{"spiffe_id_prefix": "spiffe://cloud.example/", "role": "admin"}]}),
                "use trust_domain",
            ),
            (
                json!({"endpoint_id": id, "roles": [{"spiffe_id": "spiffe://cloud.example", "role": "admin"}]}),
                "use trust_domain",
            ),
            (
                json!({"endpoint_id": id, "partner_trust_domains": ["cloud.example"], "roles": roles}),
                "admin.partner_trust_domains[0]: `cloud.example` is served here",
            ),
            (
                json!({"endpoint_id": id, "partner_trust_domains": ["p.example"], "roles": roles}),
                "nobody of `p.example` has a role",
            ),
            (
                json!({"endpoint_id": id, "roles": [{"trust_domain": "cloud.example", "role": "root"}]}),
                "unknown variant",
            ),
        ];
        for (admin, text) in cases {
            let problem = check(admin.clone()).unwrap_err();
            assert!(problem.contains(text), "{admin}: {problem}");
        }
    }
}
