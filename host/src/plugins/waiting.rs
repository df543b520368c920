//! Whether a component needs an engine with component-model concurrency.
//!
//! Told from the sections of the component itself; the code of its modules is
//! passed over. What is malformed needs nothing: the compiler says what is wrong.

use wasmparser::{
    CanonicalFunction, CanonicalOption, Chunk, ComponentDefinedType, ComponentType,
    ComponentTypeDeclaration, InstanceTypeDeclaration, Parser, Payload,
};

use super::core_module::Source;

/// Words of WIT that may mean that a function waits.
const WORDS: [&str; 3] = ["stream", "future", "async"];

/// The sections in which toolchains keep a core module's WIT, as a component.
const METADATA: &str = "component-type";

/// Whether there is a `stream`, a `future` or an `async func` in it, exported
/// or not. A WIT file beside a core module is only searched for the words: to
/// say yes too often costs time, and no more.
pub(super) fn needs_concurrency(source: Source<'_>) -> bool {
    let says = |wit: &str| WORDS.iter().any(|word| wit.contains(word));
    source.wit.is_some_and(says) || waits_in(source.wasm)
}

fn waits_in(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut parser = Parser::new(0);
    let mut outer = Vec::new();
    while let Ok(Chunk::Parsed { consumed, payload }) = parser.parse(rest, true) {
        let mut passed = consumed;
        let found = match payload {
            Payload::ModuleSection { unchecked_range, .. } => {
                passed = passed.saturating_add(unchecked_range.len());
                false
            }
            Payload::ComponentSection { parser: inner, .. } => {
                outer.push(std::mem::replace(&mut parser, inner));
                false
            }
            Payload::CustomSection(section) if section.name().starts_with(METADATA) => {
                Parser::is_component(section.data()) && waits_in(section.data())
            }
            Payload::ComponentTypeSection(types) => {
                types.into_iter().flatten().any(|ty| is_waiting(&ty))
            }
            Payload::ComponentCanonicalSection(functions) => {
                functions.into_iter().flatten().any(|function| waits(&function))
            }
            Payload::End(_) => match outer.pop() {
                Some(around) => {
                    parser = around;
                    false
                }
                None => return false,
            },
            _ => false,
        };
        if found {
            return true;
        }
        rest = rest.get(passed..).unwrap_or_default();
    }
    false
}

fn is_waiting(ty: &ComponentType<'_>) -> bool {
    match ty {
        ComponentType::Defined(ty) => {
            matches!(ty, ComponentDefinedType::Stream(_) | ComponentDefinedType::Future(_))
        }
        ComponentType::Func(function) => function.async_,
        ComponentType::Component(declared) => declared.iter().any(|declared| match declared {
            ComponentTypeDeclaration::Type(ty) => is_waiting(ty),
            _ => false,
        }),
        ComponentType::Instance(declared) => declared.iter().any(|declared| match declared {
            InstanceTypeDeclaration::Type(ty) => is_waiting(ty),
            _ => false,
        }),
        ComponentType::Resource { .. } => false,
    }
}

/// Whether a canonical function is none of those that there were before
/// concurrency.
fn waits(function: &CanonicalFunction) -> bool {
    match function {
        CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => {
            options.contains(&CanonicalOption::Async)
        }
        CanonicalFunction::ResourceNew { .. }
        | CanonicalFunction::ResourceDrop { .. }
        | CanonicalFunction::ResourceRep { .. } => false,
        _ => true,
    }
}
