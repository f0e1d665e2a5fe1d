//! A private PostgreSQL server for tests: one for each test process, one database for each test.
//!
//! The server listens on a free port of the loopback address, keeps its files in a temporary folder, and ends with the
//! process, however that ends. A missing PostgreSQL fails the test: a suite that skips proves nothing.
#![expect(clippy::expect_used, reason = "used by tests only, which fail so")]

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use zeroize::Zeroizing;

use crate::database::PostgresServer;

/// Name of the user, who may do everything.
const USER: &str = "entente";

/// Its password.
const PASSWORD: &str = "correct horse/battery@staple";

/// `nobody` of Debian: PostgreSQL refuses to run as root.
const UNPRIVILEGED: u32 = 65534;

/// How often a server is started before the tests fail: the free port may be taken in between.
const ATTEMPTS: u32 = 5;

/// Runs the server until standard input ends, which it does with the test process; then ends the server and removes its
/// files. `$1` is the folder, the rest the command.
const GUARD: &str = r#"
folder=$1; shift
"$@" </dev/null >"$folder/log" 2>&1 &
cat >/dev/null
kill -INT $! 2>/dev/null
wait $!
rm -rf "$folder"
"#;

/// An empty database of one test.
#[derive(Debug)]
pub struct TestDatabase {
    url: String,
}

impl TestDatabase {
    /// Makes one, starting the server first if this is the first.
    ///
    /// # Panics
    /// When PostgreSQL is missing or does not start.
    pub fn create() -> Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let server = SERVER.get_or_init(Server::start);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        server.run_client("createdb", &[&name]);
        Self { url: format!("postgres://{USER}@127.0.0.1:{}/{name}", server.port) }
    }

    /// Its URL, without password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The password that goes with the URL.
    pub fn password(&self) -> &str {
        PASSWORD
    }

    /// How it is reached with at most `max_connections`.
    ///
    /// # Panics
    /// Never: the URL is well formed.
    pub fn server(&self, max_connections: u32) -> PostgresServer {
        let password = Some(Zeroizing::new(PASSWORD.to_owned()));
        PostgresServer::new(&self.url, password, max_connections).expect("the URL is ours")
    }
}

#[derive(Debug)]
struct Server {
    binaries: PathBuf,
    port: u16,
    // Its standard input ends the server with this process.
    _guard: Child,
}

impl Server {
    fn start() -> Self {
        let binaries = binaries();
        let folder = std::env::temp_dir().join(format!("entente-test-postgres-{}", std::process::id()));
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("a folder left behind can be removed");
        }
        fs::create_dir(&folder).expect("the temporary folder can be written");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("the folder is ours");
        let password_file = folder.join("password");
        let mut file = fs::File::create(&password_file).expect("the folder is ours");
        writeln!(file, "{PASSWORD}").expect("the disk has room");
        if is_root() {
            for path in [&folder, &password_file] {
                chown(path, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).expect("root may give files away");
            }
        }
        let data = folder.join("data");
        let mut initdb = unprivileged(&binaries.join("initdb"));
        initdb.args(["--no-sync", "-E", "UTF8", "--locale=C", "-A", "scram-sha-256", "-U", USER]);
        initdb.arg(format!("--pwfile={}", password_file.display())).arg("-D").arg(&data);
        let made = initdb.current_dir("/").stdin(Stdio::null()).output().expect("initdb and setpriv can be run");
        assert!(made.status.success(), "initdb failed (may the user `nobody` enter {}?): {made:?}", folder.display());
        for _ in 0..ATTEMPTS {
            if let Some(server) = Self::try_start(&binaries, &folder, &data) {
                return server;
            }
        }
        panic!("PostgreSQL does not start: {}", fs::read_to_string(folder.join("log")).unwrap_or_default());
    }

    fn try_start(binaries: &Path, folder: &Path, data: &Path) -> Option<Self> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback address has free ports");
        let port = free.local_addr().expect("it is bound").port();
        drop(free);
        let postgres = unprivileged(&binaries.join("postgres"));
        let mut guard = Command::new("sh");
        guard.args(["-c", GUARD, "guard"]).arg(folder).arg(postgres.get_program()).args(postgres.get_args());
        guard.arg("-D").arg(data).args(["-h", "127.0.0.1", "-p", &port.to_string()]);
        for setting in [
            "unix_socket_directories=",
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
            "max_connections=200",
            "shared_buffers=16MB",
        ] {
            guard.args(["-c", setting]);
        }
        // Nobody else may hold the pipe of standard input: Rust closes it in other children.
        let guard = guard.current_dir("/").stdin(Stdio::piped()).spawn().expect("sh can be run");
        let server = Self { binaries: binaries.to_owned(), port, _guard: guard };
        for _ in 0..600 {
            let ready = server.client("pg_isready", &["-q", "-t", "1"]).status().expect("pg_isready can be run");
            if ready.success() {
                return Some(server);
            }
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            if log.contains("FATAL") && !log.contains("starting up") {
                return None;
            }
            pause();
        }
        None
    }

    fn client(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", USER]).args(arguments);
        command.env("PGPASSWORD", PASSWORD).current_dir("/").stdin(Stdio::null());
        command
    }

    fn run_client(&self, program: &str, arguments: &[&str]) {
        let done = self.client(program, arguments).output().expect("the programs of PostgreSQL can be run");
        assert!(done.status.success(), "{program} {arguments:?} failed: {done:?}");
    }
}

#[expect(clippy::disallowed_methods, reason = "between two questions to a program that starts, outside of any runtime")]
fn pause() {
    std::thread::sleep(std::time::Duration::from_millis(50));
}

/// The newest PostgreSQL of this machine.
fn binaries() -> PathBuf {
    let folders = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let version = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest = folders.map(|entry| entry.path()).filter(|path| path.join("bin/initdb").exists()).max_by_key(version);
    newest.expect("PostgreSQL is missing: run tests/ci/system-packages.sh test").join("bin")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let id = UNPRIVILEGED;
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={id}"), format!("--regid={id}"), "--clear-groups".to_owned()]).arg(program);
    command
}
