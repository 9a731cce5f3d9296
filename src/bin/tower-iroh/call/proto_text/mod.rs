//! Descriptors as `.proto` text, laid out as grpcurl does: sorted, with full names and doc comments.

use prost_reflect::{
    Cardinality, EnumDescriptor, ExtensionDescriptor, FieldDescriptor, FileDescriptor, Kind,
    MessageDescriptor, MethodDescriptor, OneofDescriptor, ServiceDescriptor, Syntax,
};

mod file;
mod options;

pub(crate) use self::file::file_text;
use self::options::{bracketed, defaults, json_name, options, span};
use super::symbol::Symbol;

/// The symbol as it would stand in its `.proto` file.
pub(crate) fn proto_text(symbol: &Symbol) -> String {
    let mut text = Text::default();
    match symbol {
        Symbol::Service(it) => text.service(it),
        Symbol::Method(it) => text.method(it),
        Symbol::Message(it) => text.message(it),
        Symbol::Field(it) => text.field(it),
        Symbol::Oneof(it) => text.oneof(it),
        Symbol::Enum(it) => text.enumeration(it),
        Symbol::EnumValue(it) => {
            let options = bracketed(options(&it.options()));
            text.comment(&it.parent_file(), it.path());
            text.line(&format!("{} = {}{options};", it.name(), it.number()));
        }
        Symbol::Extension(it) => text.extension(it),
    }
    text.out.truncate(text.out.trim_end().len());
    text.out
}

#[derive(Default)]
struct Text {
    out: String,
    margin: usize,
}

impl Text {
    fn line(&mut self, line: &str) {
        if !line.is_empty() {
            self.out.extend(std::iter::repeat_n("  ", self.margin));
            self.out.push_str(line);
        }
        self.out.push('\n');
    }

    fn block(&mut self, head: &str, within: impl FnOnce(&mut Self)) {
        self.line(&format!("{head} {{"));
        self.margin += 1;
        within(self);
        self.margin -= 1;
        self.line("}");
    }

    /// The comment in front of the element at the path, where the schema has comments.
    fn comment(&mut self, file: &FileDescriptor, path: &[i32]) {
        let Some(info) = &file.file_descriptor_proto().source_code_info else {
            return;
        };
        let Some(comment) = info
            .location
            .iter()
            .find(|it| it.path == path)
            .and_then(|it| it.leading_comments.as_deref())
        else {
            return;
        };
        for line in comment.trim_end().lines() {
            self.line(format!("//{line}").trim_end());
        }
    }

    fn options(&mut self, options: &[(String, String)]) {
        for (name, value) in options {
            self.line(&format!("option {name} = {value};"));
        }
    }

    fn service(&mut self, service: &ServiceDescriptor) {
        self.comment(&service.parent_file(), service.path());
        self.block(&format!("service {}", service.name()), |text| {
            text.options(&options(&service.options()));
            let mut methods: Vec<_> = service.methods().collect();
            methods.sort_by(|one, other| one.name().cmp(other.name()));
            for method in methods {
                text.method(&method);
            }
        });
    }

    fn method(&mut self, method: &MethodDescriptor) {
        let stream = |is: bool| if is { "stream " } else { "" };
        let head = format!(
            "rpc {} ( {}.{} ) returns ( {}.{} )",
            method.name(),
            stream(method.is_client_streaming()),
            method.input().full_name(),
            stream(method.is_server_streaming()),
            method.output().full_name()
        );
        let options = options(&method.options());
        self.comment(&method.parent_file(), method.path());
        match options.is_empty() {
            true => self.line(&format!("{head};")),
            false => self.block(&head, |text| text.options(&options)),
        }
    }

    fn message(&mut self, message: &MessageDescriptor) {
        self.comment(&message.parent_file(), message.path());
        self.block(&format!("message {}", message.name()), |text| {
            text.body(message);
        });
    }

    fn body(&mut self, message: &MessageDescriptor) {
        self.options(&options(&message.options()));
        let mut fields: Vec<_> = message.fields().collect();
        fields.sort_by_key(FieldDescriptor::number);
        let mut oneofs = Vec::new();
        for field in fields {
            match field.containing_oneof().filter(|it| !it.is_synthetic()) {
                None => self.field(&field),
                Some(oneof) if oneofs.contains(&oneof) => {}
                Some(oneof) => {
                    self.oneof(&oneof);
                    oneofs.push(oneof);
                }
            }
        }
        let mut enums: Vec<_> = message.child_enums().collect();
        enums.sort_by(|one, other| one.name().cmp(other.name()));
        for it in &enums {
            self.enumeration(it);
        }
        let groups: Vec<_> = message.fields().filter(FieldDescriptor::is_group).collect();
        let is_group = |it: &MessageDescriptor| {
            groups
                .iter()
                .any(|field| matches!(field.kind(), Kind::Message(group) if group == *it))
        };
        let mut messages: Vec<_> = message
            .child_messages()
            .filter(|it| !it.is_map_entry() && !is_group(it))
            .collect();
        messages.sort_by(|one, other| one.name().cmp(other.name()));
        for it in &messages {
            self.message(it);
        }
        for it in message.child_extensions() {
            self.extension(&it);
        }
        for range in message.extension_ranges() {
            let range = span(range.start, range.end.saturating_sub(1), 536_870_911);
            self.line(&format!("extensions {range};"));
        }
        let ranges = message.reserved_ranges();
        let ranges = ranges.map(|it| span(it.start, it.end.saturating_sub(1), 536_870_911));
        self.reserved(ranges.collect(), message.reserved_names());
    }

