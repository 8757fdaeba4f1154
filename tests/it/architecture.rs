//! Rules about the structure of the source code that the compiler does not check: the names that
//! `common` may contain, the imports between modules, and the contents of release binaries.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use licet_schema::{Output, Request};

use crate::system::program;

/// The tables that belong to the engine and not to the domain.
const TABLES_OF_THE_ENGINE: [&str; 3] = ["journal", "mention", "signing_key"];
/// The message of the engine: its body type and its message type.
const MESSAGE_OF_THE_ENGINE: (&str, &str) = ("RequestRefused", "request.refused");

/// Files of `common` that may quote message types: entries of `[senders]` are message types, and
/// unknown ones are refused.
const QUOTES_MESSAGE_TYPES: [&str; 3] =
    ["common/src/config/introduction.md", "common/src/config/tests.rs", "common/src/runtime/retry_headers/tests.rs"];

/// The root files of all crates with several modules.
const CRATE_ROOTS: [&str; 10] = [
    "schema/src/lib.rs",
    "common/src/lib.rs",
    "workers/src/lib.rs",
    "operator/src/lib.rs",
    "client/src/lib.rs",
    "cli/src/main.rs",
    "bench/src/main.rs",
    "tests/model/src/lib.rs",
    "tests/lib.rs",
    "tests/it/main.rs",
];

/// Modules whose submodules must not have cyclic imports, either.
const LAYERED_MODULES: [(&str, &str); 3] =
    [("common/src/lib.rs", "runtime"), ("common/src/lib.rs", "store"), ("common/src/lib.rs", "transport")];

/// Names that occur only in test code: parts of the features `simulation` and `fixture`, and crates
/// that are not part of any release binary.
const TEST_HOOKS: [&str; 5] = ["FaultInjector", "with_faults", "MemoryStore", "licet_model", "licet_bench"];

#[test]
fn common_names_no_table_and_no_message_of_the_domain() {
    let tables = domain_tables();
    let bodies = domain_bodies();
    let kinds: BTreeSet<_> = Request::KINDS.iter().chain(Output::KINDS).copied().collect();
    let kinds: Vec<_> = kinds.into_iter().filter(|kind| *kind != MESSAGE_OF_THE_ENGINE.1).collect();
    let mut found = Vec::new();
    for file in files_below(&root().join("common/src"), &["rs", "md"]) {
        let (name, text) = (relative(&file), read(&file));
        let modules: BTreeSet<_> = paths_after("entity", &text).into_iter().filter_map(|mut path| path.pop()).collect();
        let quotes = |word: &str| text.contains(&format!("\"{word}\"")) || text.contains(&format!("`{word}`"));
        let mut names: Vec<_> =
            tables.iter().filter(|table| modules.contains(*table) || quotes(table)).cloned().collect();
        names.extend(bodies.iter().filter(|body| words(&text).any(|word| word == *body)).cloned());
        if !QUOTES_MESSAGE_TYPES.contains(&name.as_str()) {
            names.extend(kinds.iter().filter(|kind| quotes(kind)).map(|kind| (*kind).to_owned()));
        }
        if !names.is_empty() {
            found.push(format!("{name}: {}", names.join(", ")));
        }
    }
    assert!(found.is_empty(), "common must not name tables or messages of the domain:\n{}", found.join("\n"));
}

#[test]
fn no_crate_has_cyclic_imports_between_modules() {
    let mut cycles: Vec<_> = CRATE_ROOTS.iter().filter_map(|root| Source::of(root).graph(&[]).cycle()).collect();
    cycles.extend(LAYERED_MODULES.iter().filter_map(|(root, module)| Source::of(root).graph(&[module]).cycle()));
    assert!(cycles.is_empty(), "modules import each other in a cycle:\n{}", cycles.join("\n"));
}

#[test]
fn no_worker_imports_another_worker() {
    let source = Source::of("workers/src/lib.rs");
    let graph = source.graph(&[]);
    let workers = &graph.imports["registry"];
    assert_eq!(
        workers.len(),
        licet_workers::registry::WORKERS.len(),
        "the registry does not import every worker: {workers:?}"
    );
    let mut found = Vec::new();
    for worker in workers.keys() {
        for (other, file) in graph.imports.get(worker).into_iter().flatten() {
            if workers.contains_key(other) {
                found.push(format!("{file} imports {other}"));
            }
        }
    }
    assert!(found.is_empty(), "code that several workers need belongs in domain:\n{}", found.join("\n"));
}

#[test]
fn release_programs_contain_no_test_hooks() {
    for name in ["licet", "licet-purchase"] {
        let file = program(name);
        let bytes = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let text = String::from_utf8_lossy(&bytes);
        if std::env::var_os("LICET_TEST_PROGRAMS").is_none() {
            assert!(text.contains("licet_common"), "{name} has no symbols, so they cannot be searched");
        }
        let hooks: Vec<_> = TEST_HOOKS.into_iter().filter(|hook| text.contains(hook)).collect();
        assert!(hooks.is_empty(), "{name} contains {hooks:?}: build it without the test crates");
    }
}

