//! What `deploy/` ships: the files that the packages copy exist, and versions, ports and users agree.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::{Tree, load};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn manifest() -> toml::Table {
    read("Cargo.toml").parse().expect("TOML")
}

/// The instructions of a Dockerfile: word and arguments.
fn instructions(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(' ')).collect()
}

/// What a Dockerfile copies from its context.
fn copied<'a>(instructions: &[(&str, &'a str)]) -> Vec<&'a str> {
    let mut sources = Vec::new();
    for (word, arguments) in instructions {
        if *word == "COPY" && !arguments.starts_with("--from") {
            let words: Vec<_> = arguments.split(' ').collect();
            sources.extend(&words[..words.len() - 1]);
        }
    }
    sources
}

/// Whether an ignore file that excludes everything lets this path through.
fn is_allowed(ignored: &str, path: &str) -> bool {
    let allowed = ignored.lines().filter_map(|line| line.strip_prefix('!'));
    let mut allowed = allowed.filter(|allowed| path == *allowed || path.starts_with(&format!("{allowed}/")));
    allowed.next().is_some()
}

/// The files that a source includes outside of its tests.
fn included(text: &str) -> Vec<&str> {
    let code = text.split("#[cfg(test)]").next().unwrap_or(text);
    let calls = ["include_str!(\"", "include_bytes!(\""];
    let paths = calls.iter().flat_map(|call| code.split(call).skip(1));
    paths.filter_map(|rest| rest.split('"').next()).collect()
}

