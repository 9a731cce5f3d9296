//! Schemas from files: `-proto` and `-protoset`, and `-protoset-out`.

use std::{
    collections::HashSet,
    path::{Component, Path, PathBuf},
};

use prost::Message;
use prost_reflect::{DescriptorPool, FileDescriptor};

use super::{
    pool::{RawFiles, check},
    proto_text::file_text,
};
use crate::failure::Failure;

/// Compiles `.proto` files. Without an import path, the working directory and the folder of each file are searched.
pub(crate) fn from_protos(
    files: &[PathBuf],
    import_paths: &[PathBuf],
) -> Result<DescriptorPool, Failure> {
    let mut paths: Vec<&Path> = import_paths.iter().map(PathBuf::as_path).collect();
    if paths.is_empty() {
        paths.push(Path::new("."));
        for folder in files.iter().filter_map(|file| file.parent()) {
            if folder != Path::new("") && !paths.contains(&folder) {
                paths.push(folder);
            }
        }
    }
    // The error's `Debug` is the text with file, line and column.
    let refused = |error: protox::Error| {
        let hint = match error.is_file_not_found() {
            true => "; `-import-path DIR` says where files are searched",
            false => "",
        };
        Failure::failed(format!("{error:?}{hint}"))
    };
    let mut compiler = protox::Compiler::new(paths).map_err(refused)?;
    compiler.include_imports(true).include_source_info(true);
    for file in files {
        compiler.open_file(file).map_err(refused)?;
    }
    Ok(compiler.descriptor_pool())
}

/// Reads files with encoded `FileDescriptorSet`s.
pub(crate) fn from_protosets(files: &[PathBuf]) -> Result<DescriptorPool, Failure> {
    let mut pool = DescriptorPool::new();
    for file in files {
        let bytes = std::fs::read(file)
            .map_err(|error| Failure::failed(format!("{}: {error}", file.display())))?;
        pool.decode_file_descriptor_set(bytes.as_slice())
            .map_err(|error| error.to_string())
            .and_then(|()| check(&pool))
            .map_err(|error| {
                Failure::failed(format!(
                    "{} is not a set of descriptors: {error}; `protoc --include_imports --descriptor_set_out` and `-protoset-out` write one",
                    file.display()
                ))
            })?;
    }
    Ok(pool)
}

/// Compiles one file of which the text is at hand.
#[cfg(test)]
pub(crate) fn compiled(name: &str, source: &str) -> Result<DescriptorPool, protox::Error> {
    use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

    struct One(String, String);
    impl FileResolver for One {
        fn open_file(&self, name: &str) -> Result<File, protox::Error> {
            match name == self.0 {
                true => File::from_source(name, &self.1),
                false => Err(protox::Error::file_not_found(name)),
            }
        }
    }
    let mut resolver = ChainFileResolver::new();
    resolver.add(One(name.to_owned(), source.to_owned()));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_file(name)?;
    Ok(compiler.descriptor_pool())
}

/// Encodes files as a `FileDescriptorSet`.
pub(crate) fn protoset(files: &[FileDescriptor]) -> Vec<u8> {
    let file = files.iter().map(FileDescriptor::encode_to_vec).collect();
    RawFiles { file }.encode_to_vec()
}

/// Writes files as `.proto` text into a folder, under the names that their server gives them.
pub(crate) fn write_protos(files: &[FileDescriptor], folder: &Path) -> Result<(), Failure> {
    // The server chooses the names, and is not to choose which other file is written.
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(name) if !name.as_encoded_bytes().starts_with(b"."));
    let is_proto = |name: &Path| {
        name.extension().is_some_and(|it| it == "proto") && name.components().all(is_plain)
    };
    if let Some(file) = files.iter().find(|file| !is_proto(Path::new(file.name()))) {
        return Err(Failure::failed(format!(
            "the schema has a file `{}`, which is not written to {}: its name is no relative path to a `.proto` file",
            file.name(),
            folder.display()
        )));
    }
    for file in files {
        let name = Path::new(file.name());
        let path = folder.join(name);
        let written = std::fs::create_dir_all(path.parent().unwrap_or(folder))
            .and_then(|()| std::fs::write(&path, file_text(file)));
        written.map_err(|error| Failure::file(&path, error))?;
    }
    Ok(())
}

/// The files with all that they import, imports first.
pub(crate) fn with_imports(files: impl IntoIterator<Item = FileDescriptor>) -> Vec<FileDescriptor> {
    let mut done = HashSet::new();
    let mut sorted = Vec::new();
    // A stack of our own: a server decides how long the chain of imports is.
    let mut stack: Vec<_> = files.into_iter().map(|file| (file, false)).collect();
    while let Some((file, imports_done)) = stack.pop() {
        if imports_done {
            sorted.push(file);
        } else if done.insert(file.name().to_owned()) {
            let imports: Vec<_> = file.dependencies().map(|file| (file, false)).collect();
            stack.push((file, true));
            stack.extend(imports);
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTO: &str = "syntax = \"proto3\"; import \"google/protobuf/any.proto\"; message M { google.protobuf.Any any = 1; }";

    #[test]
    fn a_set_has_its_imports_first_and_can_be_read_back() {
        let pool = compiled("m.proto", PROTO).expect("valid");
        let file = pool.get_file_by_name("m.proto").expect("there");
        let set = protoset(&with_imports([file.clone(), file]));
        let read = DescriptorPool::decode(set.as_slice()).expect("valid");
        let names: Vec<_> = read.files().map(|file| file.name().to_owned()).collect();
        assert_eq!(names, ["google/protobuf/any.proto", "m.proto"]);
    }

    #[test]
    fn files_are_written_where_the_folder_is_and_nowhere_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let inside = folder.path().join("inside");
        for name in [
            "../out.proto",
            "/out.proto",
            "a/../../out.proto",
            "",
            "Makefile",
            ".bashrc",
            ".git/x.proto",
        ] {
            let proto = prost_types::FileDescriptorProto {
                name: Some(name.to_owned()),
                ..Default::default()
            };
            let mut pool = DescriptorPool::new();
            pool.add_file_descriptor_proto(proto).expect("valid");
            let files: Vec<_> = pool.files().collect();
            let error = write_protos(&files, &inside).expect_err(name).to_string();
            assert!(error.contains("is not written to"), "{error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 0);
    }

    #[test]
    fn mistakes_have_their_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("wrong.proto");
        std::fs::write(&file, "syntax = \"proto3\";\nmessage {}").expect("written");
        let error = from_protos(std::slice::from_ref(&file), &[]).expect_err("wrong");
        assert!(error.to_string().contains("wrong.proto:2:9"), "{error}");
        let error = from_protos(&["no.proto".into()], &[folder.path().to_owned()]);
        let error = error.expect_err("missing").to_string();
        assert!(
            error.contains("no.proto") && error.contains("-import-path"),
            "{error}"
        );
        let error = from_protosets(&[file]).expect_err("no set").to_string();
        assert!(error.contains("is not a set of descriptors"), "{error}");
    }
}
