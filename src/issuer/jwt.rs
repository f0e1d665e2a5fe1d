//! `entente issuer jwt mint`.

use std::path::Path;
use std::time::Duration;

use federation_specs::proto::server::svid::{MintJwtsvidRequest, MintJwtsvidResponse};
use service_kit::clock::{Clock as _, SystemClock};
use service_kit::config::HumanDuration;
use time::OffsetDateTime;

use crate::connect::{self, IssuerSocket};
use crate::failure::Failure;
use crate::identifiers;
use crate::notation;
use crate::output::{self, OutputArguments};
use crate::standard_error;

const RESPONSE: &str = "spire.api.server.svid.v1.MintJWTSVIDResponse";
/// Tokens are secrets.
const TOKEN_MODE: u32 = 0o600;

/// The commands of `entente issuer jwt`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a JWT-SVID for any workload, without an entry
    Mint(Mint),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Mint {
    #[command(flatten)]
    socket: IssuerSocket,
    /// SPIFFE ID of the JWT-SVID
    #[arg(long = "spiffeID", value_name = "ID")]
    spiffe_id: Option<String>,
    /// Who the token is for; may be repeated
    #[arg(long, value_name = "AUDIENCE")]
    audience: Vec<String>,
    /// How long it is valid, like 5m; the issuer's default unless given
    #[arg(long, value_name = "DURATION")]
    ttl: Option<HumanDuration>,
    /// Write the token to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    write: Option<String>,
    #[command(flatten)]
    output: OutputArguments,
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    let Command::Mint(arguments) = command;
    let spiffe_id = required_id(arguments.spiffe_id.as_deref())?;
    if arguments.audience.is_empty() {
        return Err(Failure::new("at least one audience must be specified"));
    }
    let ttl = arguments.ttl.map(HumanDuration::get).unwrap_or_default();
    let request = MintJwtsvidRequest {
        id: Some(identifiers::spiffe_id(spiffe_id)?),
        audience: arguments.audience.clone(),
        ttl: request_ttl(ttl)?,
    };
    let api = arguments.socket.connect().await?;
    let asked_at = SystemClock.now();
    let response = connect::svids(&api).mint_jwtsvid(request).await;
    let response = response.map_err(|status| Failure::from(status).context("unable to mint SVID"))?.into_inner();
    let svid = response.svid.clone().ok_or_else(|| Failure::new("the issuer's answer holds no SVID"))?;
    if let Some(line) = capped("JWT-SVID", ttl, asked_at, svid.expires_at) {
        standard_error::to_stderr(&line);
    }
    match arguments.write.as_deref().filter(|path| !path.is_empty()) {
        Some(path) => {
            write(Path::new(path), svid.token.as_bytes(), TOKEN_MODE)
                .map_err(|failure| failure.context("unable to write token"))?;
            output::to_stdout(&format!("JWT-SVID written to {path}\n"))
        }
        None => output::print(arguments.output.format, RESPONSE, &response, pretty),
    }
}

/// The `-spiffeID` of the mint commands.
pub(super) fn required_id(id: Option<&str>) -> Result<&str, Failure> {
    id.filter(|id| !id.is_empty()).ok_or_else(|| Failure::new("spiffeID must be specified"))
}

/// A time to live as requests carry it.
pub(super) fn request_ttl(ttl: Duration) -> Result<i32, Failure> {
    let seconds = i32::try_from(notation::seconds_rounded_up(ttl));
    seconds.map_err(|_| Failure::new(format!("-ttl must be at most {} seconds", i32::MAX)))
}

/// The warning about an SVID that ends before it was asked to.
pub(super) fn capped(kind: &str, ttl: Duration, asked_at: OffsetDateTime, expires_at: i64) -> Option<String> {
    let wanted = asked_at.unix_timestamp().saturating_add_unsigned(ttl.as_secs());
    (!ttl.is_zero() && expires_at < wanted).then(|| {
        let expires_at = notation::rfc3339_of(expires_at);
        format!("{kind} lifetime was capped shorter than specified ttl; expires \"{expires_at}\"\n")
    })
}

/// Writes a file at once or not at all.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    service_kit::atomic_file::write(path, bytes, mode)
        .map_err(|error| Failure::new(format!("open {}: {}", path.display(), crate::failure::io_reason(&error))))
}

fn pretty(response: &MintJwtsvidResponse) -> String {
    format!("{}\n", response.svid.as_ref().map(|svid| svid.token.as_str()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcripts::Transcripts;

    #[test]
    fn json_is_spires() {
        let transcripts = Transcripts::of("jwt-mint");
        let command = "jwt mint -spiffeID spiffe://cloud.example/minted -audience aud1 -audience aud2 -output json";
        let response: MintJwtsvidResponse = transcripts.message(RESPONSE, command);
        assert_eq!(output::json_line(RESPONSE, &response).unwrap(), transcripts.stdout(command));
        assert!(pretty(&response).starts_with("eyJ"));
    }

    #[test]
    fn a_shortened_lifetime_is_told() {
        let transcripts = Transcripts::of("jwt-mint");
        let asked_at = OffsetDateTime::from_unix_timestamp(1_795_342_445).unwrap();
        let two_days = Duration::from_secs(48 * 3_600);
        let command = "jwt mint -spiffeID spiffe://cloud.example/minted -audience aud1 -ttl 48h";
        assert_eq!(capped("JWT-SVID", two_days, asked_at, 1_795_428_666).unwrap(), transcripts.stderr(command));
        assert_eq!(capped("JWT-SVID", Duration::ZERO, asked_at, 0), None);
        assert_eq!(capped("JWT-SVID", Duration::from_secs(300), asked_at, 1_795_342_745), None);
    }

    #[test]
    fn a_time_to_live_beyond_the_request_is_refused() {
        assert_eq!(request_ttl(Duration::from_millis(1_500)).unwrap(), 2);
        assert!(request_ttl(Duration::from_secs(u64::from(u32::MAX))).unwrap_err().text().contains("at most"));
    }
}
