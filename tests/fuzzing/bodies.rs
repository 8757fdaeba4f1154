//! Bodies and content types of messages in both directions, and the outputs stored in the journal.
//!
//! The input of `request` and `output` is a message type, a line feed and a body.

use std::fmt::Debug;

use licet_common::runtime::{StoredOutput, outputs_of};
use licet_schema::{
    Output, Request, Timestamp,
    encoding::{CONTENT_TYPE, DecodeError, EncodeError, check_content_type},
    entity::{Digest, journal},
};
use serde_json::Value;
use uuid::Uuid;

type Read<T> = fn(&str, &[u8]) -> Result<T, DecodeError>;
type Write<T> = fn(&T) -> Result<Vec<u8>, EncodeError>;

/// An accepted request has the same meaning as its JSON body.
pub(super) fn request(bytes: &[u8]) {
    body(bytes, Request::read, Request::encode);
}

/// An output that a client accepts has the same meaning as its JSON body.
pub(super) fn output(bytes: &[u8]) {
    body(bytes, Output::decode, Output::encode);
}

fn body<T: PartialEq + Debug>(bytes: &[u8], read: Read<T>, write: Write<T>) {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let (Ok(kind), body) = (std::str::from_utf8(&bytes[..end]), &bytes[end + 1..]) else { return };
    let Ok(value) = read(kind, body) else { return };
    let again = write(&value).expect("a body that was read can be written");
    let [sent, understood] =
        [body, &again].map(|json| serde_json::from_slice(json).expect("any JSON reader can read it"));
    assert!(same_meaning(&without_nulls(sent), &understood), "{kind} {body:?} was understood as {understood}");
    assert_eq!(read(kind, &again).expect("a body that Licet wrote can be read"), value);
}

/// Removes fields that are null, because they count as absent.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let present = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(present.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// Whether two values have the same meaning. Ids and times can be written in several ways.
fn same_meaning(sent: &Value, understood: &Value) -> bool {
    match (sent, understood) {
        (Value::Object(sent), Value::Object(understood)) => {
            let mut fields = sent.iter().map(|(name, sent)| (sent, understood.get(name)));
            sent.len() == understood.len()
                && fields.all(|(sent, other)| other.is_some_and(|understood| same_meaning(sent, understood)))
        }
        (Value::Array(sent), Value::Array(understood)) => {
            let mut pairs = sent.iter().zip(understood);
            sent.len() == understood.len() && pairs.all(|(sent, understood)| same_meaning(sent, understood))
        }
        (Value::String(one), Value::String(other)) if one != other => {
            let ids = [one, other].map(|text| Uuid::parse_str(text).ok());
            let times = [sent, understood].map(|text| serde_json::from_value::<Timestamp>(text.clone()).ok());
            (ids[0].is_some() && ids[0] == ids[1]) || (times[0].is_some() && times[0] == times[1])
        }
        _ => sent == understood,
    }
}

/// Only content types of JSON are accepted. Any other content type is refused as malformed.
pub(super) fn content_type(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match check_content_type(Some(text)) {
        Ok(()) => assert!(text.trim().to_ascii_lowercase().starts_with(CONTENT_TYPE), "{text:?}"),
        Err(error) => assert_eq!(error.code().as_str(), "malformed"),
    }
}

/// Outputs that are read from a journal row encode to exactly the stored bytes. Any other row is
/// refused as damaged.
pub(super) fn journal(bytes: &[u8]) {
    let row = journal::Model {
        id: Uuid::nil(),
        kind: String::new(),
        sender: None,
        digest: Digest([0; 32]),
        subject: None,
        code: None,
        decided_at: Timestamp::from_millis(0),
        position: 0,
        outputs: bytes.to_vec(),
        changes: None,
    };
    let Ok(outputs) = outputs_of(&row) else { return };
    for StoredOutput { kind, body, .. } in &outputs {
        output(&[kind.as_bytes(), b"\n", body].concat());
    }
    let again = postcard::to_stdvec(&outputs).expect("outputs that were read can be written");
    assert_eq!(again, bytes, "two different rows contain {outputs:?}");
}
