//! A network slot for a MicroVM, at the expense of what is only kept for speed.

use std::sync::Arc;

use colibri_network::{Egress, NetworkError, Slot};

use crate::control::Shared;

impl Shared {
    /// A slot. Where all are taken, a machine of the pool or a kept process of a suspended MicroVM gives its
    /// own back.
    ///
    /// # Errors
    /// As [`colibri_network::Network::acquire`].
    pub(crate) async fn acquire_slot(&self, reach: Egress) -> Result<Arc<dyn Slot>, NetworkError> {
        // Every turn takes one of them away, and there are never more than slots.
        for _ in 0..=self.network.usage().capacity {
            match self.network.acquire(reach.clone()).await {
                Err(NetworkError::Exhausted { .. }) => {}
                other => return other,
            }
            if !self.give_up_kept().await {
                break;
            }
        }
        self.network.acquire(reach).await
    }
}
