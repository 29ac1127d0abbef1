//! The inputs that fuzzing found worth keeping, tried again: each was a new path through the code, or
//! once broke it. `make fuzz` looks for more.

#[path = "../../../fuzz/src/front.rs"]
mod front;

use std::path::Path;

#[test]
fn no_request_of_the_corpus_breaks_the_front() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/front");
    let inputs = std::fs::read_dir(&corpus).expect("the corpus");
    let mut tried = 0;
    for input in inputs {
        let path = input.expect("an input").path();
        front::front(&std::fs::read(&path).expect("an input's bytes"));
        tried += 1;
    }
    assert!(tried >= 50, "{tried} inputs in {}", corpus.display());
}
