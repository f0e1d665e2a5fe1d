//! A name server that leads partners' names wherever a test wants, and nowhere else.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    task::JoinHandle,
};

/// An address nobody may connect to, although something listens there.
pub const TRAP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

/// A name that always leads to [`TRAP`].
pub const TRAP_NAME: &str = "trap.names.example";

/// Records of a huge answer.
const MANY: u16 = 600;

/// Records that fit an answer over UDP.
const MOST_OVER_UDP: usize = 20;

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;

/// Where a name leads once its partner misbehaves. Before, it leads to 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Name {
    /// To an address of a private network.
    LeadsToPrivate,
    /// To another address of this machine.
    LeadsToLoopback,
    /// To where clouds have their metadata service.
    LeadsToMetadata,
    /// To this machine over IPv6.
    LeadsToLoopback6,
    /// To this machine, by an IPv6 address with an IPv4 one inside.
    LeadsToMapped,
    /// To a private address, by another name.
    IsAliasOfPrivate,
    /// To a good address at first and to the trap whenever it is asked again; no answer may be kept.
    Rebinds,
    /// To the trap and to a good address.
    IsMixed,
    /// To hundreds of private addresses.
    HasManyAddresses,
    /// Nowhere any more.
    IsGone,
    /// Its server is broken.
    IsBroken,
    /// Its server does not answer.
    IsSilent,
    /// The answer is no DNS.
    IsGarbage,
}

#[derive(Debug)]
struct Known {
    name: Name,
    bad: bool,
    asked: usize,
}

