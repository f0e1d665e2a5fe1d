//! The chain: each record's hash covers the one before it, so that a record changed, removed or moved later is found.
//!
//! `hash(n) = SHA-256(hash(n-1) as 32 bytes || text(n))`, `hash(0)` is 32 zero bytes, and the text is canonical JSON.

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// The hash before the first record.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Most problems named in one report.
pub const MAX_PROBLEMS: usize = 100;

/// JSON with sorted member names and no blanks, so that one value has one text (as RFC 8785 for the values used here:
/// no fractions).
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value);
    text
}

fn write(text: &mut String, value: &Value) {
    match value {
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(text, item);
            }
            text.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| name.as_str());
            text.push('{');
            for (index, (name, value)) in members.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                write(text, value);
            }
            text.push('}');
        }
        plain => text.push_str(&plain.to_string()),
    }
}

/// The hash of a record that follows the one with hash `previous`, lowercase hex. A `previous` that is no hash leads
/// to a hash nothing has.
pub fn link(previous: &str, record: &str) -> String {
    let mut context = Context::new(&SHA256);
    context.update(&bytes(previous).unwrap_or_default());
    context.update(record.as_bytes());
    hex(context.finish().as_ref())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = hex.chars().map(|digit| digit.to_digit(16)?.try_into().ok()).collect();
    let digits = digits.filter(|digits| digits.len() == 64)?;
    Some(digits.chunks_exact(2).map(|two| two[0] << 4 | two[1]).collect())
}

/// Something wrong with the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = AuditProblem)]
pub struct Problem {
    /// The record it was found at; 0 if it concerns no single one.
    pub sequence: i64,
    /// What is wrong.
    pub problem: String,
}

/// The outcome of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = AuditReport)]
pub struct Report {
    /// Whether the log is whole.
    pub ok: bool,
    /// Number of records read.
    pub records: u64,
    /// The number of the last record.
    pub last: i64,
    /// The hash of the last record. A copy kept elsewhere shows later that nothing up to here was changed.
    pub head: String,
    /// The record whose hash was given to compare with, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_found_at: Option<i64>,
    /// What is wrong, at most [`MAX_PROBLEMS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// Reads records in order and says what is wrong with them.
#[derive(Debug)]
pub struct Verifier {
    last: i64,
    previous: String,
    /// False after a gap, when the hash before the next record is not known.
    anchored: bool,
    records: u64,
    copy: Option<String>,
    copy_found_at: Option<i64>,
    problems: Vec<Problem>,
}

impl Verifier {
    /// A verifier of a log from its beginning. `copy` is a head hash kept elsewhere.
    pub fn new(copy: Option<&str>) -> Self {
        Self {
            last: 0,
            previous: GENESIS.to_owned(),
            anchored: true,
            records: 0,
            copy: copy.map(|copy| copy.trim().to_ascii_lowercase()),
            copy_found_at: None,
            problems: Vec::new(),
        }
    }

