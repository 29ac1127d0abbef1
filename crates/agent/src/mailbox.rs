//! How the agent's other threads reach the one that serves the control channel.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use colibri_guest_protocol::message::{AgentFailure, Answer, ApplicationExit};
use rustix::event::{EventfdFlags, eventfd};

use crate::failure::Attempt;

/// Something for the control thread.
#[derive(Debug)]
pub(crate) enum Letter {
    /// What came of a request.
    Outcome {
        /// The session that asked; the answer is void in another.
        session: u64,
        /// The request's number.
        id: u32,
        /// The answer.
        result: Result<Answer, AgentFailure>,
    },
    /// The application runs; these are the reading ends of its output, in non-blocking mode.
    ApplicationStarted {
        /// Of its standard output.
        stdout: OwnedFd,
        /// Of its standard error.
        stderr: OwnedFd,
    },
    /// The application's main process ended.
    ApplicationExited(ApplicationExit),
}

/// Letters, and an eventfd that rings when there are some. Its length is bounded by what the control
/// thread lets be under way at once: an outcome for each request, and three letters of the application.
#[derive(Debug)]
pub(crate) struct Mailbox {
    letters: Mutex<VecDeque<Letter>>,
    bell: OwnedFd,
}

impl Mailbox {
    pub(crate) fn new() -> Result<Self, AgentFailure> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(|bell| Self {
                letters: Mutex::default(),
                bell,
            })
            .attempt(|| "make an eventfd".to_owned())
    }

    /// Leaves a letter.
    pub(crate) fn post(&self, letter: Letter) {
        self.letters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(letter);
        // Fails only when 2^64 - 2 rings have not been heard.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Takes all letters.
    pub(crate) fn empty(&self) -> VecDeque<Letter> {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        std::mem::take(&mut *self.letters.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What becomes readable when a letter is left.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
