//! Names of a plugin's methods, as they stand behind the plugin's own.

use std::collections::{BTreeSet, HashMap};

use super::surface::Function;

/// The canonical name of each function: its own, with the interface where
/// another interface has one of that name, else the whole name of WIT.
pub(super) fn canonical(functions: &[Function]) -> Vec<String> {
    let mut own = HashMap::<&str, usize>::new();
    let mut short = HashMap::<String, usize>::new();
    for function in functions {
        *own.entry(&function.name).or_default() += 1;
        if let Some(name) = with_interface(function) {
            *short.entry(name).or_default() += 1;
        }
    }
    let name = |function: &Function| {
        let Some(qualified) = with_interface(function) else { return function.name.clone() };
        if own.get(function.name.as_str()) == Some(&1) {
            function.name.clone()
        } else if short.get(&qualified) == Some(&1) {
            qualified
        } else {
            function.wit_names().into_iter().next().unwrap_or(qualified)
        }
    };
    functions.iter().map(name).collect()
}

/// `math.fib` of `acme:math/math`.
pub(super) fn with_interface(function: &Function) -> Option<String> {
    Some(format!("{}.{}", function.short_interface()?, function.name))
}

/// As names are compared: WIT has no `_`, so that callers may write it for `-`.
pub(in super::super) fn normal(name: &str) -> String {
    name.replace('_', "-")
}

/// Which name leads where. A canonical name leads to its own; another leads
/// nowhere if there are two claims to it. Returns these too, sorted.
pub(in super::super) fn resolve<T: Clone + PartialEq>(
    canonical: impl IntoIterator<Item = (String, T)>,
    claims: impl IntoIterator<Item = (String, T)>,
) -> (HashMap<String, T>, BTreeSet<String>) {
    let mut names: HashMap<String, T> = canonical.into_iter().collect();
    let mut claimed = HashMap::<String, T>::new();
    let mut ambiguous = BTreeSet::new();
    for (name, to) in claims {
        if names.contains_key(&name) {
            continue;
        }
        match claimed.get(&name) {
            Some(other) if *other != to => {
                ambiguous.insert(name);
            }
            _ => {
                claimed.insert(name, to);
            }
        }
    }
    claimed.retain(|name, _| !ambiguous.contains(name));
    names.extend(claimed);
    (names, ambiguous)
}
