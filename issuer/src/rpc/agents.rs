//! `spire.api.server.agent.v1.Agent`: attested agents and join tokens. Attesting and renewing have files of their own.

use std::sync::Arc;

use federation_specs::{
    convert,
    id::SpiffeId,
    proto::{
        server::agent::{
            AttestAgentRequest, AttestAgentResponse, BanAgentRequest, CountAgentsRequest, CountAgentsResponse,
            CreateJoinTokenRequest, DeleteAgentRequest, GetAgentRequest, ListAgentsRequest, ListAgentsResponse,
            PostStatusRequest, PostStatusResponse, RenewAgentRequest, RenewAgentResponse, agent_server,
        },
        types,
    },
};
use futures::stream::BoxStream;
use tonic::{Code, Request, Response, Status, Streaming};
use uuid::Uuid;

use super::{
    Shared,
    agent_filter::{self, Parts},
    attest,
    caller::Caller,
    ids, renew, status,
};
use crate::{
    node::{JoinTokenError, Node},
    store::{Page, StoreError},
};

/// Longest version an agent may report, in characters.
const MAX_AGENT_VERSION_CHARS: usize = 255;

/// Longest lifetime of a join token in seconds: ten years.
const MAX_JOIN_TOKEN_TTL: i32 = 10 * 365 * 24 * 60 * 60;

/// Every field of an agent.
const EVERY_FIELD: types::AgentMask = types::AgentMask {
    attestation_type: true,
    x509svid_serial_number: true,
    x509svid_expires_at: true,
    selectors: true,
    banned: true,
    can_reattest: true,
    agent_version: true,
};

/// Handlers of the Agent service.
#[derive(Debug)]
pub(super) struct AgentService {
    shared: Arc<Shared>,
}

impl AgentService {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn agent_id(&self, id: Option<&types::Spiffeid>) -> Result<SpiffeId, Status> {
        ids::agent(id, &self.shared.trust_domain).map_err(|error| status::invalid("invalid agent ID", error))
    }

    async fn create_token(&self, request: CreateJoinTokenRequest) -> Result<types::JoinToken, Status> {
        if request.ttl < 1 {
            return Err(Status::invalid_argument("ttl is required, you must provide one"));
        }
        if request.ttl > MAX_JOIN_TOKEN_TTL {
            return Err(Status::invalid_argument(format!(
                "ttl is too long, the longest is {MAX_JOIN_TOKEN_TTL} seconds"
            )));
        }
        let agent_id = request.agent_id.as_ref().map(|id| ids::workload(Some(id), &self.shared.trust_domain));
        let agent_id = agent_id.transpose().map_err(|error| status::invalid("invalid agent ID", error))?;
        let value = if request.token.is_empty() { Uuid::new_v4().to_string() } else { request.token };
        let now = self.shared.now();
        let expires_at = now.unix_timestamp() + i64::from(request.ttl);
        let created = self.shared.store.create_join_token(&value, expires_at, agent_id.as_ref(), now).await;
        created.map_err(|error| match error {
            StoreError::JoinToken(JoinTokenError::Exists) => {
                Status::internal(format!("failed to create token: {error}"))
            }
            error => status::from_store("failed to create token", "", &error),
        })?;
        Ok(types::JoinToken { value, expires_at })
    }
}

fn to_proto(node: &Node, mask: Option<&types::AgentMask>) -> types::Agent {
    let mask = mask.unwrap_or(&EVERY_FIELD);
    let text = |wanted: bool, text: &String| if wanted { text.clone() } else { String::new() };
    types::Agent {
        id: Some(convert::spiffe_id_to_proto(&node.agent_id)),
        attestation_type: text(mask.attestation_type, &node.attestation_type),
        x509svid_serial_number: text(mask.x509svid_serial_number, &node.serial_number),
        x509svid_expires_at: if mask.x509svid_expires_at { node.expires_at } else { 0 },
        selectors: if mask.selectors { convert::selectors_to_proto(&node.selectors) } else { Vec::new() },
        banned: mask.banned && node.is_banned(),
        can_reattest: mask.can_reattest && node.can_reattest,
        agent_version: text(mask.agent_version, &node.agent_version),
    }
}

