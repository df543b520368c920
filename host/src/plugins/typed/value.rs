//! A value of any type of WIT, in the fewest shapes.
//!
//! Not wasmtime's own `Val`: that one holds a byte of a `list<u8>` in forty, and
//! a copy of every field's name. Names are the type's business here.

/// A value. Which type it is of is known from elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    /// Any signed integer.
    Signed(i64),
    /// Any unsigned integer.
    Unsigned(u64),
    F32(f32),
    F64(f64),
    Char(char),
    String(String),
    /// A `list<u8>`.
    Bytes(Vec<u8>),
    /// Elements of a list.
    List(Vec<Value>),
    /// Entries of a map.
    Map(Vec<(Value, Value)>),
    /// A record's or tuple's, all of them, in the order of the type.
    Fields(Vec<Value>),
    /// A variant, an enum; an option (`none` is 0), a result (`ok` is 0): the
    /// number of the case, and what it carries.
    Case(u32, Option<Box<Value>>),
    /// The bit `1 << n` for the n-th flag.
    Flags(u32),
}

impl Value {
    pub(super) fn none() -> Self {
        Self::Case(0, None)
    }

    pub(super) fn some(value: Self) -> Self {
        Self::Case(1, Some(Box::new(value)))
    }
}
