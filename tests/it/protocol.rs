//! `docs/protocol.md`, checked against the types: its sections, field tables, examples, limits and
//! refusal codes.
//!
//! The chapters Requests, Replies, Events, Object types and Enumerations have one section
//! (`### name`) for each type. The first table of a section lists the fields or values of the type.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
};

use licet_schema::{
    Code, Output, Request,
    message::Privilege,
    token::{CertificateClaims, ContainerClaims, LicenseClaims},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

const PROTOCOL: &str = include_str!("../../docs/protocol.md");

const REQUESTS: &str = "Requests";
const REPLIES: &str = "Replies";
const EVENTS: &str = "Events";
const OBJECTS: &str = "Object types";
const ENUMERATIONS: &str = "Enumerations";
const TYPES: &str = "Types";
const CODES: &str = "Refusal codes";
const TOKENS: &str = "Tokens";

/// Separates the errors of a chain in a text.
const ERROR_SEPARATOR: &str = " < ";
/// The largest integer on the wire.
const INTEGER_MAX: i64 = (1 << 53) - 1;

#[test]
fn the_message_chapters_have_exactly_one_section_for_each_message_type() {
    let of_chapters = |chapters: &[&str]| -> Vec<_> {
        sections().into_iter().filter(|one| chapters.contains(&one.chapter)).filter_map(|one| one.title).collect()
    };
    assert_eq!(of_chapters(&[REQUESTS]), Request::KINDS);
    let outputs = Output::KINDS.iter().copied().filter(|kind| !is_request(kind));
    assert_eq!(of_chapters(&[REPLIES, EVENTS]), outputs.collect::<Vec<_>>());
    let kinds: BTreeSet<_> = Request::KINDS.iter().chain(Output::KINDS).copied().collect();
    let all: Vec<_> = sections().into_iter().filter_map(|one| one.title).collect();
    assert_eq!(all.iter().filter(|title| kinds.contains(*title)).count(), kinds.len(), "each type has one section");
}

#[test]
fn every_example_is_a_valid_body_and_survives_a_round_trip() {
    for (kind, body) in examples() {
        if let Err(error) = read_request(kind, &body) {
            panic!("an example of {kind} is invalid: {error}\n{body}");
        }
        match round_trip(kind, &body) {
            Ok(again) => assert_eq!(again, body, "{kind}"),
            Err(error) => panic!("an example of {kind} is invalid: {error}\n{body}"),
        }
    }
    let shown: BTreeSet<_> = examples().into_iter().map(|(kind, _)| kind).collect();
    let kinds: BTreeSet<_> = Request::KINDS.iter().chain(Output::KINDS).copied().collect();
    assert_eq!(shown, kinds, "each type has an example");
    let privileges: Vec<_> =
        examples_of("license.returned").iter().map(|body| body["privilege"]["kind"].clone()).collect();
    assert_eq!(privileges, Privilege::ALL.map(|privilege| json!(privilege.as_str())), "one example per privilege");
}

#[test]
fn the_field_tables_list_exactly_the_fields_of_the_types_in_their_order() {
    let mut walk = Walk::default();
    for (kind, body) in examples() {
        let again = |body: &Value| round_trip(kind, body);
        walk.visit(&Body { decode: &again, example: &body }, "", &message_section(kind));
    }
    let documented = |chapter: &str| -> BTreeSet<_> {
        sections().into_iter().filter(|one| one.chapter == chapter).filter_map(|one| one.title).collect()
    };
    assert_eq!(walk.objects, documented(OBJECTS), "the documented object types are exactly those in the examples");
    assert_eq!(
        walk.enumerations,
        documented(ENUMERATIONS),
        "the documented enumerations are exactly those in the examples"
    );
}

#[test]
fn every_field_of_a_reply_or_event_is_shown_in_an_example() {
    for kind in Output::KINDS {
        let shown: BTreeSet<_> = examples_of(kind).iter().flat_map(field_names).collect();
        let fields = fields(&message_section(kind)).into_iter().map(|field| field.name.to_owned());
        assert_eq!(fields.filter(|field| !shown.contains(field)).collect::<Vec<_>>(), [""; 0], "{kind}");
    }
}

#[test]
fn the_limits_in_the_table_of_types_match_the_code() {
    let documented: Vec<_> = scalar_types();
    let probed: Vec<_> = documented.iter().filter(|name| probes(name).is_some()).copied().collect();
    assert_eq!(probed, documented, "each type has probes");
    let mut left: BTreeSet<_> = documented.into_iter().collect();
    for (kind, body) in examples() {
        probe_scalars(kind, &body, "", &message_section(kind), &mut left);
    }
    assert_eq!(left, BTreeSet::new(), "each type is the type of a field");
}

#[test]
fn a_section_states_whether_its_reply_is_also_an_event_and_which_fields_the_event_lacks() {
    for kind in Output::KINDS.iter().filter(|kind| !is_request(kind)) {
        let section = message_section(kind);
        let sent_as = section.item("Sent as").unwrap_or_else(|| panic!("{kind} does not say how it is sent"));
        assert_eq!(sent_as.contains("reply"), section.chapter == REPLIES, "{kind}: {sent_as}");
        let mut lost = BTreeSet::new();
        let bodies = examples_of(kind);
        for body in &bodies {
            let output = Output::decode(kind, body.to_string().as_bytes()).expect("an example");
            let public = output.public();
            assert_eq!(public.is_some(), sent_as.contains("event"), "{kind}: {sent_as}");
            if let Some(public) = public {
                let public: Value = serde_json::from_slice(&public.encode().expect("JSON")).expect("JSON");
                lost.extend(field_names(body).difference(&field_names(&public)).cloned());
            }
        }
        let named = section.item("Absent from the event").map(|text| code_words(&text)).unwrap_or_default();
        assert_eq!(lost, named.into_iter().collect::<BTreeSet<_>>(), "{kind}");
    }
}

#[test]
fn the_table_of_refusal_codes_lists_exactly_the_codes_of_the_contract() {
    let documented: Vec<_> = code_rows().into_iter().map(|(code, _)| code).collect();
    let codes: Vec<_> = Code::ALL.iter().map(|code| code.as_str().to_owned()).collect();
    assert_eq!(documented, codes);
}

#[test]
fn the_sections_of_requests_and_the_table_of_refusal_codes_agree() {
    let mut by_code: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for kind in Request::KINDS {
        let section = message_section(kind);
        let codes = section.item("Refusal codes").unwrap_or_else(|| panic!("{kind} names no refusal codes"));
        for code in code_words(&codes) {
            by_code.entry(code).or_default().push((*kind).to_owned());
        }
    }
    let table: BTreeMap<_, _> = code_rows().into_iter().filter(|(_, requests)| !requests.is_empty()).collect();
    assert_eq!(by_code, table);
}

#[test]
fn the_replies_and_events_that_a_request_names_exist() {
    for kind in Request::KINDS {
        let section = message_section(kind);
        for key in ["Reply", "Events"] {
            let text = section.item(key).unwrap_or_else(|| panic!("{kind} names no {key}"));
            for word in code_words(&text).into_iter().filter(|word| word.contains('.')) {
                assert!(Output::KINDS.contains(&word.as_str()), "{kind}: {key} names {word}");
            }
        }
    }
}

#[test]
fn the_tables_of_claims_list_exactly_the_claims_of_the_tokens() {
    check_claims::<CertificateClaims>("CertificateClaims");
    check_claims::<ContainerClaims>("ContainerClaims");
    check_claims::<LicenseClaims>("LicenseClaims");
}

/// Checks the table and the example of one kind of token.
fn check_claims<C: Serialize + DeserializeOwned>(title: &str) {
    let section = section(TOKENS, title);
    let again = |body: &Value| -> Result<Value, String> {
        let claims: C = serde_json::from_str(&body.to_string()).map_err(|error| error.to_string())?;
        serde_json::to_value(&claims).map_err(|error| error.to_string())
    };
    let [example]: [Value; 1] = section.examples().try_into().expect("one example");
    assert_eq!(again(&example).expect("claims"), example, "{title}");
    let body = Body { decode: &again, example: &example };
    assert_eq!(body.known_fields(""), names(&fields(&section)), "{title}");
    check_required(&body, "", &fields(&section));
}

/// A section of the document: the text between two headings.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    /// The heading of the chapter (`##`).
    pub(crate) chapter: &'static str,
    /// The heading of the section (`###`). `None` for the introduction of the chapter.
    pub(crate) title: Option<&'static str>,
    lines: Vec<&'static str>,
}

