//! `entente issuer entry delete`.

use federation_specs::proto::server::entry::{BatchDeleteEntryRequest, BatchDeleteEntryResponse};

use super::create::given;
use super::data_file;
use crate::connect::{self, IssuerSocket};
use crate::failure::{Failure, code_name};
use crate::notation::quote;
use crate::output::{self, Format, OutputArguments, Report};

const RESPONSE: &str = "spire.api.server.entry.v1.BatchDeleteEntryResponse";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    socket: IssuerSocket,
    /// The entry
    #[arg(long = "entryID", value_name = "ID")]
    entry_id: Option<String>,
    /// Read the entries' IDs from a JSON file ({"ids": […]}), or from standard input with -
    #[arg(long, value_name = "FILE")]
    file: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let ids = match (given(arguments.file.as_deref()), given(arguments.entry_id.as_deref())) {
        (Some(path), _) => data_file::ids(path)?,
        (None, Some(id)) => vec![id.to_owned()],
        (None, None) => return Err(Failure::new("an entry ID is required")),
    };
    let api = arguments.socket.connect().await?;
    let response = connect::entries(&api).batch_delete_entry(BatchDeleteEntryRequest { ids }).await?.into_inner();
    match arguments.output.format {
        Format::Json => output::to_stdout(&output::json_line(RESPONSE, &response)?),
        Format::Pretty => report(&response).finish(),
    }
}

fn report(response: &BatchDeleteEntryResponse) -> Report {
    let mut report = Report::default();
    let (mut deleted, mut failed) = (0_usize, 0_usize);
    for result in &response.results {
        let status = result.status.clone().unwrap_or_default();
        if status.code == 0 {
            deleted += 1;
            report.stdout.push_str(&format!("Deleted entry with ID: {}\n", result.id));
        } else {
            failed += 1;
            let (code, message) = (code_name(status.code.into()), quote(&status.message));
            let line = format!("Failed to delete entry with ID {} (code: {code}, msg: {message})\n", result.id);
            report.stderr.push_str(&line);
        }
    }
    for count in [deleted, failed] {
        if count > 0 {
            report.stdout.push_str("\n\n");
        }
    }
    report.stdout.push_str(&match (deleted, failed) {
        (deleted, 0) => format!("Deleted {deleted} entries successfully"),
        (0, failed) => format!("Failed to delete {failed} entries"),
        (deleted, failed) => {
            format!("Deleted {deleted} entries successfully, but failed to delete {failed} entries")
        }
    });
    report.failure = (failed > 0).then(|| "failed to delete one or more entries".to_owned());
    report
}

#[cfg(test)]
mod tests {
    use federation_specs::proto::server::entry::batch_delete_entry_response::Result as Item;
    use federation_specs::proto::types::Status;

    use super::*;
    use crate::transcripts::{Transcript, Transcripts};

    fn item(id: &str, message: &str) -> Item {
        let code = if message.is_empty() { 0 } else { 5 };
        Item { id: id.to_owned(), status: Some(Status { code, message: message.to_owned() }) }
    }

    fn assert_reads(results: Vec<Item>, transcript: &Transcript) {
        let report = report(&BatchDeleteEntryResponse { results });
        assert_eq!(report.stdout, transcript.stdout);
        let error = report.failure.map(|text| format!("Error: {text}\n")).unwrap_or_default();
        assert_eq!(report.stderr + &error, transcript.stderr);
    }

    #[test]
    fn successes_and_failures_are_spires() {
        let transcripts = Transcripts::of("entry-delete");
        let single = transcripts.all("entry delete -entryID data-1");
        assert_reads(vec![item("data-1", "")], single[0]);
        assert_reads(vec![item("data-1", "entry not found")], single[1]);
        let file = transcripts.find("entry delete -file del.json").unwrap();
        assert_reads(vec![item("nosuch1", "entry not found"), item("nosuch2", "entry not found")], file);
        let stdin = transcripts.starting("entry delete -file -")[0];
        assert_reads(vec![item("nosuch1", "entry not found"), item("del-1", "")], stdin);
    }

    #[test]
    fn json_is_spires() {
        let expected = Transcripts::of("entry-delete").stdout("entry delete -entryID data-1 -output json").to_owned();
        let response = BatchDeleteEntryResponse { results: vec![item("data-1", "entry not found")] };
        assert_eq!(output::json_line(RESPONSE, &response).unwrap(), expected);
    }
}