#[test]
fn the_import_parser_finds_every_form_of_a_path() {
    let text = "use crate::{a::{b, C as D}, e};\npub(super) use super::f::*;\n// crate::comment\nlet x = crate::g::h(1);\n\
                #[cfg(test)]\nmod tests {\n    use crate::i;\n}\nfn after() { crate::j::k() }\n";
    let code = without_comments(&without_tests(text));
    let found: BTreeSet<_> = paths_after("crate", &code).into_iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["a::C", "a::b", "e", "g::h", "j::k"].map(str::to_owned).into());
    assert_eq!(paths_after("super", &code), [vec!["f".to_owned(), "*".to_owned()]]);
    let graph = Graph { imports: BTreeMap::from([import("a", "b"), import("b", "c"), import("c", "b")]) };
    assert!(graph.cycle().is_some_and(|cycle| cycle.contains("b (b.rs) -> c (c.rs) -> b")), "{:?}", graph.cycle());
    assert_eq!(Graph { imports: BTreeMap::from([import("a", "b"), import("b", "c")]) }.cycle(), None);
}

fn import(from: &str, to: &str) -> (String, BTreeMap<String, String>) {
    (from.to_owned(), BTreeMap::from([(to.to_owned(), format!("{from}.rs"))]))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn relative(file: &Path) -> String {
    file.strip_prefix(root()).expect("a file of the workspace").display().to_string()
}

/// All files below a folder with one of these extensions.
fn files_below(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.expect("an entry").path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_dir() {
            files.extend(files_below(&path, extensions));
        } else if extension.is_some_and(|extension| extensions.contains(&extension)) {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The tables of the domain, which are also the names of their entity modules.
fn domain_tables() -> Vec<String> {
    let declarations = read(&root().join("schema/src/entity/mod.rs"));
    let modules = declarations.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let tables: Vec<_> = modules.filter(|name| !TABLES_OF_THE_ENGINE.contains(name)).map(str::to_owned).collect();
    assert!(tables.len() > 10, "{tables:?}");
    tables
}

/// The body types of the domain's messages, read from the lines `Variant(Body) = "kind",`.
fn domain_bodies() -> BTreeSet<String> {
    let declarations = read(&root().join("schema/src/message/mod.rs"));
    let body = |line: &str| {
        let (declaration, kind) = line.trim().strip_suffix("\",")?.split_once(") = \"")?;
        let (_, body) = declaration.split_once('(')?;
        (Request::KINDS.contains(&kind) || Output::KINDS.contains(&kind)).then(|| body.to_owned())
    };
    let mut bodies: BTreeSet<_> = declarations.lines().filter_map(body).collect();
    assert!(bodies.remove(MESSAGE_OF_THE_ENGINE.0) && bodies.len() > 25, "{bodies:?}");
    bodies
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'))
}

/// The source files of a crate.
struct Source {
    /// The path of each module, the name of its file, and its code.
    files: Vec<(Vec<String>, String, String)>,
}

impl Source {
    /// The crate with this root file. Test modules and comments are left out.
    fn of(root_file: &str) -> Self {
        let root_file = root().join(root_file);
        let folder = root_file.parent().expect("the folder of the crate");
        let mut files = Vec::new();
        let mut waiting = vec![(Vec::new(), root_file.clone())];
        while let Some((module, file)) = waiting.pop() {
            let code = without_comments(&without_tests(&read(&file)));
            for name in declared_modules(&code) {
                let child = [module.as_slice(), &[name]].concat();
                let path = folder.join(child.iter().collect::<PathBuf>());
                let files = [path.with_extension("rs"), path.join("mod.rs")];
                let file = files.into_iter().find(|file| file.exists());
                waiting.push((child, file.unwrap_or_else(|| panic!("{} has no file", path.display()))));
            }
            files.push((module, relative(&file), code));
        }
        Self { files }
    }

    /// The imports between the direct submodules of a module. The module itself is not part of the
    /// graph, because a module and its submodules may use each other.
    fn graph(&self, parent: &[&str]) -> Graph {
        let depth = parent.len();
        let is_inside =
            |path: &[String]| path.len() > depth && path.iter().zip(parent).all(|(one, other)| one == other);
        let submodules: BTreeSet<_> = self
            .files
            .iter()
            .filter(|(module, ..)| is_inside(module))
            .map(|(module, ..)| module[depth].clone())
            .collect();
        let mut re_exports = BTreeMap::new();
        for (_, _, code) in self.files.iter().filter(|(module, ..)| module == parent) {
            for submodule in &submodules {
                for path in paths_after(submodule, code) {
                    re_exports.extend(path.last().map(|item| (item.clone(), submodule.clone())));
                }
            }
        }
        let mut imports: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (module, file, code) in self.files.iter().filter(|(module, ..)| is_inside(module)) {
            let from = &module[depth];
            for path in absolute_paths(module, code).into_iter().filter(|path| is_inside(path)) {
                let to = submodules.get(&path[depth]).or_else(|| re_exports.get(&path[depth]));
                if let Some(to) = to.filter(|to| *to != from) {
                    imports.entry(from.clone()).or_default().entry(to.clone()).or_insert_with(|| file.clone());
                }
            }
        }
        Graph { imports }
    }
}

/// The imports between modules.
struct Graph {
    /// For each module, the modules that it imports, each with a file that contains the import.
    imports: BTreeMap<String, BTreeMap<String, String>>,
}

impl Graph {
    /// The description of a cycle, if there is one.
    fn cycle(&self) -> Option<String> {
        let mut finished = BTreeSet::new();
        self.imports.keys().find_map(|start| self.cycle_from(start, &mut Vec::new(), &mut finished))
    }

    fn cycle_from<'a>(
        &'a self,
        module: &'a str,
        path: &mut Vec<(&'a str, &'a str)>,
        finished: &mut BTreeSet<&'a str>,
    ) -> Option<String> {
        if let Some(start) = path.iter().position(|(name, _)| *name == module) {
            let steps: Vec<_> = path[start..].iter().map(|(name, file)| format!("{name} ({file})")).collect();
            return Some(format!("{} -> {module}", steps.join(" -> ")));
        }
        if finished.contains(module) {
            return None;
        }
        for (other, file) in self.imports.get(module).into_iter().flatten() {
            path.push((module, file));
            let cycle = self.cycle_from(other, path, finished);
            path.pop();
            if cycle.is_some() {
                return cycle;
            }
        }
        finished.insert(module);
        None
    }
}

/// The modules with their own files that a file declares: `mod name;`.
fn declared_modules(code: &str) -> Vec<String> {
    let declaration = |line: &str| {
        let line = line.trim();
        let visibility = ["pub ", "pub(crate) ", "pub(super) "];
        let line = visibility.iter().find_map(|prefix| line.strip_prefix(prefix)).unwrap_or(line);
        Some(line.strip_prefix("mod ")?.strip_suffix(';')?.to_owned())
    };
    code.lines().filter_map(declaration).collect()
}

/// The paths in a module that begin with `crate` or `super`, from the root of the crate.
fn absolute_paths(module: &[String], code: &str) -> Vec<Vec<String>> {
    let mut paths = paths_after("crate", code);
    for path in paths_after("super", code) {
        let more = path.iter().take_while(|part| *part == "super").count();
        let Some(parent) = module.len().checked_sub(1 + more) else { continue };
        paths.push(module[..parent].iter().chain(&path[more..]).cloned().collect());
    }
    paths
}

/// The paths that follow `start::`, one for each branch of a tree in braces.
fn paths_after(start: &str, code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let pattern = format!("{start}::");
    for (position, _) in code.match_indices(&pattern) {
        let before = code[..position].chars().next_back().unwrap_or(' ');
        let is_longer = before.is_ascii_alphanumeric() || ['_', ':', '$'].contains(&before);
        if !is_longer {
            read_tree(&code[position + pattern.len()..], &[], &mut paths);
        }
    }
    paths
}

/// Reads a tree of paths, and returns the text that follows it.
fn read_tree<'a>(code: &'a str, prefix: &[String], paths: &mut Vec<Vec<String>>) -> &'a str {
    let code = code.trim_start();
    if let Some(mut rest) = code.strip_prefix('{') {
        loop {
            rest = rest.trim_start().trim_start_matches(',').trim_start();
            if let Some(rest) = rest.strip_prefix('}') {
                return rest;
            }
            let after = read_tree(rest, prefix, paths);
            // Skip an alias, or anything that is not a tree.
            let end = after.find([',', '}', '{']).unwrap_or(after.len());
            rest = &after[end..];
            if rest.is_empty() || rest.starts_with('{') {
                return rest;
            }
        }
    }
    if let Some(rest) = code.strip_prefix('*') {
        paths.push([prefix, &["*".to_owned()]].concat());
        return rest;
    }
    let end = code.find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_')).unwrap_or(code.len());
    let (name, rest) = code.split_at(end);
    match name {
        "" => rest,
        "self" => {
            paths.push(prefix.to_vec());
            rest
        }
        _ => {
            let path = [prefix, &[name.to_owned()]].concat();
            match rest.strip_prefix("::") {
                Some(rest) if !rest.starts_with('<') => read_tree(rest, &path, paths),
                _ => {
                    paths.push(path);
                    rest
                }
            }
        }
    }
}

/// The code without the items that are compiled only for tests: each item after `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some((before, after)) = rest.split_once("#[cfg(test)]") {
        kept.push_str(before);
        rest = &after[end_of_item(after)..];
    }
    kept + rest
}

/// The end of the item at the beginning of a text: its semicolon, or its closing brace. In code
/// that rustfmt has formatted, a brace at the beginning of a line closes a top-level item.
fn end_of_item(code: &str) -> usize {
    let (semicolon, brace) = (code.find(';').unwrap_or(code.len()), code.find('{').unwrap_or(code.len()));
    if semicolon < brace || code.trim_start().starts_with("use ") {
        return semicolon + 1;
    }
    code.find("\n}").map_or(code.len(), |end| end + 2)
}

/// The code without comments that begin with `//`.
fn without_comments(code: &str) -> String {
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}
