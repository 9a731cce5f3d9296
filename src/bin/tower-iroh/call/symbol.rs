//! What a full name stands for in a schema.

use prost_reflect::{
    DescriptorPool, EnumDescriptor, EnumValueDescriptor, ExtensionDescriptor, FieldDescriptor,
    FileDescriptor, MessageDescriptor, MethodDescriptor, OneofDescriptor, ServiceDescriptor,
};

/// A named thing of a schema.
#[derive(Clone, Debug)]
pub(crate) enum Symbol {
    Service(ServiceDescriptor),
    Method(MethodDescriptor),
    Message(MessageDescriptor),
    Field(FieldDescriptor),
    Oneof(OneofDescriptor),
    Enum(EnumDescriptor),
    EnumValue(EnumValueDescriptor),
    Extension(ExtensionDescriptor),
}

impl Symbol {
    /// What it is, in grpcurl's words.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Service(_) => "a service",
            Self::Method(_) => "a method",
            Self::Message(_) => "a message",
            Self::Field(field) if field.is_group() => "a group field",
            Self::Field(_) => "a field",
            Self::Oneof(_) => "a one-of",
            Self::Enum(_) => "an enum",
            Self::EnumValue(_) => "an enum value",
            Self::Extension(_) => "an extension",
        }
    }

    pub(crate) fn full_name(&self) -> &str {
        match self {
            Self::Service(it) => it.full_name(),
            Self::Method(it) => it.full_name(),
            Self::Message(it) => it.full_name(),
            Self::Field(it) => it.full_name(),
            Self::Oneof(it) => it.full_name(),
            Self::Enum(it) => it.full_name(),
            Self::EnumValue(it) => it.full_name(),
            Self::Extension(it) => it.full_name(),
        }
    }

    pub(crate) fn file(&self) -> FileDescriptor {
        match self {
            Self::Service(it) => it.parent_file(),
            Self::Method(it) => it.parent_file(),
            Self::Message(it) => it.parent_file(),
            Self::Field(it) => it.parent_file(),
            Self::Oneof(it) => it.parent_file(),
            Self::Enum(it) => it.parent_file(),
            Self::EnumValue(it) => it.parent_file(),
            Self::Extension(it) => it.parent_file(),
        }
    }
}

/// Finds what has the full name.
pub(crate) fn find(pool: &DescriptorPool, name: &str) -> Option<Symbol> {
    whole(pool, name).or_else(|| {
        let (parent, last) = name.rsplit_once('.').unwrap_or(("", name));
        part(pool, parent, last, name)
    })
}

fn whole(pool: &DescriptorPool, name: &str) -> Option<Symbol> {
    let service = || pool.get_service_by_name(name).map(Symbol::Service);
    let message = || pool.get_message_by_name(name).map(Symbol::Message);
    let found = service().or_else(message);
    let found = found.or_else(|| pool.get_enum_by_name(name).map(Symbol::Enum));
    found.or_else(|| pool.get_extension_by_name(name).map(Symbol::Extension))
}

fn part(pool: &DescriptorPool, parent: &str, last: &str, name: &str) -> Option<Symbol> {
    if let Some(service) = pool.get_service_by_name(parent) {
        let found = service.methods().find(|it| it.name() == last);
        return found.map(Symbol::Method);
    }
    if let Some(message) = pool.get_message_by_name(parent) {
        let field = message.get_field_by_name(last).map(Symbol::Field);
        let oneof = || message.oneofs().find(|it| it.name() == last);
        if let Some(found) = field.or_else(|| oneof().map(Symbol::Oneof)) {
            return Some(found);
        }
    }
    // An enum's values lie beside it and not in it; the name with the enum in it is accepted too.
    if let Some(value) = pool
        .get_enum_by_name(parent)
        .and_then(|it| it.get_value_by_name(last))
    {
        return Some(Symbol::EnumValue(value));
    }
    let mut enums = pool.all_enums();
    enums.find_map(|it| {
        let value = it.get_value_by_name(last)?;
        (value.full_name() == name).then_some(Symbol::EnumValue(value))
    })
}

/// The full names of all services, methods, messages and enums.
pub(crate) fn names(pool: &DescriptorPool) -> Vec<String> {
    let messages = pool
        .all_messages()
        .filter(|it| !it.is_map_entry())
        .map(|it| it.full_name().to_owned());
    let enums = pool.all_enums().map(|it| it.full_name().to_owned());
    let services = pool.services().flat_map(|service| {
        let methods: Vec<_> = service.methods().collect();
        let methods = methods.into_iter().map(|it| it.full_name().to_owned());
        std::iter::once(service.full_name().to_owned()).chain(methods)
    });
    messages.chain(enums).chain(services).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::files::compiled;

    #[test]
    fn every_kind_of_symbol_is_found() {
        let source = "syntax = \"proto2\"; package a; service S { rpc Go(M) returns (M); } enum E { ONE = 1; } \
            message M { optional int32 f = 1; oneof o { int32 x = 2; } extensions 100 to 200; } extend M { optional int32 ext = 100; }";
        let pool = compiled("a.proto", source).expect("valid");
        for (name, kind) in [
            ("a.S", "a service"),
            ("a.S.Go", "a method"),
            ("a.M", "a message"),
            ("a.M.f", "a field"),
            ("a.M.o", "a one-of"),
            ("a.E", "an enum"),
            ("a.ONE", "an enum value"),
            ("a.E.ONE", "an enum value"),
            ("a.ext", "an extension"),
        ] {
            let symbol = find(&pool, name).expect(name);
            assert_eq!(symbol.kind(), kind, "{name}");
            assert_eq!(symbol.file().name(), "a.proto");
        }
        assert!(find(&pool, "a").is_none() && find(&pool, "").is_none());
        assert_eq!(names(&pool), ["a.M", "a.E", "a.S", "a.S.Go"]);
    }
}
