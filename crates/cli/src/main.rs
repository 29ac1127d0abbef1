//! The `colibri` binary.
fn main() {}
