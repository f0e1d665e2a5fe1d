//! `entente.federation.v1.FederationWork`: what the gateway does for this issuer.

use std::{sync::Arc, time::Duration};

use federation_specs::{
    id::TrustDomain,
    proto::{
        entente::federation::{
            RefreshRequest, ReportRefreshRequest, ReportRefreshResponse, WatchRelationshipsRequest,
            WatchRelationshipsResponse, federation_work_server,
        },
        types,
    },
};
use futures::{StreamExt, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Shared, caller::Caller, relationship_conversion::to_proto, status};
use crate::store::Page;

/// Changes that come closer together than this go out in one message.
const SETTLE: Duration = Duration::from_millis(50);

/// Messages waiting for a slow gateway.
const SEND_QUEUE: usize = 2;

type Answer = Result<WatchRelationshipsResponse, Status>;

/// Handlers of the FederationWork service.
#[derive(Debug)]
pub(super) struct FederationWorkService {
    shared: Arc<Shared>,
}

impl FederationWorkService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl federation_work_server::FederationWork for FederationWorkService {
    type WatchRelationshipsStream = BoxStream<'static, Answer>;

    async fn watch_relationships(
        &self,
        request: Request<WatchRelationshipsRequest>,
    ) -> Result<Response<Self::WatchRelationshipsStream>, Status> {
        let caller = Caller::of(request.extensions())?.label();
        let (sender, receiver) = mpsc::channel(SEND_QUEUE);
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            tracing::info!(caller, "gateway connected");
            let outcome = tokio::select! {
                outcome = watch(&shared, &sender) => outcome,
                () = sender.closed() => Ok(()),
                () = shared.shutdown.cancelled() => Err(Status::unavailable("the issuer is shutting down")),
            };
            tracing::info!(caller, "gateway disconnected");
            if let Err(failure) = outcome {
                // The gateway may be gone; then nobody waits for the status.
                let _ = sender.send(Err(failure)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn report_refresh(
        &self,
        request: Request<ReportRefreshRequest>,
    ) -> Result<Response<ReportRefreshResponse>, Status> {
        let report = request.into_inner();
        let domain = TrustDomain::from_name_or_id(&report.trust_domain);
        let domain = domain.map_err(|error| status::invalid("failed to parse trust domain", error))?;
        let outcome = if report.ok { Ok(()) } else { Err(report.error) };
        if !self.shared.refreshes.report(&domain, &report.request_id, outcome) {
            tracing::debug!(trust_domain = %domain, "nobody waits for this refresh any more");
        }
        Ok(Response::new(ReportRefreshResponse {}))
    }
}

/// Sends the relationships at first, after each change and with each refresh request.
async fn watch(shared: &Shared, answers: &mpsc::Sender<Answer>) -> Result<(), Status> {
    let mut changes = shared.store.changes();
    let mut watcher =
        shared.refreshes.watch().ok_or_else(|| Status::resource_exhausted("too many gateways are connected"))?;
    let mut sent: Option<Vec<types::FederationRelationship>> = None;
    let mut requests: Vec<RefreshRequest> = Vec::new();
    loop {
        changes.mark_unchanged();
        let relationships = relationships(shared).await?;
        if !requests.is_empty() || sent.as_ref() != Some(&relationships) {
            let message = WatchRelationshipsResponse {
                relationships: relationships.clone(),
                refresh_requests: std::mem::take(&mut requests),
            };
            answers.send(Ok(message)).await.map_err(|_| Status::cancelled("the gateway hung up"))?;
            sent = Some(relationships);
        }
        tokio::select! {
            asked = watcher.next() => requests = asked,
            changed = changes.changed() => {
                changed.map_err(|_| Status::unavailable("the issuer is shutting down"))?;
                shared.clock.sleep(SETTLE).await;
            }
        }
    }
}

async fn relationships(shared: &Shared) -> Result<Vec<types::FederationRelationship>, Status> {
    let listed = shared.store.list_relationships(Page::ALL).await;
    let listed = listed.map_err(|error| status::internal("failed to list federation relationships", &error))?;
    let bundles = shared.store.bundles();
    Ok(listed.items.iter().map(|relationship| to_proto(relationship, &bundles, None)).collect())
}