impl Section {
    /// Checks the header of the section's first table, and returns the rows below it.
    fn rows(&self, header: &[&str]) -> Vec<Vec<&'static str>> {
        let lines = self.lines.iter().copied();
        let table = lines.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
        let mut rows = table.map(cells);
        assert_eq!(rows.next().as_deref(), Some(header), "the header of {:?}", self.title);
        assert!(rows.next().is_some(), "the separator below the header of {:?}", self.title);
        let rows: Vec<_> = rows.collect();
        for row in &rows {
            assert_eq!(row.len(), header.len(), "{:?}: {row:?}", self.title);
        }
        rows
    }

    /// The bodies in the JSON blocks of the section.
    pub(crate) fn examples(&self) -> Vec<Value> {
        let mut examples = Vec::new();
        let mut lines = self.lines.iter();
        while lines.any(|line| *line == "```json") {
            let block: Vec<_> = lines.by_ref().take_while(|line| **line != "```").copied().collect();
            let example = block.join("\n");
            examples.push(serde_json::from_str(&example).unwrap_or_else(|error| panic!("{error} in {example}")));
        }
        examples
    }

    /// The text of the list item that begins with `key` and a colon.
    fn item(&self, key: &str) -> Option<String> {
        let start = format!("- {key}: ");
        let mut lines = self.lines.iter().skip_while(|line| !line.starts_with(&start));
        let mut text = lines.next()?.strip_prefix(&start)?.to_owned();
        for line in lines.take_while(|line| line.starts_with("  ")) {
            text.push(' ');
            text.push_str(line.trim());
        }
        Some(text)
    }
}

