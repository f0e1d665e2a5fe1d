use serde_json::{Value, json};

use super::*;

fn checked(list: &Value) -> Result<Vec<PublisherSettings>, String> {
    let list: Vec<config::Publisher> = serde_json::from_value(list.clone()).unwrap();
    publishers("trust_domains[0]", &list).map_err(|error| error.to_string())
}

fn s3(name: &str, change: &Value) -> Value {
    let mut place = json!({"region": "eu-west-1", "bucket": "b", "object_key": "spiffe/td.json"});
    place.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    json!({"name": name, "aws_s3": place})
}

#[cfg(all(feature = "publish-file", feature = "publish-s3", feature = "publish-kubernetes"))]
#[test]
fn places_have_names_that_tell_them_apart() {
    let list = json!([
        s3("a", &json!({"endpoint": "http://127.0.0.1:9000/"})),
        s3("b", &json!({})),
        {"name": "c", "file": {"path": "/x", "mode": "600"}},
        {"name": "d", "k8s_cluster_trust_bundle": {"name": "x.example:s:b", "signer_name": "x.example/s"}},
    ]);
    let list = checked(&list).unwrap();
    let places: Vec<_> = list.iter().map(|publisher| publisher.place.describe()).collect();
    assert_eq!(
        places,
        [
            "S3 object b/spiffe/td.json in eu-west-1 at http://127.0.0.1:9000",
            "S3 object b/spiffe/td.json in eu-west-1",
            "file /x",
            "ClusterTrustBundle x.example:s:b",
        ]
    );
    assert!(matches!(list[2].place, PlaceSettings::File(FilePlace { mode: 0o600, .. })));
    assert_eq!(list[0].check_interval, Duration::from_secs(300));
}

#[test]
fn what_cannot_be_is_said_with_its_key() {
    let anchor = "153d3e58-cab5-4a59-a0a1-3febad2937c4";
    let named = |name: &str, kind: &str, place: Value| json!([{"name": name, (kind): place}]);
    let one = |kind: &str, place: Value| named("a", kind, place);
    let blob = |change: Value| {
        let mut place = json!({"storage_account_name": "a", "container_name": "c", "blob_name": "b"});
        place.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        one("azure_blob", place)
    };
    let map = |namespace: &str, name: &str, key: &str| {
        one("k8s_configmap", json!({"namespace": namespace, "configmap_name": name, "configmap_key": key}))
    };
    let bundle =
        |name: &str, signer: Value| one("k8s_cluster_trust_bundle", json!({"name": name, "signer_name": signer}));
    let cases = [
        (json!([{"name": "a"}]), "publishers[0]: needs exactly one of file, aws_s3"),
        (
            json!([{"name": "a", "file": {"path": "/x"}, "aws_rolesanywhere_trustanchor":
            {"region": "eu-west-1", "trust_anchor_id": anchor}}]),
            "needs exactly one of",
        ),
        (named("a b", "file", json!({"path": "/x"})), "publishers[0].name: `a b` is no name"),
        (one("file", json!({"path": ""})), "file.path: is empty"),
        (one("file", json!({"path": "/x", "mode": "0888"})), "file.mode: `0888` are no octal permission bits"),
        (one("file", json!({"path": "/x", "mode": "0200"})), "with which the owner may read"),
        (one("file", json!({"path": "/x", "format": "pem", "refresh_hint": "1m"})), "belongs to format spiffe"),
        (json!([s3("a", &json!({"region": "EU"}))]), "aws_s3.region: `EU` is no AWS region"),
        (json!([s3("a", &json!({"object_key": "/a"}))]), "aws_s3.object_key: `/a` has an empty or relative part"),
        (json!([s3("a", &json!({"endpoint": "http://storage.example"}))]), "would send credentials in the clear"),
        (json!([s3("a", &json!({"endpoint": "https://u:p@storage.example"}))]), "leave them out"),
        (blob(json!({"tenant_id": "t"})), "azure_blob: says in several ways who asks"),
        (blob(json!({"storage_account_key_file": "k", "app_id": "a"})), "says in several ways"),
        (map("Spire", "a", "b"), "k8s_configmap.namespace: `Spire` is no Kubernetes name"),
        (map("spire", "a", "b/c"), "k8s_configmap.configmap_key: `b/c` is no ConfigMap key"),
        (bundle("b", json!("x.example/s")), "write for example `x.example:s:bundle`"),
        (bundle("a:b", json!(null)), "has a colon, which needs a signer_name"),
        (bundle("a:b", json!("a")), "signer_name: `a` is no signer name"),
        (
            one("aws_rolesanywhere_trustanchor", json!({"region": "eu-west-1", "trust_anchor_id": "x"})),
            "is no trust anchor ID; copy the 36 characters",
        ),
    ];
    for (list, expected) in cases {
        let error = checked(&list).unwrap_err();
        assert!(error.contains(expected), "{list}: {error}");
    }
    let short = json!([{"name": "a", "check_interval": "10ms", "file": {"path": "/x"}}]);
    assert!(checked(&short).unwrap_err().contains("check_interval"));
    let many: Vec<_> = (0..=MAX_PUBLISHERS).map(|number| json!({"name": number.to_string()})).collect();
    assert!(checked(&json!(many)).unwrap_err().contains("more than 64 items"));
}

#[cfg(feature = "publish-file")]
#[test]
fn a_name_or_a_place_is_used_once() {
    let file = |name: &str, path: &str| json!({"name": name, "file": {"path": path}});
    let error = checked(&json!([file("a", "/x"), file("a", "/y")])).unwrap_err();
    assert!(error.contains("publishers[1].name: `a` is used twice"), "{error}");
    let error = checked(&json!([file("a", "/x"), file("b", "/x")])).unwrap_err();
    assert!(error.contains("publishers[1]: file /x is published to twice"), "{error}");
}

#[test]
fn a_place_that_is_not_in_the_build_names_its_feature() {
    let error = in_this_build("publishers[0].file", ("publish-file", false)).unwrap_err().to_string();
    assert_eq!(
        error,
        "publishers[0].file: is not part of this build; build it with `cargo build --features publish-file`"
    );
}