    fn reserved<'a>(&mut self, ranges: Vec<String>, names: impl Iterator<Item = &'a str>) {
        if !ranges.is_empty() {
            self.line(&format!("reserved {};", ranges.join(", ")));
        }
        let names: Vec<_> = names.map(|it| format!("{it:?}")).collect();
        if !names.is_empty() {
            self.line(&format!("reserved {};", names.join(", ")));
        }
    }

    fn oneof(&mut self, oneof: &OneofDescriptor) {
        self.comment(&oneof.parent_file(), oneof.path());
        self.block(&format!("oneof {}", oneof.name()), |text| {
            text.options(&options(&oneof.options()));
            for field in oneof.fields() {
                text.field(&field);
            }
        });
    }

    fn enumeration(&mut self, it: &EnumDescriptor) {
        self.comment(&it.parent_file(), it.path());
        self.block(&format!("enum {}", it.name()), |text| {
            text.options(&options(&it.options()));
            let mut values: Vec<_> = it.values().collect();
            values.sort_by_key(prost_reflect::EnumValueDescriptor::number);
            for value in values {
                text.comment(&value.parent_file(), value.path());
                let options = bracketed(options(&value.options()));
                text.line(&format!("{} = {}{options};", value.name(), value.number()));
            }
            let ranges = it.reserved_ranges();
            let ranges = ranges.map(|it| span(*it.start(), *it.end(), i32::MAX));
            text.reserved(ranges.collect(), it.reserved_names());
        });
    }

    fn field(&mut self, field: &FieldDescriptor) {
        self.comment(&field.parent_file(), field.path());
        let proto = field.field_descriptor_proto();
        let is_real_member = field
            .containing_oneof()
            .is_some_and(|it| !it.is_synthetic());
        let label = match field.cardinality() {
            _ if field.is_map() || is_real_member => "",
            Cardinality::Repeated => "repeated ",
            Cardinality::Required => "required ",
            Cardinality::Optional
                if proto.proto3_optional() || field.parent_file().syntax() == Syntax::Proto2 =>
            {
                "optional "
            }
            Cardinality::Optional => "",
        };
        let mut settings = defaults(&proto.default_value, &field.kind());
        if proto.json_name.is_some() && field.json_name() != json_name(field.name()) {
            settings.push(("json_name".to_owned(), format!("{:?}", field.json_name())));
        }
        settings.extend(options(&field.options()));
        let settings = bracketed(settings);
        let number = field.number();
        match field.kind() {
            Kind::Message(group) if field.is_group() => {
                let head = format!("{label}group {} = {number}{settings}", group.name());
                self.block(&head, |text| text.body(&group));
            }
            Kind::Message(entry) if field.is_map() => {
                let key = type_text(&entry.map_entry_key_field().kind());
                let value = type_text(&entry.map_entry_value_field().kind());
                let name = field.name();
                self.line(&format!("map<{key}, {value}> {name} = {number}{settings};"));
            }
            kind => {
                let kind = type_text(&kind);
                let name = field.name();
                self.line(&format!("{label}{kind} {name} = {number}{settings};"));
            }
        }
    }

    fn extension(&mut self, it: &ExtensionDescriptor) {
        let head = format!("extend .{}", it.containing_message().full_name());
        self.block(&head, |text| {
            text.comment(&it.parent_file(), it.path());
            let label = match it.cardinality() {
                Cardinality::Repeated => "repeated ",
                Cardinality::Required => "required ",
                Cardinality::Optional => "optional ",
            };
            let proto = it.field_descriptor_proto();
            let mut settings = defaults(&proto.default_value, &it.kind());
            settings.extend(options(&it.options()));
            let settings = bracketed(settings);
            let kind = type_text(&it.kind());
            text.line(&format!(
                "{label}{kind} {} = {}{settings};",
                it.name(),
                it.number()
            ));
        });
    }
}

fn type_text(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => format!(".{}", message.full_name()),
        Kind::Enum(it) => format!(".{}", it.full_name()),
        Kind::Double => "double".to_owned(),
        Kind::Float => "float".to_owned(),
        Kind::Int32 => "int32".to_owned(),
        Kind::Int64 => "int64".to_owned(),
        Kind::Uint32 => "uint32".to_owned(),
        Kind::Uint64 => "uint64".to_owned(),
        Kind::Sint32 => "sint32".to_owned(),
        Kind::Sint64 => "sint64".to_owned(),
        Kind::Fixed32 => "fixed32".to_owned(),
        Kind::Fixed64 => "fixed64".to_owned(),
        Kind::Sfixed32 => "sfixed32".to_owned(),
        Kind::Sfixed64 => "sfixed64".to_owned(),
        Kind::Bool => "bool".to_owned(),
        Kind::String => "string".to_owned(),
        Kind::Bytes => "bytes".to_owned(),
    }
}

#[cfg(test)]
mod tests;