/// The sections of the document, in their order.
pub(crate) fn sections() -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut in_block = false;
    for line in PROTOCOL.lines() {
        in_block ^= line.starts_with("```");
        let chapter = line.strip_prefix("## ").filter(|_| !in_block);
        let title = line.strip_prefix("### ").filter(|_| !in_block);
        if let Some(chapter) = chapter {
            sections.push(Section { chapter, title: None, lines: Vec::new() });
        } else if title.is_some() {
            let chapter = sections.last().expect("a section is in a chapter").chapter;
            sections.push(Section { chapter, title, lines: Vec::new() });
        } else if let Some(last) = sections.last_mut() {
            last.lines.push(line);
        }
    }
    sections
}

fn section(chapter: &str, title: &str) -> Section {
    let found = sections().into_iter().find(|one| one.chapter == chapter && one.title == Some(title));
    found.unwrap_or_else(|| panic!("the chapter {chapter:?} has no section {title:?}"))
}

fn introduction(chapter: &str) -> Section {
    let found = sections().into_iter().find(|one| one.chapter == chapter && one.title.is_none());
    found.unwrap_or_else(|| panic!("there is no chapter {chapter:?}"))
}

/// The section about a message type.
pub(crate) fn message_section(kind: &str) -> Section {
    let found = sections().into_iter().find(|one| is_message_chapter(one.chapter) && one.title == Some(kind));
    found.unwrap_or_else(|| panic!("{kind} has no section"))
}

fn is_message_chapter(chapter: &str) -> bool {
    [REQUESTS, REPLIES, EVENTS].contains(&chapter)
}

/// The examples of messages, with their types.
pub(crate) fn examples() -> Vec<(&'static str, Value)> {
    let of_messages = sections().into_iter().filter(|one| is_message_chapter(one.chapter));
    let with_kind = |section: Section| {
        let kind = section.title?;
        Some(section.examples().into_iter().map(move |example| (kind, example)))
    };
    of_messages.filter_map(with_kind).flatten().collect()
}

/// The examples of one message type.
pub(crate) fn examples_of(kind: &str) -> Vec<Value> {
    message_section(kind).examples()
}

