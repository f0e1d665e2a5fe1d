//! `entente agent api fetch jwt`.

use std::collections::BTreeMap;

use federation_specs::proto::workload::{JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse};
use serde_json::Value;

use super::timeout::Timeout;
use crate::connect::{self, AgentSocket};
use crate::failure::Failure;
use crate::output::{self, Format};

const SVIDS: &str = "JWTSVIDResponse";
const BUNDLES: &str = "JWTBundlesResponse";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    socket: AgentSocket,
    #[command(flatten)]
    timeout: Timeout,
    /// Who the token is for; several separated by commas
    #[arg(long, value_name = "AUDIENCE", value_delimiter = ',')]
    audience: Vec<String>,
    /// Only the JWT-SVID with this SPIFFE ID
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// How to print the answer: pretty or json
    #[arg(id = "output", long = "output", alias = "format", value_name = "FORMAT", default_value = "pretty")]
    format: Format,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let audience: Vec<String> = arguments.audience.iter().filter(|audience| !audience.is_empty()).cloned().collect();
    if audience.is_empty() {
        return Err(Failure::new("audience must be specified"));
    }
    let spiffe_id = arguments.spiffe_id.clone().unwrap_or_default();
    let (svids, bundles) = arguments
        .timeout
        .limit(async {
            let api = arguments.socket.connect().await?;
            let mut client = connect::workload(&api);
            let svids = client.fetch_jwtsvid(JwtsvidRequest { audience, spiffe_id }).await?.into_inner();
            let mut updates = client.fetch_jwt_bundles(JwtBundlesRequest {}).await?.into_inner();
            let bundles = updates.message().await?;
            let bundles = bundles.ok_or_else(|| Failure::new("the Workload API ended the stream without an answer"))?;
            Ok((svids, bundles))
        })
        .await?;
    match arguments.format {
        Format::Json => output::to_stdout(&json(&svids, &bundles)?),
        Format::Pretty => output::to_stdout(&pretty(&svids, &bundles)),
    }
}

fn json(svids: &JwtsvidResponse, bundles: &JwtBundlesResponse) -> Result<String, Failure> {
    let both = vec![output::message_value(SVIDS, svids)?, output::message_value(BUNDLES, bundles)?];
    Ok(output::value_line(&Value::Array(both)))
}

fn pretty(svids: &JwtsvidResponse, bundles: &JwtBundlesResponse) -> String {
    let mut text = String::new();
    for svid in &svids.svids {
        text.push_str(&format!("token({}):\n\t{}\n", svid.spiffe_id, svid.svid));
        if !svid.hint.is_empty() {
            text.push_str(&format!("hint({}):\n\t{}\n", svid.spiffe_id, svid.hint));
        }
    }
    let sorted: BTreeMap<_, _> = bundles.bundles.iter().collect();
    for (id, jwks) in sorted {
        text.push_str(&format!("bundle({id}):\n\t{}\n", String::from_utf8_lossy(jwks)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcripts::Transcripts;

    #[test]
    fn both_formats_are_spires() {
        let transcripts = Transcripts::of("agent-fetch-jwt");
        for (text, line) in transcripts.pairs("api fetch jwt -audience aud1") {
            let parts: Vec<Value> = serde_json::from_str(&line).unwrap();
            let svids: JwtsvidResponse = Transcripts::decode(SVIDS, &parts[0].to_string());
            let bundles: JwtBundlesResponse = Transcripts::decode(BUNDLES, &parts[1].to_string());
            assert_eq!(json(&svids, &bundles).unwrap(), line);
            // The two runs were given different tokens; the layout is the same.
            let layout =
                |text: &str| text.lines().map(|line| line.split("eyJ").next().unwrap().to_owned()).collect::<Vec<_>>();
            assert_eq!(layout(&pretty(&svids, &bundles)), layout(&text));
        }
    }
}
