//! Steps 1 to 6 of the demo. Each gives the facts it established.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use federation_specs::id::TrustDomain;
use service_kit::clock::{Clock, SystemClock};

use crate::demo::impostor;
use crate::demo::observer::Workload;
use crate::demo::world::World;
use crate::local::domain::Domain;
use crate::local::wait;

/// How long anything that the processes do on their own may take.
const LIMIT: Duration = Duration::from_secs(30);

type Facts = Vec<String>;

/// Issuers sign, agents are attested.
pub(crate) async fn start(world: &mut World) -> Result<((), Facts)> {
    tokio::try_join!(world.cloud.start_issuer(), world.onprem.start_issuer(), world.stranger.start_issuer())?;
    tokio::try_join!(world.cloud.start_agent(), world.onprem.start_agent())?;
    let mut facts = Vec::new();
    for domain in [&world.cloud, &world.onprem] {
        let api = domain.issuer_api();
        let (bundle, agents) = (api.bundle().await?, api.agents().await?);
        let authority = bundle.x509_authorities().first().context("the issuer has no X.509 authority")?;
        ensure!(!bundle.jwt_authorities().is_empty(), "the issuer has no JWT authority");
        let agent = agents.first().context("no agent is attested")?;
        facts.push(format!("{}: authority {}", domain.layout().trust_domain(), authority.key_id_hex()));
        facts.push(format!("  agent {agent}"));
    }
    Ok(((), facts))
}

/// Registration entries for three workloads on each side.
pub(crate) async fn register(world: &mut World) -> Result<((), Facts)> {
    let own = std::env::current_exe()?;
    let mut facts = Vec::new();
    let sides = [(&world.cloud, "shop", &world.shop_program), (&world.onprem, "stock", &world.stock_program)];
    for (domain, name, program) in sides {
        put_entries(domain, name, program, &[]).await?;
        facts.push(format!("{}  unix:path:{}", domain.layout().id(&format!("/{name}"))?, program.display()));
        facts.push(format!("{}  unix:path:{}", domain.layout().id("/you")?, own.display()));
    }
    Ok(((), facts))
}

async fn put_entries(
    domain: &Domain,
    name: &str,
    program: &std::path::Path,
    federates_with: &[&TrustDomain],
) -> Result<()> {
    let (layout, api) = (domain.layout(), domain.issuer_api());
    let uid = format!("uid:{}", rustix::process::geteuid().as_raw());
    let own = std::env::current_exe()?;
    for (entry, path, program) in [(name, format!("/{name}"), program), ("you", "/you".to_owned(), own.as_path())] {
        let selectors = [uid.clone(), format!("path:{}", program.display())];
        let id = layout.id(&path)?;
        api.put_entry(api.entry(entry, &layout.agent_id()?, &id, &selectors, federates_with)?).await?;
    }
    Ok(())
}

/// Gateways start, fetch each other's bundle and deliver it to their issuers.
pub(crate) async fn federate(world: &mut World) -> Result<((), Facts)> {
    tokio::try_join!(world.cloud.start_gateway(), world.onprem.start_gateway())?;
    let (cloud, onprem) = (world.cloud.issuer_api(), world.onprem.issuer_api());
    let (cloud_layout, onprem_layout) = (world.cloud.layout(), world.onprem.layout());
    let (cloud_domain, onprem_domain) = (cloud_layout.trust_domain(), onprem_layout.trust_domain());

    let start = onprem.bundle().await?;
    cloud.federate(&start, &onprem_layout.bundle_url_spiffe(), &onprem_layout.endpoint_id()?).await?;
    for (gateway, partner) in [(&world.cloud, onprem_domain), (&world.onprem, cloud_domain)] {
        let socket = gateway.layout().gateway_socket();
        wait::until("the gateway to accept its partner's bundle", LIMIT, || async {
            let relationship = crate::gateway::relationship::get(&socket, partner).await?;
            match relationship.last_success {
                Some(_) => Ok(()),
                None => bail!("{}", relationship.last_error.unwrap_or_else(|| "not fetched yet".to_owned())),
            }
        })
        .await?;
    }
    wait::until("cloud.example's issuer to receive the bundle", LIMIT, || cloud.federated_bundle(onprem_domain))
        .await?;
    wait::until("onprem.example's issuer to receive the bundle", LIMIT, || onprem.federated_bundle(cloud_domain))
        .await?;

    put_entries(&world.cloud, "shop", &world.shop_program, &[onprem_domain]).await?;
    put_entries(&world.onprem, "stock", &world.stock_program, &[cloud_domain]).await?;
    let facts = vec![
        format!(
            "cloud.example <- {}  https_spiffe, {}",
            onprem_layout.bundle_url_spiffe(),
            onprem_layout.endpoint_id()?
        ),
        format!("onprem.example <- {}  https_web, its own CA", cloud_layout.bundle_url_web()),
    ];
    Ok(((), facts))
}

