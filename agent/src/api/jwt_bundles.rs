//! FetchJWTBundles.

use std::sync::Arc;

use federation_specs::{
    bundle_json,
    proto::workload::{JwtBundlesRequest, JwtBundlesResponse},
};
use tonic::{Request, Status};

use super::{
    Answers, Context, no_identity,
    stream::{Step, follow},
};
use crate::cache::view::Bundles;

pub(super) async fn fetch(
    context: &Context,
    request: &Request<JwtBundlesRequest>,
) -> Result<Answers<JwtBundlesResponse>, Status> {
    let selectors = context.caller(request).await?;
    let mut sent: Option<Arc<Bundles>> = None;
    Ok(follow(context.clone(), selectors, move |context, view| {
        if view.is_unknown() && !context.allow_unauthenticated_verifiers {
            return Step::End(no_identity());
        }
        if sent.as_ref().is_some_and(|sent| Arc::ptr_eq(sent, &view.jwt_bundles)) {
            return Step::Wait;
        }
        sent = Some(Arc::clone(&view.jwt_bundles));
        let bundles = view
            .jwt_bundles
            .iter()
            .map(|(trust_domain, bundle)| (trust_domain.id_string(), bundle_json::encode_jwks(bundle)))
            .collect();
        Step::Send(JwtBundlesResponse { bundles })
    }))
}