/// A row of a field table.
#[derive(Clone, Debug)]
struct Field {
    name: &'static str,
    /// The name of its type, without `[]`.
    kind: &'static str,
    is_array: bool,
    required: bool,
}

fn fields(section: &Section) -> Vec<Field> {
    let field = |row: Vec<&'static str>| {
        let required = match row[2] {
            "yes" => true,
            "no" => false,
            other => panic!("{:?}: {:?} is required {other:?}", section.title, row[0]),
        };
        let (kind, is_array) = row[1].strip_suffix("[]").map_or((row[1], false), |kind| (kind, true));
        Field { name: row[0].trim_matches('`'), kind, is_array, required }
    };
    section.rows(&["field", "type", "required", "description"]).into_iter().map(field).collect()
}

fn names(fields: &[Field]) -> Vec<String> {
    fields.iter().map(|field| field.name.to_owned()).collect()
}

/// The types in the table of types, in its order.
fn scalar_types() -> Vec<&'static str> {
    let rows = introduction(TYPES).rows(&["type", "JSON", "values"]);
    rows.into_iter().map(|row| row[0].trim_matches('`')).collect()
}

/// The refusal codes in the order of their table, with the requests that each is specific to.
fn code_rows() -> Vec<(String, Vec<String>)> {
    let rows = introduction(CODES).rows(&["code", "meaning", "what the sender should do", "requests"]);
    rows.into_iter().map(|row| (row[0].trim_matches('`').to_owned(), code_words(row[3]))).collect()
}

/// A body that can be changed and decoded again.
struct Body<'a> {
    /// Decodes and encodes a body.
    decode: &'a dyn Fn(&Value) -> Result<Value, String>,
    example: &'a Value,
}

impl Body<'_> {
    /// The example after a change of the part at `pointer`.
    fn changed(&self, pointer: &str, change: impl FnOnce(&mut Value)) -> Result<Value, String> {
        let mut body = self.example.clone();
        change(body.pointer_mut(pointer).expect("a part of the example"));
        (self.decode)(&body)
    }

    fn part(&self, pointer: &str) -> &Value {
        self.example.pointer(pointer).expect("a part of the example")
    }

    /// The fields that the object at `pointer` can have. The error for an unknown field lists them.
    fn known_fields(&self, pointer: &str) -> Vec<String> {
        let error = self.changed(pointer, |object| object["?"] = json!(true)).expect_err("an unknown field");
        let expected = after(&error, "unknown field `?`, expected ");
        code_words(expected)
    }

    /// The values that the word at `pointer` can have. The error for an unknown word lists them.
    fn known_words(&self, pointer: &str) -> Vec<String> {
        let error = self.changed(pointer, |word| *word = json!("?")).expect_err("an unknown word");
        let expected = after(&error, "is not a known value: use one of ");
        expected.split(", ").map(str::to_owned).collect()
    }
}

/// The text after `start` in an error, up to the position that serde_json adds or the next error of
/// the chain.
fn after<'a>(error: &'a str, start: &str) -> &'a str {
    let (_, rest) = error.split_once(start).unwrap_or_else(|| panic!("{error:?} should contain {start:?}"));
    let rest = rest.split_once(" at line ").map_or(rest, |(expected, _)| expected);
    rest.split_once(ERROR_SEPARATOR).map_or(rest, |(expected, _)| expected)
}

/// Compares bodies with the sections about their types, and records which sections were used.
#[derive(Default)]
struct Walk {
    objects: BTreeSet<&'static str>,
    enumerations: BTreeSet<&'static str>,
}

impl Walk {
    fn visit(&mut self, body: &Body<'_>, pointer: &str, section: &Section) {
        let fields = fields(section);
        let title = section.title.expect("a type has a section");
        assert_eq!(body.known_fields(pointer), names(&fields), "the fields of {title}");
        check_required(body, pointer, &fields);
        for field in fields {
            for pointer in parts(body, pointer, &field) {
                let found = sections().into_iter().find(|one| one.title == Some(field.kind));
                match found.as_ref().map(|section| (section.chapter, section)) {
                    Some((OBJECTS, section)) => {
                        self.objects.insert(field.kind);
                        self.visit(body, &pointer, section);
                    }
                    Some((ENUMERATIONS, section)) => {
                        self.enumerations.insert(field.kind);
                        let documented = section.rows(&["value", "meaning"]);
                        let documented: Vec<_> = documented.iter().map(|row| row[0].trim_matches('`')).collect();
                        assert_eq!(body.known_words(&pointer), documented, "the values of {}", field.kind);
                    }
                    _ => assert!(
                        scalar_types().contains(&field.kind),
                        "{title}: the type {} of {} is not documented",
                        field.kind,
                        field.name
                    ),
                }
            }
        }
    }
}

