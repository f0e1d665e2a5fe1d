//! Registration entries and what agents may serve.

use federation_specs::proto::{
    server::entry::{
        BatchCreateEntryRequest, BatchUpdateEntryRequest, CountEntriesRequest, GetAuthorizedEntriesRequest,
        ListEntriesRequest, SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse, count_entries_request,
        entry_client::EntryClient, list_entries_request,
    },
    types,
};
use tokio_stream::iter;
use tonic::Code;

use super::harness::{TestIssuer, entry, id, unix_selector};

#[tokio::test]
async fn entries_are_listed_in_pages_and_by_filter() {
    let issuer = TestIssuer::start("").await;
    let parent = "spiffe://cloud.example/spire/agent/x";
    let mut entries: Vec<_> = (0..5).map(|n| entry(&format!("e-{n}"), parent, &format!("/w/{n}"))).collect();
    entries[3].selectors = vec![unix_selector("uid:1"), unix_selector("gid:1")];
    entries[4].downstream = true;
    issuer.create(entries).await;
    let mut client = EntryClient::new(issuer.local());
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let request = ListEntriesRequest { page_size: 2, page_token: token, ..Default::default() };
        let page = client.list_entries(request).await.unwrap().into_inner();
        assert!(page.entries.len() <= 2);
        seen.extend(page.entries.into_iter().map(|entry| entry.id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ["e-0", "e-1", "e-2", "e-3", "e-4"]);

    let by_selectors = |behavior: types::selector_match::MatchBehavior, values: &[&str]| list_entries_request::Filter {
        by_selectors: Some(types::SelectorMatch {
            selectors: values.iter().map(|value| unix_selector(value)).collect(),
            r#match: behavior as i32,
        }),
        ..Default::default()
    };
    use types::selector_match::MatchBehavior::{MatchAny, MatchExact, MatchSubset, MatchSuperset};
    for (filter, expected) in [
        (by_selectors(MatchExact, &["gid:1", "uid:1"]), vec!["e-3"]),
        (by_selectors(MatchSubset, &["uid:1", "uid:9"]), vec!["e-0", "e-1", "e-2", "e-4"]),
        (by_selectors(MatchSuperset, &["gid:1"]), vec!["e-3"]),
        (by_selectors(MatchAny, &["gid:1", "uid:9"]), vec!["e-3"]),
        (list_entries_request::Filter { by_downstream: Some(true), ..Default::default() }, vec!["e-4"]),
        (list_entries_request::Filter { by_spiffe_id: id("/w/2"), ..Default::default() }, vec!["e-2"]),
    ] {
        let request = ListEntriesRequest { filter: Some(filter.clone()), ..Default::default() };
        let listed = client.list_entries(request).await.unwrap().into_inner().entries;
        assert_eq!(listed.into_iter().map(|entry| entry.id).collect::<Vec<_>>(), expected, "{filter:?}");
    }
    let filter = count_entries_request::Filter { by_parent_id: id("/spire/agent/x"), ..Default::default() };
    let counted = client.count_entries(CountEntriesRequest { filter: Some(filter) }).await.unwrap();
    assert_eq!(counted.into_inner().count, 5);
    issuer.stop().await;
}

#[tokio::test]
async fn an_update_raises_the_revision_and_reaches_the_agent_at_once() {
    let issuer = TestIssuer::start("").await;
    let agent = issuer.agent("one").await;
    let created = issuer.create(vec![entry("e-1", &agent.id(), "/web")]).await;
    assert_eq!(created[0].revision_number, 0);
    let mut served = EntryClient::new(issuer.remote(Some(&agent)).await);
    let mut local = EntryClient::new(issuer.local());
    for revision in 1..=2 {
        let request = BatchUpdateEntryRequest {
            entries: vec![types::Entry { id: "e-1".into(), hint: "h".into(), ..Default::default() }],
            input_mask: Some(types::EntryMask { hint: true, ..Default::default() }),
            output_mask: None,
        };
        let updated = local.batch_update_entry(request).await.unwrap().into_inner().results.remove(0).entry.unwrap();
        assert_eq!((updated.revision_number, updated.hint.as_str()), (revision, "h"));
        assert_eq!(updated.created_at, created[0].created_at);
        let request = GetAuthorizedEntriesRequest::default();
        let entries = served.get_authorized_entries(request).await.unwrap().into_inner().entries;
        assert_eq!(entries, [updated]);
    }
    issuer.stop().await;
}

#[tokio::test]
async fn the_entry_of_another_agent_is_not_served() {
    let issuer = TestIssuer::start("ratelimit: { attestation: false }\n").await;
    let one = issuer.agent("one").await;
    let two = issuer.agent("two").await;
    let nested = "spiffe://cloud.example/of-one";
    issuer
        .create(vec![entry("a", &one.id(), "/of-one"), entry("b", nested, "/below"), entry("c", &two.id(), "/of-two")])
        .await;
    for (agent, expected) in [(&one, vec!["a", "b"]), (&two, vec!["c"])] {
        let mut client = EntryClient::new(issuer.remote(Some(agent)).await);
        let request = GetAuthorizedEntriesRequest::default();
        let entries = client.get_authorized_entries(request).await.unwrap().into_inner().entries;
        assert_eq!(entries.into_iter().map(|entry| entry.id).collect::<Vec<_>>(), expected);
    }
    issuer.stop().await;
}

#[tokio::test]
async fn one_bad_item_does_not_stop_a_batch() {
    let issuer = TestIssuer::start("").await;
    let parent = "spiffe://cloud.example/spire/agent/x";
    let mut repeated = entry("", parent, "/repeated");
    repeated.selectors = vec![unix_selector("uid:1"); 2];
    let entries = vec![entry("a", parent, "/a"), types::Entry::default(), repeated, entry("b", parent, "/a")];
    let request = BatchCreateEntryRequest { entries, output_mask: None };
    let results = EntryClient::new(issuer.local()).batch_create_entry(request).await.unwrap().into_inner().results;
    let codes: Vec<_> = results.iter().map(|result| result.status.as_ref().unwrap().code).collect();
    let expected =
        [Code::Ok, Code::InvalidArgument, Code::InvalidArgument, Code::AlreadyExists].map(|code| code as i32);
    assert_eq!(codes, expected);
    assert_eq!(results[3].entry.as_ref().unwrap().id, "a", "the similar entry is returned");
    issuer.stop().await;
}

fn ids(ids: &[&str]) -> SyncAuthorizedEntriesRequest {
    SyncAuthorizedEntriesRequest { output_mask: None, ids: ids.iter().map(|id| (*id).to_owned()).collect() }
}

fn shape(answers: &[SyncAuthorizedEntriesResponse]) -> Vec<(usize, usize, bool)> {
    answers.iter().map(|answer| (answer.entry_revisions.len(), answer.entries.len(), answer.more)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_sends_few_entries_whole_and_many_by_revision() {
    let issuer = TestIssuer::start("").await;
    let agent = issuer.agent("syncing").await;
    let parent = agent.id();
    let make = |range: std::ops::Range<usize>| {
        range.map(|n| entry(&format!("s-{n:04}"), &parent, &format!("/s/{n}"))).collect::<Vec<_>>()
    };
    issuer.create(make(0..500)).await;
    let channel = issuer.remote(Some(&agent)).await;
    let sync = async |requests: Vec<SyncAuthorizedEntriesRequest>| {
        let mut client = EntryClient::new(channel.clone());
        let mut stream = client.sync_authorized_entries(iter(requests)).await?.into_inner();
        let mut answers = Vec::new();
        while let Some(answer) = stream.message().await? {
            answers.push(answer);
        }
        Ok::<_, tonic::Status>(answers)
    };
    let mask = types::EntryMask { revision_number: true, ..Default::default() };
    let first = SyncAuthorizedEntriesRequest { output_mask: Some(mask), ids: Vec::new() };
    assert_eq!(shape(&sync(vec![first.clone()]).await.unwrap()), [(0, 500, false)]);
    assert_eq!(shape(&sync(vec![first.clone(), ids(&["s-0001"])]).await.unwrap()), [(0, 500, false)]);
    issuer.create(make(500..1201)).await;
    let revisions = [(500, 0, true), (500, 0, true), (201, 0, false)];
    let answers = sync(vec![first.clone()]).await.unwrap();
    assert_eq!(shape(&answers), revisions);
    assert_eq!(answers[0].entry_revisions[0].id, "s-0000");
    assert!(answers[0].entry_revisions[0].created_at > 0);
    let answers = sync(vec![first.clone(), ids(&["s-0001", "nosuch", "s-1200"])]).await.unwrap();
    assert_eq!(shape(&answers[3..]), [(0, 2, false)]);
    assert!(answers[3].entries[0].spiffe_id.is_none(), "the first message's mask counts");
    let many: Vec<_> = (0..1100).map(|n| format!("s-{n:04}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let answers = sync(vec![first.clone(), ids(&many), ids(&["s-0000"]), ids(&[])]).await.unwrap();
    let expected = [(0, 500, true), (0, 500, true), (0, 100, false), (0, 1, false), (0, 0, false)];
    assert_eq!(shape(&answers[3..]), expected);
    let answers = sync(vec![SyncAuthorizedEntriesRequest::default(), ids(&["s-0007"])]).await.unwrap();
    assert!(answers[3].entries[0].spiffe_id.is_some(), "without a mask every field is there");
    issuer.stop().await;
}
