//! Fuzzes the HTTP front; what is tried is in `../src/front.rs`, which an ordinary test runs, too.
#![no_main]

#[path = "../src/front.rs"]
mod front;

libfuzzer_sys::fuzz_target!(|data: &[u8]| front::front(data));
