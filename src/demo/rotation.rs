//! Step 8: the authorities of onprem.example rotate while both workloads go on calling.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::demo::steps;
use crate::demo::world::World;
use crate::local::wait;

/// How long a change may take to reach the other domain by its periodic refresh.
const LIMIT: Duration = Duration::from_secs(30);

/// Calls that must succeed on each side after the rotation.
const CALLS_AFTER: u64 = 10;

/// Prepares new authorities, waits until everyone trusts them, activates them and taints the old one.
pub(crate) async fn rotate(world: &mut World) -> Result<((), Vec<String>)> {
    let (onprem, cloud) = (world.onprem.issuer_api(), world.cloud.issuer_api());
    let domain = world.onprem.layout().trust_domain().clone();
    let before = {
        let (shop, stock) = world.workloads()?;
        [shop.seen(), stock.seen()]
    };

    let (x509, jwt) = onprem.prepare_authorities().await?;
    wait::until("cloud.example's copy to hold the prepared authorities", LIMIT, || async {
        let copy = cloud.federated_bundle(&domain).await?;
        let has_x509 = copy.x509_authorities().iter().any(|authority| authority.key_id_hex() == x509);
        if has_x509 && copy.find_jwt(&jwt).is_some() {
            return Ok(());
        }
        bail!("the copy is of before the rotation")
    })
    .await?;
    let (shop, _) = world.workloads()?;
    shop.until("the shop to trust the prepared authority", LIMIT, |seen| {
        seen.federated.get(domain.as_str()).is_some_and(|keys| keys.contains(&x509))
    })
    .await?;

    let old = onprem.activate_authorities(&x509, &jwt).await?;
    onprem.taint_x509(&old).await?;
    let (shop, stock) = world.workloads()?;
    let renewed =
        stock.until("the stock's SVID to be signed by the new authority", LIMIT, |seen| seen.authority == x509).await?;
    let enough = |before: u64| move |seen: &crate::demo::observer::Seen| seen.answered >= before + CALLS_AFTER;
    let stock_after = stock.until("calls to go on", LIMIT, enough(renewed.answered)).await?;
    let shop_before = shop.seen().answered;
    let shop_after = shop.until("calls to go on", LIMIT, enough(shop_before)).await?;
    for (before, after) in before.iter().zip([&shop_after, &stock_after]) {
        ensure!(before.failed == after.failed, "{} calls failed: {}", after.failed - before.failed, after.error);
    }
    let calls = shop_after.answered + stock_after.answered - before.iter().map(|seen| seen.answered).sum::<u64>();

    let shop_id = world.shop_id()?.to_string();
    let (shop, stock) = world.workloads()?;
    let token = steps::fetch_jwt(stock, &shop_id).await?;
    let key = jsonwebtoken::decode_header(&token)?.kid.context("the token names no key")?;
    ensure!(key == jwt, "the new token is signed by {key}, not by the activated key {jwt}");
    shop.agent_command(&["api", "validate", "jwt", "-audience", &shop_id, "-svid", &token]).await?;

    let facts = vec![
        format!("X.509 authority {old} -> {x509}"),
        format!("JWT authority now {jwt}, its token validated in cloud.example"),
        format!("{calls} calls meanwhile, none failed"),
    ];
    Ok(((), facts))
}
