//! Types out of the notation that they are shown in.

use super::super::types::{Case, Field, Integer, Type};

/// # Panics
///
/// When it is not the notation of a type.
pub(super) fn parse(text: &str) -> Type {
    let mut parser = Parser { rest: text };
    let ty = parser.ty();
    assert_eq!(parser.rest, "", "after a type: {text}");
    ty
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn eat(&mut self, text: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, text: &str) {
        assert!(self.eat(text), "`{text}` is missing before: {}", self.rest);
    }

    fn word(&mut self) -> &'a str {
        let end = |c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_';
        let at = self.rest.find(end).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(at);
        self.rest = rest.trim_start();
        word
    }

    fn list<T>(&mut self, end: &str, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let mut items = Vec::new();
        while !self.eat(end) {
            items.push(item(self));
            self.eat(",");
        }
        items
    }

    fn names(&mut self) -> Vec<String> {
        self.expect("{");
        self.list("}", |parser| parser.word().to_owned())
    }

    fn of_one(&mut self) -> Box<Type> {
        self.expect("<");
        let ty = self.ty();
        self.expect(">");
        Box::new(ty)
    }

    fn ty(&mut self) -> Type {
        match self.word() {
            "bool" => Type::Bool,
            "s8" => Type::Integer(Integer::S8),
            "u8" => Type::Integer(Integer::U8),
            "s16" => Type::Integer(Integer::S16),
            "u16" => Type::Integer(Integer::U16),
            "s32" => Type::Integer(Integer::S32),
            "u32" => Type::Integer(Integer::U32),
            "s64" => Type::Integer(Integer::S64),
            "u64" => Type::Integer(Integer::U64),
            "f32" => Type::F32,
            "f64" => Type::F64,
            "char" => Type::Char,
            "string" => Type::String,
            "option" => Type::Option(self.of_one()),
            "list" => match *self.of_one() {
                Type::Integer(Integer::U8) => Type::Bytes,
                element => Type::List(Box::new(element)),
            },
            "map" => {
                self.expect("<");
                let key = self.ty();
                self.expect(",");
                let value = self.ty();
                self.expect(">");
                Type::Map(Box::new(key), Box::new(value))
            }
            "tuple" => {
                self.expect("<");
                Type::Tuple(self.list(">", Self::ty))
            }
            "record" => {
                self.expect("{");
                Type::Record(self.list("}", |parser| {
                    let name = parser.word().to_owned();
                    parser.expect(":");
                    Field { name, ty: parser.ty() }
                }))
            }
            "variant" => {
                self.expect("{");
                Type::Variant(self.list("}", |parser| {
                    let name = parser.word().to_owned();
                    let ty = parser.eat("(").then(|| {
                        let ty = parser.ty();
                        parser.expect(")");
                        ty
                    });
                    Case { name, ty }
                }))
            }
            "enum" => Type::Enum(self.names()),
            "flags" => Type::Flags(self.names()),
            "result" => {
                if !self.eat("<") {
                    return Type::Result(None, None);
                }
                let ok = if self.eat("_") { None } else { Some(Box::new(self.ty())) };
                let err = self.eat(",").then(|| Box::new(self.ty()));
                self.expect(">");
                Type::Result(ok, err)
            }
            other => panic!("`{other}` is no type, before: {}", self.rest),
        }
    }
}
