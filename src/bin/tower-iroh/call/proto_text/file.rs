//! A whole file as `.proto` text, which compiles to the same types again.

use prost_reflect::{FileDescriptor, Syntax};

use super::{Text, options::options};

/// The file with its imports, options and types.
pub(crate) fn file_text(file: &FileDescriptor) -> String {
    let mut text = Text::default();
    let syntax = match file.syntax() {
        Syntax::Proto2 => "proto2",
        Syntax::Proto3 => "proto3",
    };
    text.line(&format!("syntax = \"{syntax}\";"));
    if !file.package_name().is_empty() {
        text.line(&format!("package {};", file.package_name()));
    }
    let public: Vec<_> = file.public_dependencies().collect();
    for import in file.dependencies() {
        let how = if public.contains(&import) {
            "public "
        } else {
            ""
        };
        text.line(&format!("import {how}{:?};", import.name()));
    }
    text.options(&options(&file.options()));
    for service in file.services() {
        text.line("");
        text.service(&service);
    }
    for message in file.messages() {
        text.line("");
        text.message(&message);
    }
    for it in file.enums() {
        text.line("");
        text.enumeration(&it);
    }
    for extension in file.extensions() {
        text.line("");
        text.extension(&extension);
    }
    text.out
}
