//! For authors: a project is made, becomes a component, and the component says what is in it.
//!
//! The whole face of the room: [`create`] writes a project out of the templates, [`Project::build`]
//! has the language's own tools make a component of it, and [`Project::install`] puts that where a
//! host takes it; [`Sources`] tells when there is a reason to do so again. Starts tools and writes files; prints nothing, and knows no broker.

mod bindings;
mod create;
mod embed;
mod javascript;
mod matrix;
mod project;
mod recipes;
mod sources;
mod templates;
mod tools;
mod unsigned;
mod wit;

pub use create::{Created, create};
pub use matrix::{KINDS, offered};
pub use project::{Built, Project};
pub use sources::Sources;
pub use tools::ToolFailed;
