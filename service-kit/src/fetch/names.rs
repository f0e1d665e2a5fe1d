//! Host names to addresses, without a thread that blocks: `/etc/hosts` first, then the name servers.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use hickory_resolver::{
    Hosts, Resolver, TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::{Query, ResponseCode},
        rr::{Name, RecordType},
    },
    system_conf::read_system_conf,
};

use crate::clock::SharedClock;

/// Addresses tried of one name, in the order of the answer, those of IPv4 first.
pub(super) const MAX_ADDRESSES: usize = 8;

/// How long a name server may take to answer one question. It is asked again once, and the next one is then asked.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers kept, for as long as their time to live says.
const CACHED_ANSWERS: u64 = 4096;

/// How often, at most, the system's files are looked at for a change.
const CHECK_INTERVAL: time::Duration = time::Duration::seconds(5);

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Why a name has no address that could be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum LookupError {
    /// NXDOMAIN.
    #[error("there is no such name (NXDOMAIN)")]
    NoSuchName,
    /// The name is there and has no address.
    #[error("the name has no address")]
    NoAddress,
    /// Another answer than addresses.
    #[error("the name server answers {0}")]
    Refused(String),
    /// None in time.
    #[error("no name server answers")]
    Timeout,
    /// No name that could be asked for.
    #[error("it is no host name")]
    Name,
    /// `/etc/resolv.conf` is of no use.
    #[error("{RESOLV_CONF} cannot be used: {0}")]
    System(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// What is asked for addresses.
#[derive(Debug)]
pub(super) struct Names {
    nameservers: Vec<SocketAddr>,
    clock: SharedClock,
    current: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    sources: Option<Arc<Sources>>,
    stamps: Stamps,
    checked_at: Option<time::OffsetDateTime>,
}

/// Times and lengths of the system's files.
type Stamps = [Option<(SystemTime, u64)>; 2];

struct Sources {
    hosts: Hosts,
    resolver: TokioResolver,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Names {
    /// Asks `nameservers`, those of the system if there are none.
    pub(super) fn new(nameservers: &[SocketAddr], clock: SharedClock) -> Self {
        Self { nameservers: nameservers.to_vec(), clock, current: Mutex::default() }
    }

    /// At most [`MAX_ADDRESSES`] addresses of `host`.
    pub(super) async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        let sources = self.sources()?;
        let name = Name::from_utf8(host).map_err(|_| LookupError::Name)?;
        let listed = |kind| sources.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let of = |lookup: &Lookup| -> Vec<IpAddr> {
            lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect()
        };
        let mut addresses: Vec<IpAddr> =
            [RecordType::A, RecordType::AAAA].into_iter().filter_map(listed).flat_map(|lookup| of(&lookup)).collect();
        if addresses.is_empty() {
            let answer = sources.resolver.lookup_ip(name).await.map_err(|error| in_words(&error))?;
            addresses = of(answer.as_lookup());
        }
        addresses.truncate(MAX_ADDRESSES);
        if addresses.is_empty() { Err(LookupError::NoAddress) } else { Ok(addresses) }
    }

    /// What is asked now; the system's files are read again when they changed.
    fn sources(&self) -> Result<Arc<Sources>, LookupError> {
        let now = self.clock.now();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let checked = current.checked_at.is_some_and(|at| (at..at + CHECK_INTERVAL).contains(&now));
        if let Some(sources) = current.sources.as_ref().filter(|_| checked) {
            return Ok(Arc::clone(sources));
        }
        current.checked_at = Some(now);
        let stamps = [stamp(HOSTS), stamp(RESOLV_CONF)];
        if let Some(sources) = current.sources.as_ref().filter(|_| current.stamps == stamps) {
            return Ok(Arc::clone(sources));
        }
        let sources = Arc::new(self.read()?);
        current.sources = Some(Arc::clone(&sources));
        current.stamps = stamps;
        Ok(sources)
    }

    fn read(&self) -> Result<Sources, LookupError> {
        let hosts = Hosts::from_system().unwrap_or_else(|error| {
            tracing::debug!(%error, "{HOSTS} not read");
            Hosts::default()
        });
        let (config, mut options) = if self.nameservers.is_empty() {
            read_system_conf().map_err(|error| LookupError::System(error.to_string()))?
        } else {
            let servers = self.nameservers.iter().map(|address| {
                let mut server = NameServerConfig::udp_and_tcp(address.ip());
                server.connections.iter_mut().for_each(|connection| connection.port = address.port());
                server
            });
            (ResolverConfig::from_name_servers(servers.collect()), ResolverOpts::default())
        };
        options.timeout = options.timeout.min(ANSWER_TIMEOUT);
        options.attempts = options.attempts.min(1);
        options.cache_size = CACHED_ANSWERS;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // They are asked before, and then alone, as other programs do.
        options.use_hosts_file = ResolveHosts::Never;
        let resolver = Resolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
        let resolver = resolver.build().map_err(|error| LookupError::System(error.to_string()))?;
        Ok(Sources { hosts, resolver })
    }
}

fn stamp(path: &str) -> Option<(SystemTime, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn in_words(error: &NetError) -> LookupError {
    let code = match error {
        NetError::Timeout | NetError::NoConnections | NetError::Busy => return LookupError::Timeout,
        NetError::Dns(DnsError::NoRecordsFound(answer)) => answer.response_code,
        NetError::Dns(DnsError::ResponseCode(code)) => *code,
        other => return LookupError::Other(other.to_string()),
    };
    match code {
        ResponseCode::NXDomain => LookupError::NoSuchName,
        ResponseCode::NoError => LookupError::NoAddress,
        ResponseCode::ServFail => LookupError::Refused("SERVFAIL".to_owned()),
        ResponseCode::Refused => LookupError::Refused("REFUSED".to_owned()),
        other => LookupError::Refused(other.to_string()),
    }
}
