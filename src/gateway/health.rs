//! `entente gateway health` for people and programs; `healthcheck` is for probes.

use anstyle::AnsiColor;
use comfy_table::Color;
use gateway::api::{HealthReport, SubsystemHealth};

use super::address::GatewayAddress;
use super::table::{NOTHING, cell, coloured, one_line, table};
use crate::failure::Failure;
use crate::output::{self, Format, OutputArguments};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    gateway: GatewayAddress,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let report: HealthReport = arguments.gateway.client().await?.get("/v1/health").await?;
    match arguments.output.format {
        Format::Json => output::print_json(&report),
        Format::Pretty => output::to_stdout_in_colour(&text(&report)),
    }
}

fn text(report: &HealthReport) -> String {
    let row = |(name, part): (&String, &SubsystemHealth)| {
        let (word, colour) = if part.ready { ("ready", Color::Green) } else { ("not ready", Color::Red) };
        let remark = part.reason.as_deref().map_or_else(|| NOTHING.to_owned(), one_line);
        vec![cell(name, None), cell(word, Some(colour)), cell(remark, None)]
    };
    let parts = table(&["PART", "STATE", "REMARK"], report.subsystems.iter().map(row).collect());
    let sum = match report.ready {
        true => coloured("Gateway is ready", AnsiColor::Green),
        false => coloured("Gateway is not ready", AnsiColor::Red),
    };
    format!("{parts}{sum}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_a_line() {
        let report: HealthReport = serde_json::from_value(serde_json::json!({
            "ready": false,
            "subsystems": {"listeners": {"ready": true}, "source": {"ready": false, "reason": "no bundle yet"}},
        }))
        .unwrap();
        let text = anstream::adapter::strip_str(&text(&report)).to_string();
        assert_eq!(
            text,
            "PART       STATE      REMARK\nlisteners  ready      -\nsource     not ready  no bundle yet\nGateway is not ready\n"
        );
    }
}
