//! The host's end of the control channel.