/// A running name server; dropping it ends it.
#[derive(Debug)]
pub struct Dns {
    address: SocketAddr,
    names: Arc<Mutex<HashMap<String, Known>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Dns {
    /// Listens on a free port of loopback.
    pub async fn start() -> Result<Self> {
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        let address = tcp.local_addr()?;
        let udp = UdpSocket::bind(address).await?;
        let names = Arc::new(Mutex::new(HashMap::new()));
        let tasks =
            vec![tokio::spawn(over_udp(udp, Arc::clone(&names))), tokio::spawn(over_tcp(tcp, Arc::clone(&names)))];
        Ok(Self { address, names, tasks })
    }

    /// What a gateway writes in `refresh.nameservers`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A host name that leads to 127.0.0.1 for now.
    pub fn add(&self, name: Name) -> String {
        let host = format!("{name:?}.names.example").to_ascii_lowercase();
        self.change(|names| {
            names.insert(host.clone(), Known { name, bad: false, asked: 0 });
        });
        host
    }

    /// From now on that name leads elsewhere.
    pub fn misbehave(&self, name: Name) {
        self.change(|names| names.values_mut().filter(|known| known.name == name).for_each(|known| known.bad = true));
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<String, Known>)) {
        change(&mut self.names.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// One record of an answer: its type and its data.
type Record = (u16, Vec<u8>);

enum Answer {
    Records(Vec<Record>),
    Code(u8),
    Bytes(Vec<u8>),
    Nothing,
}

fn a(address: Ipv4Addr) -> Record {
    (A, address.octets().to_vec())
}

fn aaaa(address: Ipv6Addr) -> Record {
    (AAAA, address.octets().to_vec())
}

fn labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn answer(known: &mut Known, kind: u16) -> Answer {
    let private = Ipv4Addr::new(10, 0, 0, 1);
    let good = a(Ipv4Addr::LOCALHOST);
    if !known.bad {
        return Answer::Records(vec![good]);
    }
    // Each lookup asks for both kinds of addresses.
    known.asked += usize::from(kind == A);
    Answer::Records(match known.name {
        Name::LeadsToPrivate => vec![a(private)],
        Name::LeadsToLoopback => vec![a(TRAP)],
        Name::LeadsToMetadata => vec![a(Ipv4Addr::new(169, 254, 169, 254))],
        Name::LeadsToLoopback6 => vec![aaaa(Ipv6Addr::LOCALHOST)],
        Name::LeadsToMapped => vec![aaaa(TRAP.to_ipv6_mapped())],
        // An alias has no other records, whichever kind was asked for.
        Name::IsAliasOfPrivate => vec![(CNAME, labels("hidden.names.example")), a(private)],
        Name::Rebinds if known.asked == 1 => vec![good],
        Name::Rebinds => vec![a(TRAP)],
        Name::IsMixed => vec![a(TRAP), good],
        Name::HasManyAddresses => {
            (0..MANY).map(|index| a(Ipv4Addr::from(u32::from(private) + u32::from(index)))).collect()
        }
        Name::IsGone => return Answer::Code(3),
        Name::IsBroken => return Answer::Code(2),
        Name::IsSilent => return Answer::Nothing,
        Name::IsGarbage => return Answer::Bytes(vec![0xa7; 100]),
    })
}

/// The answer to a query, `None` for silence.
fn reply(query: &[u8], names: &Mutex<HashMap<String, Known>>, datagram: bool) -> Result<Option<Vec<u8>>> {
    ensure!(query.len() > 12, "no header");
    let mut at = 12;
    let mut host = Vec::new();
    while let Some(&length) = query.get(at).filter(|&&length| length > 0) {
        let label = query.get(at + 1..at + 1 + usize::from(length)).unwrap_or_default();
        host.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += 1 + usize::from(length);
    }
    let (question, kind) = match query.get(12..at + 5).zip(query.get(at + 1..at + 3)) {
        Some((question, &[high, low])) => (question, u16::from_be_bytes([high, low])),
        _ => anyhow::bail!("no question"),
    };
    let host = host.join(".");
    let answer = match names.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&host) {
        Some(known) => answer(known, kind),
        None if host == TRAP_NAME => Answer::Records(vec![a(TRAP)]),
        None => Answer::Code(3),
    };
    let (records, code) = match answer {
        Answer::Records(records) => (records, 0),
        Answer::Code(code) => (Vec::new(), code),
        Answer::Bytes(bytes) => return Ok(Some(bytes)),
        Answer::Nothing => return Ok(None),
    };
    let alias = records.first().is_some_and(|(kind, _)| *kind == CNAME);
    let mut records: Vec<Record> = records.into_iter().filter(|record| record.0 == kind || record.0 == CNAME).collect();
    let truncated = datagram && records.len() > MOST_OVER_UDP;
    if truncated {
        records.clear();
    }
    let mut bytes = query.get(..2).unwrap_or_default().to_vec();
    bytes.extend([0x81 | if truncated { 2 } else { 0 }, 0x80 | code, 0, 1]);
    bytes.extend(u16::try_from(records.len())?.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(question);
    for (kind, data) in &records {
        // The name asked for, or the one it is an alias of.
        if alias && *kind != CNAME {
            bytes.extend(labels("hidden.names.example"))
        } else {
            bytes.extend([0xc0, 12])
        }
        bytes.extend(kind.to_be_bytes());
        // Internet, no time to live.
        bytes.extend([0, 1, 0, 0, 0, 0]);
        bytes.extend(u16::try_from(data.len())?.to_be_bytes());
        bytes.extend(data);
    }
    Ok(Some(bytes))
}

async fn over_udp(socket: UdpSocket, names: Arc<Mutex<HashMap<String, Known>>>) {
    let mut query = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut query).await {
        if let Ok(Some(reply)) = reply(query.get(..length).unwrap_or_default(), &names, true) {
            drop(socket.send_to(&reply, from).await);
        }
    }
}

async fn over_tcp(listener: TcpListener, names: Arc<Mutex<HashMap<String, Known>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let names = Arc::clone(&names);
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut query = vec![0; usize::from(length)];
                if stream.read_exact(&mut query).await.is_err() {
                    return;
                }
                let Ok(Some(reply)) = reply(&query, &names, false) else { return };
                let Ok(length) = u16::try_from(reply.len()) else { return };
                if stream.write_all(&[&length.to_be_bytes()[..], &reply].concat()).await.is_err() {
                    return;
                }
            }
        });
    }
}
