//! Which file of a crate takes which name from which other file, read from its imports and its paths. That is text, not
//! what the compiler knows: globs and macros are not followed.

use std::collections::{BTreeMap, BTreeSet};

/// Where a module stands in its crate: `["store", "audit"]`.
type Module = Vec<String>;

/// Names handed on by names handed on are followed so far.
const MAX_STEPS: usize = 8;

/// The files of one crate.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    files: BTreeMap<Module, File>,
}

#[derive(Debug)]
struct File {
    path: String,
    /// What is imported: whether it is handed on, the path as written, and the name it has here.
    imports: Vec<(bool, Vec<String>, String)>,
    /// Paths in the rest of the text.
    paths: Vec<Vec<String>>,
}

impl Modules {
    /// Adds a file. `path` is the one below the crate's sources.
    pub(crate) fn add(&mut self, path: &str, text: &str) {
        let mut module: Module = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if module.last().is_some_and(|last| last == "mod") || module == ["lib"] || module == ["main"] {
            module.pop();
        }
        let text = text.split_once("#[cfg(test)]\nmod tests {").map_or(text, |(code, _)| code);
        let mut file = File { path: path.to_owned(), imports: Vec::new(), paths: Vec::new() };
        let mut lines = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
        while let Some(line) = lines.next() {
            let (handed_on, rest) = match line.strip_prefix("pub").map(|rest| rest.split_once(' ').unwrap_or_default())
            {
                Some((scope, rest)) if scope.is_empty() || scope.starts_with('(') => (true, rest),
                _ => (false, line),
            };
            let Some(tree) = rest.strip_prefix("use ") else {
                let words = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_' && letter != ':');
                let paths = words.map(|word| word.split("::").filter(|part| !part.is_empty() && !part.contains(':')));
                file.paths
                    .extend(paths.map(|path| path.map(str::to_owned).collect::<Vec<_>>()).filter(|it| it.len() > 1));
                continue;
            };
            let mut tree = tree.to_owned();
            while !tree.contains(';') {
                let Some(line) = lines.next() else { break };
                tree.push_str(line);
            }
            for path in branches(tree.split(';').next().unwrap_or_default()) {
                let (path, name) = path.split_once(" as ").unwrap_or((&path, ""));
                let mut path: Vec<String> = path.split("::").map(|part| part.trim().to_owned()).collect();
                if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
                    path.pop();
                }
                let name = if name.is_empty() { path.last().cloned().unwrap_or_default() } else { name.to_owned() };
                file.imports.push((handed_on, path, name));
            }
        }
        self.files.insert(module, file);
    }

    /// Every import between two files, as `from -> to: name`, in order.
    pub(crate) fn arrows(&self) -> Vec<String> {
        self.edges().into_iter().map(|edge| self.told(edge)).collect()
    }

    /// The imports that are part of circles, or lie between two of them.
    pub(crate) fn circles(&self) -> Vec<String> {
        let mut edges = self.edges();
        loop {
            let from: BTreeSet<&Module> = edges.iter().map(|(from, ..)| *from).collect();
            let to: BTreeSet<&Module> = edges.iter().map(|(_, to, _)| *to).collect();
            let before = edges.len();
            edges.retain(|edge| from.contains(edge.1) && to.contains(edge.0));
            if edges.len() == before {
                return edges.into_iter().map(|edge| self.told(edge)).collect();
            }
        }
    }

    fn told(&self, (from, to, name): (&Module, &Module, String)) -> String {
        let path = |module| self.files.get(module).map_or("", |file: &File| file.path.as_str());
        format!("{} -> {}: {name}", path(from), path(to))
    }

    fn edges(&self) -> BTreeSet<(&Module, &Module, String)> {
        let mut edges = BTreeSet::new();
        for (module, file) in &self.files {
            let imports = file.imports.iter().map(|(handed_on, path, _)| (*handed_on, self.absolute(module, path)));
            let paths = file.paths.iter().map(|path| {
                // A path may begin with a module that is imported.
                let import = file.imports.iter().find(|(_, _, name)| path.first() == Some(name));
                let whole: Option<Vec<String>> =
                    import.map(|(_, import, _)| import.iter().chain(path.iter().skip(1)).cloned().collect());
                (false, self.absolute(module, whole.as_ref().unwrap_or(path)))
            });
            for (handed_on, path) in imports.chain(paths) {
                let Some((to, name)) = path.and_then(|path| self.definition(&path, MAX_STEPS)) else { continue };
                let own = module.starts_with(to) || (handed_on && to.starts_with(module));
                if !own && !name.is_empty() {
                    edges.insert((module, to, name));
                }
            }
        }
        edges
    }

    /// A path from the crate's root, `None` if it leads out of the crate.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Vec<String>> {
        let ups = path.iter().take_while(|part| *part == "super").count();
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([module, &path[1..]].concat()),
            "super" => Some([&module[..module.len().checked_sub(ups)?], &path[ups..]].concat()),
            first => {
                let child = [module.as_slice(), &[first.to_owned()]].concat();
                self.files.contains_key(&child).then(|| [module, path].concat())
            }
        }
    }

    /// The file that defines what a path from the root leads to, and what is left of the path.
    fn definition(&self, path: &[String], steps: usize) -> Option<(&Module, String)> {
        let (module, file) = (0..=path.len()).rev().find_map(|length| self.files.get_key_value(&path[..length]))?;
        let rest = &path[module.len()..];
        let handed_on = file.imports.iter().find(|(handed_on, _, name)| *handed_on && rest.first() == Some(name));
        match handed_on.filter(|_| steps > 0) {
            Some((_, import, _)) => {
                let path = self.absolute(module, import)?;
                self.definition(&[path.as_slice(), &rest[1..]].concat(), steps - 1)
            }
            None => Some((module, rest.first().cloned().unwrap_or_default())),
        }
    }
}

/// The paths of an import: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn branches(tree: &str) -> Vec<String> {
    let Some((before, rest)) = tree.split_once('{') else { return vec![tree.trim().to_owned()] };
    let inside = rest.rsplit_once('}').map_or(rest, |(inside, _)| inside);
    let (mut paths, mut depth, mut begin) = (Vec::new(), 0_i32, 0);
    for (index, letter) in inside.char_indices().chain([(inside.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let branch = inside[begin..index].trim();
                begin = index + 1;
                if !branch.is_empty() {
                    paths.extend(branches(branch).into_iter().map(|path| format!("{}{path}", before.trim())));
                }
            }
            _ => {}
        }
    }
    paths
}