/// A workload on each side gets its identity and both call each other.
pub(crate) async fn talk(world: &mut World) -> Result<((), Facts)> {
    // The agents must have seen the entries before the workloads ask, or they would be told "no identity".
    for domain in [&world.cloud, &world.onprem] {
        wait::until("the agent to serve this program's own entry", LIMIT, || {
            crate::agent::api_fetch::identities(domain.layout().agent_socket())
        })
        .await?;
    }
    let (shop_id, stock_id) = (world.shop_id()?, world.stock_id()?);
    world.shop = Some(Workload::start(
        world.cloud.layout(),
        &world.shop_program,
        shop_id.clone(),
        world.shop_address,
        world.stock_address,
        &stock_id,
    )?);
    world.stock = Some(Workload::start(
        world.onprem.layout(),
        &world.stock_program,
        stock_id.clone(),
        world.stock_address,
        world.shop_address,
        &shop_id,
    )?);
    let mut facts = Vec::new();
    let (shop, stock) = world.workloads()?;
    for workload in [shop, stock] {
        let seen = workload.until("a call to the peer to succeed", LIMIT, |seen| seen.answered > 0).await?;
        ensure!(seen.ids == [workload.id().to_string()], "the workload was given {:?}", seen.ids);
        facts.push(format!(
            "{} holds bundles of {:?} and hears: {}",
            workload.id(),
            seen.federated.keys(),
            seen.answer
        ));
    }
    Ok(((), facts))
}

/// Certificates of a stranger and of an impostor are refused; a real one passes.
pub(crate) async fn refuse(world: &mut World) -> Result<((), Facts)> {
    let (server, server_id) = (world.shop_address, world.shop_id()?);
    let server_bundle = world.cloud.issuer_api().bundle().await?;
    let stock_id = world.stock_id()?;

    let real = world.onprem.issuer_api().mint_x509(&stock_id).await?;
    impostor::call(server, &server_id, &server_bundle, real.chain, &real.key)
        .await
        .context("a true X509-SVID of onprem.example must be accepted")?;

    let stranger_id = world.stranger.layout().id("/stock")?;
    let stranger = world.stranger.issuer_api().mint_x509(&stranger_id).await?;
    let first = impostor::refused(server, &server_id, &server_bundle, stranger.chain, &stranger.key).await?;

    let now = SystemClock.now();
    let (chain, key) = impostor::forge(&world.root, &world.root_key, &stock_id, now)?;
    let second = impostor::refused(server, &server_id, &server_bundle, chain, &key).await?;
    let facts = vec![
        format!("{stranger_id}, not federated: {first}"),
        format!("{stock_id}, signed by cloud.example's authority: {second}"),
        format!("{stock_id}, signed by onprem.example: accepted"),
    ];
    Ok(((), facts))
}

/// The shop fetches a JWT-SVID in the cloud; the stock validates it on-prem. Gives the token.
pub(crate) async fn validate_jwt(world: &mut World) -> Result<(String, Facts)> {
    let (shop_id, audience) = (world.shop_id()?, world.stock_id()?.to_string());
    let (shop, stock) = world.workloads()?;
    let token = fetch_jwt(shop, &audience).await?;
    let arguments = ["api", "validate", "jwt", "-audience", &audience, "-svid", &token, "-output", "json"];
    let answer: serde_json::Value = serde_json::from_str(&stock.agent_command(&arguments).await?)?;
    ensure!(answer["spiffe_id"] == shop_id.to_string(), "ValidateJWTSVID answered {answer}");
    let facts = vec![format!("{shop_id} for {audience}: valid in onprem.example")];
    Ok((token, facts))
}

/// A JWT-SVID of this workload for `audience`, through the Workload API.
pub(crate) async fn fetch_jwt(workload: &Workload, audience: &str) -> Result<String> {
    let answer = workload.agent_command(&["api", "fetch", "jwt", "-audience", audience, "-output", "json"]).await?;
    let answer: serde_json::Value = serde_json::from_str(&answer)?;
    let token = answer[0]["svids"][0]["svid"].as_str().context("the answer has no token")?;
    Ok(token.to_owned())
}
