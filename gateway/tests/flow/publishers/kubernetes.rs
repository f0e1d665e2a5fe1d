//! ConfigMaps and ClusterTrustBundles in a real Kubernetes API server.

use std::{net::SocketAddr, path::Path};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use federation_specs::{bundle::Bundle, bundle_json};
use http::{Method, Request};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::{
    conformance::{Place, conformance, pem, setup, until},
    gate::Gate,
    programs::{free_port, kubepeer, start},
};
use crate::support::eventually;

const SIGNER: &str = "cloud.example/entente";

/// The API server and a client that may do anything.
struct Cluster {
    folder: tempfile::TempDir,
    _server: Child,
    address: SocketAddr,
    authority: (Issuer<'static, KeyPair>, String),
    admin: Option<Client>,
}

impl Cluster {
    async fn start() -> Self {
        service_kit::crypto::install();
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let server_key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let server = server.signed_by(&server_key, &issuer).unwrap();
        let accounts = KeyPair::generate().unwrap();
        let port = free_port();
        let mut command = Command::new(kubepeer());
        command.arg(folder.path().join("etcd")).args([
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={port}"),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            format!("--cert-dir={}", folder.path().join("certs").display()),
            format!("--tls-cert-file={}", file("server.pem", &server.pem())),
            format!("--tls-private-key-file={}", file("server.key", &server_key.serialize_pem())),
            format!("--client-ca-file={}", file("ca.pem", &ca)),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-signing-key-file={}", file("accounts.key", &accounts.serialize_pem())),
            format!("--service-account-key-file={}", file("accounts.pub", &accounts.public_key_pem())),
        ]);
        let server = start(&mut command, port, &folder.path().join("apiserver.log")).await;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut cluster = Self { folder, _server: server, address, authority: (issuer, ca), admin: None };
        let config = cluster.kubeconfig("admin", Some("system:masters"), address);
        let options = KubeConfigOptions::default();
        let kubeconfig = Kubeconfig::read_from(config).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        cluster.admin = Some(Client::try_from(config).unwrap());
        eventually("the API server to be ready", || async {
            let request = Request::get("/readyz").body(Vec::new()).unwrap();
            cluster.client().request_text(request).await.is_ok()
        })
        .await;
        cluster
    }

    fn client(&self) -> &Client {
        self.admin.as_ref().unwrap()
    }

    /// A kubeconfig of a user.
    fn kubeconfig(&self, user: &str, group: Option<&str>, address: SocketAddr) -> std::path::PathBuf {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority.0).unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {
                "server": format!("https://{address}"),
                "certificate-authority-data": STANDARD.encode(&self.authority.1),
            }}],
            "users": [{"name": "u", "user": {
                "client-certificate-data": STANDARD.encode(certificate.pem()),
                "client-key-data": STANDARD.encode(key.serialize_pem()),
            }}],
        });
        let path = self.folder.path().join(format!("{user}.kubeconfig"));
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, kube::Error> {
        let mut request = Request::builder().method(method.clone()).uri(path);
        if method == Method::PATCH {
            request = request.header("content-type", "application/apply-patch+yaml");
        } else if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        self.client().request(request.body(body).unwrap()).await
    }

    /// Applies an object as somebody else than the gateway.
    async fn apply(&self, path: &str, object: &Value) {
        let path = format!("{path}?fieldManager=somebody-else&force=true");
        self.call(Method::PATCH, &path, Some(object)).await.unwrap();
    }

    /// Lets `user` do what the rules say, or not.
    async fn allow(&self, user: &str, allowed: bool, rules: &Value) {
        let base = "/apis/rbac.authorization.k8s.io/v1";
        let api = "rbac.authorization.k8s.io/v1";
        let role = json!({"apiVersion": api, "kind": "ClusterRole", "metadata": {"name": user}, "rules": rules});
        let binding = json!({
            "apiVersion": api, "kind": "ClusterRoleBinding", "metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        });
        self.apply(&format!("{base}/clusterroles/{user}"), &role).await;
        let path = format!("{base}/clusterrolebindings/{user}");
        match allowed {
            true => self.apply(&path, &binding).await,
            false => drop(self.call(Method::DELETE, &path, None).await.unwrap()),
        }
    }
}

/// What both kinds of objects have in common.
struct Object<'a> {
    cluster: &'a Cluster,
    gate: Gate,
    user: &'static str,
    path: String,
    config: Value,
    rules: Value,
    template: Value,
    /// Where in the object the document is.
    pointer: &'static str,
    is_pem: bool,
    words: &'static str,
}

