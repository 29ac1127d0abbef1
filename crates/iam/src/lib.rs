//! Who is asking: SigV4 verification and credentials.
