//! nginx's `proxy_cache` between the gateway and its clients: what the headers promise holds.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use entente_tests::{
    domain::{Domain, Service},
    plan::Plan,
    ports,
    process::Process,
    rotation::Kind,
    wait, web,
};
use reqwest::{Client, Response};
use serde_json::json;
use tokio::{process::Command, time::Instant};

/// Where Debian and Ubuntu install it; not on every user's `PATH`.
const NGINX: [&str; 2] = ["/usr/sbin/nginx", "nginx"];

/// The refresh hint of the served domain, and a quarter of it.
const REFRESH_HINT: &str = "8s";
const MAX_AGE: Duration = Duration::from_secs(2);

/// An nginx that caches what the gateway serves, as an operator would set it up.
struct Nginx {
    process: Process,
    access: PathBuf,
    port: u16,
}

impl Nginx {
    async fn start(domain: &Domain) -> Result<Self> {
        let folder = domain.file("nginx");
        std::fs::create_dir_all(&folder)?;
        let port = ports::free()?;
        let config = folder.join("nginx.conf");
        std::fs::write(&config, configuration(&folder, port, domain))?;
        let program = NGINX.iter().find(|path| Path::new(path).exists()).unwrap_or(&NGINX[1]);
        let mut command = Command::new(program);
        command.arg("-c").arg(&config).arg("-p").arg(&folder).arg("-e").arg("stderr");
        let process = Process::start("nginx", command, &folder.join("error.log")).context("nginx-light is missing")?;
        let nginx = Self { process, access: folder.join("upstream.log"), port };
        wait::until("nginx answers", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            Ok(())
        })
        .await?;
        Ok(nginx)
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The statuses the gateway answered so far, `-` where the cache answered alone.
    fn upstream(&self) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(&self.access).unwrap_or_default();
        Ok(text.lines().map(str::to_owned).collect())
    }
}

fn configuration(folder: &Path, port: u16, domain: &Domain) -> String {
    let at = |name: &str| folder.join(name).display().to_string();
    format!(
        "daemon off;
# Only root has this choice; the others run the workers as themselves.
user root;
worker_processes 1;
pid {pid};
events {{ worker_connections 128; }}
http {{
    log_format upstream '$upstream_status';
    access_log {log} upstream;
    client_body_temp_path {body};
    proxy_temp_path {temporary};
    fastcgi_temp_path {temporary};
    uwsgi_temp_path {temporary};
    scgi_temp_path {temporary};
    proxy_cache_path {cache} keys_zone=bundles:1m inactive=10m;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass https://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {ca};
            proxy_ssl_name localhost;
            proxy_cache bundles;
            proxy_cache_revalidate on;
            proxy_cache_use_stale error timeout updating http_500 http_503;
            add_header X-Cache $upstream_cache_status always;
        }}
    }}
}}
",
        pid = at("nginx.pid"),
        log = at("upstream.log"),
        body = at("body"),
        temporary = at("temporary"),
        cache = at("cache"),
        upstream = domain.ports().web,
        ca = domain.web_ca().display(),
    )
}

fn client() -> Result<Client> {
    entente_tests::install_crypto();
    Ok(Client::builder().no_proxy().no_gzip().timeout(Duration::from_secs(20)).build()?)
}

fn cache(answer: &Response) -> String {
    web::header(answer, "x-cache").to_owned()
}

async fn domain() -> Result<Domain> {
    let plan = Plan::new("cloud.example")?.served_domain("refresh_hint", json!(REFRESH_HINT));
    let mut domain = Domain::from_plan(plan);
    domain.start_issuer().await?;
    domain.start_gateway().await?;
    Ok(domain)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_answers_within_max_age_then_revalidates_and_sees_changes() -> Result<()> {
    let domain = domain().await?;
    let mut nginx = Nginx::start(&domain).await?;
    let client = client()?;
    let url = nginx.url("/cloud.example");

    let first = client.get(&url).send().await?;
    let began = Instant::now();
    ensure!(first.status() == 200 && cache(&first) == "MISS", "{first:?}");
    ensure!(web::header(&first, "cache-control") == "public, max-age=2", "{first:?}");
    let tag = web::header(&first, "etag").to_owned();
    let body = first.bytes().await?;
    let again = client.get(&url).send().await?;
    ensure!(cache(&again) == "HIT" || began.elapsed() >= MAX_AGE, "{again:?}");
    assert_eq!(again.bytes().await?, body);
    // A condition of the client's own is answered by the cache, with the gateway's entity tag.
    let unchanged = client.get(&url).header("if-none-match", &tag).send().await?;
    ensure!(unchanged.status() == 304, "{unchanged:?}");

    // After max-age nginx asks with the entity tag; the gateway answers 304 and nginx serves what it has.
    wait::until("nginx revalidates", || async {
        let answer = client.get(&url).send().await?;
        ensure!(cache(&answer) == "REVALIDATED", "{answer:?}");
        ensure!(answer.status() == 200 && answer.bytes().await? == body, "another document");
        Ok(())
    })
    .await?;
    ensure!(nginx.upstream()?.iter().any(|status| status == "304"), "{:?}", nginx.upstream()?);

    // Each encoding is cached for itself.
    let packed = client.get(&url).header("accept-encoding", "gzip").send().await?;
    ensure!(web::header(&packed, "content-encoding") == "gzip", "{packed:?}");
    ensure!(web::header(&packed, "etag") != tag && packed.bytes().await? != body);
    let plain = client.get(&url).send().await?;
    ensure!(web::header(&plain, "content-encoding").is_empty() && plain.bytes().await? == body);

    // A rotation is seen no later than max-age after the gateway serves it.
    domain.prepare_authority(Kind::X509).await?;
    let direct = web::client(domain.web_ca())?;
    wait::until("the gateway serves the new authority", || async {
        let answer = direct.get(domain.bundle_url_web()).header("accept-encoding", "identity").send().await?;
        ensure!(web::header(&answer, "etag") != tag);
        Ok(())
    })
    .await?;
    tokio::time::sleep(MAX_AGE + Duration::from_secs(1)).await;
    let changed = client.get(&url).send().await?;
    ensure!(web::header(&changed, "etag") != tag, "the cache holds an old bundle: {changed:?}");
    nginx.process.stop().await?;
    domain.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_serves_on_while_the_gateway_is_away() -> Result<()> {
    let mut domain = domain().await?;
    let mut nginx = Nginx::start(&domain).await?;
    let client = client()?;
    let url = nginx.url("/cloud.example");
    let body = client.get(&url).send().await?.bytes().await?;
    domain.kill9(Service::Gateway).await?;
    tokio::time::sleep(MAX_AGE + Duration::from_secs(1)).await;
    let stale = client.get(&url).send().await?;
    ensure!(stale.status() == 200 && cache(&stale) == "STALE", "{stale:?}");
    assert_eq!(stale.bytes().await?, body);
    domain.restart(Service::Gateway).await?;
    wait::until("nginx asks the gateway again", || async {
        let answer = client.get(&url).send().await?;
        ensure!(cache(&answer) == "REVALIDATED" || cache(&answer) == "HIT", "{answer:?}");
        Ok(())
    })
    .await?;
    nginx.process.stop().await?;
    domain.stop().await
}
