//! What `entente dev` tells its user: an entry, a file of shell variables, and the commands to go on with.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::local::domain::Domain;
use crate::local::{wait, web_ca};

/// The entry of the user who runs `entente dev`.
const USER_ENTRY: &str = "user";

/// How long the entry may take to reach the agent.
const LIMIT: Duration = Duration::from_secs(30);

/// Creates the entry `spiffe://<trust domain>/user` for this user's programs. An entry that is there
/// from an earlier run, perhaps changed since, stays as it is.
pub(crate) async fn register_user(domain: &Domain) -> Result<()> {
    let (layout, api) = (domain.layout(), domain.issuer_api());
    let selectors = [format!("uid:{}", rustix::process::getuid().as_raw())];
    let entry = api.entry(USER_ENTRY, &layout.agent_id()?, &layout.id("/user")?, &selectors, &[])?;
    api.ensure_entry(entry).await.map(drop)
}

/// Waits until the agent gives this process an identity.
pub(crate) async fn wait_for_user(domain: &Domain) -> Result<()> {
    let socket = domain.layout().agent_socket();
    wait::until("the agent to give this user an identity", LIMIT, || {
        crate::agent::api_fetch::identities(socket.clone())
    })
    .await
    .map(drop)
}

/// Writes `DIR/env`, to be read by `. DIR/env`.
pub(crate) fn write(domain: &Domain) -> Result<()> {
    let layout = domain.layout();
    let mut text = String::new();
    let mut put = |name: &str, value: String| writeln!(text, "export {name}={}", quoted(&value));
    put("ENTENTE_TRUST_DOMAIN", layout.trust_domain().to_string())?;
    put("ENTENTE_ISSUER_SOCKET", layout.issuer_socket().display().to_string())?;
    put("ENTENTE_ISSUER_ADDRESS", format!("127.0.0.1:{}", layout.ports().issuer))?;
    put("ENTENTE_TRUST_BUNDLE", layout.bootstrap_bundle().display().to_string())?;
    put("SPIFFE_ENDPOINT_SOCKET", layout.endpoint_socket())?;
    put("ENTENTE_AGENT_ADMIN_SOCKET", layout.agent_admin_socket().display().to_string())?;
    put("ENTENTE_GATEWAY_SOCKET", layout.gateway_socket().display().to_string())?;
    put("ENTENTE_BUNDLE_URL_WEB", layout.bundle_url_web())?;
    put("ENTENTE_BUNDLE_URL_SPIFFE", layout.bundle_url_spiffe())?;
    put("ENTENTE_WEB_CA", layout.web_ca().display().to_string())?;
    put("ENTENTE_OIDC_URL", layout.oidc_url())?;
    for (role, pid) in domain.pids() {
        if let Some(pid) = pid {
            put(&format!("ENTENTE_{}_PID", role.to_uppercase()), pid.to_string())?;
        }
    }
    web_ca::write(&layout.file("env"), text.as_bytes(), 0o644)
}

/// Prints how to use the domain and how another one federates with it.
pub(crate) fn print(domain: &Domain, no_agent: bool, no_gateway: bool) -> Result<()> {
    let layout = domain.layout();
    let name = layout.trust_domain();
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let program = program.display();
    anstream::println!("Trust domain {name} is up. In every shell that shall use it:\n");
    anstream::println!("  . {}\n", layout.file("env").display());
    if no_agent {
        anstream::println!("The agent is yours to start; make its token with:\n");
        anstream::println!("  {program} issuer token generate -spiffeID {}\n", layout.agent_id()?);
    } else {
        anstream::println!("Your programs are {}. Those that speak the Workload API need only:\n", layout.id("/user")?);
        anstream::println!("  export SPIFFE_ENDPOINT_SOCKET={}\n", layout.endpoint_socket());
        anstream::println!("Look at what they get:\n\n  {program} agent api fetch x509\n");
    }
    if no_gateway {
        anstream::println!("The gateway is yours to start; its own entries and listeners are not up.");
    } else {
        anstream::println!(
            "Another `entente dev` federates with this one by these two commands, in a shell of the other:\n"
        );
        anstream::println!(
            "  {program} issuer federation create -trustDomain {name} -bundleEndpointURL {} \\\n    \
             -bundleEndpointProfile https_spiffe -endpointSpiffeID {} \\\n    \
             -trustDomainBundlePath {} -trustDomainBundleFormat spiffe\n",
            layout.bundle_url_spiffe(),
            layout.endpoint_id()?,
            quoted(&layout.spiffe_bundle().display().to_string()),
        );
        anstream::println!(
            "  {program} issuer entry update -entryID {USER_ENTRY} -federatesWith {name} \\\n    \
             -parentID spiffe://$ENTENTE_TRUST_DOMAIN/node/local -spiffeID spiffe://$ENTENTE_TRUST_DOMAIN/user \\\n    \
             -selector unix:uid:$(id -u)\n"
        );
    }
    anstream::println!("Ctrl-C ends it.");
    Ok(())
}

/// A word for a POSIX shell.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@%+=,".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_survive_a_shell() {
        for word in ["", "plain/path.sock", "a b", "it's", "$HOME `x` \"y\""] {
            let script = format!("printf %s {}", quoted(word));
            let output = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
