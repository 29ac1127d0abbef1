//! Bounds what comes to one MicroVM: requests in flight, open connections, requests a second.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use crate::gateway::SizeLimits;
use crate::pace::Pace;
use crate::refusal::Refusal;

/// Counts by MicroVM.
#[derive(Debug)]
pub(crate) struct Admission {
    most_in_flight: usize,
    requests: Count,
    connections: Count,
    pace: Pace,
}

impl Admission {
    pub(crate) fn new(most_in_flight: usize) -> Arc<Self> {
        Arc::new(Self {
            most_in_flight,
            requests: Count::default(),
            connections: Count::default(),
            pace: Pace::default(),
        })
    }

    /// Lets one more request in, until what is returned is dropped.
    pub(crate) fn admit(&self, microvm_id: &str, limits: &SizeLimits) -> Result<Place, Refusal> {
        if let Some(quota) = limits.requests
            && !self.pace.allows(microvm_id, quota)
        {
            return Err(Refusal::TooFast);
        }
        let place = self.requests.take(microvm_id, self.most_in_flight);
        place.ok_or(Refusal::TooMany)
    }
}

/// The places that one client connection has at the MicroVMs that it has brought requests to.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<HashMap<String, Place>>);

impl Places {
    /// Takes a place at a MicroVM whose size bounds them, unless this connection has one.
    pub(crate) fn take(
        &self,
        admission: &Admission,
        microvm_id: &str,
        most: Option<NonZeroUsize>,
    ) -> Result<(), Refusal> {
        let Some(most) = most else { return Ok(()) };
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if places.contains_key(microvm_id) {
            return Ok(());
        }
        let place = admission.connections.take(microvm_id, most.get());
        places.insert(
            microvm_id.to_owned(),
            place.ok_or(Refusal::TooManyConnections)?,
        );
        Ok(())
    }
}

/// How many there are, by MicroVM.
#[derive(Debug, Clone, Default)]
struct Count(Arc<Mutex<HashMap<String, usize>>>);

impl Count {
    fn take(&self, microvm_id: &str, most: usize) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(microvm_id).copied().unwrap_or_default();
        if count >= most {
            return None;
        }
        counts.insert(microvm_id.to_owned(), count + 1);
        Some(Place {
            count: self.clone(),
            microvm_id: microvm_id.to_owned(),
        })
    }
}

/// One of them, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    count: Count,
    microvm_id: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.count.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.microvm_id) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.microvm_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: SizeLimits = SizeLimits {
        connections: None,
        requests: None,
    };

    #[test]
    fn one_microvm_being_full_does_not_close_another() {
        let admission = Admission::new(2);
        let first = admission.admit("one", &ANY).unwrap();
        let _second = admission.admit("one", &ANY).unwrap();
        assert_eq!(admission.admit("one", &ANY).unwrap_err(), Refusal::TooMany);
        assert!(admission.admit("two", &ANY).is_ok());
        drop(first);
        assert!(admission.admit("one", &ANY).is_ok());
    }

    #[test]
    fn what_has_ended_leaves_nothing_behind() {
        let admission = Admission::new(2);
        drop(admission.admit("one", &ANY).unwrap());
        let places = Places::default();
        places
            .take(&admission, "one", NonZeroUsize::new(1))
            .unwrap();
        drop(places);
        assert!(admission.requests.0.lock().unwrap().is_empty());
        assert!(admission.connections.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_connection_has_one_place_at_a_microvm_however_much_it_asks() {
        let admission = Admission::new(2);
        let one = NonZeroUsize::new(1);
        let (first, second) = (Places::default(), Places::default());
        first.take(&admission, "one", one).unwrap();
        first.take(&admission, "one", one).unwrap();
        let refused = second.take(&admission, "one", one);
        assert_eq!(refused.unwrap_err(), Refusal::TooManyConnections);
        second.take(&admission, "two", one).unwrap();
        drop(first);
        second.take(&admission, "one", one).unwrap();
    }
}