impl<'a> Object<'a> {
    async fn config_map(cluster: &'a Cluster, user: &'static str, name: &str, force: bool) -> Self {
        let gate = Gate::before(cluster.address).await;
        let kubeconfig = cluster.kubeconfig(user, None, gate.address());
        let object = Self {
            cluster,
            user,
            path: format!("/api/v1/namespaces/default/configmaps/{name}"),
            config: json!({"k8s_configmap": {
                "namespace": "default", "configmap_name": name, "configmap_key": "bundle",
                "kubeconfig_path": kubeconfig, "force_conflicts": force,
            }}),
            rules: json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "create", "patch"]}]),
            template: json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"bundle": ""},
            }),
            pointer: "/data/bundle",
            is_pem: false,
            words: "access denied: configmaps \"bundle\" is forbidden: User \"cm\" cannot get resource",
            gate,
        };
        cluster.allow(user, true, &object.rules).await;
        object
    }

    async fn trust_bundle(cluster: &'a Cluster) -> Self {
        let gate = Gate::before(cluster.address).await;
        let (user, name) = ("ctb", "cloud.example:entente:bundle");
        let kubeconfig = cluster.kubeconfig(user, None, gate.address());
        let group = "certificates.k8s.io";
        let object = Self {
            cluster,
            user,
            path: format!("/apis/{group}/v1/clustertrustbundles/{name}"),
            config: json!({"k8s_cluster_trust_bundle": {
                "name": name, "signer_name": SIGNER, "kubeconfig_path": kubeconfig, "force_conflicts": true,
            }}),
            rules: json!([
                {"apiGroups": [group], "resources": ["clustertrustbundles"], "verbs": ["get", "create", "patch"]},
                {"apiGroups": [group], "resources": ["signers"], "resourceNames": [SIGNER], "verbs": ["attest"]},
            ]),
            template: json!({
                "apiVersion": format!("{group}/v1"), "kind": "ClusterTrustBundle", "metadata": {"name": name},
                "spec": {"signerName": SIGNER, "trustBundle": ""},
            }),
            pointer: "/spec/trustBundle",
            is_pem: true,
            words: "access denied: clustertrustbundles.certificates.k8s.io \"cloud.example:entente:bundle\" is forbidden",
            gate,
        };
        cluster.allow(user, true, &object.rules).await;
        object
    }
}

#[async_trait]
impl Place for Object<'_> {
    fn config(&self) -> Value {
        self.config.clone()
    }

    fn document(&self, bundle: &Bundle) -> Vec<u8> {
        if self.is_pem { pem(bundle) } else { bundle_json::encode(bundle) }
    }

    async fn held(&self) -> Option<Vec<u8>> {
        let object = self.cluster.call(Method::GET, &self.path, None).await.ok()?;
        Some(object.pointer(self.pointer)?.as_str()?.as_bytes().to_vec())
    }

    async fn version(&self) -> String {
        let object = self.cluster.call(Method::GET, &self.path, None).await.unwrap();
        object["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
    }

    async fn put(&self, document: &[u8]) {
        let mut object = self.template.clone();
        *object.pointer_mut(self.pointer).unwrap() = json!(String::from_utf8_lossy(document));
        self.cluster.apply(&self.path, &object).await;
    }

    async fn remove(&self) -> bool {
        self.cluster.call(Method::DELETE, &self.path, None).await.is_ok()
    }

    async fn deny(&self, denied: bool) -> &'static str {
        self.cluster.allow(self.user, !denied, &self.rules).await;
        self.words
    }

    async fn down(&self, down: bool) -> bool {
        self.gate.set_open(!down);
        true
    }

    fn has_sequence(&self) -> bool {
        !self.is_pem
    }
}

async fn somebody_elses_field_is_left_alone(cluster: &Cluster) {
    let place = Object::config_map(cluster, "polite", "owned", false).await;
    place.put(b"mine").await;
    let mut other = place.template.clone();
    other["data"] = json!({"bundle": "mine", "other": "key"});
    cluster.apply(&place.path, &other).await;
    let setup = setup(place.config()).await;
    let gateway = setup.start().await;
    let error = until(&gateway, "conflict", |now| now.last_error.is_some()).await.last_error.unwrap();
    assert!(error.contains("conflict with \"somebody-else\"") && error.contains("force_conflicts: true"), "{error}");
    assert_eq!(place.held().await.as_deref(), Some(&b"mine"[..]));
    // That manager gives the key up and keeps its other one.
    other["data"] = json!({"other": "key"});
    cluster.apply(&place.path, &other).await;
    until(&gateway, "publication", |now| now.published.is_some()).await;
    let object = cluster.call(Method::GET, &place.path, None).await.unwrap();
    assert_eq!(object["data"]["other"], "key");
    let managers = object["metadata"]["managedFields"].as_array().unwrap();
    assert!(managers.iter().any(|fields| fields["manager"] == "entente-gateway" && fields["operation"] == "Apply"));
    gateway.stop().await;
}

async fn a_kubeconfig_that_is_not_there_is_said(folder: &Path) {
    let place = json!({"k8s_cluster_trust_bundle": {"name": "b", "kubeconfig_path": folder.join("none")}});
    let setup = setup(place).await;
    let gateway = setup.start().await;
    let error = until(&gateway, "failure", |now| now.last_error.is_some()).await.last_error.unwrap();
    assert!(error.starts_with("no usable credentials: ") && error.contains("/none"), "{error}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_kubernetes_conform() {
    let cluster = Cluster::start().await;
    let map = Object::config_map(&cluster, "cm", "bundle", true).await;
    let bundle = Object::trust_bundle(&cluster).await;
    tokio::join!(
        Box::pin(conformance(&map)),
        Box::pin(conformance(&bundle)),
        Box::pin(somebody_elses_field_is_left_alone(&cluster)),
        Box::pin(a_kubeconfig_that_is_not_there_is_said(cluster.folder.path())),
    );
}
