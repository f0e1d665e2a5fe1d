//! Relationships: looking, and refreshing.

use std::collections::BTreeSet;

use axum::extract::State;
use federation_specs::id::TrustDomain;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, openapi::HttpMethod};

use super::{
    Admin,
    caller::Caller,
    extract::{InputOrDefault, Named, Params},
    operation::Operation,
    page::Page,
    reason,
    tag::{IfMatch, Tag, Tagged},
};
use crate::{
    api::{Health, Mode, RefreshRequest, RefreshResult, Relationship, RelationshipList, RelationshipState, Role},
    http::problem::{AdminError, Kind},
};

/// Relationships described at once while a list is put together.
const CHUNK: usize = 256;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            HttpMethod::Get,
            "/v1/relationships",
            Role::Viewer,
            ("listRelationships", "Relationships and how they are doing, by trust domain"),
            list,
        )
        .paged::<Filter>()
        .answers::<RelationshipList>()
        .tagged(),
        Operation::new(
            HttpMethod::Get,
            "/v1/relationships/{trust_domain}",
            Role::Viewer,
            ("getRelationship", "One relationship and how it is doing"),
            show,
        )
        .answers::<Relationship>()
        .tagged()
        .problems(&[Kind::UnknownRelationship]),
        Operation::new(
            HttpMethod::Post,
            "/v1/relationships/{trust_domain}/refresh",
            Role::Operator,
            ("refreshRelationship", "Fetch the partner's bundle now"),
            refresh,
        )
        .remark("Answers once the fetch is over; If-Match is looked at before it begins.")
        .optional_body::<RefreshRequest>()
        .answers::<RefreshResult>()
        .tagged()
        .problems(&[
            Kind::UnknownRelationship,
            Kind::TooManyRefreshes,
            Kind::RefreshFailed,
            Kind::RefreshGivenUp,
        ]),
    ]
}

/// Which relationships are wanted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// At most this many in one answer, 1 to 1000; 100 unless given.
    limit: Option<u32>,
    /// `next_page_token` of the page before; the filter must be the same.
    page_token: Option<String>,
    /// Only those of these healths: one, or several with commas between them, such as `degraded,failing,expired`.
    health: Option<String>,
    /// Only those of this mode.
    #[param(inline)]
    mode: Option<Mode>,
    /// Only those in this state.
    #[param(inline)]
    state: Option<RelationshipState>,
    /// Only those whose bundle this local trust domain receives.
    local_trust_domain: Option<String>,
}

/// The filter, checked.
#[derive(Debug, Serialize)]
struct Wanted {
    health: Option<BTreeSet<&'static str>>,
    mode: Option<Mode>,
    state: Option<RelationshipState>,
    local: Option<String>,
}

impl Wanted {
    fn check(filter: &Filter) -> Result<Self, AdminError> {
        let health = |name: &str| {
            let health = Health::from_name(name.trim());
            let unknown = || AdminError::Query(format!("health `{}` is not known", name.trim().escape_debug()));
            health.map(Health::as_str).ok_or_else(unknown)
        };
        let local = filter.local_trust_domain.as_deref().map(TrustDomain::from_name_or_id).transpose()?;
        Ok(Self {
            health: filter.health.as_deref().map(|names| names.split(',').map(health).collect()).transpose()?,
            mode: filter.mode,
            state: filter.state,
            local: local.map(|local| local.to_string()),
        })
    }

    fn takes(&self, relationship: &Relationship) -> bool {
        self.health.as_ref().is_none_or(|wanted| wanted.contains(relationship.health.as_str()))
            && self.mode.is_none_or(|mode| relationship.mode == mode)
            && self.state.is_none_or(|state| relationship.states().contains(&state))
            && self.local.as_ref().is_none_or(|local| relationship.local_trust_domains.contains(local))
    }
}

async fn list(
    State(admin): State<Admin>,
    Params(filter): Params<Filter>,
) -> Result<Tagged<RelationshipList>, AdminError> {
    let wanted = Wanted::check(&filter)?;
    let page = Page::new("relationships", &wanted, filter.limit, filter.page_token.as_deref())?;
    let mut after = page.after().map(TrustDomain::parse).transpose().map_err(|_| AdminError::PageToken)?;
    let mut found = Vec::new();
    while found.len() < page.wanted() {
        let chunk = admin.manager.list_after(after.as_ref(), CHUNK);
        let Some(last) = chunk.last() else { break };
        after = TrustDomain::parse(&last.trust_domain).ok();
        found.extend(chunk.into_iter().filter(|relationship| wanted.takes(relationship)));
        // A filter that few pass must not keep the others waiting.
        tokio::task::yield_now().await;
    }
    found.truncate(page.wanted());
    let (relationships, next_page_token) = page.cut(found, |relationship| relationship.trust_domain.clone());
    let tag = Tag::of_relationships(&relationships, next_page_token.as_deref());
    Ok(Tagged(tag, RelationshipList { relationships, next_page_token }))
}

async fn show(State(admin): State<Admin>, Named(partner): Named) -> Result<Tagged<Relationship>, AdminError> {
    let relationship = admin.manager.get(&partner).ok_or(AdminError::NoRelationship(partner))?;
    Ok(Tagged(Tag::of_relationship(&relationship), relationship))
}

async fn refresh(
    State(admin): State<Admin>,
    caller: Caller,
    Named(partner): Named,
    condition: IfMatch,
    InputOrDefault(options): InputOrDefault<RefreshRequest>,
) -> Result<Tagged<RefreshResult>, AdminError> {
    let now = admin.manager.get(&partner).ok_or_else(|| AdminError::NoRelationship(partner.clone()))?;
    if !condition.holds(Some(&Tag::of_relationship(&now))) {
        return Err(AdminError::Changed);
    }
    reason(&options.why)?;
    let changed = admin.manager.refresh(&partner, options, caller.actor().await).await?;
    let relationship = admin.manager.get(&partner).ok_or(AdminError::NoRelationship(partner))?;
    Ok(Tagged(Tag::of_relationship(&relationship), RefreshResult { changed, relationship }))
}
