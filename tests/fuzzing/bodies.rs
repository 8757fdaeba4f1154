//! Bodies of messages, both ways and in both encodings, and outputs as the journal keeps them.
//!
//! The input of a body's target is its type, a line feed, and the body.

use licet_common::runtime::{StoredOutput, outputs_of};
use licet_schema::{DecodeError, Format, Output, Request, Timestamp, entity::journal, format::EncodeError};
use serde_json::Value;
use uuid::Uuid;

type Read<T> = fn(&str, Format, &[u8]) -> Result<T, DecodeError>;
type Write<T> = fn(&T, Format) -> Result<Vec<u8>, EncodeError>;

/// A request is read in one encoding at most, and means what it says.
pub(super) fn request(bytes: &[u8]) {
    body(bytes, Request::read, Request::encode);
}

/// The same of what Licet sends, which clients read.
pub(super) fn output(bytes: &[u8]) {
    body(bytes, Output::decode, Output::encode);
}

fn body<T: PartialEq + std::fmt::Debug>(bytes: &[u8], read: Read<T>, write: Write<T>) {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let (Ok(kind), body) = (std::str::from_utf8(&bytes[..end]), &bytes[end + 1..]) else { return };
    let (json, postcard) = (read(kind, Format::Json, body), read(kind, Format::Postcard, body));
    assert!(json.is_err() || postcard.is_err(), "{kind} {body:?} is read in both encodings");
    if let Ok(value) = json {
        let again = write(&value, Format::Json).expect("what was read as JSON can be written as JSON");
        let [said, meant] = [body, &again].map(|json| serde_json::from_slice(json).expect("any reader can read it"));
        assert!(same(&without_nulls(said), &meant), "{kind} {body:?} was understood as {meant}");
        assert_eq!(read(kind, Format::Json, &again).expect("our own JSON"), value);
        let postcard = write(&value, Format::Postcard).expect("postcard can write anything");
        assert_eq!(read(kind, Format::Postcard, &postcard).expect("our own postcard"), value);
    }
    if let Ok(value) = postcard {
        let again = write(&value, Format::Postcard).expect("what was read can be written");
        assert_eq!(again, body, "{kind} {value:?} has two byte strings");
        // A time after the year 9999 has none.
        if let Ok(json) = write(&value, Format::Json) {
            assert_eq!(read(kind, Format::Json, &json).expect("our own JSON"), value);
        }
    }
}

/// Fields that are null are absent.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let there = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(there.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// Whether two readings say the same; an id and a time may be spelled in several ways.
fn same(said: &Value, meant: &Value) -> bool {
    match (said, meant) {
        (Value::Object(said), Value::Object(meant)) => {
            said.len() == meant.len()
                && said.iter().all(|(name, said)| meant.get(name).is_some_and(|meant| same(said, meant)))
        }
        (Value::Array(said), Value::Array(meant)) => {
            said.len() == meant.len() && said.iter().zip(meant).all(|(said, meant)| same(said, meant))
        }
        (Value::String(one), Value::String(other)) if one != other => {
            let ids = [one, other].map(|text| Uuid::parse_str(text).ok());
            let times = [said, meant].map(|text| serde_json::from_value::<Timestamp>(text.clone()).ok());
            (ids[0].is_some() && ids[0] == ids[1]) || (times[0].is_some() && times[0] == times[1])
        }
        _ => said == meant,
    }
}

/// Two content types are spoken, and none at all.
pub(super) fn content_type(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Format::of(Some(text)) {
        Ok(format) => assert_eq!(format.content_type(), text),
        Err(error) => assert_eq!(error.code().as_str(), "malformed"),
    }
}

/// A journal row's outputs are exactly what was stored, or the row is damaged.
pub(super) fn journal(bytes: &[u8]) {
    let row = journal::Model {
        id: Uuid::nil(),
        kind: String::new(),
        sender: None,
        digest: Vec::new(),
        subject: None,
        code: None,
        decided_at: 0,
        outputs: bytes.to_vec(),
    };
    let Ok(outputs) = outputs_of(&row) else { return };
    for StoredOutput { kind, body, .. } in &outputs {
        output(&[kind.as_bytes(), b"\n", body].concat());
    }
    let again = postcard::to_stdvec(&outputs).expect("what was read can be written");
    assert_eq!(again, bytes, "two rows hold {outputs:?}");
}
