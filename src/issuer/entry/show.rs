//! `entente issuer entry show`.

use federation_specs::proto::server::entry::{GetEntryRequest, ListEntriesRequest, ListEntriesResponse};
use federation_specs::proto::types::Entry;

use super::block::block;
use super::create::given;
use super::filter::Filter;
use crate::connect::{self, Api, IssuerSocket};
use crate::failure::Failure;
use crate::identifiers::id_text;
use crate::notation::counted;
use crate::output::{self, OutputArguments};

const RESPONSE: &str = "spire.api.server.entry.v1.ListEntriesResponse";
/// Entries asked for at a time.
const PAGE: i32 = 500;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    socket: IssuerSocket,
    /// One entry by its ID
    #[arg(long = "entryID", value_name = "ID")]
    entry_id: Option<String>,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let entry_id = given(arguments.entry_id.as_deref());
    if entry_id.is_some() && arguments.filter.names_entries() {
        return Err(Failure::new("the -entryID flag can't be combined with others"));
    }
    let filter = arguments.filter.request()?;
    let api = arguments.socket.connect().await?;
    let mut entries = match entry_id {
        Some(id) => {
            let request = GetEntryRequest { id: id.to_owned(), output_mask: None };
            let entry = connect::entries(&api).get_entry(request).await;
            let entry =
                entry.map_err(|status| Failure::from(status).context(&format!("error fetching entry ID {id}")))?;
            vec![entry.into_inner()]
        }
        None => list(&api, ListEntriesRequest { filter: Some(filter), page_size: PAGE, ..Default::default() }).await?,
    };
    sort(&mut entries);
    let response = ListEntriesResponse { entries, next_page_token: String::new() };
    output::print(arguments.output.format, RESPONSE, &response, pretty)
}

async fn list(api: &Api, mut request: ListEntriesRequest) -> Result<Vec<Entry>, Failure> {
    let mut client = connect::entries(api);
    let mut entries = Vec::new();
    loop {
        let page = client.list_entries(request.clone()).await;
        let mut page = page.map_err(|status| Failure::from(status).context("error fetching entries"))?.into_inner();
        entries.append(&mut page.entries);
        if page.next_page_token.is_empty() {
            return Ok(entries);
        }
        request.page_token = page.next_page_token;
    }
}

/// By SPIFFE ID, then parent, then selectors.
fn sort(entries: &mut [Entry]) {
    entries.sort_by_cached_key(|entry| {
        let selectors: Vec<_> =
            entry.selectors.iter().map(|selector| (selector.r#type.clone(), selector.value.clone())).collect();
        (id_text(entry.spiffe_id.as_ref()), id_text(entry.parent_id.as_ref()), selectors, entry.id.clone())
    });
}

fn pretty(response: &ListEntriesResponse) -> String {
    let mut text = format!("Found {}\n", counted(response.entries.len() as u64, "entry", "entries"));
    response.entries.iter().for_each(|entry| text.push_str(&block(entry)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcripts::Transcripts;

    #[test]
    fn both_formats_are_spires_in_its_order() {
        let transcripts = Transcripts::of("entry-show");
        for command in ["entry show", "entry show -entryID wl-1", "entry show -spiffeID spiffe://cloud.example/none"] {
            for (text, json) in transcripts.pairs(command) {
                let mut response: ListEntriesResponse = Transcripts::decode(RESPONSE, &json);
                response.entries.reverse();
                sort(&mut response.entries);
                assert_eq!(output::json_line(RESPONSE, &response).unwrap(), json);
                assert_eq!(pretty(&response), text);
            }
        }
    }
}
