//! What componentize-qjs gets wrong of a `u32`, put right: one above 2^31 - 1 comes to a handler as
//! a negative number, and what a handler returns above it is cut.

use wit_parser::{Resolve, Type, TypeDefKind};

use super::javascript::{kind, named};

/// Where a value is on its way to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To the handler.
    In,
    /// From it.
    Out,
}

/// A JavaScript expression for `value` of the type with each `u32` in it put right; `None` where
/// there is none in it.
pub(super) fn mended(resolve: &Resolve, ty: &Type, way: Way, value: &str) -> Option<String> {
    at(resolve, ty, way, value, 0)
}

fn at(resolve: &Resolve, ty: &Type, way: Way, value: &str, depth: usize) -> Option<String> {
    let inner = |ty: &Type, value: &str| at(resolve, ty, way, value, depth + 1);
    if *ty == Type::U32 {
        return Some(match way {
            Way::In => format!("({value} >>> 0)"),
            Way::Out => format!("u32({value})"),
        });
    }
    match kind(resolve, ty)? {
        TypeDefKind::Type(Type::U32) => inner(&Type::U32, value),
        TypeDefKind::List(element) => {
            let item = format!("x{depth}");
            let mended = inner(element, &item)?;
            Some(format!("Array.from({value}, ({item}) => {mended})"))
        }
        TypeDefKind::Option(some) => {
            if matches!(kind(resolve, some), Some(TypeDefKind::Option(_))) {
                // Of an option of an option, the engine has to tell which of them is empty.
                return tagged([("some", Some(some))].into_iter(), value, inner);
            }
            let mended = inner(some, value)?;
            Some(format!("({value} == null ? {value} : {mended})"))
        }
        TypeDefKind::Record(record) => {
            let mut any = false;
            // Each by its name, which finds what a class has its instances compute, too.
            let fields: Vec<_> = record
                .fields
                .iter()
                .map(|field| {
                    let name = named(&field.name);
                    let as_it_is = format!("{value}.{name}");
                    let mended = inner(&field.ty, &as_it_is);
                    any |= mended.is_some();
                    format!("{name}: {}", mended.unwrap_or(as_it_is))
                })
                .collect();
            any.then(|| format!("({{ {} }})", fields.join(", ")))
        }
        TypeDefKind::Tuple(tuple) => {
            let places = tuple.types.iter().enumerate();
            let items: Vec<_> = places
                .map(|(place, ty)| {
                    let item = format!("{value}[{place}]");
                    inner(ty, &item).ok_or(item)
                })
                .collect();
            let any = items.iter().any(Result::is_ok);
            let items: Vec<_> =
                items.into_iter().map(|item| item.unwrap_or_else(|item| item)).collect();
            any.then(|| format!("[{}]", items.join(", ")))
        }
        TypeDefKind::Variant(variant) => {
            let cases = variant.cases.iter().map(|case| (case.name.as_str(), case.ty.as_ref()));
            tagged(cases, value, inner)
        }
        TypeDefKind::Result(result) => {
            let cases = [("ok", result.ok.as_ref()), ("err", result.err.as_ref())];
            tagged(cases.into_iter(), value, inner)
        }
        _ => None,
    }
}

/// Of what is `{ tag, val }`.
fn tagged<'a>(
    cases: impl Iterator<Item = (&'a str, Option<&'a Type>)>,
    value: &str,
    inner: impl Fn(&Type, &str) -> Option<String>,
) -> Option<String> {
    let mended: Vec<_> = cases
        .filter_map(|(name, ty)| {
            let mended = inner(ty?, &format!("{value}.val"))?;
            let case = format!("{{ tag: \"{name}\", val: {mended} }}");
            Some(format!("{value}?.tag === \"{name}\" ? {case} : "))
        })
        .collect();
    (!mended.is_empty()).then(|| format!("({}{value})", mended.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::author::wit::Wit;

    #[test]
    fn each_u32_is_found_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let wit = "package local:x;\n\
            interface api {\n\
                type id = u32;\n\
                record user { user-ID: id, name: string }\n\
                variant key { by-id(u32), by-name(string), none }\n\
                all: func(a: u32, b: id, c: list<u32>, d: option<u32>, e: user, f: tuple<string, u32>,\n\
                    g: key, h: result<u32, string>, i: list<user>, j: string, k: u64, l: list<u8>,\n\
                    m: option<option<u32>>);\n\
            }\n\
            world plugin { export api; }\n";
        std::fs::write(folder.path().join("x.wit"), wit).unwrap();
        let wit = Wit::read(folder.path()).unwrap().unwrap();
        let (_, interface) = wit.resolve.interfaces.iter().next().unwrap();
        let function = interface.functions.get("all").unwrap();
        let mended = |way| {
            let each =
                function.params.iter().map(|param| mended(&wit.resolve, &param.ty, way, "v"));
            each.map(Option::unwrap_or_default).collect::<Vec<_>>()
        };
        assert_eq!(
            mended(Way::In),
            [
                "(v >>> 0)",
                "(v >>> 0)",
                "Array.from(v, (x0) => (x0 >>> 0))",
                "(v == null ? v : (v >>> 0))",
                "({ userId: (v.userId >>> 0), name: v.name })",
                "[v[0], (v[1] >>> 0)]",
                "(v?.tag === \"by-id\" ? { tag: \"by-id\", val: (v.val >>> 0) } : v)",
                "(v?.tag === \"ok\" ? { tag: \"ok\", val: (v.val >>> 0) } : v)",
                "Array.from(v, (x0) => ({ userId: (x0.userId >>> 0), name: x0.name }))",
                "",
                "",
                "",
                "(v?.tag === \"some\" ? { tag: \"some\", val: (v.val == null ? v.val : (v.val >>> 0)) } : v)",
            ]
        );
        assert_eq!(mended(Way::Out).first().unwrap(), "u32(v)");
    }
}
