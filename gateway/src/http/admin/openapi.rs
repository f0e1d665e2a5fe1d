//! The description of the admin API (OpenAPI 3.1), made from its operations and types.

use std::sync::LazyLock;

use axum::{
    body::Bytes,
    response::{IntoResponse as _, Response},
};
use http::header;
use utoipa::openapi::{
    Components, Info, License, OpenApi, OpenApiBuilder, Paths, Server, security::SecurityScheme, tag::TagBuilder,
};

use super::{
    operation::{MUTUAL_TLS, Operation},
    tag::{self, Tag},
};

/// What the document says about the whole API.
const DESCRIPTION: &str = "\
Reads and steers a federation gateway. It answers on the gateway's Unix socket, whose users have the role `admin`, and \
on the admin listener, whose clients present an X509-SVID and have the role the configuration gives their SPIFFE ID: \
`viewer`, `operator` or `admin`, each of which may do what the ones before it may. The role an operation needs is in its \
security requirement.

Errors are problem details (RFC 9457); `type` names the kind and never changes. Times are RFC 3339 in UTC, durations \
are seconds. Lists come in pages: pass `next_page_token` as `page_token` until it is absent.";

/// What the first parts of the paths are about.
const TAGS: [(&str, &str); 9] = [
    ("relationships", "Partners, how they are doing, and decisions about their bundles."),
    ("apply", "Relationships managed as a set."),
    ("bundles", "Bundles that are served or held."),
    ("sources", "Where the bundles of served trust domains come from."),
    ("publishers", "Further places own bundles are published to."),
    ("audit", "Who changed what, when and why."),
    ("webhooks", "Who is told about events."),
    ("health", "Whether every part works."),
    ("openapi.json", "This document."),
];

/// The document of these operations.
fn describe(operations: &[Operation]) -> OpenApi {
    let mut paths = Paths::new();
    let mut components = Components::new();
    for operation in operations {
        paths.add_path_operation(operation.path(), vec![operation.method()], operation.documented());
        for (name, schema) in operation.schemas() {
            components.schemas.insert(name.clone(), schema.clone());
        }
    }
    let scheme = SecurityScheme::MutualTls {
        description: Some("An X509-SVID whose SPIFFE ID has the role. The Unix socket needs none.".to_owned()),
        deprecated: None,
        extensions: None,
    };
    components.add_security_scheme(MUTUAL_TLS, scheme);
    let mut license = License::new("Apache-2.0");
    license.identifier = Some("Apache-2.0".to_owned());
    let mut info = Info::new("Entente gateway admin API", env!("CARGO_PKG_VERSION"));
    info.description = Some(DESCRIPTION.to_owned());
    info.license = Some(license);
    let server = |url: &str, text: &str| {
        let mut server = Server::new(url);
        server.description = Some(text.to_owned());
        server
    };
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([
            server("http://localhost", "The Unix socket; the host is not looked at."),
            server("https://gateway.example:8447", "The admin listener, by its SPIFFE ID."),
        ]))
        .paths(paths)
        .components(Some(components))
        .tags(Some(TAGS.map(|(name, text)| TagBuilder::new().name(name).description(Some(text)).build())))
        .build()
}

/// The document as it is served and kept in the repository, with a newline at its end.
pub fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
        let mut text = describe(&super::operations()).to_pretty_json().unwrap_or_default();
        text.push('\n');
        text
    });
    &DOCUMENT
}

/// `GET /v1/openapi.json`.
pub(super) async fn show() -> Response {
    let text = document();
    let body = Bytes::from_static(text.as_bytes());
    let mut response = ([(header::CONTENT_TYPE, "application/json")], body).into_response();
    tag::set(&Tag::of_bytes(text.as_bytes()), &mut response);
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn the_file_in_the_repository_is_the_document_of_this_code() {
        let file = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json")).unwrap();
        let differs = document().lines().zip(file.lines()).position(|(code, file)| code != file);
        let differs = differs.unwrap_or_else(|| document().lines().count().min(file.lines().count())) + 1;
        assert!(
            file == document(),
            "docs/openapi.json is not that of this code from line {differs} on, which is `{}`: run `entente gateway \
             openapi > docs/openapi.json`",
            document().lines().nth(differs - 1).unwrap_or_default()
        );
    }

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    found.insert(reference.clone());
                }
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn the_document_is_whole() {
        let document: Value = serde_json::from_str(document()).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        let mut used = BTreeSet::new();
        references(&document, &mut used);
        for reference in &used {
            assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference} leads nowhere");
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(used.contains(&format!("#/components/schemas/{name}")), "nobody refers to {name}");
        }
        let tags: Vec<&Value> = document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
        let mut ids = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let place = format!("{method} {path}");
                assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{place}: the ID is taken");
                assert!(tags.contains(&&operation["tags"][0]), "{place}: nothing describes its tag");
                assert!(
                    ["viewer", "operator", "admin"].map(Value::from).contains(&operation["security"][0][MUTUAL_TLS][0])
                );
                let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
                for parameter in &parameters {
                    assert!(parameter["description"].is_string(), "{place}: {parameter}");
                }
                let in_path = parameters.iter().filter(|parameter| parameter["in"] == "path").count();
                assert_eq!(in_path, path.matches('{').count(), "{place}");
                assert!(
                    operation["responses"]["200"].is_object() && operation["responses"]["403"].is_object(),
                    "{place}"
                );
            }
        }
    }
}
