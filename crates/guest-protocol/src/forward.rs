//! The forward port's preamble: the host says which loopback port it wants, the agent says whether
//! something listens there, and from then on the connection is the application's.

/// Length of the host's preamble.
pub const PREAMBLE_LENGTH: usize = 4;

const PREAMBLE_MARK: [u8; 2] = [0xC0, 0x01];

/// The agent's answer, one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ForwardAnswer {
    /// Connected; what follows is the application's.
    Connected = 0,
    /// Nothing listens on that port, on 127.0.0.1 or on ::1.
    Refused = 1,
    /// The preamble was not understood.
    BadPreamble = 2,
}

impl ForwardAnswer {
    /// Reads the agent's byte; `None` for a value that no agent sends.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Connected),
            1 => Some(Self::Refused),
            2 => Some(Self::BadPreamble),
            _ => None,
        }
    }
}

/// The bytes that ask for `port`.
#[must_use]
pub fn preamble(port: u16) -> [u8; PREAMBLE_LENGTH] {
    let [high, low] = port.to_be_bytes();
    [PREAMBLE_MARK[0], PREAMBLE_MARK[1], high, low]
}

/// The port that a preamble asks for; `None` when it is not one.
#[must_use]
pub fn requested_port(preamble: [u8; PREAMBLE_LENGTH]) -> Option<u16> {
    let [a, b, high, low] = preamble;
    ([a, b] == PREAMBLE_MARK)
        .then(|| u16::from_be_bytes([high, low]))
        .filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::{preamble, requested_port};

    #[test]
    fn a_preamble_carries_its_port_and_nothing_else_is_one() {
        assert_eq!(requested_port(preamble(8080)), Some(8080));
        assert_eq!(requested_port(*b"GET "), None);
        assert_eq!(requested_port(preamble(0)), None);
    }
}
