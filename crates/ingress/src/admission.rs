//! Bounds how many requests are in flight to one MicroVM.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::refusal::Refusal;

/// Counts requests by MicroVM.
#[derive(Debug)]
pub(crate) struct Admission {
    limit: usize,
    in_flight: Mutex<HashMap<String, usize>>,
}

impl Admission {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            in_flight: Mutex::default(),
        })
    }

    /// Lets one more request in, until what is returned is dropped.
    pub(crate) fn admit(self: &Arc<Self>, microvm_id: &str) -> Result<Admitted, Refusal> {
        let mut in_flight = self
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = in_flight.entry(microvm_id.to_owned()).or_default();
        if *count >= self.limit {
            return Err(Refusal::TooMany);
        }
        *count += 1;
        Ok(Admitted {
            admission: self.clone(),
            microvm_id: microvm_id.to_owned(),
        })
    }
}

/// A request that was let in.
#[derive(Debug)]
pub(crate) struct Admitted {
    admission: Arc<Admission>,
    microvm_id: String,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut in_flight = self
            .admission
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = in_flight.get_mut(&self.microvm_id) {
            *count -= 1;
            if *count == 0 {
                in_flight.remove(&self.microvm_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_microvm_being_full_does_not_close_another() {
        let admission = Admission::new(2);
        let first = admission.admit("one").unwrap();
        let _second = admission.admit("one").unwrap();
        assert_eq!(admission.admit("one").unwrap_err(), Refusal::TooMany);
        assert!(admission.admit("two").is_ok());
        drop(first);
        assert!(admission.admit("one").is_ok());
    }

    #[test]
    fn what_has_ended_leaves_nothing_behind() {
        let admission = Admission::new(2);
        drop(admission.admit("one").unwrap());
        assert!(admission.in_flight.lock().unwrap().is_empty());
    }
}
