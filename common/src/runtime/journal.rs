//! Outputs as the journal keeps them: what was sent, byte for byte, so that it can be sent again.

use licet_schema::{Format, Output, Timestamp, entity::journal};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::decision::Decision;

/// One output. `reply_to` and `correlation_id` are not in it: they come from the delivery at hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredOutput {
    /// Whether it is the reply, or else an event.
    pub reply: bool,
    /// Its type.
    pub kind: String,
    /// Its message_id: made of the input's, so that what is sent again has the same.
    pub message_id: Uuid,
    /// Whether its body is postcard, or else JSON.
    pub postcard: bool,
    /// When it was decided, in seconds since 1970.
    pub timestamp_s: i64,
    /// Its body.
    pub body: Vec<u8>,
}

impl StoredOutput {
    /// Its content type.
    pub fn format(&self) -> Format {
        if self.postcard { Format::Postcard } else { Format::Json }
    }
}

/// The outputs in a journal row.
///
/// # Errors
/// The row's bytes are not ours.
pub fn outputs_of(row: &journal::Model) -> Result<Vec<StoredOutput>, String> {
    let damaged = |cause: &dyn std::fmt::Display| format!("journal row {} has unreadable outputs: {cause}", row.id);
    let outputs: Vec<_> = postcard::from_bytes(&row.outputs).map_err(|error| damaged(&error))?;
    // postcard reads past what it does not need, and numbers with leading zeros.
    if outputs_to_bytes(&outputs)? != row.outputs {
        return Err(damaged(&"they are not as they were written"));
    }
    Ok(outputs)
}

pub(super) fn outputs_to_bytes(outputs: &[StoredOutput]) -> Result<Vec<u8>, String> {
    postcard::to_stdvec(outputs).map_err(|error| format!("the outputs cannot be stored: {error}"))
}

/// The outputs of a decision: the reply in the request's encoding, its public form as an event,
/// and the other events.
pub(super) fn of_decision(
    input: Uuid,
    format: Format,
    now: Timestamp,
    decision: &Decision,
) -> Result<Vec<StoredOutput>, String> {
    let mut outputs = Vec::with_capacity(2 + decision.events.len());
    if let Some(reply) = &decision.reply {
        outputs.push(output(input, format, now, reply, true)?);
    }
    let reply = decision.reply.as_ref().filter(|_| decision.announced);
    let announced = reply.and_then(Output::public);
    for event in announced.iter().chain(&decision.events) {
        outputs.push(output(input, Format::Json, now, event, false)?);
    }
    Ok(outputs)
}

fn output(input: Uuid, format: Format, now: Timestamp, output: &Output, reply: bool) -> Result<StoredOutput, String> {
    let kind = output.kind();
    let name = if reply { format!("reply:{kind}") } else { format!("event:{kind}:{}", output.subject()) };
    Ok(StoredOutput {
        reply,
        kind: kind.to_owned(),
        message_id: Uuid::new_v5(&input, name.as_bytes()),
        postcard: format == Format::Postcard,
        timestamp_s: now.as_seconds(),
        body: output.encode(format).map_err(|error| error.to_string())?,
    })
}

/// The reply that a used message_id earns. It is not journaled: the id belongs to another message.
pub(super) fn refusal(namespace: Uuid, name: &str, format: Format, now: Timestamp, output: &Output) -> StoredOutput {
    StoredOutput {
        reply: true,
        kind: output.kind().to_owned(),
        message_id: Uuid::new_v5(&namespace, name.as_bytes()),
        postcard: format == Format::Postcard,
        timestamp_s: now.as_seconds(),
        // A refusal holds text alone, which both encodings can write.
        body: output.encode(format).unwrap_or_default(),
    }
}
