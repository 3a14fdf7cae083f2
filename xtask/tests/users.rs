//! What is offered has a user, and tests are none: public functions of all our crates, and dependencies that a manifest
//! names. The compiler cannot tell of the former, for it does not know who else might, and does not look at the latter.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Public functions that tests alone use, and why they are public all the same.
const RESERVED: [(&str, &str); 4] = [
    ("cut_off", "tests of the protocol see by it that a slow watcher was cut off"),
    ("from_markdown", "the lint of boards and alerts is a test, and reads what docs/metrics.md promises"),
    ("drop_pktps", "a meter for tests of three crates"),
    ("delete_by_cookie", "how tests and benchmarks empty a bridge"),
];

/// Dependencies of a package that only code names which is generated when it is built.
const GENERATED: [(&str, &str); 4] = [
    ("antrea-api", "prost-types"),
    ("antrea-api", "tonic-prost"),
    ("antrea-octant-plugin", "prost"),
    ("antrea-octant-plugin", "tonic-prost"),
];

/// Where our crates are.
const FOLDERS: [&str; 8] = ["crates", "crds", "agent", "operator", "controller", "cni", "antctl", "ui"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("must lie in the repository").to_owned()
}

/// Sources below a folder, without what is built there and without other packages but the folder's own.
fn sources(folder: &Path, packages: bool, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            let built = path.ends_with("target") || path.ends_with("node_modules");
            if !built && (packages || !path.join("Cargo.toml").exists()) {
                sources(&path, packages, found)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// Whether a file of the repository is there for tests and benchmarks alone.
fn is_test(path: &Path) -> bool {
    let name = |part: &std::ffi::OsStr| {
        let part = part.to_string_lossy();
        let stem = part.strip_suffix(".rs").unwrap_or(&part);
        matches!(stem, "tests" | "benches" | "testing" | "fake" | "fuzz-checks") || stem.ends_with("_tests")
    };
    path.iter().any(name)
}

/// Code without its comments, and without its items for tests if it is to be.
fn code(text: &str, with_tests: bool) -> String {
    let mut lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut code = String::with_capacity(text.len());
    while let Some(line) = lines.next() {
        let attribute = line.trim_start();
        let for_tests = attribute.starts_with("#[cfg(test)]") || attribute.starts_with("#[cfg(any(test");
        if with_tests || !for_tests {
            code.push_str(line);
            code.push('\n');
            continue;
        }
        // An item ends with its first line, or with the bracket below that line's beginning: rustfmt sees to it.
        let indent = &line[..line.len() - attribute.len()];
        let mut first = true;
        for line in lines.by_ref() {
            let rest = line.strip_prefix(indent).unwrap_or_default();
            if first && rest.starts_with("#[") {
                continue;
            }
            if rest.starts_with(['}', ')']) || first && rest.ends_with([';', ',', '}']) {
                break;
            }
            first = false;
        }
    }
    code
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Names of public functions that are defined in this code.
fn functions(code: &str) -> impl Iterator<Item = &str> {
    code.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix("pub ")?;
        let (modifiers, name) = rest.split_once("fn ")?;
        modifiers
            .split_whitespace()
            .all(|word| matches!(word, "const" | "async"))
            .then(|| words(name).next())?
    })
}

#[test]
fn every_public_function_has_a_user() -> Result<()> {
    let mut uses: HashMap<String, usize> = HashMap::new();
    let mut defined: Vec<(String, PathBuf)> = Vec::new();
    for folder in FOLDERS.into_iter().chain(["xtask"]) {
        let mut files = Vec::new();
        sources(&root().join(folder), true, &mut files)?;
        for path in files {
            let own = path.strip_prefix(root())?.to_owned();
            if is_test(&own) {
                continue;
            }
            let code = code(&fs::read_to_string(&path)?, false);
            for word in words(&code) {
                *uses.entry(word.to_owned()).or_default() += 1;
            }
            if folder != "xtask" {
                defined.extend(functions(&code).map(|name| (name.to_owned(), own.clone())));
            }
        }
    }
    ensure!(defined.len() > 1000, "only {} public functions were found", defined.len());
    let unused: Vec<String> = defined
        .iter()
        .filter(|(name, _)| uses[name] == 1 && !RESERVED.iter().any(|(reserved, _)| reserved == name))
        .map(|(name, path)| format!("{name} in {}", path.display()))
        .collect();
    ensure!(unused.is_empty(), "nobody but tests uses {}", unused.join(", "));
    for (name, reason) in RESERVED {
        ensure!(uses.get(name) == Some(&1), "{name} is used or gone, and not reserved any more ({reason})");
    }
    Ok(())
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    rename: Option<String>,
    /// None of an ordinary dependency, else `dev` or `build`.
    kind: Option<String>,
}

impl Dependency {
    fn name(&self) -> &str {
        self.rename.as_ref().unwrap_or(&self.name)
    }
}

fn packages() -> Result<Vec<Package>> {
    let mut command = Command::new(env!("CARGO"));
    let args = ["metadata", "--format-version=1", "--offline", "--no-deps"];
    let output = command.args(args).current_dir(root()).output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    ensure!(metadata.packages.len() > 20, "only {} packages", metadata.packages.len());
    Ok(metadata.packages)
}

/// An ordinary dependency is for more than tests, and one for tests is named at all.
#[test]
fn every_dependency_is_named_in_a_source() -> Result<()> {
    let mut unused = Vec::new();
    let mut generated = HashSet::new();
    for package in packages()? {
        let folder = package.manifest_path.parent().context("a manifest lies in a folder")?;
        let mut files = Vec::new();
        sources(folder, false, &mut files)?;
        let (mut ordinary, mut build, mut any) = (HashSet::new(), HashSet::new(), HashSet::new());
        for path in files {
            let own = path.strip_prefix(folder)?;
            let text = fs::read_to_string(&path)?;
            any.extend(words(&code(&text, true)).map(str::to_owned));
            if own == Path::new("build.rs") {
                build.extend(words(&code(&text, true)).map(str::to_owned));
            } else if !own.starts_with("tests") && !own.starts_with("benches") {
                ordinary.extend(words(&code(&text, false)).map(str::to_owned));
            }
        }
        for dependency in &package.dependencies {
            let named = match dependency.kind.as_deref() {
                None => &ordinary,
                Some("build") => &build,
                // With other features, by itself.
                Some(_) if dependency.name == package.name => continue,
                Some(_) => &any,
            };
            let name = dependency.name();
            if named.contains(&name.replace('-', "_")) {
                continue;
            }
            if GENERATED.contains(&(&package.name, name)) {
                generated.insert((package.name.clone(), name.to_owned()));
            } else {
                unused.push(format!("{name} of {}", package.name));
            }
        }
    }
    ensure!(unused.is_empty(), "no source names {}", unused.join(", "));
    let gone =
        GENERATED.iter().filter(|(of, name)| !generated.contains(&((*of).to_owned(), (*name).to_owned())));
    let gone: Vec<_> = gone.collect();
    ensure!(gone.is_empty(), "gone, or named by now: {gone:?}");
    Ok(())
}

#[test]
fn every_dependency_of_the_workspace_has_a_package() -> Result<()> {
    let packages = packages()?;
    let used: HashSet<&str> =
        packages.iter().flat_map(|package| &package.dependencies).map(Dependency::name).collect();
    let manifest = fs::read_to_string(root().join("Cargo.toml"))?;
    let (_, section) = manifest.split_once("\n[workspace.dependencies]\n").context("no such section")?;
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    let names: Vec<&str> = lines
        .filter(|line| !line.starts_with(['#', ' ']))
        .filter_map(|line| Some(line.split_once('=')?.0.trim()))
        .collect();
    ensure!(names.len() > 50, "only {} dependencies", names.len());
    let unused: Vec<_> = names.iter().filter(|name| !used.contains(*name)).collect();
    ensure!(unused.is_empty(), "no package asks for {unused:?}");
    Ok(())
}

#[test]
fn definitions_are_found() {
    let code = "pub fn a() {}\n    pub const fn b(c: u8) {}\npub async fn d<T>() {}\npub(crate) fn e() {}\nfn f() {}\n";
    assert_eq!(functions(code).collect::<Vec<_>>(), ["a", "b", "d"]);
}

#[test]
fn what_is_for_tests_alone_is_left_out() {
    let text = "a();\n// b();\n#[cfg(test)]\nmod c;\nd();\n    #[cfg(test)]\n    #[must_use]\n    fn e() {\n        f();\n    }\n    \
                g();\n#[cfg(any(test, feature = \"testing\"))]\npub use h::{\n    i,\n};\nj();\n";
    let found = |with_tests| {
        let code = code(text, with_tests);
        let of_one = |word: &&str| word.len() == 1;
        words(&code).filter(of_one).map(str::to_owned).collect::<String>()
    };
    assert_eq!((found(false).as_str(), found(true).as_str()), ("adgj", "acdefghij"));
    for (path, test) in
        [("agent/src/dataplane/fake.rs", true), ("crates/ovs/src/testing.rs", true), ("a/src/b.rs", false)]
    {
        assert_eq!(is_test(Path::new(path)), test, "{path}");
    }
}