#[tonic::async_trait]
impl agent_server::Agent for AgentService {
    async fn count_agents(
        &self,
        request: Request<CountAgentsRequest>,
    ) -> Result<Response<CountAgentsResponse>, Status> {
        let context = "failed to count agents";
        let filter = request.into_inner().filter.unwrap_or_default();
        let parts = Parts {
            by_attestation_type: filter.by_attestation_type,
            by_selector_match: filter.by_selector_match,
            by_banned: filter.by_banned,
            by_can_reattest: filter.by_can_reattest,
            by_expires_before: filter.by_expires_before,
        };
        let filter = agent_filter::read(parts, context)?;
        let count = self.shared.store.count_nodes(&filter).await;
        let count = count.map_err(|error| status::from_store(context, "", &error))?;
        Ok(Response::new(CountAgentsResponse { count: i32::try_from(count).unwrap_or(i32::MAX) }))
    }

    async fn list_agents(&self, request: Request<ListAgentsRequest>) -> Result<Response<ListAgentsResponse>, Status> {
        let context = "failed to list agents";
        let request = request.into_inner();
        let filter = request.filter.unwrap_or_default();
        let parts = Parts {
            by_attestation_type: filter.by_attestation_type,
            by_selector_match: filter.by_selector_match,
            by_banned: filter.by_banned,
            by_can_reattest: filter.by_can_reattest,
            by_expires_before: filter.by_expires_before,
        };
        let filter = agent_filter::read(parts, context)?;
        let failure = |error: StoreError| status::from_store(context, "", &error);
        let page = Page::parse(request.page_size, &request.page_token).map_err(failure)?;
        let listed = self.shared.store.list_nodes(&filter, page).await.map_err(failure)?;
        Ok(Response::new(ListAgentsResponse {
            agents: listed.items.iter().map(|node| to_proto(node, request.output_mask.as_ref())).collect(),
            next_page_token: listed.next_token,
        }))
    }

    async fn get_agent(&self, request: Request<GetAgentRequest>) -> Result<Response<types::Agent>, Status> {
        let request = request.into_inner();
        let id = self.agent_id(request.id.as_ref())?;
        let node = self.shared.store.get_node(&id).await;
        let node = node.map_err(|error| status::from_store("failed to fetch agent", "agent not found", &error))?;
        let node = node.ok_or_else(|| Status::not_found("agent not found"))?;
        Ok(Response::new(to_proto(&node, request.output_mask.as_ref())))
    }

    async fn delete_agent(&self, request: Request<DeleteAgentRequest>) -> Result<Response<()>, Status> {
        let id = self.agent_id(request.into_inner().id.as_ref())?;
        let deleted = self.shared.store.delete_node(&id).await;
        deleted.map_err(|error| status::from_store("failed to remove agent", "agent not found", &error))?;
        tracing::info!(agent = %id, "agent deleted");
        Ok(Response::new(()))
    }

    async fn ban_agent(&self, request: Request<BanAgentRequest>) -> Result<Response<()>, Status> {
        let id = self.agent_id(request.into_inner().id.as_ref())?;
        let banned = self.shared.store.ban_node(&id).await;
        banned.map_err(|error| status::from_store("failed to ban agent", "agent not found", &error))?;
        tracing::info!(agent = %id, "agent banned");
        Ok(Response::new(()))
    }

    type AttestAgentStream = BoxStream<'static, Result<AttestAgentResponse, Status>>;

    async fn attest_agent(
        &self,
        request: Request<Streaming<AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        let caller = Caller::of(request.extensions())?.clone();
        Ok(Response::new(attest::attest(Arc::clone(&self.shared), caller, request.into_inner())))
    }

    async fn renew_agent(&self, request: Request<RenewAgentRequest>) -> Result<Response<RenewAgentResponse>, Status> {
        let caller = Caller::of(request.extensions())?.clone();
        let svid = renew::renew(&self.shared, &caller, request.into_inner()).await?;
        Ok(Response::new(RenewAgentResponse { svid: Some(svid) }))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        self.create_token(request.into_inner()).await.map(Response::new)
    }

    async fn post_status(&self, request: Request<PostStatusRequest>) -> Result<Response<PostStatusResponse>, Status> {
        let caller = Caller::of(request.extensions())?.clone();
        let context = "rejecting request due to post status rate limiting";
        status::limited(Some(&self.shared.limits.status), &caller, 1, context).await?;
        let version = request.into_inner().agent_version;
        if version.chars().count() > MAX_AGENT_VERSION_CHARS {
            let text = format!("agent version is too long (max {MAX_AGENT_VERSION_CHARS} characters)");
            return Err(Status::new(Code::InvalidArgument, text));
        }
        let agent = caller.agent()?;
        if agent.agent_version != version {
            let stored = self.shared.store.set_agent_version(&agent.agent_id, &version).await;
            stored.map_err(|error| status::from_store("failed to update agent version", "agent not found", &error))?;
        }
        Ok(Response::new(PostStatusResponse {}))
    }
}
