//! nginx serving a document from a file, set up as well as its manual allows.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use entente_tests::{ports, process::Process, web_ca::WebCa};

use super::{gateway, machine::Processors, process};

/// Where Debian and Ubuntu install it; not on every user's `PATH`.
const PROGRAMS: [&str; 2] = ["/usr/sbin/nginx", "nginx"];

/// A running nginx with one worker a processor of its own.
pub(crate) struct Nginx {
    master: Process,
    port: u16,
}

impl Nginx {
    /// Serves `document` at `/bundle` with the certificate of `web`, from `folder`.
    pub(crate) async fn start(folder: &Path, web: &WebCa, document: &[u8], processors: &Processors) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let file = folder.join("bundle.json");
        fs::write(&file, document)?;
        let port = ports::free()?;
        let config = folder.join("nginx.conf");
        fs::write(&config, configuration(folder, &file, port, web))?;
        let program = PROGRAMS.iter().find(|path| Path::new(path).exists()).unwrap_or(&PROGRAMS[1]);
        let mut command = processors.command(Path::new(program));
        command.arg("-c").arg(&config).arg("-p").arg(folder).arg("-e").arg("stderr");
        let master = Process::start("nginx", command, &folder.join("error.log"))
            .context("nginx is missing; install Debian's nginx-light, or measure with --url alone")?;
        gateway::listening(port).await.with_context(|| master.log_tail())?;
        Ok(Self { master, port })
    }

    /// Where the document is.
    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}/bundle", self.port)
    }

    /// The processes that answer.
    pub(crate) fn workers(&self) -> Result<Vec<i32>> {
        process::children(self.master.pid()?.as_raw_nonzero().get())
    }

    /// Ends it.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.master.stop().await.map(drop)
    }
}

fn configuration(folder: &Path, file: &Path, port: u16, web: &WebCa) -> String {
    let at = |name: &str| folder.join(name).display().to_string();
    format!(
        "daemon off;
# Only root has this choice; the others run the workers as themselves.
user root;
worker_processes 1;
pid {pid};
events {{ worker_connections 8192; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    open_file_cache max=16 inactive=1h;
    open_file_cache_valid 1h;
    client_body_temp_path {temporary};
    proxy_temp_path {temporary};
    fastcgi_temp_path {temporary};
    uwsgi_temp_path {temporary};
    scgi_temp_path {temporary};
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache shared:sessions:10m;
        ssl_session_tickets on;
        location = /bundle {{
            alias {file};
            default_type application/json;
            add_header cache-control \"public, max-age=75\";
        }}
    }}
}}
",
        pid = at("nginx.pid"),
        temporary = at("temporary"),
        certificate = web.certificate.display(),
        key = web.key.display(),
        file = file.display(),
    )
}
