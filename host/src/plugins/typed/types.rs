//! Types of WIT as the mapping sees them, and how they are written.
//!
//! A tree of plain data: knows no engine, so that the mapping can be tried with
//! any type there can be.

use std::fmt;

/// A type that has values in JSON.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum Type {
    Bool,
    Integer(Integer),
    F32,
    F64,
    Char,
    String,
    /// `list<u8>`.
    Bytes,
    List(Box<Type>),
    Map(Box<Type>, Box<Type>),
    Record(Vec<Field>),
    Tuple(Vec<Type>),
    Variant(Vec<Case>),
    Enum(Vec<String>),
    Flags(Vec<String>),
    Option(Box<Type>),
    Result(Option<Box<Type>>, Option<Box<Type>>),
}

/// A field of a record, or a parameter.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Field {
    pub(in super::super) name: String,
    pub(in super::super) ty: Type,
}

/// A case of a variant.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Case {
    pub(super) name: String,
    pub(super) ty: Option<Type>,
}

/// Integers by their width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Integer {
    S8,
    U8,
    S16,
    U16,
    S32,
    U32,
    S64,
    U64,
}

impl Integer {
    /// The smallest and the largest value.
    pub(super) fn range(self) -> (i128, i128) {
        match self {
            Self::S8 => (i8::MIN.into(), i8::MAX.into()),
            Self::U8 => (0, u8::MAX.into()),
            Self::S16 => (i16::MIN.into(), i16::MAX.into()),
            Self::U16 => (0, u16::MAX.into()),
            Self::S32 => (i32::MIN.into(), i32::MAX.into()),
            Self::U32 => (0, u32::MAX.into()),
            Self::S64 => (i64::MIN.into(), i64::MAX.into()),
            Self::U64 => (0, u64::MAX.into()),
        }
    }
}

impl Type {
    /// Whether a missing value can be made up: `none`.
    pub(super) fn is_optional(&self) -> bool {
        matches!(self, Self::Option(_))
    }

    /// Whether a value of it may be a JSON object. Says nothing of `null`.
    pub(super) fn takes_objects(&self) -> bool {
        match self {
            Self::Record(_) | Self::Map(..) | Self::Variant(_) | Self::Enum(_) => true,
            Self::Result(..) => true,
            Self::Option(inner) => inner.is_optional() || inner.takes_objects(),
            _ => false,
        }
    }
}

/// A function's type.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Signature {
    pub(in super::super) params: Vec<Field>,
    pub(in super::super) result: Option<Type>,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(")?;
        list(f, &self.params, |f, param| write!(f, "{}: {}", param.name, param.ty))?;
        write!(f, ")")?;
        match &self.result {
            Some(ty) => write!(f, " -> {ty}"),
            None => Ok(()),
        }
    }
}

/// As in WIT, but records and the like by their shape: a component does not
/// keep all names of types.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => write!(f, "bool"),
            Self::Integer(integer) => write!(f, "{integer}"),
            Self::F32 => write!(f, "f32"),
            Self::F64 => write!(f, "f64"),
            Self::Char => write!(f, "char"),
            Self::String => write!(f, "string"),
            Self::Bytes => write!(f, "list<u8>"),
            Self::List(element) => write!(f, "list<{element}>"),
            Self::Map(key, value) => write!(f, "map<{key}, {value}>"),
            Self::Option(inner) => write!(f, "option<{inner}>"),
            Self::Record(fields) => {
                write!(f, "record {{")?;
                list(f, fields, |f, field| write!(f, "{}: {}", field.name, field.ty))?;
                write!(f, "}}")
            }
            Self::Tuple(types) => {
                write!(f, "tuple<")?;
                list(f, types, |f, ty| write!(f, "{ty}"))?;
                write!(f, ">")
            }
            Self::Variant(cases) => {
                write!(f, "variant {{")?;
                list(f, cases, |f, case| match &case.ty {
                    Some(ty) => write!(f, "{}({ty})", case.name),
                    None => write!(f, "{}", case.name),
                })?;
                write!(f, "}}")
            }
            Self::Enum(names) => write!(f, "enum {{{}}}", names.join(", ")),
            Self::Flags(names) => write!(f, "flags {{{}}}", names.join(", ")),
            Self::Result(None, None) => write!(f, "result"),
            Self::Result(Some(ok), None) => write!(f, "result<{ok}>"),
            Self::Result(None, Some(err)) => write!(f, "result<_, {err}>"),
            Self::Result(Some(ok), Some(err)) => write!(f, "result<{ok}, {err}>"),
        }
    }
}

impl fmt::Display for Integer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::S8 => "s8",
            Self::U8 => "u8",
            Self::S16 => "s16",
            Self::U16 => "u16",
            Self::S32 => "s32",
            Self::U32 => "u32",
            Self::S64 => "s64",
            Self::U64 => "u64",
        })
    }
}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    mut item: impl FnMut(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (index, each) in items.iter().enumerate() {
        if index > 0 {
            write!(f, ", ")?;
        }
        item(f, each)?;
    }
    Ok(())
}
