//! The publishers of served bundles.

use axum::extract::State;
use federation_specs::id::TrustDomain;
use serde::Deserialize;
use utoipa::{IntoParams, openapi::HttpMethod};

use super::{Admin, extract::Params, operation::Operation, page::Page, tag::Tagged};
use crate::{
    api::{
        Role,
        publishers::{PublishedDocument, Publisher, PublisherDrift, PublisherHealth, PublisherList},
    },
    http::problem::{AdminError, Kind},
    publish::{Health, PublisherStatus},
};

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            HttpMethod::Get,
            "/v1/publishers",
            Role::Viewer,
            ("listPublishers", "Places own bundles are published to, and how that is doing"),
            list,
        )
        .paged::<Filter>()
        .answers::<PublisherList>()
        .tagged()
        .problems(&[Kind::BadTrustDomain]),
    ]
}

/// Which publishers are wanted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// At most this many in one answer, 1 to 1000; 100 unless given.
    limit: Option<u32>,
    /// `next_page_token` of the page before; the filter must be the same.
    page_token: Option<String>,
    /// Only those of this served trust domain.
    trust_domain: Option<String>,
    /// Only those that fail (`true`) or do not (`false`).
    failing: Option<bool>,
}

fn describe(status: PublisherStatus) -> Publisher {
    let health = match status.health() {
        Health::Pending => PublisherHealth::Pending,
        Health::Healthy => PublisherHealth::Healthy,
        Health::Failing => PublisherHealth::Failing,
    };
    let state = status.state;
    Publisher {
        trust_domain: status.trust_domain.to_string(),
        kind: status.settings.place.kind().to_owned(),
        place: status.settings.place.describe(),
        name: status.settings.name,
        replica: status.replica,
        health,
        published: status.published.map(|published| PublishedDocument {
            digest: published.digest,
            sequence: published.sequence,
            confirmed_at: published.confirmed_at,
        }),
        last_success: state.last_success,
        last_attempt: state.last_attempt,
        next_attempt: state.next_attempt,
        consecutive_failures: state.consecutive_failures,
        last_error: state.last_error,
        drift: state.drift.map(|drift| PublisherDrift { at: drift.at, digest: drift.digest, count: drift.count }),
    }
}

async fn list(State(admin): State<Admin>, Params(filter): Params<Filter>) -> Result<Tagged<PublisherList>, AdminError> {
    let trust_domain = filter.trust_domain.as_deref().map(TrustDomain::from_name_or_id).transpose()?;
    let asked = (trust_domain.as_ref().map(TrustDomain::as_str), filter.failing);
    let page = Page::new("publishers", &asked, filter.limit, filter.page_token.as_deref())?;
    // Neither part has a space.
    let key = |status: &PublisherStatus| format!("{} {}", status.trust_domain, status.settings.name);
    let mut publishers = admin.publishers.list().await?;
    publishers.retain(|status| {
        page.after().is_none_or(|after| key(status).as_str() > after)
            && trust_domain.as_ref().is_none_or(|wanted| status.trust_domain == *wanted)
            && filter.failing.is_none_or(|failing| (status.health() == Health::Failing) == failing)
    });
    publishers.sort_by_cached_key(key);
    publishers.truncate(page.wanted());
    let (publishers, next_page_token) = page.cut(publishers, key);
    Ok(Tagged::whole(PublisherList { publishers: publishers.into_iter().map(describe).collect(), next_page_token }))
}
