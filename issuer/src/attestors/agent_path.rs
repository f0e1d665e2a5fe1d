//! Templates for the path of an agent's SPIFFE ID, such as `/x509pop/{{ .Fingerprint }}`.
//!
//! The syntax is the part of Go's `text/template` that paths need: literal text and `{{ .Field }}` references, with
//! dots for nested fields. Anything else is refused when the configuration is read.

use std::collections::BTreeMap;

use federation_specs::id::{SpiffeId, TrustDomain};

/// Most bytes of a template.
pub const MAX_TEMPLATE_BYTES: usize = 1024;

/// Most characters of one field that reach a path.
const MAX_FIELD_BYTES: usize = 512;

/// Why a template is refused or gives no agent ID.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AgentPathError {
    /// Longer than [`MAX_TEMPLATE_BYTES`].
    #[error("agent_path_template is longer than {MAX_TEMPLATE_BYTES} bytes")]
    TooLong,
    /// Does not begin with a slash.
    #[error("agent_path_template must begin with /")]
    NoLeadingSlash,
    /// `{{` without `}}`.
    #[error("agent_path_template has {{{{ without }}}}")]
    Unclosed,
    /// An action that is no field reference.
    #[error(
        "agent_path_template action {{{{ {0} }}}} is not supported; use field references such as {{{{ .Fingerprint }}}}"
    )]
    Unsupported(String),
    /// A field the attestor does not offer.
    #[error("agent_path_template names unknown field .{field}; known fields: {known}")]
    UnknownField {
        /// The field as written.
        field: String,
        /// Fields that exist.
        known: String,
    },
    /// The field has no value for this node.
    #[error("agent path needs .{0}, which this node does not have")]
    MissingValue(String),
    /// The result is no valid agent ID.
    #[error("agent path is not valid: {0}")]
    Invalid(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(String),
}

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentPathTemplate {
    parts: Vec<Part>,
}

impl AgentPathTemplate {
    /// Parses a template whose fields must be among `known`; a name ending in `.*` stands for every field below it.
    ///
    /// # Errors
    /// [`AgentPathError`] naming what is not supported.
    pub fn parse(template: &str, known: &[&str]) -> Result<Self, AgentPathError> {
        if template.len() > MAX_TEMPLATE_BYTES {
            return Err(AgentPathError::TooLong);
        }
        if !template.starts_with('/') {
            return Err(AgentPathError::NoLeadingSlash);
        }
        let mut parts = Vec::new();
        let mut rest = template;
        while let Some((text, after)) = rest.split_once("{{") {
            let (action, after) = after.split_once("}}").ok_or(AgentPathError::Unclosed)?;
            parts.push(Part::Text(text.to_owned()));
            parts.push(Part::Field(field_name(action, known)?));
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self { parts })
    }

    /// The agent ID in `trust_domain`: `/spire/agent` followed by the filled template.
    ///
    /// # Errors
    /// When a field has no value or the result is no valid path.
    pub fn agent_id(
        &self,
        trust_domain: &TrustDomain,
        fields: &BTreeMap<String, String>,
    ) -> Result<SpiffeId, AgentPathError> {
        let mut path = "/spire/agent".to_owned();
        for part in &self.parts {
            match part {
                Part::Text(text) => path.push_str(text),
                Part::Field(field) => {
                    let value = fields.get(field).filter(|value| value.len() <= MAX_FIELD_BYTES);
                    path.push_str(value.ok_or_else(|| AgentPathError::MissingValue(field.clone()))?);
                }
            }
        }
        let id =
            SpiffeId::from_parts(trust_domain, &path).map_err(|error| AgentPathError::Invalid(error.to_string()))?;
        if id.is_agent() { Ok(id) } else { Err(AgentPathError::Invalid(format!("{id} is not an agent ID"))) }
    }
}

fn field_name(action: &str, known: &[&str]) -> Result<String, AgentPathError> {
    let trimmed = action.trim();
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let field = trimmed.strip_prefix('.').filter(|field| field.split('.').all(is_name));
    let Some(field) = field else { return Err(AgentPathError::Unsupported(trimmed.to_owned())) };
    let is_known = known.iter().any(|name| match name.strip_suffix(".*") {
        Some(group) => field.strip_prefix(group).is_some_and(|below| below.starts_with('.')),
        None => *name == field,
    });
    if is_known {
        Ok(field.to_owned())
    } else {
        Err(AgentPathError::UnknownField { field: field.to_owned(), known: known.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["PluginName", "Fingerprint", "Subject.CommonName", "URISanSelectors.*"];

    fn fields() -> BTreeMap<String, String> {
        [("PluginName", "x509pop"), ("Fingerprint", "ab12"), ("URISanSelectors.env", "prod")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    fn domain() -> TrustDomain {
        TrustDomain::parse("cloud.example").expect("name")
    }

    #[test]
    fn fills_fields_below_spire_agent() {
        let template = AgentPathTemplate::parse("/{{ .PluginName }}/{{.URISanSelectors.env}}/{{ .Fingerprint}}", KNOWN);
        let id = template.expect("template").agent_id(&domain(), &fields()).expect("id");
        assert_eq!(id.to_string(), "spiffe://cloud.example/spire/agent/x509pop/prod/ab12");
    }

    #[test]
    fn refuses_what_it_cannot_do_when_it_is_parsed() {
        let parse = |text: &str| AgentPathTemplate::parse(text, KNOWN).expect_err(text).to_string();
        assert_eq!(parse("x"), "agent_path_template must begin with /");
        assert_eq!(parse("/{{ .Fingerprint"), "agent_path_template has {{ without }}");
        assert!(parse("/{{ upper .Fingerprint }}").contains("is not supported"));
        assert!(parse("/{{ .Nosuch }}").contains("unknown field .Nosuch; known fields: PluginName"));
        assert!(parse("/{{ .URISanSelectors }}").contains("unknown field"));
        assert!(parse(&format!("/{}", "a".repeat(MAX_TEMPLATE_BYTES))).contains("longer than"));
    }

    #[test]
    fn a_missing_value_or_a_bad_path_gives_no_id() {
        let template = AgentPathTemplate::parse("/x/{{ .Subject.CommonName }}", KNOWN).expect("template");
        let missing = template.agent_id(&domain(), &fields());
        assert_eq!(missing, Err(AgentPathError::MissingValue("Subject.CommonName".into())));
        let mut with_name = fields();
        for bad in ["", "a b", "..", "a/../b", "/", "a/"] {
            with_name.insert("Subject.CommonName".into(), bad.into());
            assert!(matches!(template.agent_id(&domain(), &with_name), Err(AgentPathError::Invalid(_))), "{bad:?}");
        }
    }
}