/// Checks that a body can be decoded without a field if and only if the field is not required.
fn check_required(body: &Body<'_>, pointer: &str, fields: &[Field]) {
    for field in fields {
        if body.part(pointer).get(field.name).is_some() {
            let without = body.changed(pointer, |object| {
                object.as_object_mut().expect("an object").remove(field.name);
            });
            assert_eq!(
                without.is_err(),
                field.required,
                "the document and the code disagree on whether {} is required",
                field.name
            );
        }
    }
}

/// The pointers to the values of a field, or to each element if the field is an array. Empty if the
/// field is absent.
fn parts(body: &Body<'_>, pointer: &str, field: &Field) -> Vec<String> {
    let pointer = format!("{pointer}/{}", field.name);
    match body.example.pointer(&pointer) {
        None => Vec::new(),
        Some(Value::Array(elements)) => {
            assert!(field.is_array, "{} is an array", field.name);
            (0..elements.len()).map(|index| format!("{pointer}/{index}")).collect()
        }
        Some(_) => {
            assert!(!field.is_array, "{} is not an array", field.name);
            vec![pointer]
        }
    }
}

/// Sets each field of a body to values at and beyond the limits of its type.
fn probe_scalars(kind: &str, example: &Value, pointer: &str, section: &Section, left: &mut BTreeSet<&'static str>) {
    let again = |body: &Value| round_trip(kind, body);
    let body = Body { decode: &again, example };
    for field in fields(section) {
        for pointer in parts(&body, pointer, &field) {
            if let Some((good, bad)) = probes(field.kind) {
                left.remove(field.kind);
                for value in good {
                    let result = body.changed(&pointer, |part| *part = value.clone());
                    assert!(result.is_ok(), "{kind}{pointer} is a {} and refuses {value}: {result:?}", field.kind);
                }
                // The check of a request refuses other providers. An event repeats an accepted one.
                let checked = field.kind == "Provider";
                for value in bad.into_iter().filter(|_| !checked || is_request(kind)) {
                    let mut result = body.changed(&pointer, |part| *part = value.clone());
                    if let (true, Ok(body)) = (checked, &result) {
                        result = read_request(kind, body).map(|()| body.clone());
                    }
                    assert!(result.is_err(), "{kind}{pointer} is a {} and accepts {value}", field.kind);
                }
            } else if let Some(section) = sections().into_iter().find(|one| one.title == Some(field.kind))
                && section.chapter == OBJECTS
            {
                probe_scalars(kind, example, &pointer, &section, left);
            }
        }
    }
}

