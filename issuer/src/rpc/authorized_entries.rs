//! What an agent may serve: all of it at once, or revisions first and then only what the agent lacks.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use federation_specs::{
    id::SpiffeId,
    proto::{
        server::entry::{EntryRevision, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse},
        types::EntryMask,
    },
};
use futures::{StreamExt, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Shared, entry_conversion::to_proto, status};
use crate::{entry::Entry, node::Node};

/// Items in one message of the stream; up to so many entries are sent whole.
pub(super) const PAGE_SIZE: usize = 500;

/// Messages waiting for a slow reader.
const SEND_QUEUE: usize = 2;

/// Every entry the agent may serve, each once, sorted by ID. The node was loaded when the call was authorized.
pub(super) async fn of_agent(shared: &Shared, agent_id: &SpiffeId) -> Result<Vec<Arc<Entry>>, Status> {
    let snapshot = shared.index.fresh().await;
    let snapshot = snapshot.map_err(|error| status::internal("failed to fetch entries", &error))?;
    let mut entries = snapshot.authorized_entries(agent_id);
    entries.retain(|entry| entry.spiffe_id.is_member_of(&shared.trust_domain));
    entries.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(entries)
}

/// Answers one stream. Entries are those of the moment it was opened.
pub(super) fn sync(
    shared: Arc<Shared>,
    agent: Arc<Node>,
    requests: Streaming<SyncAuthorizedEntriesRequest>,
) -> BoxStream<'static, Result<SyncAuthorizedEntriesResponse, Status>> {
    let (sender, receiver) = mpsc::channel(SEND_QUEUE);
    tokio::spawn(async move {
        let answers = Answers { sender };
        let outcome = tokio::select! {
            outcome = run(&shared, &agent, requests, &answers) => outcome,
            () = answers.sender.closed() => Ok(()),
            () = shared.shutdown.cancelled() => Err(Status::unavailable("the issuer is shutting down")),
        };
        if let Err(failure) = outcome {
            // The reader may be gone; then nobody waits for the status.
            let _ = answers.sender.send(Err(failure)).await;
        }
    });
    ReceiverStream::new(receiver).boxed()
}

struct Answers {
    sender: mpsc::Sender<Result<SyncAuthorizedEntriesResponse, Status>>,
}

impl Answers {
    async fn send(&self, message: SyncAuthorizedEntriesResponse) -> Result<(), Status> {
        self.sender.send(Ok(message)).await.map_err(|_| Status::cancelled("the agent hung up"))
    }
}

async fn run(
    shared: &Shared,
    agent: &Node,
    mut requests: Streaming<SyncAuthorizedEntriesRequest>,
    answers: &Answers,
) -> Result<(), Status> {
    let first = requests.message().await?.unwrap_or_default();
    if !first.ids.is_empty() {
        return Err(Status::invalid_argument("specifying IDs on initial request is not supported"));
    }
    let mask = first.output_mask;
    if mask.is_some_and(|mask| !mask.revision_number) {
        return Err(Status::invalid_argument("revision number cannot be masked"));
    }
    let entries = of_agent(shared, &agent.agent_id).await?;
    if entries.len() <= PAGE_SIZE {
        return answers.send(entries_message(&entries, mask.as_ref(), false)).await;
    }
    let mut pages = entries.chunks(PAGE_SIZE).peekable();
    while let Some(page) = pages.next() {
        answers.send(revisions_message(page, pages.peek().is_some())).await?;
    }
    let by_id: BTreeMap<&str, &Arc<Entry>> = entries.iter().map(|entry| (entry.id.as_str(), entry)).collect();
    while let Some(request) = requests.message().await? {
        let mut seen = HashSet::new();
        let wanted = request.ids.iter().filter(|id| seen.insert(id.as_str()));
        let found: Vec<Arc<Entry>> =
            wanted.filter_map(|id| by_id.get(id.as_str()).map(|entry| Arc::clone(entry))).collect();
        if found.is_empty() {
            answers.send(SyncAuthorizedEntriesResponse::default()).await?;
            continue;
        }
        let mut pages = found.chunks(PAGE_SIZE).peekable();
        while let Some(page) = pages.next() {
            answers.send(entries_message(page, mask.as_ref(), pages.peek().is_some())).await?;
        }
    }
    Ok(())
}

fn entries_message(entries: &[Arc<Entry>], mask: Option<&EntryMask>, more: bool) -> SyncAuthorizedEntriesResponse {
    SyncAuthorizedEntriesResponse {
        entries: entries.iter().map(|entry| to_proto(entry, mask)).collect(),
        entry_revisions: Vec::new(),
        more,
    }
}

fn revisions_message(entries: &[Arc<Entry>], more: bool) -> SyncAuthorizedEntriesResponse {
    let revision = |entry: &Arc<Entry>| EntryRevision {
        id: entry.id.clone(),
        revision_number: entry.revision_number,
        created_at: entry.created_at,
    };
    SyncAuthorizedEntriesResponse { entries: Vec::new(), entry_revisions: entries.iter().map(revision).collect(), more }
}
