//! The inputs that fuzzing found worth keeping, tried again: each was a new path through the code, or
//! once broke it. `make fuzz` looks for more.

#[path = "../../../fuzz/src/policy.rs"]
mod policy;

use std::path::Path;

#[test]
fn no_policy_of_the_corpus_breaks_the_evaluator() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/policy");
    let inputs = std::fs::read_dir(&corpus).expect("the corpus");
    let mut tried = 0;
    for input in inputs {
        let path = input.expect("an input").path();
        policy::policy(&std::fs::read(&path).expect("an input's bytes"));
        tried += 1;
    }
    assert!(tried >= 20, "{tried} inputs in {}", corpus.display());
}
