use std::{fs, path::Path};

use crate::{APPENDIX, reader};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Every block of TOML that is printed in this project is a configuration that loads, a policy that loads, or part of a Cargo.toml; the line above says
/// so of the last two.
#[test]
fn every_page_s_toml_loads() {
    let mut configurations = 0;
    for (file, above, text) in blocks() {
        if above == "<!-- policy -->" {
            #[cfg(feature = "authorize")]
            if let Err(error) = tower_iroh::layers::authorize::AccessPolicy::from_toml_with(
                &text,
                tower_iroh::peer_name,
            ) {
                panic!("{file}: {error}\n{text}");
            }
        } else if !above.ends_with("Cargo.toml -->") {
            if let Err(error) = reader().from_toml(&text) {
                panic!("{file}: {error}\n{text}");
            }
            configurations += 1;
        }
    }
    assert!(configurations >= 4, "{configurations} configurations");
}

#[test]
fn the_appendix_is_on_the_page() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/configuration.md")).expect("the page");
    assert!(page.contains(&format!("```toml\n{APPENDIX}```")));
}

/// The mistakes that the page shows are told like that.
#[test]
fn the_page_s_mistakes_are_told_like_that() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/configuration.md")).expect("the page");
    let shown = page
        .split("```text\n")
        .nth(1)
        .and_then(|rest| rest.split("\n```").next())
        .expect("the mistakes");
    let text = "[transport]\nmode = \"duel\"\n\n[transport.grpc]\nbind_adress = \"0.0.0.0:7001\"\n\n[transport.migration]\nprefer_iroh_for = [\"heath\"]\n";
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster.toml");
    fs::write(&path, text).expect("written");
    let told = tower_iroh::config::Config::from_file(&path)
        .expect_err("mistakes")
        .to_string();
    let prefix = format!("{}/", folder.path().display());
    assert_eq!(told.replace(&prefix, ""), shown);
}

/// Each block of TOML in pages and in rustdoc: the file, the line above, and the text.
fn blocks() -> Vec<(String, String, String)> {
    let mut files = vec![
        Path::new(ROOT).join("README.md"),
        Path::new(ROOT).join("CHANGELOG.md"),
    ];
    for folder in ["docs", "src", "layers/src", "examples"] {
        collect(&Path::new(ROOT).join(folder), &mut files);
    }
    let mut blocks = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        let mut above = "";
        let mut lines = text.lines().map(|line| {
            let line = line.trim_start();
            let comment = line
                .strip_prefix("//!")
                .or_else(|| line.strip_prefix("///"));
            comment.map_or(line, |rest| rest.strip_prefix(' ').unwrap_or(rest))
        });
        while let Some(line) = lines.next() {
            if line.starts_with("```toml") {
                let block: Vec<_> = lines
                    .by_ref()
                    .take_while(|line| !line.starts_with("```"))
                    .collect();
                blocks.push((
                    file.display().to_string(),
                    above.to_owned(),
                    block.join("\n"),
                ));
            }
            above = line;
        }
    }
    blocks
}

fn collect(folder: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|it| it == "md" || it == "rs") {
            files.push(path);
        }
    }
}
