//! FetchX509Bundles.

use std::sync::Arc;

use federation_specs::proto::workload::{X509BundlesRequest, X509BundlesResponse};
use tonic::{Request, Status};

use super::{
    Answers, Context, no_identity,
    stream::{Step, follow},
};
use crate::cache::view::Bundles;

pub(super) async fn fetch(
    context: &Context,
    request: &Request<X509BundlesRequest>,
) -> Result<Answers<X509BundlesResponse>, Status> {
    let selectors = context.caller(request).await?;
    let mut sent: Option<Arc<Bundles>> = None;
    Ok(follow(context.clone(), selectors, move |context, view| {
        if view.is_unknown() && !context.allow_unauthenticated_verifiers {
            return Step::End(no_identity());
        }
        if sent.as_ref().is_some_and(|sent| Arc::ptr_eq(sent, &view.x509_bundles)) {
            return Step::Wait;
        }
        sent = Some(Arc::clone(&view.x509_bundles));
        let bundles = view
            .x509_bundles
            .iter()
            .map(|(trust_domain, bundle)| (trust_domain.id_string(), bundle.x509_roots_der()))
            .collect();
        Step::Send(X509BundlesResponse { crl: vec![], bundles })
    }))
}
