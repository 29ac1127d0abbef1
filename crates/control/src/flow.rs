//! How a flow of an actor goes on while commands come in, and how it ends early.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use colibri_store::{Phase, Transition};
use tokio::time::sleep;

use crate::actor::{Actor, LIFETIME_OVER};
use crate::failure::chain;
use crate::registry::{Command, WrongPhase};

/// First pause before something that must succeed is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why a flow did not reach its goal.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// The MicroVM is to end: the phase says so already.
    Ending,
    /// The MicroVM cannot go on, for this reason.
    Failed(String),
}

/// Shorthand of a flow's steps.
pub(crate) type Step<T> = Result<T, Stopped>;

impl Actor {
    /// Carries a step through while commands are answered. The step itself is bounded.
    pub(crate) async fn attend<T>(&mut self, step: impl Future<Output = T>) -> T {
        let mut step = pin!(step);
        loop {
            tokio::select! {
                biased;
                outcome = &mut step => return outcome,
                Some(command) = self.mailbox.recv() => {
                    if let Some(outcome) = self.answer_during(command, step.as_mut()).await {
                        return outcome;
                    }
                }
                () = self.wanted.notified() => self.intents.wake = true,
            }
        }
    }

    /// Answers a command while a step goes on: the step may hold or be given the turn at the store that the
    /// answer waits for, and would keep it for ever if it stood still. What came of the step, if it ended.
    async fn answer_during<T>(
        &mut self,
        command: Command,
        mut step: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        let mut answer = pin!(self.answer(command));
        tokio::select! {
            biased;
            outcome = &mut step => {
                answer.await;
                Some(outcome)
            }
            () = &mut answer => None,
        }
    }

    /// Like [`Actor::attend`] for a step that may be dropped: it is, as soon as the MicroVM is to end.
    pub(crate) async fn attend_unless_ending<T>(
        &mut self,
        step: impl Future<Output = T>,
    ) -> Step<T> {
        let mut step = pin!(step);
        loop {
            if self.is_ending() {
                return Err(Stopped::Ending);
            }
            tokio::select! {
                biased;
                outcome = &mut step => return Ok(outcome),
                Some(command) = self.mailbox.recv() => {
                    if let Some(outcome) = self.answer_during(command, step.as_mut()).await {
                        return Ok(outcome);
                    }
                }
                () = self.wanted.notified() => self.intents.wake = true,
            }
        }
    }

    /// Wakes from before a suspension began are for a machine that was awake.
    pub(crate) async fn forget_wakes(&mut self) {
        self.intents.wake = false;
        tokio::select! {
            biased;
            () = self.wanted.notified() => {}
            () = std::future::ready(()) => {}
        }
    }

    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Terminating | Phase::Terminated)
    }

    /// Stops a flow whose MicroVM is to end.
    pub(crate) fn unless_ending(&self) -> Step<()> {
        if self.is_ending() {
            Err(Stopped::Ending)
        } else {
            Ok(())
        }
    }

    /// Answers a command that comes while a flow is under way.
    pub(crate) async fn answer(&mut self, command: Command) {
        // Whoever asked may have gone; the answer is lost then.
        match command {
            Command::Terminate(reply) => {
                self.requested.clone_from(&reply.cause);
                self.begin_end("Success.".into()).await;
                let _ = reply.send(Ok(()));
            }
            Command::Suspend(reply) if self.phase == Phase::Running => {
                self.intents.suspend.push(reply);
            }
            Command::Suspend(reply) => {
                let _ = reply.send(match self.phase {
                    Phase::Suspending | Phase::Captured | Phase::Suspended => Ok(()),
                    phase => Err(WrongPhase(phase)),
                });
            }
            Command::Resume(reply, if_damaged) if self.phase == Phase::Suspended => {
                self.intents.wake = true;
                self.intents.go_back_if(if_damaged);
                self.intents.resume.push(reply);
            }
            Command::Resume(reply, if_damaged) => {
                if self.phase == Phase::Resuming {
                    self.intents.go_back_if(if_damaged);
                }
                let _ = reply.send(match self.phase {
                    Phase::Running | Phase::Resuming | Phase::Continuing => Ok(()),
                    Phase::Suspending | Phase::Captured => {
                        self.intents.wake = true;
                        Ok(())
                    }
                    phase => Err(WrongPhase(phase)),
                });
            }
        }
    }

    /// Writes a transition, and goes on trying until it is written: without it nothing may be done.
    pub(crate) async fn persist(&mut self, transition: Transition) {
        let (store, id) = (self.shared.store.clone(), self.id.clone());
        self.persevere("record its state", move || {
            let (store, id, transition) = (store.clone(), id.clone(), transition.clone());
            async move { store.change_microvm(id, transition).await }
        })
        .await;
    }

    /// As [`Actor::persist`], until the MicroVM is to end: a later phase is never overwritten by an earlier one.
    async fn persist_unless_ending(&mut self, transition: Transition) -> Step<()> {
        let mut pause = FIRST_PAUSE;
        loop {
            self.unless_ending()?;
            let (store, id) = (self.shared.store.clone(), self.id.clone());
            let written = store.change_microvm(id, transition.clone());
            let outcome = self.attend(written).await;
            // A command may have ended it while the transition was written: that one is written later.
            self.unless_ending()?;
            let Err(error) = outcome else { return Ok(()) };
            tracing::error!(microvm_id = %self.id, error = %chain(&error), "could not record its state; trying again");
            self.attend_unless_ending(sleep(pause)).await?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// To another phase: written, then published. Not when the MicroVM is to end.
    pub(crate) async fn enter(&mut self, phase: Phase, transition: Transition) -> Step<()> {
        self.persist_unless_ending(transition).await?;
        self.phase = phase;
        self.publish();
        Ok(())
    }

    /// Tries again, with growing pauses, what fails for a reason that may pass: until it succeeds, has failed for
    /// good, or the MicroVM is to end.
    pub(crate) async fn retry<T, E, F, A>(
        &mut self,
        what: &str,
        is_final: fn(&E) -> bool,
        attempt: A,
    ) -> Step<Result<T, E>>
    where
        E: std::error::Error,
        F: Future<Output = Result<T, E>>,
        A: Fn() -> F,
    {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.attend(attempt()).await {
                Err(error) if !is_final(&error) => {
                    tracing::error!(microvm_id = %self.id, error = %chain(&error), "could not {what}; trying again");
                }
                outcome => return Ok(outcome),
            }
            self.pause_within_lifetime(pause).await?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A pause that the end of the MicroVM's lifetime cuts short, and with it the flow.
    pub(crate) async fn pause_within_lifetime(&mut self, pause: Duration) -> Step<()> {
        let clock = self.shared.clock.clone();
        let lifetime = self.lifetime_end;
        let is_over = self
            .attend_unless_ending(async move {
                tokio::select! {
                    biased;
                    () = clock.reached(lifetime) => true,
                    () = sleep(pause) => false,
                }
            })
            .await?;
        if is_over {
            self.begin_end(LIFETIME_OVER.into()).await;
        }
        self.unless_ending()
    }

    /// Does what must succeed in the end, with growing pauses, answering commands meanwhile.
    pub(crate) async fn persevere<T, E, F, A>(&mut self, what: &str, attempt: A) -> T
    where
        E: std::error::Error,
        F: Future<Output = Result<T, E>>,
        A: Fn() -> F,
    {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.attend(attempt()).await {
                Ok(value) => return value,
                Err(error) => {
                    tracing::error!(microvm_id = %self.id, error = %chain(&error), "could not {what}; trying again");
                }
            }
            self.attend(sleep(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
