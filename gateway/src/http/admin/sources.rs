//! The sources of the served trust domains.

use axum::extract::State;
use federation_specs::{bundle_change::difference, id::TrustDomain};
use serde::Deserialize;
use utoipa::{IntoParams, openapi::HttpMethod};

use super::{
    Admin,
    caller::Caller,
    extract::{InputOrDefault, Named, Params},
    operation::Operation,
    page::Page,
    reason,
    tag::{IfMatch, Tag, Tagged},
    to_the_end,
};
use crate::{
    api::{
        ReasonRequest, Role,
        sources::{AcceptedSources, DomainSources, Source, SourceList},
    },
    audit::Order,
    http::problem::{AdminError, Kind},
    partners::content_digest,
    served::ServedDomain,
    source::{self, contributions::SourceStatus},
};

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            HttpMethod::Get,
            "/v1/sources",
            Role::Viewer,
            ("listSources", "Where the bundles of served trust domains come from, and how that is doing"),
            list,
        )
        .paged::<Filter>()
        .answers::<SourceList>()
        .tagged(),
        Operation::new(
            HttpMethod::Get,
            "/v1/sources/{trust_domain}",
            Role::Viewer,
            ("getSources", "The sources of one served trust domain"),
            show,
        )
        .answers::<DomainSources>()
        .tagged()
        .problems(&[Kind::UnknownDomain]),
        Operation::new(
            HttpMethod::Post,
            "/v1/sources/{trust_domain}/accept",
            Role::Operator,
            ("acceptSources", "Publish what the held sources of a trust domain give"),
            accept,
        )
        .remark(
            "If-Match is needed, with the ETag of the trust domain's sources, so that what was looked at is published.",
        )
        .optional_body::<ReasonRequest>()
        .answers::<AcceptedSources>()
        .tagged()
        .problems(&[Kind::UnknownDomain, Kind::ConditionNeeded, Kind::NotPublished]),
    ]
}

/// Which sources are wanted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// At most this many in one answer, 1 to 1000; 100 unless given.
    limit: Option<u32>,
    /// `next_page_token` of the page before; the filter must be the same.
    page_token: Option<String>,
    /// Only those that are held (`true`) or are not (`false`).
    held: Option<bool>,
    /// Only those that do not answer (`true`) or do (`false`).
    failing: Option<bool>,
}

fn describe(trust_domain: &TrustDomain, status: SourceStatus) -> Source {
    Source {
        trust_domain: trust_domain.to_string(),
        source: status.key,
        sequence: status.accepted.as_ref().and_then(|bundle| bundle.sequence()),
        x509_authorities: status.accepted.as_ref().map_or(0, |bundle| bundle.x509_authorities().len()),
        jwt_authorities: status.accepted.as_ref().map_or(0, |bundle| bundle.jwt_authorities().len()),
        held_digest: status.offered.as_deref().map(content_digest),
        held_sequence: status.offered.as_ref().and_then(|bundle| bundle.sequence()),
        held_difference: status
            .offered
            .as_deref()
            .map(|offered| (&difference(status.accepted.as_deref(), offered)).into()),
        held: status.held.map(|reason| reason.to_string()),
        held_since: status.held_since,
        failing_since: status.failing_since,
        last_error: status.last_error,
    }
}

/// The tag of a trust domain's sources: what counts of each, and what is held back.
fn tag_of(statuses: &[SourceStatus]) -> Tag {
    let state = |status: &SourceStatus| {
        let digest = |bundle: &Option<_>| bundle.as_deref().map(content_digest);
        (
            status.key.clone(),
            digest(&status.accepted),
            digest(&status.offered),
            status.held.map(|held| held.to_string()),
        )
    };
    Tag::of(&statuses.iter().map(state).collect::<Vec<_>>())
}

/// What pages of sources are ordered by: the trust domain, and the place in its configuration.
fn key(trust_domain: &str, index: usize) -> String {
    format!("{trust_domain} {index:06}")
}

async fn list(State(admin): State<Admin>, Params(filter): Params<Filter>) -> Result<Tagged<SourceList>, AdminError> {
    let page = Page::new("sources", &(filter.held, filter.failing), filter.limit, filter.page_token.as_deref())?;
    let mut domains: Vec<_> = admin.served.iter().collect();
    domains.sort_by_key(|domain| domain.name().as_str());
    let sources = domains.into_iter().flat_map(|domain| {
        let statuses = domain.sources().status().into_iter().enumerate();
        statuses.map(|(index, status)| (key(domain.name().as_str(), index), describe(domain.name(), status)))
    });
    let wanted = sources
        .skip_while(|(key, _)| page.after().is_some_and(|after| key.as_str() <= after))
        .filter(|(_, source)| filter.held.is_none_or(|held| source.held.is_some() == held))
        .filter(|(_, source)| filter.failing.is_none_or(|failing| source.failing_since.is_some() == failing));
    let (sources, next_page_token) = page.cut(wanted.take(page.wanted()).collect(), |(key, _)| key.clone());
    let sources = sources.into_iter().map(|(_, source)| source).collect();
    Ok(Tagged::whole(SourceList { sources, next_page_token }))
}

fn domain<'a>(admin: &'a Admin, name: &TrustDomain) -> Result<&'a ServedDomain, AdminError> {
    admin.served.get(name).map(AsRef::as_ref).ok_or_else(|| AdminError::NoDomain(name.clone()))
}

async fn show(State(admin): State<Admin>, Named(name): Named) -> Result<Tagged<DomainSources>, AdminError> {
    let statuses = domain(&admin, &name)?.sources().status();
    let tag = tag_of(&statuses);
    let sources = statuses.into_iter().map(|status| describe(&name, status)).collect();
    Ok(Tagged(tag, DomainSources { trust_domain: name.to_string(), sources }))
}

async fn accept(
    State(admin): State<Admin>,
    caller: Caller,
    Named(name): Named,
    condition: IfMatch,
    InputOrDefault(request): InputOrDefault<ReasonRequest>,
) -> Result<Tagged<AcceptedSources>, AdminError> {
    reason(&request.why)?;
    domain(&admin, &name)?;
    if !condition.is_given() {
        return Err(AdminError::ConditionNeeded(
            "accepting held sources publishes what they give now: send If-Match with the ETag of GET /v1/sources/{trust_domain}",
        ));
    }
    to_the_end(async move {
        let domain = domain(&admin, &name)?;
        let by = caller.actor().await;
        let as_seen = || condition.holds(Some(&tag_of(&domain.sources().status())));
        let order = Order { by: &by, why: &request.why, as_seen: &as_seen };
        let accepted = source::accept_held(domain, &admin.store, &admin.clock, &order).await;
        let accepted = accepted.map_err(AdminError::Source)?.ok_or(AdminError::Changed)?;
        tracing::warn!(trust_domain = %name, sources = ?accepted, who = %by, "held sources accepted by an operator");
        let tag = tag_of(&domain.sources().status());
        Ok(Tagged(tag, AcceptedSources { trust_domain: name.to_string(), accepted }))
    })
    .await
}
