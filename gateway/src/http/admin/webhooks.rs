//! Webhooks: how they are doing, and trying them.

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use utoipa::openapi::HttpMethod;

use super::{Admin, operation::Operation};
use crate::{
    api::{
        Role,
        webhooks::{WebhookList, WebhookTest},
    },
    http::problem::{AdminError, Kind},
    webhook,
};

/// Longest name of a webhook that is repeated in an answer, in characters.
const MAX_NAME_SHOWN: usize = 64;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            HttpMethod::Get,
            "/v1/webhooks",
            Role::Viewer,
            ("listWebhooks", "Who is told about events, and how that is doing"),
            list,
        )
        .remark("There are at most 16, in one answer.")
        .answers::<WebhookList>()
        .problems(&[Kind::DatabaseFailure]),
        Operation::new(
            HttpMethod::Post,
            "/v1/webhooks/{webhook}/test",
            Role::Operator,
            ("testWebhook", "Send one event of the type `webhook.test` at once and tell what became of it"),
            test,
        )
        .remark("Answers 200 also if the receiver does not take it.")
        .answers::<WebhookTest>()
        .problems(&[Kind::UnknownWebhook]),
    ]
}

async fn list(State(admin): State<Admin>) -> Result<Json<WebhookList>, AdminError> {
    let mut webhooks = Vec::new();
    for lane in admin.webhooks.iter() {
        webhooks.push(lane.describe().await?);
    }
    Ok(Json(WebhookList { webhooks }))
}

async fn test(
    State(admin): State<Admin>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<WebhookTest>, AdminError> {
    // A path that is no text names no webhook.
    let name = name.map(|Path(name)| name).unwrap_or_default();
    let lane = admin.webhooks.get(&name);
    let lane = lane.ok_or_else(|| AdminError::NoWebhook(name.chars().take(MAX_NAME_SHOWN).collect()))?;
    let outcome = webhook::test(lane, &admin.clock).await;
    Ok(Json(WebhookTest { delivered: outcome.is_ok(), error: outcome.err().map(|error| error.to_string()) }))
}
