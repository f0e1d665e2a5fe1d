//! FetchX509SVID.

use std::sync::Arc;

use federation_specs::proto::workload::{X509svid, X509svidRequest, X509svidResponse};
use tonic::{Request, Status};

use super::{
    Answers, Context, no_identity,
    stream::{Step, follow},
};
use crate::cache::view::X509Answer;

pub(super) async fn fetch(
    context: &Context,
    request: &Request<X509svidRequest>,
) -> Result<Answers<X509svidResponse>, Status> {
    let selectors = context.caller(request).await?;
    let mut sent: Option<Arc<X509Answer>> = None;
    Ok(follow(context.clone(), selectors, move |context, view| {
        if view.is_unknown() {
            return Step::End(no_identity());
        }
        match &view.x509 {
            Some(answer) if !sent.as_ref().is_some_and(|sent| Arc::ptr_eq(sent, answer)) => {
                sent = Some(Arc::clone(answer));
                let now = context.clock.now();
                answer.identities.iter().for_each(|(_, svid)| svid.touch(now));
                Step::Send(response(answer))
            }
            _ => Step::Wait,
        }
    }))
}

fn response(answer: &X509Answer) -> X509svidResponse {
    let bundle = answer.own.x509_roots_der();
    let svids = answer
        .identities
        .iter()
        .map(|(entry, svid)| X509svid {
            spiffe_id: svid.facts.id.to_string(),
            x509_svid: svid.chain.concat(),
            x509_svid_key: svid.key.pkcs8_der().to_vec(),
            bundle: bundle.clone(),
            hint: entry.hint.clone(),
        })
        .collect();
    let federated_bundles = answer
        .federated
        .iter()
        .map(|(trust_domain, bundle)| (trust_domain.id_string(), bundle.x509_roots_der()))
        .collect();
    X509svidResponse { svids, crl: vec![], federated_bundles }
}
