//! The description of the admin API as a running gateway serves it, judged by PyPI `openapi-spec-validator`.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use entente_tests::{
    binary::repository,
    cli::{self, Answer},
    domain::Domain,
    peer,
    plan::Plan,
};
use serde_json::{Value, json};
use tokio::process::Command;

/// Runs the judge. A missing Python or validator is a failure, never a skip.
async fn judge(place: &str, path: &Path) -> Result<Answer> {
    let mut command = Command::new(peer::python()?);
    command.arg(repository().join("tests/peers/python/validate_openapi.py")).arg(place).arg(path);
    cli::run(command, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_gateway_serves_is_openapi_3_1() -> Result<()> {
    let mut domain = Domain::from_plan(Plan::new("cloud.example")?);
    domain.start_issuer().await?;
    domain.start_gateway().await?;
    let verdict = judge("--socket", &domain.gateway_socket()).await?.json()?;
    ensure!(verdict["openapi"] == "3.1.0", "{verdict}");
    let kept: Value = serde_json::from_slice(&fs::read(repository().join("docs/openapi.json"))?)?;
    let operations = kept["paths"].as_object().context("no paths")?.values().filter_map(Value::as_object);
    let operations: usize = operations.map(|path| path.keys().filter(|key| *key != "parameters").count()).sum();
    ensure!(verdict["operations"] == operations, "{verdict}, {operations} in docs/openapi.json");
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_judge_finds_defects() -> Result<()> {
    let kept: Value = serde_json::from_slice(&fs::read(repository().join("docs/openapi.json"))?)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("openapi.json");
    let list = "/paths/~1v1~1relationships/get";
    let schema = "/components/schemas/Relationship";
    let defects: [(&str, &str, Value); 5] = [
        ("", "openapi", json!(3.1)),
        ("", "info", json!({"title": "no version"})),
        (list, "operationId", kept["paths"]["/v1/bundles"]["get"]["operationId"].clone()),
        (list, "parameters", json!([{"name": "limit", "in": "nowhere"}])),
        (schema, "properties", json!({"trust_domain": {"type": "text"}})),
    ];
    for (place, key, value) in defects {
        let mut document = kept.clone();
        document.pointer_mut(place).with_context(|| format!("nothing at {place}"))?[key] = value;
        fs::write(&file, document.to_string())?;
        let answer = judge("--file", &file).await?;
        ensure!(answer.code == 1, "{place} {key}: {answer:?}");
    }
    Ok(())
}
