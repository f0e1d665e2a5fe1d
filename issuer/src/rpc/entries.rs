//! `spire.api.server.entry.v1.Entry`: registration entries.

use std::sync::Arc;

use federation_specs::proto::{
    server::entry::{
        BatchCreateEntryRequest, BatchCreateEntryResponse, BatchDeleteEntryRequest, BatchDeleteEntryResponse,
        BatchUpdateEntryRequest, BatchUpdateEntryResponse, CountEntriesRequest, CountEntriesResponse,
        GetAuthorizedEntriesRequest, GetAuthorizedEntriesResponse, GetEntryRequest, ListEntriesRequest,
        ListEntriesResponse, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse, batch_create_entry_response,
        batch_delete_entry_response, batch_update_entry_response, entry_server,
    },
    types,
};
use futures::stream::BoxStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    Shared, authorized_entries,
    batch::Batch,
    caller::Caller,
    entry_conversion::{self, new_from_proto, to_proto, update_from_proto},
    entry_filter::{self, Parts},
    status,
};
use crate::{
    entry::CreateEntryOutcome,
    store::{Page, StoreError},
};

/// Handlers of the Entry service.
#[derive(Debug)]
pub(super) struct EntryService {
    shared: Arc<Shared>,
}

impl EntryService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn create(&self, request: BatchCreateEntryRequest) -> BatchCreateEntryResponse {
        let mask = request.output_mask;
        let batch = Batch::read(request.entries, |entry| {
            new_from_proto(entry, &self.shared.trust_domain)
                .map_err(|error| status::invalid("failed to convert entry", error))
        });
        let created = self.shared.store.create_entries(batch.accepted(), self.shared.now()).await;
        let context = "failed to create entry";
        let results = batch.merge(answers(created, |error| write_failure(context, "", &error)));
        let results = results.into_iter().map(|created| match created {
            Ok(CreateEntryOutcome::Created(entry)) => batch_create_entry_response::Result {
                status: Some(status::item_ok()),
                entry: Some(to_proto(&entry, mask.as_ref())),
            },
            Ok(CreateEntryOutcome::Similar(entry)) => batch_create_entry_response::Result {
                status: Some(types::Status {
                    code: Code::AlreadyExists as i32,
                    message: "similar entry already exists".into(),
                }),
                entry: Some(to_proto(&entry, mask.as_ref())),
            },
            Err(failure) => {
                batch_create_entry_response::Result { status: Some(status::item_failed(&failure)), entry: None }
            }
        });
        BatchCreateEntryResponse { results: results.collect() }
    }

    async fn update(&self, request: BatchUpdateEntryRequest) -> BatchUpdateEntryResponse {
        let batch = Batch::read(request.entries, |entry| {
            update_from_proto(entry, request.input_mask.as_ref(), &self.shared.trust_domain)
                .map_err(|error| status::invalid("failed to convert entry", error))
        });
        let updated = self.shared.store.update_entries(batch.accepted()).await;
        let context = "failed to update entry";
        let results = batch.merge(answers(updated, |error| write_failure(context, context, &error)));
        let results = results.into_iter().map(|updated| match updated {
            Ok(entry) => batch_update_entry_response::Result {
                status: Some(status::item_ok()),
                entry: Some(to_proto(&entry, request.output_mask.as_ref())),
            },
            Err(failure) => {
                batch_update_entry_response::Result { status: Some(status::item_failed(&failure)), entry: None }
            }
        });
        BatchUpdateEntryResponse { results: results.collect() }
    }

    async fn delete(&self, ids: Vec<String>) -> BatchDeleteEntryResponse {
        let batch = Batch::read(ids.clone(), |id| {
            if id.is_empty() { Err(Status::invalid_argument("missing entry ID")) } else { Ok(id) }
        });
        let deleted = self.shared.store.delete_entries(batch.accepted()).await;
        let results = batch
            .merge(answers(deleted, |error| status::from_store("failed to delete entry", "entry not found", &error)));
        let results = results.into_iter().zip(ids).map(|(deleted, id)| batch_delete_entry_response::Result {
            status: Some(deleted.map_or_else(|failure| status::item_failed(&failure), |_| status::item_ok())),
            id,
        });
        BatchDeleteEntryResponse { results: results.collect() }
    }
}

/// Store answers with errors as statuses.
fn answers<T>(
    answers: Result<Vec<Result<T, StoreError>>, StoreError>,
    failure: impl Fn(StoreError) -> Status,
) -> Result<Vec<Result<T, Status>>, Status> {
    let answers = answers.map_err(&failure)?;
    Ok(answers.into_iter().map(|answer| answer.map_err(&failure)).collect())
}

