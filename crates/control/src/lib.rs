//! What exists and what state it is in: operations, one actor per MicroVM, timers, recovery.