/// The values that a type in the table of types accepts, and the values that it refuses.
fn probes(kind: &str) -> Option<(Vec<Value>, Vec<Value>)> {
    let text = |length: usize| json!("ü".repeat(length));
    let ascii = |length: usize| json!("~".repeat(length));
    let ascii_letters = |length: usize| json!("z".repeat(length));
    let inside = |special: &str| json!(format!("a{special}b"));
    let integers = |least: i64, most: i64| {
        (vec![json!(least), json!(most)], vec![json!(least - 1), json!(most + 1), json!(1.0), json!("1")])
    };
    let printable = |most: usize| {
        let bad = vec![json!(""), text(most + 1), json!(" a"), json!("a "), json!("a\tb"), json!(1)];
        (vec![text(1), text(most), json!("a b")], bad)
    };
    Some(match kind {
        "Boolean" => (vec![json!(true), json!(false)], vec![json!("true"), json!(1)]),
        "String" | "Token" => (vec![json!(""), text(20_000), json!(" \u{0}")], vec![json!(1)]),
        "Name" => {
            let (good, mut bad) = printable(128);
            bad.push(json!("u\u{308}"));
            bad.extend(["\u{200d}", "\u{2028}", "\u{2029}", "\u{e000}", "\u{378}"].map(inside));
            (good, bad)
        }
        "Provider" => (
            vec![json!("a"), json!("0"), json!("bank-2.eu_x"), ascii_letters(64)],
            vec![json!(""), ascii_letters(65), json!("Bank"), json!("-a"), json!("a b"), json!("\u{fc}"), json!(1)],
        ),
        "Text" => {
            let (mut good, mut bad) = printable(500);
            good.extend([json!("u\u{308}"), json!("a\u{200d}b"), json!("a\u{e000}b"), json!("a\u{378}b")]);
            bad.extend(["\u{2028}", "\u{2029}", "\u{202a}", "\u{202e}", "\u{2066}", "\u{2069}"].map(inside));
            (good, bad)
        }
        "ExternalId" => (vec![json!("!"), ascii(255)], vec![json!(""), ascii(256), json!("a b"), json!("ü"), json!(1)]),
        "Uuid" => (vec![json!("019cadfd-8900-7b86-9dc1-70dc2e43224e")], vec![json!("1"), json!(""), json!(1)]),
        "Timestamp" => (
            vec![json!("2026-03-02T10:00:00Z"), json!("2026-03-02T10:00:00.123Z")],
            vec![json!("2026-03-02T10:00:00+01:00"), json!("2026-03-02"), json!(1_772_445_600)],
        ),
        "Currency" => (vec![json!("USD")], vec![json!("usd"), json!("USDX"), json!("")]),
        "Code" => (vec![json!("malformed"), json!("amount_mismatch")], vec![json!("?"), json!("Malformed")]),
        "Count" => integers(0, INTEGER_MAX),
        "Grants" | "Version" => integers(1, INTEGER_MAX),
        "Seconds" => integers(1, 3_162_240_000),
        "Integer" => (vec![json!(-1), json!(0), json!(1)], vec![json!(1.0), json!("1")]),
        _ => return None,
    })
}

/// Whether a message type is the type of a request. `sweep.due` is, although Licet also sends it.
fn is_request(kind: &str) -> bool {
    Request::KINDS.contains(&kind)
}

/// Decodes a body of a message type and encodes it again.
fn round_trip(kind: &str, body: &Value) -> Result<Value, String> {
    let bytes = body.to_string().into_bytes();
    let again = if is_request(kind) {
        Request::decode(kind, &bytes).map_err(|error| with_sources(&error))?.encode()
    } else {
        Output::decode(kind, &bytes).map_err(|error| with_sources(&error))?.encode()
    };
    serde_json::from_slice(&again.map_err(|error| with_sources(&error))?).map_err(|error| error.to_string())
}

/// Reads a request as a worker does, with the checks that concern several fields.
fn read_request(kind: &str, body: &Value) -> Result<(), String> {
    if is_request(kind) {
        Request::read(kind, body.to_string().as_bytes()).map_err(|error| with_sources(&error))?;
    }
    Ok(())
}

/// An error with its sources, innermost first.
fn with_sources(error: &(dyn Error + 'static)) -> String {
    let mut chain = vec![error.to_string()];
    let mut source = error.source();
    while let Some(error) = source {
        chain.push(error.to_string());
        source = error.source();
    }
    chain.reverse();
    chain.join(ERROR_SEPARATOR)
}

/// The cells of a table row.
fn cells(line: &'static str) -> Vec<&'static str> {
    let line = line.strip_prefix('|').and_then(|line| line.trim_end().strip_suffix('|'));
    line.unwrap_or_else(|| panic!("a row begins and ends with |")).split('|').map(str::trim).collect()
}

/// The words between backticks.
fn code_words(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The names of all fields of a body and of its parts.
fn field_names(body: &Value) -> BTreeSet<String> {
    match body {
        Value::Object(object) => {
            let own = object.keys().cloned();
            own.chain(object.values().flat_map(field_names)).collect()
        }
        Value::Array(elements) => elements.iter().flat_map(field_names).collect(),
        _ => BTreeSet::new(),
    }
}