fn write_failure(context: &str, not_found: &str, error: &StoreError) -> Status {
    match error {
        StoreError::Entry(rule) => status::invalid(context, entry_conversion::rule_text(rule)),
        StoreError::FederatedBundleMissing(_) => Status::internal(format!("{context}: {error}")),
        error => status::from_store(context, not_found, error),
    }
}

#[tonic::async_trait]
impl entry_server::Entry for EntryService {
    async fn count_entries(
        &self,
        request: Request<CountEntriesRequest>,
    ) -> Result<Response<CountEntriesResponse>, Status> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let parts = Parts {
            by_spiffe_id: filter.by_spiffe_id,
            by_parent_id: filter.by_parent_id,
            by_selectors: filter.by_selectors,
            by_federates_with: filter.by_federates_with,
            by_hint: filter.by_hint,
            by_downstream: filter.by_downstream,
        };
        let filter = entry_filter::read(parts, &self.shared.trust_domain)?;
        let count = self.shared.store.count_entries(&filter).await;
        let count = count.map_err(|error| status::from_store("failed to count entries", "", &error))?;
        Ok(Response::new(CountEntriesResponse { count: i32::try_from(count).unwrap_or(i32::MAX) }))
    }

    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Result<Response<ListEntriesResponse>, Status> {
        let request = request.into_inner();
        let filter = request.filter.unwrap_or_default();
        let parts = Parts {
            by_spiffe_id: filter.by_spiffe_id,
            by_parent_id: filter.by_parent_id,
            by_selectors: filter.by_selectors,
            by_federates_with: filter.by_federates_with,
            by_hint: filter.by_hint,
            by_downstream: filter.by_downstream,
        };
        let filter = entry_filter::read(parts, &self.shared.trust_domain)?;
        let failure = |error: StoreError| status::from_store("failed to list entries", "", &error);
        let page = Page::parse(request.page_size, &request.page_token).map_err(failure)?;
        let listed = self.shared.store.list_entries(&filter, page).await.map_err(failure)?;
        Ok(Response::new(ListEntriesResponse {
            entries: listed.items.iter().map(|entry| to_proto(entry, request.output_mask.as_ref())).collect(),
            next_page_token: listed.next_token,
        }))
    }

    async fn get_entry(&self, request: Request<GetEntryRequest>) -> Result<Response<types::Entry>, Status> {
        let request = request.into_inner();
        if request.id.is_empty() {
            return Err(Status::invalid_argument("missing ID"));
        }
        let entry = self.shared.store.get_entry(&request.id).await;
        let entry = entry.map_err(|error| status::from_store("failed to fetch entry", "entry not found", &error))?;
        let entry = entry.ok_or_else(|| Status::not_found("entry not found"))?;
        Ok(Response::new(to_proto(&entry, request.output_mask.as_ref())))
    }

    async fn batch_create_entry(
        &self,
        request: Request<BatchCreateEntryRequest>,
    ) -> Result<Response<BatchCreateEntryResponse>, Status> {
        Ok(Response::new(self.create(request.into_inner()).await))
    }

    async fn batch_update_entry(
        &self,
        request: Request<BatchUpdateEntryRequest>,
    ) -> Result<Response<BatchUpdateEntryResponse>, Status> {
        Ok(Response::new(self.update(request.into_inner()).await))
    }

    async fn batch_delete_entry(
        &self,
        request: Request<BatchDeleteEntryRequest>,
    ) -> Result<Response<BatchDeleteEntryResponse>, Status> {
        Ok(Response::new(self.delete(request.into_inner().ids).await))
    }

    async fn get_authorized_entries(
        &self,
        request: Request<GetAuthorizedEntriesRequest>,
    ) -> Result<Response<GetAuthorizedEntriesResponse>, Status> {
        let agent = Arc::clone(Caller::of(request.extensions())?.agent()?);
        let mask = request.into_inner().output_mask;
        let entries = authorized_entries::of_agent(&self.shared, &agent.agent_id).await?;
        let entries = entries.iter().map(|entry| to_proto(entry, mask.as_ref())).collect();
        Ok(Response::new(GetAuthorizedEntriesResponse { entries }))
    }

    type SyncAuthorizedEntriesStream = BoxStream<'static, Result<SyncAuthorizedEntriesResponse, Status>>;

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        let agent = Arc::clone(Caller::of(request.extensions())?.agent()?);
        let stream = authorized_entries::sync(Arc::clone(&self.shared), agent, request.into_inner());
        Ok(Response::new(stream))
    }
}
