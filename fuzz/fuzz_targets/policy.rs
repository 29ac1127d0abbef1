//! Fuzzes the evaluator of IAM policies; what is tried is in `../src/policy.rs`, which an ordinary test runs, too.
#![no_main]

#[path = "../src/policy.rs"]
mod policy;

libfuzzer_sys::fuzz_target!(|data: &[u8]| policy::policy(data));