    fn problem(&mut self, sequence: i64, problem: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { sequence, problem });
        }
    }

    /// The next record by its place.
    pub fn record(&mut self, sequence: i64, record: &str, hash: &str) {
        self.records += 1;
        if sequence != self.last + 1 {
            self.gap(self.last + 1, sequence - 1);
            self.anchored = false;
        }
        let inside = serde_json::from_str::<Value>(record).ok().and_then(|record| record.get("sequence")?.as_i64());
        match inside {
            None => self.problem(sequence, format!("record {sequence} was changed: it is no record any more")),
            Some(inside) if inside != sequence => {
                self.problem(
                    sequence,
                    format!("the record at place {sequence} is number {inside}: records were moved"),
                );
            }
            Some(_) if self.anchored && link(&self.previous, record) != hash => {
                let text = match self.last {
                    0 => "record 1 was changed: its hash is another".to_owned(),
                    last => format!(
                        "record {sequence} does not follow from record {last}: record {sequence} was changed, or record \
                         {last} together with its hash"
                    ),
                };
                self.problem(sequence, text);
            }
            Some(_) => {}
        }
        if self.copy.as_deref() == Some(hash) {
            self.copy_found_at = Some(sequence);
        }
        self.anchored = true;
        self.last = sequence;
        hash.clone_into(&mut self.previous);
    }

    fn gap(&mut self, first: i64, last: i64) {
        match first.cmp(&last) {
            std::cmp::Ordering::Less => self.problem(first, format!("records {first} to {last} are missing")),
            std::cmp::Ordering::Equal => self.problem(first, format!("record {first} is missing")),
            std::cmp::Ordering::Greater => {
                self.problem(last + 1, format!("record {} comes twice or too late", last + 1))
            }
        }
    }

    /// The report, after the last record. `head` is what the log says its last record is, if it says so.
    pub fn finish(mut self, head: Option<(i64, &str)>) -> Report {
        if let Some((sequence, hash)) = head {
            if sequence > self.last {
                self.gap(self.last + 1, sequence);
            } else if sequence < self.last {
                let last = self.last;
                self.problem(
                    0,
                    format!("the log says it ends at record {sequence}, but it ends at {last}: one was added"),
                );
            } else if hash != self.previous {
                let last = self.last;
                self.problem(last, format!("the hash kept of the last record is not that of record {last}"));
            }
        }
        let is_genesis = self.copy.as_deref() == Some(GENESIS);
        if let Some(copy) = self.copy.clone().filter(|_| self.copy_found_at.is_none() && !is_genesis) {
            self.problem(
                0,
                format!("no record has the hash {copy}: records were cut off or rewritten after that copy was made"),
            );
        }
        Report {
            ok: self.problems.is_empty(),
            records: self.records,
            last: self.last,
            head: self.previous,
            copy_found_at: self.copy_found_at,
            problems: self.problems,
        }
    }
}

/// One line of an export: `{"hash":"…","record":{…}}` with the record's exact text.
pub fn export_line(record: &str, hash: &str) -> String {
    format!("{{\"hash\":\"{hash}\",\"record\":{record}}}\n")
}

