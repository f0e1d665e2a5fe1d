//! The calls `entente demo` and `entente dev` make to an issuer, on its Unix socket.

use std::path::Path;

use anyhow::{Context, Result, bail};
use federation_specs::bundle::Bundle;
use federation_specs::convert;
use federation_specs::id::{SpiffeId, TrustDomain};
use federation_specs::proto::server::agent::CreateJoinTokenRequest;
use federation_specs::proto::server::agent::agent_client::AgentClient;
use federation_specs::proto::server::bundle::bundle_client::BundleClient;
use federation_specs::proto::server::bundle::{GetBundleRequest, GetFederatedBundleRequest};
use federation_specs::proto::server::entry::entry_client::EntryClient;
use federation_specs::proto::server::entry::{BatchCreateEntryRequest, BatchUpdateEntryRequest};
use federation_specs::proto::server::localauthority::local_authority_client::LocalAuthorityClient;
use federation_specs::proto::server::localauthority::{
    ActivateJwtAuthorityRequest, ActivateX509AuthorityRequest, PrepareJwtAuthorityRequest, PrepareX509AuthorityRequest,
    TaintX509AuthorityRequest,
};
use federation_specs::proto::server::svid::MintX509svidRequest;
use federation_specs::proto::server::svid::svid_client::SvidClient;
use federation_specs::proto::server::trustdomain::BatchCreateFederationRelationshipRequest;
use federation_specs::proto::server::trustdomain::trust_domain_client::TrustDomainClient;
use federation_specs::proto::types;
use service_kit::csr;
use service_kit::keys::{KeyType, PrivateKey};
use tonic::Code;
use tonic::transport::Channel;

/// An issuer reached over its Unix socket.
#[derive(Debug, Clone)]
pub(crate) struct IssuerApi {
    channel: Channel,
    trust_domain: TrustDomain,
}

/// A minted X509-SVID: DER certificates, leaf first, and its key.
#[derive(Debug)]
pub(crate) struct MintedSvid {
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) key: PrivateKey,
}

impl IssuerApi {
    pub(crate) fn connect(socket: &Path, trust_domain: TrustDomain) -> Self {
        Self { channel: service_kit::grpc::connect::unix_channel(socket), trust_domain }
    }

    /// The domain's own bundle.
    pub(crate) async fn bundle(&self) -> Result<Bundle> {
        let answer = BundleClient::new(self.channel.clone())
            .get_bundle(GetBundleRequest::default())
            .await
            .context("GetBundle")?
            .into_inner();
        Ok(convert::bundle_from_proto(&answer)?)
    }

    /// A partner's bundle as this issuer holds it.
    pub(crate) async fn federated_bundle(&self, partner: &TrustDomain) -> Result<Bundle> {
        let request = GetFederatedBundleRequest { trust_domain: partner.to_string(), ..Default::default() };
        let answer = BundleClient::new(self.channel.clone())
            .get_federated_bundle(request)
            .await
            .with_context(|| format!("GetFederatedBundle {partner}"))?
            .into_inner();
        Ok(convert::bundle_from_proto(&answer)?)
    }

    /// A join token whose agent gets `alias` as a further ID.
    pub(crate) async fn join_token(&self, alias: &SpiffeId, ttl_seconds: i32) -> Result<String> {
        let request = CreateJoinTokenRequest {
            ttl: ttl_seconds,
            token: String::new(),
            agent_id: Some(convert::spiffe_id_to_proto(alias)),
        };
        let answer = AgentClient::new(self.channel.clone()).create_join_token(request).await;
        Ok(answer.context("CreateJoinToken")?.into_inner().value)
    }

    /// The IDs of the attested agents.
    pub(crate) async fn agents(&self) -> Result<Vec<String>> {
        let mut client = AgentClient::new(self.channel.clone());
        let request = federation_specs::proto::server::agent::ListAgentsRequest::default();
        let agents = client.list_agents(request).await.context("ListAgents")?.into_inner().agents;
        agents.iter().map(|agent| Ok(convert::spiffe_id_from_proto(agent.id.as_ref())?.to_string())).collect()
    }

    /// Creates the entry; one with the same entry ID stays as it is. Says whether it was created.
    pub(crate) async fn ensure_entry(&self, entry: types::Entry) -> Result<bool> {
        let mut client = EntryClient::new(self.channel.clone());
        let request = BatchCreateEntryRequest { entries: vec![entry], output_mask: None };
        let results = client.batch_create_entry(request).await.context("BatchCreateEntry")?.into_inner().results;
        let status = results.into_iter().next().and_then(|result| result.status);
        if status.as_ref().is_some_and(|status| status.code == Code::AlreadyExists as i32) {
            return Ok(false);
        }
        succeeded("BatchCreateEntry", status).map(|()| true)
    }

