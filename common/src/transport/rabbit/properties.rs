//! Converts between lapin's message properties and the transport's [`Properties`].

use std::collections::BTreeMap;

use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::transport::{Death, Delivery, Properties};

const PERSISTENT: u8 = 2;

/// Converts a delivery of lapin into a delivery of the transport.
pub(super) fn from_lapin(delivery: lapin::message::Delivery) -> Delivery {
    let named = |value: &Option<ShortString>| value.as_ref().map(|text| text.as_str().to_owned());
    let properties = &delivery.properties;
    let mut redeliveries = u32::from(delivery.redelivered);
    let mut headers = BTreeMap::new();
    for (name, value) in properties.headers().iter().flat_map(|table| table.inner()) {
        if name.as_str() == "x-delivery-count" {
            redeliveries = number(value).unwrap_or(redeliveries);
        }
        if let Some(value) = text(value) {
            headers.insert(name.as_str().to_owned(), value);
        }
    }
    Delivery {
        tag: delivery.delivery_tag,
        exchange: delivery.exchange.as_str().to_owned(),
        routing_key: delivery.routing_key.as_str().to_owned(),
        redeliveries,
        properties: Properties {
            message_id: named(properties.message_id()),
            kind: named(properties.kind()),
            content_type: named(properties.content_type()),
            reply_to: named(properties.reply_to()),
            correlation_id: named(properties.correlation_id()),
            user_id: named(properties.user_id()),
            app_id: named(properties.app_id()),
            timestamp: *properties.timestamp(),
            headers,
        },
        death: properties.headers().as_ref().and_then(newest_death),
        body: Bytes::from(delivery.data),
    }
}

/// The newest entry of the header `x-death`, which the broker puts first.
fn newest_death(headers: &FieldTable) -> Option<Death> {
    let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get("x-death") else { return None };
    let Some(AMQPValue::FieldTable(death)) = deaths.as_slice().first() else { return None };
    let keys = match death.inner().get("routing-keys") {
        Some(AMQPValue::FieldArray(keys)) => keys.as_slice(),
        _ => &[],
    };
    Some(Death {
        reason: death.inner().get("reason").and_then(text)?,
        exchange: death.inner().get("exchange").and_then(text)?,
        routing_key: keys.first().and_then(text)?,
        at_s: match death.inner().get("time") {
            Some(AMQPValue::Timestamp(at_s)) => Some(*at_s),
            _ => None,
        },
    })
}

fn text(value: &AMQPValue) -> Option<String> {
    let AMQPValue::LongString(value) = value else { return None };
    std::str::from_utf8(value.as_bytes()).ok().map(str::to_owned)
}

/// The properties of a persistent message to publish. The publisher sets `user_id`.
pub(super) fn to_lapin(properties: &Properties) -> BasicProperties {
    let mut converted = BasicProperties::default().with_delivery_mode(PERSISTENT);
    if let Some(id) = &properties.message_id {
        converted = converted.with_message_id(short(id));
    }
    if let Some(kind) = &properties.kind {
        converted = converted.with_type(short(kind));
    }
    if let Some(content_type) = &properties.content_type {
        converted = converted.with_content_type(short(content_type));
    }
    if let Some(reply_to) = &properties.reply_to {
        converted = converted.with_reply_to(short(reply_to));
    }
    if let Some(id) = &properties.correlation_id {
        converted = converted.with_correlation_id(short(id));
    }
    if let Some(app) = &properties.app_id {
        converted = converted.with_app_id(short(app));
    }
    if let Some(timestamp) = properties.timestamp {
        converted = converted.with_timestamp(timestamp);
    }
    if !properties.headers.is_empty() {
        let mut headers = FieldTable::default();
        for (name, value) in &properties.headers {
            headers.insert(short(name), AMQPValue::LongString(value.as_str().into()));
        }
        converted = converted.with_headers(headers);
    }
    converted
}

fn number(value: &AMQPValue) -> Option<u32> {
    match value {
        AMQPValue::LongLongInt(number) => u32::try_from(*number).ok(),
        AMQPValue::LongInt(number) => u32::try_from(*number).ok(),
        AMQPValue::LongUInt(number) => Some(*number),
        AMQPValue::ShortInt(number) => u32::try_from(*number).ok(),
        AMQPValue::ShortShortInt(number) => u32::try_from(*number).ok(),
        AMQPValue::ShortUInt(number) => Some(u32::from(*number)),
        AMQPValue::ShortShortUInt(number) => Some(u32::from(*number)),
        _ => None,
    }
}

/// An AMQP short string. A text of more than 255 bytes becomes empty. This does not occur in
/// practice, because texts from other systems (correlation ids, reply queues) arrived as short
/// strings.
pub(super) fn short(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap_or_else(|_| ShortString::from(""))
}
