//! `entente gateway relationship list`.

use comfy_table::Color;
use gateway::api::{Relationship, RelationshipList, RelationshipState};

use super::{delivered, health_colours};
use crate::failure::Failure;
use crate::gateway::address::GatewayAddress;
use crate::gateway::pages::{self, Limit};
use crate::gateway::table::{NOTHING, cell, number, one_line, span, table};
use crate::output::{self, Format, OutputArguments};

/// A first key that expires within a week is shown in colour.
const SOON: i64 = 7 * 86_400;

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    gateway: GatewayAddress,
    /// Only those of this health, or of several with commas between them: degraded,failing,expired
    #[arg(long, value_name = "HEALTH")]
    health: Option<String>,
    /// Only those of this mode: auto, hold or pinned
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// Only those in this state: frozen, waiting, rejected, drift or conflict
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Only those whose bundle this local trust domain receives
    #[arg(long = "local", value_name = "TRUST_DOMAIN")]
    local: Option<String>,
    #[command(flatten)]
    limit: Limit,
    #[command(flatten)]
    output: OutputArguments,
}

pub(super) async fn list(arguments: &List) -> Result<(), Failure> {
    let client = arguments.gateway.client().await?;
    let filters = [
        ("health", arguments.health.clone()),
        ("mode", arguments.mode.clone()),
        ("state", arguments.state.clone()),
        ("local_trust_domain", arguments.local.clone()),
    ];
    let filtered = filters.iter().any(|(_, value)| value.is_some());
    let list: RelationshipList = pages::read(&client, "/v1/relationships", &filters, arguments.limit.limit).await?;
    match arguments.output.format {
        Format::Json => output::print_json(&list),
        Format::Pretty if filtered && list.relationships.is_empty() => output::to_stdout("No such relationships\n"),
        Format::Pretty => output::to_stdout_in_colour(&list_text(&list)),
    }
}

fn list_text(list: &RelationshipList) -> String {
    if list.relationships.is_empty() {
        return "No relationships: name partners in the configuration, apply them (`entente gateway apply`), or create \
                them at the issuer (`entente issuer federation create`)\n"
            .to_owned();
    }
    // Where several gateways share a database.
    let shared = list.relationships.iter().any(|relationship| relationship.replica.is_some());
    let rows = list.relationships.iter().map(|relationship| {
        let expiry = relationship.first_expiry_seconds;
        let expiry_colour = match expiry {
            Some(left) if left <= 0 => Some(Color::Red),
            Some(left) if left < SOON => Some(Color::Yellow),
            _ => None,
        };
        let state = state(relationship);
        let state_colour = (state != NOTHING).then_some(Color::Yellow);
        let failures = relationship.consecutive_failures;
        let mut row = vec![
            cell(&relationship.trust_domain, None),
            cell(relationship.health.as_str(), Some(health_colours(relationship.health).0)),
            cell(relationship.mode.as_str(), None),
            cell(state, state_colour),
            cell(number(relationship.held.as_ref().and_then(|held| held.sequence)), None),
            cell(span(relationship.bundle_age_seconds.and_then(|age| age.try_into().ok())), None),
            cell(span(relationship.next_refresh_seconds.and_then(|next| next.try_into().ok())), None),
            cell(span(expiry), expiry_colour),
            cell(failures, (failures > 0).then_some(Color::Red)),
            cell(delivered(relationship), None),
            cell(relationship.last_error.as_deref().map_or_else(|| NOTHING.to_owned(), one_line), None),
        ];
        if shared {
            row.insert(1, cell(relationship.replica.as_deref().unwrap_or(NOTHING), None));
        }
        row
    });
    let mut header = vec![
        "TRUST DOMAIN",
        "HEALTH",
        "MODE",
        "STATE",
        "SEQUENCE",
        "AGE",
        "NEXT",
        "EXPIRES IN",
        "FAILURES",
        "DELIVERED",
        "LAST ERROR",
    ];
    if shared {
        header.insert(1, "GATEWAY");
    }
    table(&header, rows.collect())
}

/// What an operator did or has to do, in a word each.
fn state(relationship: &Relationship) -> String {
    let words: Vec<_> = relationship.states().into_iter().map(RelationshipState::as_str).collect();
    if words.is_empty() { NOTHING.to_owned() } else { words.join(",") }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{held_back, plain, relationship};
    use super::*;
    use gateway::api::Health;

    fn listed(relationships: Vec<Relationship>) -> RelationshipList {
        RelationshipList { relationships, next_page_token: None }
    }

    #[test]
    fn a_list_has_one_line_a_partner() {
        let text = plain(&list_text(&listed(vec![relationship()])));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("TRUST DOMAIN"));
        assert_eq!(
            text,
            "TRUST DOMAIN    HEALTH    MODE  STATE  SEQUENCE  AGE   NEXT  EXPIRES IN  FAILURES  DELIVERED  LAST ERROR\n\
             onprem.example  degraded  auto  -      7         1h2m  12s   3d4h        2         1/1        connection \
             refused\n"
        );
        assert!(list_text(&listed(vec![])).contains("federation create"));
    }

    #[test]
    fn columns_stay_aligned_under_colours() {
        let mut other = relationship();
        other.health = Health::Healthy;
        let text = plain(&list_text(&listed(vec![relationship(), other])));
        let columns: Vec<_> = text.lines().map(|line| line.find("MODE").or_else(|| line.find("auto"))).collect();
        assert!(columns.windows(2).all(|two| two[0] == two[1]), "{text}");
    }

    #[test]
    fn what_an_operator_should_know_is_in_the_list() {
        let text = plain(&list_text(&listed(vec![held_back()])));
        assert_eq!(
            text.lines().nth(1).unwrap(),
            "onprem.example  expired  hold  frozen,waiting,drift  7         1h2m  12s   -1m1s       2         1/1        \
             connection refused"
        );
    }
}
