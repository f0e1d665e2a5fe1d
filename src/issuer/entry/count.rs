//! `entente issuer entry count`.

use federation_specs::proto::server::entry::{CountEntriesRequest, CountEntriesResponse};

use super::filter::Filter;
use crate::connect::{self, IssuerSocket};
use crate::failure::Failure;
use crate::notation::counted;
use crate::output::{self, OutputArguments};

const RESPONSE: &str = "spire.api.server.entry.v1.CountEntriesResponse";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    socket: IssuerSocket,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let request = CountEntriesRequest { filter: Some(arguments.filter.count_request()?) };
    let api = arguments.socket.connect().await?;
    let count = connect::entries(&api).count_entries(request).await?.into_inner();
    output::print(arguments.output.format, RESPONSE, &count, pretty)
}

fn pretty(count: &CountEntriesResponse) -> String {
    format!("{}\n", counted(count.count, "registration entry", "registration entries"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcripts::Transcripts;

    #[test]
    fn both_formats_are_spires() {
        let transcripts = Transcripts::of("entry-count");
        for command in ["entry count", "entry count -spiffeID spiffe://cloud.example/workload"] {
            for (text, json) in transcripts.pairs(command) {
                let count: CountEntriesResponse = Transcripts::decode(RESPONSE, &json);
                assert_eq!(output::json_line(RESPONSE, &count).unwrap(), json);
                assert_eq!(pretty(&count), text);
            }
        }
    }
}
