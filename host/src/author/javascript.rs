//! What stands between the host and a handler in JavaScript: an entry that exports what the world
//! does, where an `Error` that is thrown becomes the `err` of the function's type.

use wit_parser::{Function, Resolve, Type, TypeDefKind, WorldItem};

use super::bindings::camel;
use super::unsigned::{Way, mended};
use super::wit::Wit;

/// The text of the entry, for a handler in the file `source` one folder above.
pub(super) fn entry(wit: &Wit, source: &str) -> String {
    let mut text = format!(
        "// Made by `rpchost build`.\nimport * as own from \"../{source}\";\n\
         import {{ guarded, u32 }} from \"./guard.js\";\n\n"
    );
    let world = wit.resolve.worlds.get(wit.world);
    let exports = world.into_iter().flat_map(|world| &world.exports);
    for (number, (key, item)) in exports.enumerate() {
        // What is exported may be called `delete`, or as something in here.
        let local = format!("e{number}");
        match item {
            WorldItem::Function(function) => {
                let name = named(&function.name);
                let guarded = guarded(&wit.resolve, "own", &name, function);
                text.push_str(&format!("const {local} = {guarded};\n"));
                text.push_str(&format!("export {{ {local} as {name} }};\n"));
            }
            WorldItem::Interface { id, .. } => {
                let whole = wit.resolve.name_world_key(key);
                let short = whole.split('@').next().unwrap_or_default();
                let name = named(short.rsplit('/').next().unwrap_or_default());
                text.push_str(&format!("const {local} = {{\n"));
                let owner = format!("own.{name}");
                let found = wit.resolve.interfaces.get(*id);
                for function in found.into_iter().flat_map(|found| found.functions.values()) {
                    let name = named(&function.name);
                    let guarded = guarded(&wit.resolve, &owner, &name, function);
                    text.push_str(&format!("  {name}: {guarded},\n"));
                }
                text.push_str(&format!("}};\nexport {{ {local} as {name} }};\n"));
            }
            WorldItem::Type { .. } => {}
        }
    }
    text
}

fn guarded(resolve: &Resolve, owner: &str, name: &str, function: &Function) -> String {
    let mut more = Vec::new();
    let params: Vec<_> = (0..function.params.len()).map(|number| format!("a{number}")).collect();
    let args: Vec<_> = function
        .params
        .iter()
        .zip(&params)
        .map(|(param, value)| mended(resolve, &param.ty, Way::In, value))
        .collect();
    if args.iter().any(Option::is_some) {
        let args = args.into_iter().zip(&params);
        let args: Vec<_> = args.map(|(arg, param)| arg.unwrap_or_else(|| param.clone())).collect();
        more.push(format!("args: ({}) => [{}]", params.join(", "), args.join(", ")));
    }
    let (ok, err) = match function.result.as_ref().map(|ty| (ty, kind(resolve, ty))) {
        Some((_, Some(TypeDefKind::Result(result)))) => (result.ok.as_ref(), result.err.as_ref()),
        other => (other.map(|(ty, _)| ty), None),
    };
    for (name, ty) in [("result", ok), ("err", err)] {
        if let Some(mended) = ty.and_then(|ty| mended(resolve, ty, Way::Out, "value")) {
            more.push(format!("{name}: (value) => {mended}"));
        }
    }
    if let Some(err) = error(resolve, function.result.as_ref()) {
        more.push(format!("asErr: (message) => {err}"));
    }
    match more.as_slice() {
        [] => format!("guarded({owner}, \"{name}\")"),
        more => format!("guarded({owner}, \"{name}\", {{ {} }})", more.join(", ")),
    }
}

