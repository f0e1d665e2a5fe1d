//! Bundles that are served or held.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse as _, Response},
};
use federation_specs::{bundle::Bundle, bundle_json, id::TrustDomain};
use http::header;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema, openapi::HttpMethod};

use super::{
    Admin,
    extract::{Named, Params},
    operation::Operation,
    page::Page,
    tag::{self, Tag, Tagged},
};
use crate::{
    api::{BundleHistory, BundleKind, BundleList, BundleSummary, Role},
    http::problem::{AdminError, Kind},
    refresh::manager::summary,
};

const PEM: &str = "application/x-pem-file";

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            HttpMethod::Get,
            "/v1/bundles",
            Role::Viewer,
            ("listBundles", "Bundles that are served or held, without their keys, by trust domain"),
            list,
        )
        .paged::<Pages>()
        .answers::<BundleList>()
        .tagged(),
        Operation::new(
            HttpMethod::Get,
            "/v1/bundles/{trust_domain}",
            Role::Viewer,
            ("getBundle", "One bundle with its keys"),
            show,
        )
        .remark("A SPIFFE bundle document, or its X.509 authorities as PEM.")
        .query::<Form>()
        .answers_document()
        .answers_text(PEM)
        .tagged()
        .problems(&[Kind::UnknownBundle]),
        Operation::new(
            HttpMethod::Get,
            "/v1/bundles/{trust_domain}/history",
            Role::Viewer,
            ("listBundleHistory", "The bundles accepted from a partner, newest first"),
            history,
        )
        .paged::<Pages>()
        .answers::<BundleHistory>()
        .tagged()
        .problems(&[Kind::UnknownBundle, Kind::DatabaseFailure]),
    ]
}

/// Which page is wanted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Pages {
    /// At most this many in one answer, 1 to 1000; 100 unless given.
    limit: Option<u32>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Form {
    /// `spiffe` for the SPIFFE bundle document, which is the default; `pem` for the X.509 authorities.
    #[param(inline)]
    format: Format,
}

/// How a bundle is written.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Spiffe,
    Pem,
}

/// What pages of bundles are ordered by: the trust domain, and the own bundle before a partner's.
fn key(bundle: &BundleSummary) -> String {
    format!("{} {}", bundle.trust_domain, bundle.kind.as_str())
}

async fn list(State(admin): State<Admin>, Params(pages): Params<Pages>) -> Result<Tagged<BundleList>, AdminError> {
    let page = Page::new("bundles", &(), pages.limit, pages.page_token.as_deref())?;
    let own = admin.served.iter().filter_map(|domain| {
        let now = domain.current()?;
        Some(BundleSummary::new(&now.bundle, BundleKind::Own, &now.digest, now.changed_at))
    });
    let partners = admin.partners.list();
    let all = own.chain(partners.iter().map(|held| summary(held)));
    let mut all: Vec<_> = all.map(|bundle| (key(&bundle), bundle)).collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    let rest = all.into_iter().skip_while(|(key, _)| page.after().is_some_and(|after| key.as_str() <= after));
    let (bundles, next_page_token) = page.cut(rest.map(|(_, bundle)| bundle).take(page.wanted()).collect(), key);
    Ok(Tagged::whole(BundleList { bundles, next_page_token }))
}

async fn show(
    State(admin): State<Admin>,
    Named(trust_domain): Named,
    Params(form): Params<Form>,
) -> Result<Response, AdminError> {
    let bundle = find(&admin, &trust_domain).ok_or(AdminError::NoBundle(trust_domain))?;
    let (media_type, text) = match form.format {
        Format::Spiffe => ("application/json", bundle_json::encode(&bundle)),
        Format::Pem => (PEM, bundle.to_pem().into()),
    };
    let tag = Tag::of_bytes(&text);
    let mut response = ([(header::CONTENT_TYPE, media_type)], text).into_response();
    tag::set(&tag, &mut response);
    Ok(response)
}

async fn history(
    State(admin): State<Admin>,
    Named(trust_domain): Named,
    Params(pages): Params<Pages>,
) -> Result<Tagged<BundleHistory>, AdminError> {
    let page = Page::new("history", &trust_domain.as_str(), pages.limit, pages.page_token.as_deref())?;
    let before = page.after_parsed::<i64>()?;
    let found = admin.store.history(&trust_domain, before, page.wanted().try_into().unwrap_or(u32::MAX)).await?;
    if found.is_empty() && before.is_none() && find(&admin, &trust_domain).is_none() {
        return Err(AdminError::NoBundle(trust_domain));
    }
    let (bundles, next_page_token) = page.cut(found, |entry| entry.id.to_string());
    Ok(Tagged::whole(BundleHistory { trust_domain: trust_domain.to_string(), bundles, next_page_token }))
}

fn find(admin: &Admin, trust_domain: &TrustDomain) -> Option<Arc<Bundle>> {
    let own = admin.served.bundle(trust_domain);
    own.or_else(|| admin.partners.trusted(trust_domain).map(|held| Arc::clone(&held.bundle)))
}
