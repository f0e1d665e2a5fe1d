//! The relationships of one issuer as they change: a snapshot in pages, then what differs.

use federation_specs::proto::{
    entente::federation::{RefreshRequest, WatchRelationshipsResponse},
    types::FederationRelationship,
};
use tonic::Streaming;

use super::{IssuerClient, IssuerError, MAX_RELATIONSHIPS};

const CALL: &str = "WatchRelationships";

/// What a watch brought.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WatchUpdate {
    /// Whether `relationships` are all there are, in place of whatever was known.
    pub complete: bool,
    /// Relationships created or changed.
    pub relationships: Vec<FederationRelationship>,
    /// Trust domains whose relationship was removed.
    pub removed: Vec<String>,
    /// Refreshes asked for; each is answered once.
    pub refresh_requests: Vec<RefreshRequest>,
}

/// The relationships of one issuer as they change.
#[derive(Debug)]
pub struct RelationshipWatch {
    client: IssuerClient,
    stream: Streaming<WatchRelationshipsResponse>,
    messages: Messages,
}

impl RelationshipWatch {
    pub(super) fn new(client: IssuerClient, stream: Streaming<WatchRelationshipsResponse>) -> Self {
        Self { client, stream, messages: Messages::default() }
    }

    /// What is new, however long it takes; the first time everything there is. `None` when the issuer ended the stream.
    /// Nothing is lost when the call is given up.
    ///
    /// # Errors
    /// [`IssuerError`]; the watch is of no use any more, and everything is to be asked for again.
    pub async fn next(&mut self) -> Result<Option<WatchUpdate>, IssuerError> {
        loop {
            let message = self.stream.message().await.map_err(|status| self.client.refused(CALL, &status))?;
            let Some(message) = message else { return Ok(None) };
            let update = self.messages.take(message).map_err(|problem| self.client.bad(CALL, problem))?;
            if update.is_some() {
                return Ok(update);
            }
        }
    }
}

/// Puts the messages of one stream together.
#[derive(Debug, Default)]
struct Messages {
    /// Messages so far.
    number: u64,
    /// The snapshot so far, until it is complete.
    snapshot: Vec<FederationRelationship>,
    complete: bool,
}

impl Messages {
    /// What the message brings, once there is something to act on.
    fn take(&mut self, message: WatchRelationshipsResponse) -> Result<Option<WatchUpdate>, String> {
        self.number += 1;
        if message.number != self.number {
            return Err(format!("message {} in place of {}", message.number, self.number));
        }
        let WatchRelationshipsResponse { relationships, refresh_requests, removed, end_of_snapshot, .. } = message;
        if self.complete {
            return Ok(Some(WatchUpdate { complete: false, relationships, removed, refresh_requests }));
        }
        if self.snapshot.len() + relationships.len() > MAX_RELATIONSHIPS {
            return Err(format!("more than {MAX_RELATIONSHIPS} relationships"));
        }
        self.snapshot.extend(relationships);
        self.complete = end_of_snapshot;
        let relationships = std::mem::take(&mut self.snapshot);
        if !end_of_snapshot {
            self.snapshot = relationships;
            return Ok(None);
        }
        Ok(Some(WatchUpdate { complete: true, relationships, removed: Vec::new(), refresh_requests }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(number: u64, names: &[&str]) -> WatchRelationshipsResponse {
        let relationships = names.iter().map(|name| FederationRelationship {
            trust_domain: (*name).to_owned(),
            ..FederationRelationship::default()
        });
        WatchRelationshipsResponse { number, relationships: relationships.collect(), ..Default::default() }
    }

    fn names(update: &WatchUpdate) -> Vec<&str> {
        update.relationships.iter().map(|each| each.trust_domain.as_str()).collect()
    }

    #[test]
    fn a_snapshot_counts_when_it_is_complete_and_changes_follow() {
        let mut messages = Messages::default();
        assert_eq!(messages.take(page(1, &["a"])), Ok(None));
        assert_eq!(messages.take(page(2, &["b"])), Ok(None));
        let last = WatchRelationshipsResponse { end_of_snapshot: true, ..page(3, &["c"]) };
        let update = messages.take(last).unwrap().unwrap();
        assert!(update.complete);
        assert_eq!(names(&update), ["a", "b", "c"]);
        let change = WatchRelationshipsResponse { removed: vec!["b".to_owned()], ..page(4, &["d"]) };
        let update = messages.take(change).unwrap().unwrap();
        assert!(!update.complete);
        assert_eq!((names(&update), update.removed.as_slice()), (vec!["d"], &["b".to_owned()][..]));
    }

    #[test]
    fn a_missing_message_ends_the_watch() {
        let mut messages = Messages::default();
        messages.take(page(1, &["a"])).unwrap();
        assert_eq!(messages.take(page(3, &[])).unwrap_err(), "message 3 in place of 2");
        assert!(Messages::default().take(page(2, &[])).is_err());
    }

    #[test]
    fn the_number_of_relationships_is_bounded() {
        let mut messages = Messages::default();
        let many = vec!["a"; MAX_RELATIONSHIPS];
        messages.take(page(1, &many)).unwrap();
        assert!(messages.take(page(2, &["b"])).unwrap_err().starts_with("more than "));
    }
}
