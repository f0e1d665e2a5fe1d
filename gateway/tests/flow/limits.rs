//! Compression, rate and connection limits, and proxies that name the client.

use std::{io::Read as _, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    LOCAL, Running, Setup,
    client::{Connection, web_client},
};

async fn connect(setup: &Setup, gateway: &Running) -> Connection {
    Connection::open(gateway.web_address, &web_client(setup)).await.unwrap()
}

fn counted(gateway: &Running, series: &str) -> f64 {
    let text = gateway.metrics.render();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    line.unwrap_or_else(|| panic!("no {series} in\n{text}"))
}

#[tokio::test]
async fn compressed_answers_have_their_own_entity_tag() {
    let setup = Setup::new().await;
    let gateway = setup.start().await;
    let mut client = connect(&setup, &gateway).await;
    let path = format!("/{LOCAL}");
    let plain = client.send("GET", &path, &[]).await;
    let packed = client.send("GET", &path, &[("accept-encoding", "br, gzip")]).await;
    for answer in [&plain, &packed] {
        assert_eq!(answer.headers()["vary"], "accept-encoding");
    }
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert!(packed.body().len() < plain.body().len());
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&packed.body()[..]).read_to_end(&mut text).unwrap();
    assert_eq!(&text, plain.body());
    let tag = packed.headers()["etag"].to_str().unwrap();
    assert_ne!(plain.headers()["etag"], tag);

    let unchanged = client.send("GET", &path, &[("accept-encoding", "gzip"), ("if-none-match", tag)]).await;
    assert_eq!((unchanged.status().as_u16(), unchanged.headers()["etag"].to_str().unwrap()), (304, tag));
    let other = client.send("GET", &path, &[("if-none-match", tag)]).await;
    assert_eq!(other.status(), 200, "the tag of another encoding");
    gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_asks_too_often_gets_429_and_others_do_not() {
    let mut setup = Setup::new().await;
    setup.config["limits"] = json!({"requests_per_second": 1, "burst": 3});
    setup.config["listeners"]["https_web"]["proxy_protocol_trusted_cidrs"] = json!(["127.0.0.0/8"]);
    let gateway = setup.start().await;
    let mut one = through_proxy(&setup, &gateway, b"PROXY TCP4 192.0.2.1 127.0.0.1 1000 443\r\n").await.unwrap();
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(ask(&mut one).await);
    }
    assert!(statuses[..3].iter().all(|answer| answer.starts_with("HTTP/1.1 200")), "{statuses:?}");
    assert!(statuses[3].starts_with("HTTP/1.1 429"), "{statuses:?}");
    assert!(statuses[3].contains("retry-after: 1\r\n"), "{statuses:?}");
    // Another client of the same proxy, in version 2.
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    header.extend([192, 0, 2, 2, 127, 0, 0, 1, 3, 232, 1, 187]);
    let mut two = through_proxy(&setup, &gateway, &header).await.unwrap();
    assert!(ask(&mut two).await.starts_with("HTTP/1.1 200"));
    assert!(counted(&gateway, "entente_gateway_rate_limited_total{listener=\"https_web\"}") >= 1.0);

    // A trusted proxy has to send its header.
    assert!(through_proxy(&setup, &gateway, b"").await.is_err());
    assert!(
        counted(&gateway, "entente_gateway_connections_total{listener=\"https_web\",result=\"proxy_header_refused\"}")
            >= 1.0
    );
    gateway.stop().await;
}

#[tokio::test]
async fn nobody_else_may_name_another_client() {
    let mut setup = Setup::new().await;
    setup.config["listeners"]["https_web"]["proxy_protocol_trusted_cidrs"] = json!(["10.0.0.0/8", "::1"]);
    let gateway = setup.start().await;
    assert!(through_proxy(&setup, &gateway, b"PROXY TCP4 192.0.2.1 127.0.0.1 1000 443\r\n").await.is_err());
    assert!(through_proxy(&setup, &gateway, b"").await.is_ok());
    gateway.stop().await;
}

type Tls = tokio_rustls::client::TlsStream<TcpStream>;

async fn through_proxy(setup: &Setup, gateway: &Running, header: &[u8]) -> std::io::Result<Tls> {
    let mut stream = TcpStream::connect(gateway.web_address).await?;
    stream.write_all(header).await?;
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    tokio_rustls::TlsConnector::from(web_client(setup)).connect(name, stream).await
}

/// One request on a kept connection; the head and whatever came with it.
async fn ask(stream: &mut Tls) -> String {
    stream.write_all(format!("HEAD /{LOCAL} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_client_has_so_many_connections_and_no_more() {
    let mut setup = Setup::new().await;
    setup.config["limits"] = json!({"max_connections_per_client": 2});
    let gateway = setup.start().await;
    let first = connect(&setup, &gateway).await;
    let _second = connect(&setup, &gateway).await;
    assert!(Connection::open(gateway.web_address, &web_client(&setup)).await.is_err());
    assert!(
        counted(&gateway, "entente_gateway_connections_total{listener=\"https_web\",result=\"too_many_of_client\"}")
            >= 1.0
    );
    drop(first);
    crate::support::eventually("room for another connection", || async {
        Connection::open(gateway.web_address, &web_client(&setup)).await.is_ok()
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_kept_connection_may_wait_longer_for_its_next_request_than_a_head_may_take() {
    let mut setup = Setup::new().await;
    setup.config["limits"] = json!({"header_timeout": "300ms", "idle_timeout": "20s"});
    let gateway = setup.start().await;
    let mut kept = through_proxy(&setup, &gateway, b"").await.unwrap();
    for _ in 0..3 {
        assert!(ask(&mut kept).await.starts_with("HTTP/1.1 200"));
        tokio::time::sleep(Duration::from_millis(800)).await;
    }
    // A further head has no more time than the first.
    kept.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), kept.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "still open");
    gateway.stop().await;
}

#[tokio::test]
async fn slow_clients_are_cut_off_at_each_step() {
    let mut setup = Setup::new().await;
    setup.config["limits"] = json!({"handshake_timeout": "300ms", "header_timeout": "300ms", "idle_timeout": "300ms"});
    let gateway = setup.start().await;
    let cut_off = |stream: Box<dyn tokio::io::AsyncRead + Unpin + Send>| async {
        let mut stream = stream;
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "still open");
        rest
    };
    // No handshake.
    cut_off(Box::new(TcpStream::connect(gateway.web_address).await.unwrap())).await;
    // No head.
    cut_off(Box::new(through_proxy(&setup, &gateway, b"").await.unwrap())).await;
    // Half a head.
    let mut half = through_proxy(&setup, &gateway, b"").await.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    cut_off(Box::new(half)).await;
    // No further request.
    let mut idle = through_proxy(&setup, &gateway, b"").await.unwrap();
    assert!(ask(&mut idle).await.starts_with("HTTP/1.1 200"));
    cut_off(Box::new(idle)).await;
    // A body nobody asked for, announced and never sent.
    let mut body = through_proxy(&setup, &gateway, b"").await.unwrap();
    body.write_all(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nx").await.unwrap();
    let answer = cut_off(Box::new(body)).await;
    assert!(answer.starts_with(b"HTTP/1.1 405"), "{}", String::from_utf8_lossy(&answer));
    // A head that never ends.
    let mut long = through_proxy(&setup, &gateway, b"").await.unwrap();
    let _ = long.write_all(format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(40_000)).as_bytes()).await;
    let answer = cut_off(Box::new(long)).await;
    assert!(answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    gateway.stop().await;
}
