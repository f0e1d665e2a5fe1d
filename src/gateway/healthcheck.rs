//! `entente gateway healthcheck`.

use gateway::api::HealthReport;

use super::address::GatewayAddress;
use crate::failure::Failure;
use crate::output::{self, Format, OutputArguments, to_stdout};
use crate::standard_error::to_stderr;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    gateway: GatewayAddress,
    /// Name every part
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let report: HealthReport = arguments
        .gateway
        .client()
        .await?
        .get("/v1/health")
        .await
        .map_err(|failure| failure.context("gateway is unhealthy"))?;
    if arguments.output.format == Format::Json {
        output::print_json(&report)?;
    } else if arguments.verbose {
        to_stdout(&parts(&report))?;
    }
    match (report.ready, arguments.output.format) {
        (true, Format::Pretty) => to_stdout("Gateway is healthy.\n"),
        (true, Format::Json) => Ok(()),
        (false, _) => {
            if !arguments.verbose && arguments.output.format == Format::Pretty {
                to_stderr(&parts(&report));
            }
            Err(Failure::new("gateway is unhealthy: not every part is ready"))
        }
    }
}

fn parts(report: &HealthReport) -> String {
    let line = |(name, part): (&String, &gateway::api::SubsystemHealth)| match (part.ready, &part.reason) {
        (true, None) => format!("{name}: ready\n"),
        (true, Some(remark)) => format!("{name}: ready, but {remark}\n"),
        (false, Some(reason)) => format!("{name}: not ready: {reason}\n"),
        (false, None) => format!("{name}: not ready\n"),
    };
    report.subsystems.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_is_not_ready_is_named() {
        let report: HealthReport = serde_json::from_value(serde_json::json!({
            "ready": false,
            "subsystems": {
                "listeners": {"ready": true},
                "source": {"ready": false, "reason": "no bundle yet"},
                "spare": {"ready": true, "reason": "a.example: held"},
            },
        }))
        .unwrap();
        let expected = "listeners: ready\nsource: not ready: no bundle yet\nspare: ready, but a.example: held\n";
        assert_eq!(parts(&report), expected);
    }
}
