//! How the gateway is, and what this API is.

use axum::extract::State;
use utoipa::openapi::HttpMethod;

use super::{Admin, openapi, operation::Operation, tag::Tagged};
use crate::api::{HealthReport, Role, SubsystemHealth};

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            HttpMethod::Get,
            "/v1/health",
            Role::Viewer,
            ("getHealth", "Whether every part of the gateway works"),
            health,
        )
        .remark("Answers 200 also while one does not.")
        .answers::<HealthReport>()
        .tagged(),
        Operation::new(
            HttpMethod::Get,
            "/v1/openapi.json",
            Role::Viewer,
            ("getOpenApi", "This document"),
            openapi::show,
        )
        .answers_document()
        .tagged(),
    ]
}

async fn health(State(admin): State<Admin>) -> Tagged<HealthReport> {
    let subsystems = admin
        .readiness
        .snapshot()
        .into_iter()
        .map(|(name, state)| (name, SubsystemHealth { ready: state.ready && state.live, reason: state.reason }));
    Tagged::whole(HealthReport { ready: admin.readiness.is_ready(), subsystems: subsystems.collect() })
}