/// Hash and record text of a line of an export, `None` if it is none.
pub fn read_export_line(line: &str) -> Option<(&str, &str)> {
    let rest = line.trim_end().strip_prefix("{\"hash\":\"")?;
    let (hash, rest) = rest.split_at_checked(64)?;
    Some((hash, rest.strip_prefix("\",\"record\":")?.strip_suffix('}')?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    type Log = Vec<(i64, String, String)>;

    fn log(length: i64) -> Log {
        let mut previous = GENESIS.to_owned();
        let record = |number| canonical(&json!({"what": "x", "sequence": number, "subject": format!("p{number}")}));
        (1..=length)
            .map(|number| {
                let text = record(number);
                previous = link(&previous, &text);
                (number, text, previous.clone())
            })
            .collect()
    }

    fn verify(log: &Log, head: Option<&Log>, copy: Option<&str>) -> Report {
        let mut verifier = Verifier::new(copy);
        for (sequence, record, hash) in log {
            verifier.record(*sequence, record, hash);
        }
        let head = head.and_then(|whole| whole.last()).map(|(sequence, _, hash)| (*sequence, hash.as_str()));
        verifier.finish(head)
    }

    #[test]
    fn canonical_json_has_one_text() {
        let value: Value =
            serde_json::from_str("{ \"b\": [1, {\"z\": null, \"y\": \"\\u00e9\\n\"}], \"a\": true }").unwrap();
        assert_eq!(canonical(&value), "{\"a\":true,\"b\":[1,{\"y\":\"é\\n\",\"z\":null}]}");
    }

    #[test]
    fn the_hash_is_that_of_the_documented_formula() {
        // printf '\0%.0s' {1..32} | cat - <(printf '{"sequence":1}') | sha256sum
        let mut bytes = vec![0_u8; 32];
        bytes.extend_from_slice(b"{\"sequence\":1}");
        let expected = hex(aws_lc_rs::digest::digest(&SHA256, &bytes).as_ref());
        assert_eq!(link(GENESIS, "{\"sequence\":1}"), expected);
    }

    #[test]
    fn a_whole_log_is_whole() {
        let whole = log(5);
        let report = verify(&whole, Some(&whole), Some(&whole[2].2));
        assert!(report.ok, "{report:?}");
        assert_eq!((report.records, report.last, report.copy_found_at), (5, 5, Some(3)));
        assert_eq!(report.head, whole[4].2);
        assert!(verify(&log(0), None, None).ok);
    }

    fn only_problem(log: &Log, whole: &Log) -> (i64, String) {
        let report = verify(log, Some(whole), None);
        assert!(!report.ok);
        assert_eq!(report.problems.len(), 1, "{report:?}");
        (report.problems[0].sequence, report.problems[0].problem.clone())
    }

    #[test]
    fn every_kind_of_tampering_is_found_and_named() {
        let whole = log(6);
        let mut changed = whole.clone();
        changed[2].1 = changed[2].1.replace("p3", "q3");
        let (sequence, problem) = only_problem(&changed, &whole);
        assert!(sequence == 3 && problem.contains("record 3 was changed"), "{problem}");

        // Changed, with the hash made to fit: the next one does not follow any more.
        changed[2].2 = link(&changed[1].2, &changed[2].1);
        let (sequence, problem) = only_problem(&changed, &whole);
        assert!(sequence == 4 && problem.contains("or record 3 together with its hash"), "{problem}");

        let mut first = whole.clone();
        first[0].1 = first[0].1.replace("p1", "q1");
        assert_eq!(only_problem(&first, &whole).1, "record 1 was changed: its hash is another");

        let mut garbage = whole.clone();
        garbage[4].1 = "no".to_owned();
        assert_eq!(only_problem(&garbage, &whole).0, 5);

        let mut removed = whole.clone();
        removed.remove(3);
        assert_eq!(only_problem(&removed, &whole), (4, "record 4 is missing".to_owned()));
        removed.remove(3);
        assert_eq!(only_problem(&removed, &whole), (4, "records 4 to 5 are missing".to_owned()));

        let mut swapped = whole.clone();
        (swapped[1].1, swapped[1].2, swapped[2].1, swapped[2].2) =
            (whole[2].1.clone(), whole[2].2.clone(), whole[1].1.clone(), whole[1].2.clone());
        let report = verify(&swapped, Some(&whole), None);
        assert_eq!(report.problems[0].problem, "the record at place 2 is number 3: records were moved");
        assert_eq!(report.problems[1].problem, "the record at place 3 is number 2: records were moved");

        let mut cut = whole.clone();
        cut.truncate(4);
        assert_eq!(only_problem(&cut, &whole), (5, "records 5 to 6 are missing".to_owned()));
        // Cut off, with the head made to fit: only a copy of the head shows it.
        assert!(verify(&cut, Some(&cut), None).ok);
        let report = verify(&cut, Some(&cut), Some(&whole[5].2));
        assert!(report.problems[0].problem.contains("were cut off or rewritten"), "{report:?}");

        let mut added = whole.clone();
        let text = canonical(&json!({"sequence": 7}));
        added.push((7, text.clone(), link(&whole[5].2, &text)));
        assert!(only_problem(&added, &whole).1.contains("one was added"));
    }

    #[test]
    fn an_export_keeps_the_exact_text() {
        let (_, record, hash) = log(1).remove(0);
        let line = export_line(&record, &hash);
        assert_eq!(read_export_line(&line), Some((hash.as_str(), record.as_str())));
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["record"]["sequence"], 1);
        assert_eq!(read_export_line("{}"), None);
    }
}
