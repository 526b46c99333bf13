//! The `iapo` command.
fn main() {}
