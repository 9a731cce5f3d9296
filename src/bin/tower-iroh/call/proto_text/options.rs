//! Options of fields, methods and all else, as text.

use prost_reflect::{DynamicMessage, Kind, Value};

/// A proto2 field's default as an option.
pub(super) fn defaults(value: &Option<String>, kind: &Kind) -> Vec<(String, String)> {
    let Some(value) = value else {
        return Vec::new();
    };
    let value = match kind {
        Kind::String => format!("{value:?}"),
        // It is escaped already.
        Kind::Bytes => format!("\"{value}\""),
        _ => value.clone(),
    };
    vec![("default".to_owned(), value)]
}

/// The options that are set, custom ones too, as names and values.
pub(super) fn options(options: &DynamicMessage) -> Vec<(String, String)> {
    let own = options
        .fields()
        .filter(|(field, _)| field.name() != "uninterpreted_option")
        .map(|(field, value)| (field.name().to_owned(), value, field.kind()));
    let custom = options.extensions().map(|(extension, value)| {
        let name = format!("(.{})", extension.full_name());
        (name, value, extension.kind())
    });
    let all = own.chain(custom);
    let all = all.flat_map(|(name, value, kind)| match value {
        Value::List(values) => values
            .iter()
            .map(|value| (name.clone(), option_value(value, &kind)))
            .collect(),
        value => vec![(name, option_value(value, &kind))],
    });
    all.collect()
}

fn option_value(value: &Value, kind: &Kind) -> String {
    match (value, kind) {
        (Value::EnumNumber(number), Kind::Enum(it)) => match it.get_value(*number) {
            Some(value) => value.name().to_owned(),
            None => number.to_string(),
        },
        (Value::Message(message), _) => format!("{{ {} }}", message.to_text_format()),
        (value, _) => value.to_string(),
    }
}

/// Options as they follow a field.
pub(super) fn bracketed(options: Vec<(String, String)>) -> String {
    if options.is_empty() {
        return String::new();
    }
    let options: Vec<_> = options
        .into_iter()
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    format!(" [{}]", options.join(", "))
}

/// The name that a field has in JSON where its file says nothing.
pub(super) fn json_name(name: &str) -> String {
    let mut json = String::new();
    let mut upper = false;
    for c in name.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                json.extend(c.to_uppercase());
                upper = false;
            }
            c => json.push(c),
        }
    }
    json
}

/// A range of numbers, as `reserved` has it.
pub(super) fn span<T: PartialEq + std::fmt::Display>(first: T, last: T, most: T) -> String {
    if first == last {
        first.to_string()
    } else if last == most {
        format!("{first} to max")
    } else {
        format!("{first} to {last}")
    }
}
