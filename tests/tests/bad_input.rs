//! Requests that cannot be right: each is refused with its documented error and changes nothing.

use std::fs;

use anyhow::{Context, Result, ensure};
use entente_tests::{cli, documented::documented, domain::Domain, plan::Plan};

/// Everything a refused request must leave as it was.
async fn state(domain: &Domain) -> Result<(Vec<serde_json::Value>, String, String)> {
    let entries = domain.issuer_cli(&["entry", "show"]).await?.ok()?;
    let federation = domain.issuer_cli(&["federation", "list"]).await?.ok()?;
    Ok((domain.counts().await?, entries, federation))
}

async fn issuer() -> Result<Domain> {
    let mut domain = Domain::from_plan(Plan::new("cloud.example")?);
    domain.start_issuer().await?;
    domain.create_entry("/kept", &[]).await?;
    Ok(domain)
}

/// Runs each command, which must be refused with its text.
async fn refused(domain: &Domain, commands: &[(&[&str], &str)]) -> Result<()> {
    let before = state(domain).await?;
    for (arguments, text) in commands {
        domain.issuer_cli(arguments).await?.refused(&[text])?;
        ensure!(state(domain).await? == before, "{arguments:?} changed something");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn entries() -> Result<()> {
    let domain = issuer().await?;
    let create = |id: &'static str, selector: &'static str| {
        ["entry", "create", "-parentID", "spiffe://cloud.example/node", "-spiffeID", id, "-selector", selector]
    };
    let good = create("spiffe://cloud.example/x", "unix:uid:1");
    let with = |flags: &[&'static str]| [&good[..], flags].concat();
    let long = format!("spiffe://cloud.example/{}", "x".repeat(2048));
    let long =
        ["entry", "create", "-parentID", "spiffe://cloud.example/node", "-spiffeID", &long, "-selector", "unix:uid:1"];
    refused(
        &domain,
        &[
            (&create("cloud.example/x", "unix:uid:1"), documented("scheme is missing or invalid")?),
            (&create("spiffe://cloud.example/x/../y", "unix:uid:1"), documented("path cannot contain dot segments")?),
            (&create("spiffe://cloud.example/x/", "unix:uid:1"), documented("path cannot have a trailing slash")?),
            (&create("spiffe://CLOUD.example/x", "unix:uid:1"), documented("trust domain characters are limited to")?),
            (&create("spiffe://cloud.example/ü", "unix:uid:1"), documented("path segment characters are limited to")?),
            (&create("spiffe://cloud.example", "unix:uid:1"), documented("is not a workload in trust domain")?),
            (&create("spiffe://cloud.example/spire/server", "unix:uid:1"), "is not a workload in trust domain"),
            (&create("spiffe://elsewhere.example/x", "unix:uid:1"), "elsewhere.example"),
            (&long, documented("2048")?),
            (&create("spiffe://cloud.example/x", "unix"), documented("must be formatted as type:value")?),
            (&good[..6], documented("at least one selector is required")?),
            (&with(&["-x509SVIDTTL", "-1"]), documented("a positive x509-SVID TTL is required")?),
            (&with(&["-jwtSVIDTTL", "-1"]), documented("a positive JWT-SVID TTL is required")?),
            (&with(&["-x509SVIDTTL", "1h"]), documented("x509SVIDTTL")?),
            (&with(&["-federatesWith", "spiffe://unknown.example"]), documented("unable to find federated bundle")?),
            (&with(&["-dns", "no dns name"]), documented("invalid DNS name")?),
            (&with(&["-dns", "what!.example"]), documented("invalid DNS name")?),
            (&with(&["-dns", "10.0.0.1"]), documented("invalid DNS name")?),
            (&with(&["-entryID", "no/slash"]), documented("invalid characters")?),
            (&["entry", "show", "-entryID", "no-such-entry"], documented("entry not found")?),
            (&["entry", "delete", "-entryID", "no-such-entry"], documented("failed to delete one or more entries")?),
        ],
    )
    .await?;

    // A misspelt key in a data file is named instead of ignored, and nothing of the file is used.
    let before = state(&domain).await?;
    let entry = |more: &str| {
        format!(
            r#"{{"entries":[{{"parent_id":"spiffe://cloud.example/node","spiffe_id":"spiffe://cloud.example/y",
            "selectors":[{{"type":"unix","value":"uid:2"}}]{more}}}]}}"#
        )
    };
    for (text, message) in [(entry(r#","entry_expiry":1"#), "entry_expiry"), (entry("").replace("]}", "]"), "JSON")] {
        let file = domain.file("entries.json");
        fs::write(&file, text)?;
        let arguments = ["entry", "create", "-data", &file.display().to_string()];
        domain.issuer_cli(&arguments).await?.refused(&[]).and_then(|said| {
            ensure!(said.contains(message) || message == "JSON", "{said}");
            Ok(())
        })?;
        ensure!(state(&domain).await? == before);
    }
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_mints() -> Result<()> {
    let domain = issuer().await?;
    let id = "spiffe://cloud.example/m";
    refused(
        &domain,
        &[
            (&["token", "generate", "-ttl", "0"], documented("ttl is required, you must provide one")?),
            (&["token", "generate", "-ttl", "-5"], "ttl"),
            (&["token", "generate", "-spiffeID", "node"], "scheme is missing or invalid"),
            (&["token", "generate", "-spiffeID", "spiffe://elsewhere.example/node"], documented("invalid agent ID")?),
            (&["jwt", "mint", "-spiffeID", id], documented("at least one audience must be specified")?),
            (&["jwt", "mint", "-spiffeID", "x", "-audience", "a"], "scheme is missing or invalid"),
            (
                &["jwt", "mint", "-spiffeID", "spiffe://elsewhere.example/m", "-audience", "a"],
                documented("invalid SPIFFE ID")?,
            ),
            (&["x509", "mint", "-spiffeID", "spiffe://elsewhere.example/m"], documented("CSR URI SAN is invalid")?),
            (&["x509", "mint", "-spiffeID", id, "-dns", "not a name"], documented("CSR DNS name is invalid")?),
            (
                &["x509", "mint", "-spiffeID", id, "-dns", "*.a.example", "-dns", "b.a.example"],
                documented("CSR DNS name contains a wildcard that covers another non-wildcard name")?,
            ),
            (&["x509", "mint", "-spiffeID", id, "-ttl", "soon"], "ttl"),
            (
                &["agent", "show", "-spiffeID", "spiffe://cloud.example/spire/agent/none"],
                documented("agent not found")?,
            ),
            (&["agent", "evict", "-spiffeID", "spiffe://cloud.example/spire/agent/none"], "agent not found"),
            (&["agent", "ban", "-spiffeID", "spiffe://cloud.example/spire/agent/none"], "agent not found"),
        ],
    )
    .await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_and_relationships() -> Result<()> {
    let domain = issuer().await?;
    let own = domain.file("bundle.json").display().to_string();
    let files = [
        ("empty", ""),
        ("text", "no bundle"),
        ("object", "{}"),
        ("array", "[]"),
        ("twice", r#"{"keys":[],"keys":[]}"#),
        ("key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        ("broken", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ];
    for (name, content) in files {
        fs::write(domain.file(name), content)?;
    }
    let before = state(&domain).await?;
    for (name, _) in files {
        for format in ["pem", "spiffe"] {
            let path = domain.file(name).display().to_string();
            let arguments = ["bundle", "set", "-id", "spiffe://p.example", "-path", &path, "-format", format];
            let said = domain.issuer_cli(&arguments).await?.refused(&[])?;
            ensure!(!said.contains("panicked"), "{said}");
            ensure!(state(&domain).await? == before, "{name} as {format} changed something");
        }
    }
    let relationship = |url: &'static str, more: &[&'static str]| {
        [&["federation", "create", "-trustDomain", "p.example", "-bundleEndpointURL", url], more].concat()
    };
    let web = ["-bundleEndpointProfile", "https_web"];
    refused(
        &domain,
        &[
            (
                &["bundle", "set", "-id", "spiffe://cloud.example", "-path", &own, "-format", "spiffe"],
                "own trust domain",
            ),
            (&["bundle", "set", "-id", "not a domain", "-path", &own, "-format", "spiffe"], "not a domain"),
            (&["bundle", "set", "-id", "spiffe://p.example", "-path", "/nowhere"], "/nowhere"),
            (&["bundle", "delete", "-id", "spiffe://p.example"], documented("bundle not found")?),
            (&["bundle", "list", "-id", "spiffe://p.example"], "bundle not found"),
            (&relationship("http://p.example/", &web), documented("https")?),
            (&relationship("https://user:secret@p.example/", &web), documented("user")?),
            (&relationship("https:///nohost", &web), "URL"),
            (&relationship("not a url", &web), "URL"),
            (&relationship("https://p.example/", &[]), "profile"),
            (&relationship("https://p.example/", &["-bundleEndpointProfile", "https_spiffe"]), "SPIFFE ID"),
            (&relationship("https://p.example/", &["-bundleEndpointProfile", "ftp"]), "profile"),
            (
                &["federation", "show", "-trustDomain", "p.example"],
                documented("federation relationship does not exist")?,
            ),
            (&["federation", "delete", "-id", "p.example"], documented("federation relationship not found")?),
            (
                &["federation", "refresh", "-id", "p.example"],
                documented("there is no federation relationship with trust domain")?,
            ),
        ],
    )
    .await?;
    let own_domain =
        ["federation", "create", "-trustDomain", "cloud.example", "-bundleEndpointURL", "https://x.example/"];
    let own_domain = [&own_domain[..], &web].concat();
    let text = documented("unable to create federation relationship for server trust domain")?;
    refused(&domain, &[(&own_domain, text)]).await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn refreshing_without_a_gateway() -> Result<()> {
    let domain = issuer().await?;
    let create = ["federation", "create", "-trustDomain", "p.example", "-bundleEndpointURL", "https://p.example/"];
    domain.issuer_cli(&[&create[..], &["-bundleEndpointProfile", "https_web"]].concat()).await?.ok()?;
    let refresh = ["federation", "refresh", "-id", "p.example"];
    refused(&domain, &[(&refresh, documented("no gateway is connected")?)]).await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_to_validate() -> Result<()> {
    let domain = Domain::start_without_gateway(Plan::new("cloud.example")?).await?;
    domain.create_entry("/web", &[]).await?;
    let mint = ["jwt", "mint", "-spiffeID", "spiffe://cloud.example/web", "-audience", "a"];
    let token = domain.issuer_cli(&mint).await?.ok()?;
    let token = token.trim();
    let (head, signature) = token.rsplit_once('.').context("no JWS")?;
    let flipped = format!("{}{}", if signature.starts_with('A') { 'B' } else { 'A' }, &signature[1..]);
    let unsigned = format!("{}.", head.replacen(head.split('.').next().unwrap_or_default(), "eyJhbGciOiJub25lIn0", 1));
    let cases = [
        ("", documented("svid")?),
        ("x", documented("unable to parse JWT token")?),
        ("a.b.c", "unable to parse JWT token"),
        (&unsigned, "unable to parse JWT token"),
        (&format!("{head}.{flipped}"), documented("error in cryptographic primitive")?),
        (token, documented(r#"expected audience in ["b"]"#)?),
    ];
    for (svid, text) in cases {
        let arguments = ["api", "validate", "jwt", "-audience", "b", "-svid", svid];
        domain.agent_cli(&arguments).await?.refused(&[text])?;
    }
    domain.agent_cli(&["api", "fetch", "jwt"]).await?.refused(&["audience"])?;
    let arguments = ["api", "fetch", "jwt", "-audience", "a", "-spiffeID", "spiffe://cloud.example/other"];
    domain.agent_cli(&arguments).await?.refused(&[documented("no identity issued")?])?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_do_not_exist() -> Result<()> {
    for (arguments, code) in [
        (vec!["nosuch"], 127),
        (vec![], 127),
        (vec!["issuer", "nosuch"], 127),
        (vec!["issuer", "entry"], 1),
        (vec!["issuer", "entry", "nosuch"], 1),
        (vec!["issuer", "entry", "show", "-nosuch"], 1),
        (vec!["agent", "nosuch"], 127),
        (vec!["agent", "api", "nosuch"], 1),
    ] {
        let answer = cli::entente(&arguments).await?;
        ensure!(answer.code == code, "{arguments:?} ended with {}, not {code}: {}", answer.code, answer.stderr);
        ensure!(!answer.stderr.is_empty() && !answer.stderr.contains("panicked"), "{}", answer.stderr);
    }
    // Nobody answers on the socket.
    let nowhere = ["issuer", "entry", "show", "-socketPath", "/nowhere/api.sock"];
    cli::entente(&nowhere).await?.refused(&["/nowhere/api.sock"])?;
    let nowhere = ["agent", "api", "fetch", "x509", "-socketPath", "/nowhere/api.sock"];
    cli::entente(&nowhere).await?.refused(&["/nowhere/api.sock"]).map(drop)
}
