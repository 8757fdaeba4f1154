//! The judge: what was decided is held against the reference model, and what is told against what
//! was decided.

use std::collections::{BTreeMap, BTreeSet};

use licet_common::transport::Delivery;
use licet_schema::{Format, Output, Timestamp, topology};
use uuid::Uuid;

use super::{
    super::{
        model::Model,
        world::{Heard, is_journaled, normal},
    },
    upstream::Sent,
    watched::Decided,
};

/// An output that may be told, as it must look.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    reply: bool,
    kind: String,
    message_id: String,
    timestamp_s: Option<u64>,
    body: Vec<u8>,
}

#[derive(Debug, Default)]
pub(super) struct Judge {
    /// What may be told of each message.
    expected: BTreeMap<Uuid, Vec<Expected>>,
    /// What has a row in the journal.
    journaled: BTreeSet<Uuid>,
    /// The message_ids of what was told, and of what was answered in the last round.
    told: BTreeSet<String>,
    pub(super) decided: u64,
    pub(super) compared: u64,
}

impl Judge {
    pub(super) fn knows(&self, id: &Uuid) -> bool {
        self.journaled.contains(id)
    }

    /// Hears what a transaction decided, once it stands.
    pub(super) fn hear(&mut self, model: &mut Model, decided: Decided) -> Result<(), String> {
        let Decided { id, now_ms, request, decision } = decided;
        let number = id.as_u128();
        let public = decision.reply.as_ref().filter(|_| decision.announced).and_then(Output::public);
        let events: Vec<_> = public.into_iter().chain(decision.events).collect();
        let heard = Heard { reply: decision.reply, events };
        let mut expected = Vec::new();
        for (reply, output) in
            heard.reply.iter().map(|output| (true, output)).chain(heard.events.iter().map(|output| (false, output)))
        {
            expected.push(Expected::of(id, now_ms, reply, output)?);
        }
        if is_journaled(&request, &heard) && !self.journaled.insert(id) {
            return Err(format!("message {number}, {}, took effect twice", request.kind()));
        }
        self.expected.entry(id).or_default().extend(expected);
        self.decided += 1;
        let wanted = normal(model.hear(now_ms, id, &request, heard.reply.as_ref()));
        let heard = normal(heard);
        if wanted != heard {
            return Err(format!(
                "message {number} was\n  {request:#?}\nthe model expects\n  {wanted:#?}\nand it was decided\n  {heard:#?}"
            ));
        }
        Ok(())
    }

    /// Holds a delivery against what was decided.
    pub(super) fn compare(&mut self, reply: bool, delivery: &Delivery) -> Result<(), String> {
        let properties = &delivery.properties;
        let kind = properties.kind.clone().unwrap_or_default();
        let cause = properties.headers.get(topology::HEADER_CAUSE).and_then(|text| Uuid::parse_str(text).ok());
        let cause = cause.ok_or_else(|| format!("a {kind} does not say what caused it"))?;
        let got = Expected {
            reply,
            kind: kind.clone(),
            message_id: properties.message_id.clone().unwrap_or_default(),
            timestamp_s: properties.timestamp,
            body: delivery.body.to_vec(),
        };
        self.compared += 1;
        if !self.expected.get(&cause).is_some_and(|expected| expected.contains(&got)) {
            let body = String::from_utf8_lossy(&got.body).into_owned();
            return Err(format!("{kind} was told of message {}, and never so decided: {body}", cause.as_u128()));
        }
        self.told.insert(got.message_id);
        Ok(())
    }

    /// What is still missing when everybody rests: a decision, or an event.
    pub(super) fn at_rest(&self, sent: &[Sent]) -> Result<(), String> {
        let undecided = sent.iter().find(|sent| !self.expected.contains_key(&sent.id));
        if let Some(sent) = undecided {
            return Err(format!("message {}, {}, is lost", sent.id.as_u128(), sent.request.kind()));
        }
        for (id, expected) in &self.expected {
            let untold = expected.iter().find(|one| !one.reply && !self.told.contains(&one.message_id));
            if let Some(untold) = untold {
                return Err(format!("nobody was told {} of message {}", untold.kind, id.as_u128()));
            }
        }
        Ok(())
    }

    /// Forgets what was told: everything is asked for once more.
    pub(super) fn ask_again(&mut self) {
        self.told.clear();
    }

    /// Every message that has an answer was answered.
    pub(super) fn answered(&self) -> Result<(), String> {
        for (id, expected) in &self.expected {
            let mut replies = expected.iter().filter(|one| one.reply).peekable();
            if replies.peek().is_some() && !replies.any(|one| self.told.contains(&one.message_id)) {
                return Err(format!("message {} is not answered", id.as_u128()));
            }
        }
        Ok(())
    }
}

impl Expected {
    fn of(id: Uuid, now_ms: i64, reply: bool, output: &Output) -> Result<Self, String> {
        let kind = output.kind();
        let name = if reply { format!("reply:{kind}") } else { format!("event:{kind}:{}", output.subject()) };
        Ok(Self {
            reply,
            kind: kind.to_owned(),
            message_id: Uuid::new_v5(&id, name.as_bytes()).to_string(),
            timestamp_s: u64::try_from(Timestamp::from_millis(now_ms).as_seconds()).ok(),
            body: output.encode(Format::Json).map_err(|error| error.to_string())?,
        })
    }
}