/// What a message looks like as the `err` of a function, if that is a text or has one.
fn error(resolve: &Resolve, result: Option<&Type>) -> Option<String> {
    let TypeDefKind::Result(result) = kind(resolve, result?)? else { return None };
    let err = result.err.as_ref()?;
    if is_string(resolve, err) {
        return Some("message".to_owned());
    }
    let TypeDefKind::Record(record) = kind(resolve, err)? else { return None };
    let mut has_message = false;
    let mut fields = Vec::new();
    for field in &record.fields {
        let name = named(&field.name);
        if field.name == "message" && is_string(resolve, &field.ty) {
            has_message = true;
            fields.push(name);
            continue;
        }
        let value = match plain(resolve, &field.ty)? {
            Plain::Text => "\"\"",
            Plain::Bool => "false",
            // As everywhere, 0 would say that nothing is wrong.
            Plain::Number => "1",
            Plain::Nothing => "undefined",
            Plain::List => "[]",
        };
        fields.push(format!("{name}: {value}"));
    }
    has_message.then(|| format!("({{ {} }})", fields.join(", ")))
}

/// What stands in a field that nobody has filled.
enum Plain {
    Text,
    Bool,
    Number,
    Nothing,
    List,
}

fn plain(resolve: &Resolve, ty: &Type) -> Option<Plain> {
    Some(match ty {
        Type::String => Plain::Text,
        Type::Bool => Plain::Bool,
        Type::U8 | Type::U16 | Type::U32 | Type::S8 | Type::S16 | Type::S32 => Plain::Number,
        Type::F32 | Type::F64 => Plain::Number,
        Type::Id(_) => match kind(resolve, ty)? {
            TypeDefKind::Option(_) => Plain::Nothing,
            TypeDefKind::List(_) => Plain::List,
            TypeDefKind::Type(inner) => return plain(resolve, inner),
            _ => return None,
        },
        _ => return None,
    })
}

fn is_string(resolve: &Resolve, ty: &Type) -> bool {
    match ty {
        Type::String => true,
        Type::Id(_) => matches!(kind(resolve, ty), Some(TypeDefKind::Type(Type::String))),
        _ => false,
    }
}

/// A name of WIT as the engine has it: `user-ID` is `userId`.
pub(super) fn named(name: &str) -> String {
    camel(name.to_lowercase().split('-'))
}

/// What a type is, behind all its names.
pub(super) fn kind<'a>(resolve: &'a Resolve, ty: &Type) -> Option<&'a TypeDefKind> {
    let Type::Id(id) = ty else { return None };
    match &resolve.types.get(*id)?.kind {
        TypeDefKind::Type(inner @ Type::Id(_)) => kind(resolve, inner),
        kind => Some(kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_becomes_the_err_of_the_function_where_it_has_a_place() {
        let folder = tempfile::tempdir().unwrap();
        let wit = "package local:x;\n\
            interface my-api {\n\
                record problem { code: s32, message: string, data: option<string>, again: bool }\n\
                type alias = problem;\n\
                variant other { a, b }\n\
                get-it: func() -> result<u32, string>;\n\
                put: func() -> result<_, alias>;\n\
                odd: func() -> result<u32, other>;\n\
                plain-ID: func() -> u32;\n\
            }\n\
            world plugin {\n\
                export my-api;\n\
                export go-on: func() -> result;\n\
                export delete: func();\n\
            }\n";
        std::fs::write(folder.path().join("x.wit"), wit).unwrap();
        let wit = Wit::read(folder.path()).unwrap().unwrap();
        let text = entry(&wit, "handler.ts");
        for line in [
            "import * as own from \"../handler.ts\";",
            "export { e2 as myApi };",
            "  getIt: guarded(own.myApi, \"getIt\", { result: (value) => u32(value), \
             asErr: (message) => message }),",
            "  put: guarded(own.myApi, \"put\", { asErr: (message) => ({ code: 1, message, \
             data: undefined, again: false }) }),",
            "  odd: guarded(own.myApi, \"odd\", { result: (value) => u32(value) }),",
            "  plainId: guarded(own.myApi, \"plainId\", { result: (value) => u32(value) }),",
            "const e0 = guarded(own, \"goOn\");",
            "export { e0 as goOn };",
            "export { e1 as delete };",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
