//! What commands print: SPIRE's pretty text or its JSON.

use std::io::{self, Write as _};
use std::str::FromStr;
use std::sync::OnceLock;

use federation_specs::proto;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::failure::{Failure, error_chain};
use crate::standard_error::to_stderr;

/// How the answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Text for people.
    Pretty,
    /// One line of JSON.
    Json,
}

impl Format {
    /// The name used in messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pretty => "pretty",
            Self::Json => "json",
        }
    }
}

/// The flag's value names no format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad formatter flag: unknown format option: {}", crate::notation::quote(.0))]
pub(crate) struct UnknownFormat(String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text.to_ascii_lowercase().as_str() {
            "pretty" | "prettyprint" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err(UnknownFormat(text.to_owned())),
        }
    }
}

/// The `-output` flag.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct OutputArguments {
    /// How to print the answer: pretty or json
    #[arg(id = "output", long = "output", value_name = "FORMAT", default_value = "pretty")]
    pub(crate) format: Format,
}

/// What a command says when it is done. A batch can succeed in part, so both streams and a failure may be filled.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// For standard output.
    pub(crate) stdout: String,
    /// For standard error, before the failure's own line.
    pub(crate) stderr: String,
    /// Set if the command failed.
    pub(crate) failure: Option<String>,
}

impl Report {
    /// A success with its text.
    pub(crate) fn success(stdout: impl Into<String>) -> Self {
        Self { stdout: stdout.into(), ..Self::default() }
    }

    /// A failure with nothing else to say.
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self { failure: Some(text.into()), ..Self::default() }
    }

    /// Prints it.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        to_stdout(&self.stdout)?;
        to_stderr(&self.stderr);
        self.failure.map_or(Ok(()), |text| Err(Failure::new(text)))
    }
}

/// Writes to standard output. A reader that went away ends the command quietly.
pub(crate) fn to_stdout(text: &str) -> Result<(), Failure> {
    if text.is_empty() {
        return Ok(());
    }
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::told()),
        Err(error) => Err(Failure::new(format!("cannot write to standard output: {error}"))),
    }
}

/// Writes text with colours to standard output; the colours stay only on a terminal that wants them.
pub(crate) fn to_stdout_in_colour(text: &str) -> Result<(), Failure> {
    let mut stdout = anstream::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::told()),
        Err(error) => Err(Failure::new(format!("cannot write to standard output: {error}"))),
    }
}

/// Prints one of Entente's own answers as a line of JSON.
pub(crate) fn print_json(answer: &impl serde::Serialize) -> Result<(), Failure> {
    let value = serde_json::to_value(answer);
    to_stdout(&value_line(&value.map_err(|error| Failure::new(format!("cannot print the answer as JSON: {error}")))?))
}

/// Prints one API message in the chosen format.
pub(crate) fn print<M: prost::Message>(
    format: Format,
    full_name: &str,
    message: &M,
    pretty: impl FnOnce(&M) -> String,
) -> Result<(), Failure> {
    match format {
        Format::Json => to_stdout(&json_line(full_name, message)?),
        Format::Pretty => to_stdout(&pretty(message)),
    }
}

/// One API message as a line of JSON.
pub(crate) fn json_line(full_name: &str, message: &impl prost::Message) -> Result<String, Failure> {
    Ok(value_line(&message_value(full_name, message)?))
}

/// A JSON value as a line: keys sorted, nulls left out, `<`, `>` and `&` escaped.
pub(crate) fn value_line(value: &Value) -> String {
    let mut line = value_text(value);
    line.push('\n');
    line
}

/// A JSON value without the newline.
pub(crate) fn value_text(value: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, value);
    text
}

/// One API message as JSON: proto field names, unset scalars present, 64-bit integers as strings.
pub(crate) fn message_value(full_name: &str, message: &impl prost::Message) -> Result<Value, Failure> {
    let unprintable = |reason: String| Failure::new(format!("cannot print the answer as JSON: {reason}"));
    let descriptor = pool()?
        .get_message_by_name(full_name)
        .ok_or_else(|| unprintable(format!("message {full_name} is not among the compiled protocol files")))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|error| unprintable(error_chain(&error)))?;
    let options =
        SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false).stringify_64_bit_integers(true);
    dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| unprintable(error_chain(&error)))
}

/// The descriptors of every message.
pub(crate) fn pool() -> Result<&'static DescriptorPool, Failure> {
    static POOL: OnceLock<Result<DescriptorPool, String>> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).map_err(|error| error_chain(&error)))
        .as_ref()
        .map_err(|error| Failure::new(format!("the protocol descriptors of this build are damaged: {error}")))
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().filter(|item| !item.is_null()).enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            fields.sort_by_key(|(name, _)| name.as_str());
            out.push('{');
            for (index, (name, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_string(out, name);
                out.push(':');
                write_value(out, value);
            }
            out.push('}');
        }
    }
}

/// Claims arrive as floating point; whole ones are written without a fraction.
fn write_number(out: &mut String, number: &serde_json::Number) {
    /// Every whole number up to here is exact.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() <= EXACT => {
            out.push_str(&format!("{float:.0}"));
        }
        _ => out.push_str(&number.to_string()),
    }
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(letter)));
            }
            plain => out.push(plain),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use federation_specs::proto::types;
    use serde_json::json;

    use super::*;

    #[test]
    fn formats_are_named_in_any_case() {
        assert_eq!("JSON".parse(), Ok(Format::Json));
        assert_eq!("prettyprint".parse(), Ok(Format::Pretty));
        assert_eq!(
            "xml".parse::<Format>().unwrap_err().to_string(),
            r#"bad formatter flag: unknown format option: "xml""#
        );
    }

    #[test]
    fn values_are_sorted_stripped_and_escaped() {
        let value = json!({"b": [1, null, 2.0], "a": "<&>", "c": null, "d": {"z": 1.5, "y": "\n\u{1}é"}});
        assert_eq!(
            value_line(&value),
            "{\"a\":\"\\u003c\\u0026\\u003e\",\"b\":[1,2],\"d\":{\"y\":\"\\n\\u0001é\",\"z\":1.5}}\n"
        );
    }

    #[test]
    fn unset_scalars_are_written_and_64_bit_numbers_are_strings() {
        let token = types::JoinToken { value: String::new(), expires_at: 1_795_341_907 };
        assert_eq!(
            json_line("spire.api.types.JoinToken", &token).unwrap(),
            "{\"expires_at\":\"1795341907\",\"value\":\"\"}\n"
        );
        let svid = types::Jwtsvid { token: "t".to_owned(), ..types::Jwtsvid::default() };
        assert_eq!(
            json_line("spire.api.types.JWTSVID", &svid).unwrap(),
            "{\"expires_at\":\"0\",\"hint\":\"\",\"issued_at\":\"0\",\"token\":\"t\"}\n"
        );
    }

    #[test]
    fn a_report_fails_with_its_text() {
        assert_eq!(Report::failed("no").finish().unwrap_err().text(), "no");
        assert_eq!(Report::success("").finish(), Ok(()));
    }
}
