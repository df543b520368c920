//! Values on their way through a guest's memory.
//!
//! For each type the guest has two functions. `echo` takes the value behind so
//! many others that all arguments are in memory, and returns their address:
//! what comes back was written and read. `slots` returns the numbers that it was
//! called with, to be compared with those of wasmtime's own `Val`.

use proptest::collection::vec;
use proptest::prelude::*;
use wasmtime::component::{Component, Linker, Val};
use wasmtime::{Config, Engine, Store};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;
use wit_parser::abi::{AbiVariant, WasmType};

use super::super::types::{Integer, Type};
use super::super::value::Value;
use super::super::{abi, surface};
use super::random;

/// Sixteen slots, so that whatever follows goes through memory.
const PAD: &str =
    "tuple<u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64>";

const INTERFACE: &str = "t:t/t";

/// Memory that is handed out from 32 KiB upwards, and grows.
const ALLOCATOR: &str = r#"
  (memory (export "memory") 1)
  (global $heap (mut i32) (i32.const 32768))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and
      (i32.add (global.get $heap) (i32.sub (local.get 2) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get 2))))
    (global.set $heap (i32.add (local.get $at) (local.get 3)))
    (block (br_if 0 (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
      (drop (memory.grow (i32.add (i32.const 1) (i32.div_u (local.get 3) (i32.const 65536))))))
    (local.get $at))
"#;

fn engine() -> Engine {
    let mut config = Config::new();
    config.wasm_component_model_map(true).concurrency_support(false);
    Engine::new(&config).unwrap()
}

/// A guest with the functions for these types.
fn guest(engine: &Engine, types: &[Type], encoding: StringEncoding) -> Component {
    let mut definitions = Vec::new();
    let mut functions = String::new();
    for (number, ty) in types.iter().enumerate() {
        let ty = wit(ty, &mut definitions);
        functions
            .push_str(&format!("echo{number}: func(pad: pad, v: {ty}) -> tuple<pad, {ty}>;\n"));
        functions.push_str(&format!("slots{number}: func(v: {ty}) -> list<u64>;\n"));
    }
    let text = format!(
        "package t:t;\ninterface t {{\ntype pad = {PAD};\n{}\n{functions}}}\nworld w {{ export t; }}\n",
        definitions.join("\n")
    );
    let mut resolve = Resolve::default();
    let package =
        resolve.push_str("t.wit", &text).unwrap_or_else(|error| panic!("{error:#}: {text}"));
    let world = resolve.select_world(&[package], None).unwrap();
    let mut module = format!("(module {ALLOCATOR}\n");
    for number in 0..types.len() {
        module.push_str(&format!(
            "(func (export \"{INTERFACE}#echo{number}\") (param i32) (result i32) local.get 0)\n"
        ));
        let (_, interface) =
            resolve.interfaces.iter().find(|(_, i)| i.name.as_deref() == Some("t")).unwrap();
        let function = &interface.functions[&format!("slots{number}")];
        let params = resolve.wasm_signature(AbiVariant::GuestExport, function).params;
        module.push_str(&slots(number, &params));
    }
    module.push(')');
    let mut module = wat::parse_str(&module).unwrap();
    embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
    let encoded = ComponentEncoder::default().module(&module).unwrap().encode().unwrap();
    Component::new(engine, encoded).unwrap()
}

fn slots(number: usize, params: &[WasmType]) -> String {
    let mut names = String::new();
    let mut body = String::new();
    for (at, ty) in params.iter().enumerate() {
        let (name, convert) = match ty {
            WasmType::I32 | WasmType::Pointer | WasmType::Length => ("i32", "i64.extend_i32_u"),
            WasmType::I64 | WasmType::PointerOrI64 => ("i64", ""),
            WasmType::F32 => ("f32", "i32.reinterpret_f32 i64.extend_i32_u"),
            WasmType::F64 => ("f64", "i64.reinterpret_f64"),
        };
        names.push_str(name);
        names.push(' ');
        body.push_str(&format!("i32.const {} local.get {at} {convert} i64.store\n", 1024 + 8 * at));
    }
    format!(
        "(func (export \"{INTERFACE}#slots{number}\") (param {names}) (result i32)\n{body}\
         i32.const 512 i32.const 1024 i32.store i32.const 516 i32.const {} i32.store i32.const 512)\n",
        params.len()
    )
}

/// A type in WIT, where records and the like have names.
fn wit(ty: &Type, definitions: &mut Vec<String>) -> String {
    let define = |definitions: &mut Vec<String>, kind: &str, items: Vec<String>| {
        let name = format!("t{}", definitions.len());
        definitions.push(format!("{kind} {name} {{ {} }}", items.join(", ")));
        name
    };
    let escape = |name: &String| format!("%{name}");
    match ty {
        Type::List(ty) => format!("list<{}>", wit(ty, definitions)),
        Type::Option(ty) => format!("option<{}>", wit(ty, definitions)),
        Type::Map(key, value) => {
            format!("map<{}, {}>", wit(key, definitions), wit(value, definitions))
        }
        Type::Tuple(types) => {
            let types: Vec<_> = types.iter().map(|ty| wit(ty, definitions)).collect();
            format!("tuple<{}>", types.join(", "))
        }
        Type::Result(ok, err) => {
            let mut of = |ty: &Option<Box<Type>>| ty.as_ref().map(|ty| wit(ty, definitions));
            match (of(ok), of(err)) {
                (None, None) => "result".to_owned(),
                (ok, None) => format!("result<{}>", ok.unwrap()),
                (ok, Some(err)) => format!("result<{}, {err}>", ok.unwrap_or("_".to_owned())),
            }
        }
        Type::Record(fields) => {
            let fields = fields
                .iter()
                .map(|field| format!("%{}: {}", field.name, wit(&field.ty, definitions)))
                .collect();
            define(definitions, "record", fields)
        }
        Type::Variant(cases) => {
            let cases = cases
                .iter()
                .map(|case| match &case.ty {
                    Some(ty) => format!("%{}({})", case.name, wit(ty, definitions)),
                    None => escape(&case.name),
                })
                .collect();
            define(definitions, "variant", cases)
        }
        Type::Enum(names) => define(definitions, "enum", names.iter().map(escape).collect()),
        Type::Flags(names) => define(definitions, "flags", names.iter().map(escape).collect()),
        scalar => scalar.to_string(),
    }
}

/// The same value as wasmtime has it.
fn val(ty: &Type, value: &Value) -> Val {
    let boxed = |ty: &Type, value: &Option<Box<Value>>| {
        value.as_ref().map(|value| Box::new(val(ty, value)))
    };
    let payload = |ty: &Option<Box<Type>>, value: &Option<Box<Value>>| match ty {
        Some(ty) => boxed(ty, value),
        None => None,
    };
    match (ty, value) {
        (Type::Bool, Value::Bool(value)) => Val::Bool(*value),
        (Type::Integer(Integer::S8), Value::Signed(value)) => Val::S8((*value).try_into().unwrap()),
        (Type::Integer(Integer::S16), Value::Signed(value)) => {
            Val::S16((*value).try_into().unwrap())
        }
        (Type::Integer(Integer::S32), Value::Signed(value)) => {
            Val::S32((*value).try_into().unwrap())
        }
        (Type::Integer(Integer::S64), Value::Signed(value)) => Val::S64(*value),
        (Type::Integer(Integer::U8), Value::Unsigned(value)) => {
            Val::U8((*value).try_into().unwrap())
        }
        (Type::Integer(Integer::U16), Value::Unsigned(value)) => {
            Val::U16((*value).try_into().unwrap())
        }
        (Type::Integer(Integer::U32), Value::Unsigned(value)) => {
            Val::U32((*value).try_into().unwrap())
        }
        (Type::Integer(Integer::U64), Value::Unsigned(value)) => Val::U64(*value),
        (Type::F32, Value::F32(value)) => Val::Float32(*value),
        (Type::F64, Value::F64(value)) => Val::Float64(*value),
        (Type::Char, Value::Char(value)) => Val::Char(*value),
        (Type::String, Value::String(value)) => Val::String(value.clone()),
        (Type::Bytes, Value::Bytes(value)) => {
            Val::List(value.iter().copied().map(Val::U8).collect())
        }
        (Type::List(ty), Value::List(values)) => {
            Val::List(values.iter().map(|value| val(ty, value)).collect())
        }
        (Type::Map(key, ty), Value::Map(entries)) => {
            Val::Map(entries.iter().map(|(k, v)| (val(key, k), val(ty, v))).collect())
        }
        (Type::Tuple(types), Value::Fields(values)) => {
            Val::Tuple(types.iter().zip(values).map(|(ty, value)| val(ty, value)).collect())
        }
        (Type::Record(fields), Value::Fields(values)) => {
            let fields = fields.iter().zip(values);
            Val::Record(fields.map(|(f, value)| (f.name.clone(), val(&f.ty, value))).collect())
        }
        (Type::Variant(cases), Value::Case(number, value)) => {
            let case = &cases[*number as usize];
            let value = case.ty.as_ref().and_then(|ty| boxed(ty, value));
            Val::Variant(case.name.clone(), value)
        }
        (Type::Enum(names), Value::Case(number, _)) => Val::Enum(names[*number as usize].clone()),
        (Type::Option(ty), Value::Case(_, value)) => Val::Option(boxed(ty, value)),
        (Type::Result(ok, _), Value::Case(0, value)) => Val::Result(Ok(payload(ok, value))),
        (Type::Result(_, err), Value::Case(_, value)) => Val::Result(Err(payload(err, value))),
        (Type::Flags(names), Value::Flags(bits)) => {
            let set = names.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
            Val::Flags(set.map(|(_, name)| name.clone()).collect())
        }
        other => panic!("{other:?}"),
    }
}

/// Takes the values through a guest, both ways.
fn check(engine: &Engine, batch: &[(Type, Vec<Value>)], encoding: StringEncoding) {
    let types: Vec<_> = batch.iter().map(|(ty, _)| ty.clone()).collect();
    let component = guest(engine, &types, encoding);
    let linker: Linker<()> = Linker::new(engine);
    let functions = surface::functions(&component, engine).unwrap();
    let interface = component.get_export_index(None, INTERFACE).unwrap();
    for (number, (ty, values)) in batch.iter().enumerate() {
        let index = |name: String| component.get_export_index(Some(&interface), name).unwrap();
        let (echo, slots) = (index(format!("echo{number}")), index(format!("slots{number}")));
        let found = functions.iter().find(|f| f.name == format!("slots{number}")).unwrap();
        let signature = &found.call.as_ref().unwrap().signature;
        assert_eq!(&signature.params[0].ty, ty, "as the component has it");
        for value in values {
            let mut store = Store::new(engine, ());
            let instance = linker.instantiate(&mut store, &component).unwrap();
            let function = instance.get_func(&mut store, echo).unwrap();
            let function = function.typed::<abi::Arguments, abi::Returned>(&store).unwrap();
            let pad = Value::Fields((0..16).map(Value::Unsigned).collect());
            let arguments = abi::Arguments(vec![pad.clone(), value.clone()]);
            let Some(Value::Fields(back)) = function.call(&mut store, arguments).unwrap().0 else {
                panic!("no tuple");
            };
            random::assert_same(ty, &pad, &back[0]);
            random::assert_same(ty, value, &back[1]);

            // In other encodings wasmtime asks for room twice, and gets other
            // addresses.
            if encoding != StringEncoding::UTF8 {
                continue;
            }
            let mut ours = Store::new(engine, ());
            let instance = linker.instantiate(&mut ours, &component).unwrap();
            let function = instance.get_func(&mut ours, slots).unwrap();
            let function = function.typed::<abi::Arguments, abi::Returned>(&ours).unwrap();
            let arguments = abi::Arguments(vec![value.clone()]);
            let Some(Value::List(given)) = function.call(&mut ours, arguments).unwrap().0 else {
                panic!("no list");
            };
            let mut theirs = Store::new(engine, ());
            let instance = linker.instantiate(&mut theirs, &component).unwrap();
            let function = instance.get_func(&mut theirs, slots).unwrap();
            let mut results = [Val::Bool(false)];
            function.call(&mut theirs, &[val(ty, value)], &mut results).unwrap();
            let [Val::List(expected)] = results else { panic!("no list") };
            let number = |val: Val| match val {
                Val::U64(number) => Value::Unsigned(number),
                other => panic!("{other:?}"),
            };
            let expected: Vec<_> = expected.into_iter().map(number).collect();
            assert_eq!(given, expected, "{ty}: {value:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn nothing_is_lost_on_the_way_through_a_guest(batch in vec(random::typed_values(), 1..6)) {
        let engine = engine();
        for encoding in [StringEncoding::UTF8, StringEncoding::UTF16, StringEncoding::CompactUTF16] {
            check(&engine, &batch, encoding);
        }
    }
}
