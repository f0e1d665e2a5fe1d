//! `entente.federation.v1.FederationWork`: what the gateway does for this issuer.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use federation_specs::{
    bundle::{Bundle, BundleSet},
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
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Shared, caller::Caller, relationship_conversion::to_proto, status};
use crate::store::{Page, Relationship};

/// Changes that come closer together than this go out together.
const SETTLE: Duration = Duration::from_millis(50);

/// Relationships in one message, and their bytes unless one alone has more.
const MAX_PAGE_ITEMS: usize = 500;
const MAX_PAGE_BYTES: usize = 1 << 20;

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

/// Sends the relationships at first, then what changes and each refresh request.
async fn watch(shared: &Shared, answers: &mpsc::Sender<Answer>) -> Result<(), Status> {
    let mut changes = shared.store.changes();
    let mut watcher =
        shared.refreshes.watch().ok_or_else(|| Status::resource_exhausted("too many gateways are connected"))?;
    let mut pages = Pages::new(answers);
    let mut seen = *changes.borrow_and_update();
    let mut relationships = list(shared).await?;
    let mut told = Told::default();
    told.bring_up_to_date(&relationships, &shared.store.bundles(), &mut pages).await?;
    pages.end_snapshot().await?;
    loop {
        tokio::select! {
            asked = watcher.next() => pages.refresh(asked).await?,
            changed = changes.changed() => {
                changed.map_err(|_| Status::unavailable("the issuer is shutting down"))?;
                shared.clock.sleep(SETTLE).await;
                let now = *changes.borrow_and_update();
                if now.relationships != seen.relationships {
                    relationships = list(shared).await?;
                }
                if (now.relationships, now.bundles) != (seen.relationships, seen.bundles) {
                    told.bring_up_to_date(&relationships, &shared.store.bundles(), &mut pages).await?;
                    pages.flush().await?;
                }
                seen = now;
            }
        }
    }
}

async fn list(shared: &Shared) -> Result<Vec<Relationship>, Status> {
    let listed = shared.store.list_relationships(Page::ALL).await;
    Ok(listed.map_err(|error| status::internal("failed to list federation relationships", &error))?.items)
}

/// What one gateway was told.
#[derive(Debug, Default)]
struct Told(BTreeMap<TrustDomain, (Relationship, Option<Arc<Bundle>>)>);

impl Told {
    /// Sends what differs from what was sent before.
    async fn bring_up_to_date(
        &mut self,
        relationships: &[Relationship],
        bundles: &BundleSet,
        pages: &mut Pages<'_>,
    ) -> Result<(), Status> {
        let mut before = std::mem::take(&mut self.0);
        for relationship in relationships {
            let name = &relationship.trust_domain;
            let bundle = bundles.get(name).cloned();
            let same = before.remove(name).is_some_and(|(told, held)| {
                told == *relationship
                    && match (&held, &bundle) {
                        // Snapshots share the bundles that did not change.
                        (Some(held), Some(bundle)) => Arc::ptr_eq(held, bundle) || held == bundle,
                        (held, bundle) => held.is_none() && bundle.is_none(),
                    }
            });
            if !same {
                pages.relationship(to_proto(relationship, bundles, None)).await?;
            }
            self.0.insert(name.clone(), (relationship.clone(), bundle));
        }
        for name in before.into_keys() {
            pages.removed(name.to_string()).await?;
        }
        Ok(())
    }
}

/// Messages of bounded size on their way to a gateway.
struct Pages<'a> {
    answers: &'a mpsc::Sender<Answer>,
    page: WatchRelationshipsResponse,
    bytes: usize,
    sent: u64,
}

impl<'a> Pages<'a> {
    fn new(answers: &'a mpsc::Sender<Answer>) -> Self {
        Self { answers, page: WatchRelationshipsResponse::default(), bytes: 0, sent: 0 }
    }

    async fn relationship(&mut self, relationship: types::FederationRelationship) -> Result<(), Status> {
        self.make_room(relationship.encoded_len()).await?;
        self.page.relationships.push(relationship);
        Ok(())
    }

    async fn removed(&mut self, name: String) -> Result<(), Status> {
        self.make_room(name.len()).await?;
        self.page.removed.push(name);
        Ok(())
    }

    /// Sends the page if the next item does not fit. One that is larger than a page goes alone.
    async fn make_room(&mut self, bytes: usize) -> Result<(), Status> {
        let items = self.page.relationships.len() + self.page.removed.len();
        if items >= MAX_PAGE_ITEMS || (items > 0 && self.bytes + bytes > MAX_PAGE_BYTES) {
            self.send().await?;
        }
        self.bytes += bytes;
        Ok(())
    }

    async fn refresh(&mut self, requests: Vec<RefreshRequest>) -> Result<(), Status> {
        self.page.refresh_requests = requests;
        self.send().await
    }

    async fn end_snapshot(&mut self) -> Result<(), Status> {
        self.page.end_of_snapshot = true;
        self.send().await
    }

    /// Sends what is left, if anything.
    async fn flush(&mut self) -> Result<(), Status> {
        match self.page.relationships.is_empty() && self.page.removed.is_empty() {
            true => Ok(()),
            false => self.send().await,
        }
    }

    async fn send(&mut self) -> Result<(), Status> {
        self.sent += 1;
        self.bytes = 0;
        let page = WatchRelationshipsResponse { number: self.sent, ..std::mem::take(&mut self.page) };
        self.answers.send(Ok(page)).await.map_err(|_| Status::cancelled("the gateway hung up"))
    }
}