    /// Creates the entry, or replaces the one with the same entry ID.
    pub(crate) async fn put_entry(&self, entry: types::Entry) -> Result<()> {
        if self.ensure_entry(entry.clone()).await? {
            return Ok(());
        }
        let mut client = EntryClient::new(self.channel.clone());
        let request = BatchUpdateEntryRequest { entries: vec![entry], ..Default::default() };
        let results = client.batch_update_entry(request).await.context("BatchUpdateEntry")?.into_inner().results;
        succeeded("BatchUpdateEntry", results.into_iter().next().and_then(|result| result.status))
    }

    /// Declares a partner whose bundle comes over `https_spiffe`.
    pub(crate) async fn federate(&self, partner: &Bundle, url: &str, endpoint_id: &SpiffeId) -> Result<()> {
        use types::federation_relationship::BundleEndpointProfile;
        let relationship = types::FederationRelationship {
            trust_domain: partner.trust_domain().to_string(),
            bundle_endpoint_url: url.to_owned(),
            trust_domain_bundle: Some(convert::bundle_to_proto(partner)),
            bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsSpiffe(types::HttpsspiffeProfile {
                endpoint_spiffe_id: endpoint_id.to_string(),
            })),
        };
        let request = BatchCreateFederationRelationshipRequest {
            federation_relationships: vec![relationship],
            output_mask: None,
        };
        let results = TrustDomainClient::new(self.channel.clone())
            .batch_create_federation_relationship(request)
            .await
            .context("BatchCreateFederationRelationship")?
            .into_inner()
            .results;
        let status = results.into_iter().next().and_then(|result| result.status);
        succeeded("BatchCreateFederationRelationship", status)
    }

    /// An X509-SVID for `id` with a key made here.
    pub(crate) async fn mint_x509(&self, id: &SpiffeId) -> Result<MintedSvid> {
        let key = PrivateKey::generate(KeyType::EcP256)?;
        let request =
            MintX509svidRequest { csr: csr::create(&key, csr::CsrSubject::default(), Some(id), &[])?, ttl: 0 };
        let answer = SvidClient::new(self.channel.clone()).mint_x509svid(request).await;
        let svid = answer.with_context(|| format!("MintX509SVID {id}"))?.into_inner().svid.unwrap_or_default();
        Ok(MintedSvid { chain: svid.cert_chain.iter().map(|der| der.to_vec()).collect(), key })
    }

    /// Prepares the next X.509 and JWT authority; their authority IDs.
    pub(crate) async fn prepare_authorities(&self) -> Result<(String, String)> {
        let mut client = LocalAuthorityClient::new(self.channel.clone());
        let x509 = client.prepare_x509_authority(PrepareX509AuthorityRequest {}).await?.into_inner();
        let jwt = client.prepare_jwt_authority(PrepareJwtAuthorityRequest {}).await?.into_inner();
        Ok((
            x509.prepared_authority.unwrap_or_default().authority_id,
            jwt.prepared_authority.unwrap_or_default().authority_id,
        ))
    }

    /// Makes the prepared authorities sign; the authority ID of the X.509 one that did before.
    pub(crate) async fn activate_authorities(&self, x509: &str, jwt: &str) -> Result<String> {
        let mut client = LocalAuthorityClient::new(self.channel.clone());
        let state = client
            .get_x509_authority_state(federation_specs::proto::server::localauthority::GetX509AuthorityStateRequest {})
            .await?
            .into_inner();
        client.activate_x509_authority(ActivateX509AuthorityRequest { authority_id: x509.to_owned() }).await?;
        client.activate_jwt_authority(ActivateJwtAuthorityRequest { authority_id: jwt.to_owned() }).await?;
        Ok(state.active.unwrap_or_default().authority_id)
    }

    /// Marks an old X.509 authority so that agents replace everything it signed.
    pub(crate) async fn taint_x509(&self, authority_id: &str) -> Result<()> {
        let request = TaintX509AuthorityRequest { authority_id: authority_id.to_owned() };
        LocalAuthorityClient::new(self.channel.clone()).taint_x509_authority(request).await?;
        Ok(())
    }

    /// An entry of this domain below `parent`, with the given entry ID.
    pub(crate) fn entry(
        &self,
        entry_id: &str,
        parent: &SpiffeId,
        id: &SpiffeId,
        selectors: &[String],
        federates_with: &[&TrustDomain],
    ) -> Result<types::Entry> {
        if id.trust_domain() != &self.trust_domain {
            bail!("{id} is not a name of {}", self.trust_domain);
        }
        Ok(types::Entry {
            id: entry_id.to_owned(),
            parent_id: Some(convert::spiffe_id_to_proto(parent)),
            spiffe_id: Some(convert::spiffe_id_to_proto(id)),
            selectors: selectors
                .iter()
                .map(|selector| types::Selector { r#type: "unix".to_owned(), value: selector.clone() })
                .collect(),
            federates_with: federates_with.iter().map(ToString::to_string).collect(),
            ..Default::default()
        })
    }
}

fn succeeded(call: &str, status: Option<types::Status>) -> Result<()> {
    match status {
        Some(status) if status.code == Code::Ok as i32 => Ok(()),
        Some(status) => bail!("{call}: {}", status.message),
        None => bail!("{call}: the answer has no result"),
    }
}