/// The path from the root of what `file` names `path`.
fn resolved(file: &str, path: &str) -> String {
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

#[test]
fn the_image_is_built_from_what_exists_and_runs_as_a_user() {
    let dockerfile = read("deploy/docker/Dockerfile");
    let ignored = read("deploy/docker/Dockerfile.dockerignore");
    let instructions = instructions(&dockerfile);
    let sources = copied(&instructions);
    assert!(ignored.lines().any(|line| line == "*"));
    for source in &sources {
        assert!(root().join(source).exists(), "COPY {source}: no such file");
        assert!(
            is_allowed(&ignored, source),
            "COPY {source}: excluded by Dockerfile.dockerignore"
        );
    }
    // Cargo reads the manifest of each member, and the file of each bench.
    let manifest = manifest();
    for member in manifest["workspace"]["members"].as_array().expect("members") {
        let member = member.as_str().expect("a path").trim_end_matches("/*");
        let member = if member == "." { "src" } else { member };
        assert!(sources.contains(&member), "the Dockerfile does not copy {member}");
    }
    for file in ["Cargo.lock", "Cargo.toml", "benches"] {
        assert!(sources.contains(&file), "the Dockerfile does not copy {file}");
    }

    // What the code includes must be copied, too.
    for folder in ["src", "crates"] {
        let mut tree = Tree::new();
        load(root(), folder, &mut tree);
        for (file, text) in tree.iter().filter(|(file, _)| !file.contains("/tests")) {
            for path in included(text).into_iter().map(|path| resolved(file, path)) {
                let is_copied = sources.iter().any(|source| path.starts_with(&format!("{source}/")));
                assert!(is_copied, "{file} includes {path}, which the Dockerfile does not copy");
            }
        }
    }

    let of = |wanted: &str| {
        let found: Vec<_> = instructions.iter().filter(|(word, _)| *word == wanted).collect();
        found.last().unwrap_or_else(|| panic!("no {wanted}")).1
    };
    let rust = manifest["workspace"]["package"]["rust-version"].as_str();
    assert_eq!(of("ARG").strip_prefix("RUST_VERSION="), rust);
    assert_eq!(of("USER"), "65532:65532");
    let program = "\"/usr/bin/tickgate\"";
    assert_eq!(of("ENTRYPOINT"), format!("[{program}]"));
    assert!(of("HEALTHCHECK").ends_with(&format!("CMD [{program}, \"health\"]")));
    assert!(dockerfile.contains("target/dist/tickgate /image/usr/bin/tickgate\n"));

    let configuration: toml::Table = read("deploy/docker/tickgate.toml").parse().expect("TOML");
    let server = &configuration["server"];
    let addresses = server["listen"]
        .as_array()
        .into_iter()
        .flatten()
        .chain([&server["admin_listen"]]);
    let ports: Vec<_> = addresses
        .map(|address| {
            address
                .as_str()
                .and_then(|text| text.rsplit(':').next())
                .expect("a port")
        })
        .collect();
    assert_eq!(of("EXPOSE"), ports.join(" "));
}

#[test]
fn the_debian_package_ships_files_that_exist() {
    let manifest = manifest();
    let package = &manifest["package"]["metadata"]["deb"];
    let mut targets = BTreeSet::new();
    for asset in package["assets"].as_array().expect("assets") {
        let [source, target, mode] = [0, 1, 2].map(|index| asset[index].as_str().expect("a text"));
        if source == "target/release/tickgate" {
            assert_eq!((target, mode), ("usr/bin/", "755"));
            continue;
        }
        assert!(root().join(source).is_file(), "no file {source}");
        let name = source.rsplit('/').next().expect("a name");
        targets.insert(if target.ends_with('/') {
            format!("/{target}{name}")
        } else {
            format!("/{target}")
        });
    }
    for file in package["conf-files"].as_array().expect("configuration files") {
        let file = file.as_str().expect("a path");
        assert!(targets.contains(file), "no asset becomes {file}");
    }
    for script in ["postinst", "postrm"] {
        let text = read(&format!("deploy/debian/{script}"));
        assert!(text.starts_with("#!/bin/sh\nset -e\n") && text.contains("\n#DEBHELPER#\n"));
    }
    // The unit, the user and the folders that the package makes are those of the service.
    let unit = read("deploy/tickgate.service");
    assert!(unit.contains("\nExecStart=tickgate serve --config /etc/tickgate/tickgate.toml\n"));
    assert!(unit.contains("\nUser=tickgate\n") && unit.contains("\nStateDirectory=tickgate\n"));
    assert!(read("deploy/debian/sysusers.d/tickgate.conf").contains("\nu tickgate "));
    assert!(read("deploy/debian/tmpfiles.d/tickgate.conf").contains("\nd /var/lib/tickgate "));
}

#[test]
fn the_chart_has_the_version_of_the_gateway_and_a_schema_of_its_values() {
    let manifest = manifest();
    let version = manifest["workspace"]["package"]["version"].as_str().expect("a version");
    let chart = read("deploy/helm/tickgate/Chart.yaml");
    assert!(chart.contains(&format!("\nappVersion: \"{version}\"\n")), "{chart}");

    let schema: serde_json::Value =
        serde_json::from_str(&read("deploy/helm/tickgate/values.schema.json")).expect("JSON");
    let described: BTreeSet<_> = schema["properties"].as_object().expect("properties").keys().collect();
    let values = read("deploy/helm/tickgate/values.yaml");
    // `global` is Helm's own.
    let is_key = |line: &&str| line.starts_with(|first: char| first.is_ascii_lowercase());
    let mut keys: BTreeSet<String> = values
        .lines()
        .filter(is_key)
        .map(|line| line.split(':').next().unwrap_or(line).to_owned())
        .collect();
    keys.insert("global".to_owned());
    assert_eq!(keys.iter().collect::<BTreeSet<_>>(), described);
    assert_eq!(schema["additionalProperties"], false);

    // What must not change unnoticed; tests/packages/chart.py checks what is rendered.
    let deployment = read("deploy/helm/tickgate/templates/deployment.yaml");
    for line in [
        "maxUnavailable: 0",
        "terminationGracePeriodSeconds: {{ add .Values.rollout.preStopSeconds .Values.rollout.drainSeconds \
         .Values.rollout.reserveSeconds }}",
        "path: /readyz",
        "path: /healthz",
        "secretName: {{ .Values.existingSecret }}",
    ] {
        assert!(deployment.lines().any(|found| found.trim() == line), "no line {line}");
    }
}

#[test]
fn what_an_image_lacks_is_found() {
    let text = "# COPY no.toml ./\nFROM a AS b\nCOPY one two/ ./\nCOPY --from=b /image /\nCMD [\"serve\"]\n";
    let instructions = instructions(text);
    assert_eq!(copied(&instructions), ["one", "two/"]);
    assert_eq!(instructions.last(), Some(&("CMD", "[\"serve\"]")));
    let source = "const A: &str = include_str!(\"../a.md\");\n#[cfg(test)]\nmod t { include_str!(\"b\") }\n";
    assert_eq!(included(source), ["../a.md"]);
    assert_eq!(resolved("src/deep/mod.rs", "../../a.md"), "a.md");
    let ignored = "*\n!src\n!deploy/docker/a.toml\n";
    assert!(is_allowed(ignored, "src") && is_allowed(ignored, "src/lib.rs"));
    assert!(!is_allowed(ignored, "srcs") && !is_allowed(ignored, "deploy/docker"));
}
