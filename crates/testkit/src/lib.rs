//! Simulated hypervisor, network and guest for tests.
