//! What operators decided is there after reopening.

use super::*;
use crate::refresh::control::{Frozen, Offer, OfferReason};

on_both!(freezes_offers_and_expiry_survive, history_is_found_by_number_and_by_digest,);

async fn freezes_offers_and_expiry_survive(place: Place) {
    let store = place.open().await;
    let partner = td("p.example");
    let waiting = bundle("p.example", "new", 9);
    let document = bundle_json::encode(&waiting);
    let mut control = Control {
        highest_sequence: Some(8),
        frozen: Some(Frozen {
            at: datetime!(2026-11-22 12:00 UTC),
            by: "ada (uid 1000)".to_owned(),
            why: "their incident".to_owned(),
        }),
        offer: Some(Arc::new(Offer {
            digest: digest_hex(&document),
            document: document.into(),
            bundle: Arc::new(waiting),
            source_url: "https://p.example/".to_owned(),
            offered_at: datetime!(2026-11-22 12:01 UTC),
            reason: OfferReason::Hold,
            rejected_at: Some(datetime!(2026-11-22 12:02 UTC)),
        })),
        expired_at: Some(datetime!(2026-11-22 12:03 UTC)),
        refused_rollback: Some("7 d".to_owned()),
    };
    let event = accepted(&partner);
    let decide = async |store: &Store, control: &Control| {
        let decision = Decision { partner: &partner, acceptance: None, state: None, control, event: &event };
        store.decide(&decision, Basis::default()).await.unwrap();
    };
    decide(&store, &control).await;
    store.close().await;
    let store = place.open().await;
    assert_eq!(store.controls().await.unwrap()[&partner], control);
    (control.frozen, control.offer, control.expired_at) = (None, None, None);
    decide(&store, &control).await;
    assert_eq!(store.controls().await.unwrap()[&partner], control);
}

async fn history_is_found_by_number_and_by_digest(place: Place) {
    let store = place.open().await;
    let first = accept(&store, &bundle("p.example", "one", 1), &RefreshState::default()).await;
    accept(&store, &bundle("p.example", "two", 2), &RefreshState::default()).await;
    let partner = td("p.example");
    let by_id = store.historic_bundles(&partner, Some(1), "").await.unwrap();
    let by_digest = store.historic_bundles(&partner, None, &first.digest[..8]).await.unwrap();
    assert_eq!((by_id.len(), by_digest.len()), (1, 1));
    assert_eq!((&by_id[0].digest, by_digest[0].id), (&first.digest, 1));
    assert!(store.historic_bundles(&td("q.example"), Some(1), &first.digest).await.unwrap().is_empty());
    assert_eq!(store.historic_bundles(&partner, None, "").await.unwrap().len(), 0);
}
