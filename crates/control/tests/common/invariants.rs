//! What must hold whatever happened: checked when everything has come to rest, by looking at the API, the
//! store, the world and the files, and then by using and ending all there is.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::collections::BTreeMap;
use std::time::Duration;

use colibri_store::{Microvm, Phase};
use colibri_wire::shape::microvm::MicrovmState;
use serde_json::json;

use tokio::time::sleep;

use super::Daemon;
use super::trial::{Outcome, Template, Trial, Trouble, holds, violation};

/// Time in which all comes to rest that was under way, pauses of repeated attempts included.
const QUIET: Duration = Duration::from_secs(40);

/// Times that it is waited for after that.
const LOOKS: u32 = 10;

/// What a trial is known to have.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    /// The bases that were there at first and may not change; none where the trial changes images.
    pub(crate) bases: Option<&'a BTreeMap<String, Vec<u8>>>,
    /// The application has all hooks.
    pub(crate) hooks: bool,
    /// MicroVMs may end by themselves while they are looked at: their time is short, or their application is
    /// about to be found ended.
    pub(crate) may_end: bool,
}

/// Checks every invariant. What the service refuses on the way is a violation: nothing is planned any more.
pub(crate) async fn check(trial: &mut Trial, known: Known<'_>) -> Result<(), String> {
    check_all(trial, known)
        .await
        .map_err(|trouble| match trouble {
            Trouble::Told(what) => format!("afterwards, {what}"),
            Trouble::Violation(what) => what,
        })
}

async fn check_all(trial: &mut Trial, known: Known<'_>) -> Outcome<()> {
    trial.daemon.world.points().forget();
    trial.daemon.world.points().fill_disk(false);
    trial.daemon.world.faults().clear();
    // A daemon that was killed and not missed yet is missed now.
    let has_image = trial.image_settled().await?;
    let rows = rest(trial).await?;
    agree(trial, &rows).await?;
    for row in &rows {
        match used(trial, &row.id, known).await {
            Err(Trouble::Told(what)) if known.may_end => {
                trial.call(nap).await;
                let ended = trial.stable(&row.id).await? == MicrovmState::Terminated;
                holds(ended, || what)?;
            }
            other => other?,
        }
    }
    replay(trial).await?;
    for row in &rows {
        trial.terminate(&row.id).await?;
        trial.reaches(&row.id, MicrovmState::Terminated).await?;
    }
    if has_image {
        one_more(trial).await?;
    }
    nothing_left(trial, known).await
}

/// Every MicroVM, at rest.
async fn rest(trial: &mut Trial) -> Outcome<Vec<Microvm>> {
    let rows = rows(trial).await?;
    for row in &rows {
        trial.stable(&row.id).await?;
    }
    trial.call(nap).await;
    // A machine that was running is only taken over by its actor, which a command waits for.
    for row in &rows {
        if trial.phase(&row.id).await == Some(Phase::Running) {
            trial.resume(&row.id).await.or_else(ended_meanwhile)?;
        }
        trial.stable(&row.id).await?;
    }
    // One that fell asleep at that very moment is still on its way back.
    for _ in 0..LOOKS {
        let rows = rows_now(trial).await?;
        if rows.iter().all(|row| rests(row.phase)) {
            return Ok(rows);
        }
        trial.call(nap).await;
    }
    violation("the MicroVMs never come to rest")
}

fn rests(phase: Phase) -> bool {
    matches!(phase, Phase::Running | Phase::Suspended | Phase::Terminated)
}

async fn nap(_: &Daemon) {
    sleep(QUIET).await;
}

fn ended_meanwhile(trouble: Trouble) -> Outcome<()> {
    match trouble {
        Trouble::Told(_) => Ok(()),
        other => Err(other),
    }
}

async fn rows(trial: &mut Trial) -> Outcome<Vec<Microvm>> {
    // By a call, so that a daemon that is down is started first.
    trial.call(async |_: &Daemon| ()).await;
    rows_now(trial).await
}

async fn rows_now(trial: &Trial) -> Outcome<Vec<Microvm>> {
    let listing = trial.daemon.store.all_microvms().await;
    let listing = listing.or_else(|error| violation(format!("the rows: {error}")))?;
    holds(listing.corrupt.is_empty(), || {
        format!("{:?}", listing.corrupt)
    })?;
    Ok(listing.rows)
}

/// API, store, world and files say the same.
async fn agree(trial: &mut Trial, rows: &[Microvm]) -> Outcome<()> {
    let daemon = &trial.daemon;
    let kept = daemon.settings.hot.enabled;
    let (mut machines, mut slots, mut directories) = (0, 0, 0);
    for row in rows {
        let (id, state) = (&row.id, daemon.get(&row.id).await.state);
        let guest = daemon.world.guest(id);
        let directory = daemon.directory().join("microvms").join(id);
        match (row.phase, state) {
            (Phase::Running, MicrovmState::Running) => {
                holds(guest.is_some_and(|guest| guest.is_running()), || {
                    format!("{id} is RUNNING and no machine of it runs")
                })?;
                let slot = row
                    .slot
                    .is_some_and(|slot| daemon.world.slots().contains(&slot));
                holds(slot, || {
                    format!("{id} is RUNNING without its slot {:?}", row.slot)
                })?;
                machines += 1;
                slots += 1;
                directories += 1;
            }
            (Phase::Suspended, MicrovmState::Suspended) => {
                holds(directory.join("manifest.json").is_file(), || {
                    format!("{id} is SUSPENDED without a suspension")
                })?;
                holds(row.slot.is_none() && row.machine.is_none(), || {
                    format!("{id} is SUSPENDED and has a machine in the store")
                })?;
                let stopped = guest
                    .as_ref()
                    .is_none_or(|guest| kept && !guest.is_running());
                holds(stopped, || {
                    format!("{id} is SUSPENDED and its machine is there")
                })?;
                machines += usize::from(guest.is_some());
                slots += usize::from(guest.is_some());
                directories += 1;
            }
            (Phase::Terminated, MicrovmState::Terminated) => {
                holds(guest.is_none() && !directory.exists(), || {
                    format!("{id} is TERMINATED and not gone")
                })?;
                let reason = daemon.get(id).await.state_reason;
                holds(reason.is_some_and(|reason| !reason.is_empty()), || {
                    format!("{id} ended without a reason")
                })?;
                holds(row.build_id.is_none() && row.run_payload.is_none(), || {
                    format!("{id} ended and still holds its base or its payload")
                })?;
            }
            (phase, state) => {
                return violation(format!(
                    "{id} is {phase:?} in the store, {state:?} for the API"
                ));
            }
        }
    }
    if daemon.settings.pool.enabled {
        return Ok(());
    }
    let there = (
        daemon.world.machines().len(),
        daemon.world.slots().len(),
        daemon.microvm_directories(),
    );
    holds(there == (machines, slots, directories), || {
        format!(
            "machines, slots, directories: {there:?} instead of {:?}",
            (machines, slots, directories)
        )
    })
}

/// It works, it sleeps, it wakes, and it remembers.
async fn used(trial: &mut Trial, id: &str, known: Known<'_>) -> Outcome<()> {
    if trial.stable(id).await? == MicrovmState::Suspended {
        trial.resume(id).await?;
        trial.reaches(id, MicrovmState::Running).await?;
    }
    if trial.stable(id).await? == MicrovmState::Terminated {
        return Ok(());
    }
    trial.request(id).await?;
    trial.suspend(id).await?;
    trial.reaches(id, MicrovmState::Suspended).await?;
    trial.resume(id).await?;
    trial.reaches(id, MicrovmState::Running).await?;
    trial.request(id).await?;
    let guest = trial.daemon.world.guest(id);
    let hooks = guest.map_or_else(Vec::new, |guest| guest.hook_names());
    let runs = hooks.iter().filter(|hook| *hook == "run").count();
    holds(!known.hooks || (runs == 1 && hooks[0] == "run"), || {
        format!("the application of {id} saw the hooks {hooks:?}")
    })
}

/// The client tokens name the MicroVMs that they named first.
async fn replay(trial: &mut Trial) -> Outcome<()> {
    for (token, (request, first)) in trial.runs.clone() {
        let Some(first) = first else { continue };
        let again = trial.launch(&token, request).await?;
        holds(again == first, || {
            format!("the token {token} named {first} and now {again}")
        })?;
    }
    Ok(())
}

/// A new MicroVM of the image can be had.
async fn one_more(trial: &mut Trial) -> Outcome<()> {
    let usable = trial
        .daemon
        .store
        .image("hello".into())
        .await
        .is_ok_and(|image| image.is_some_and(|image| image.latest_active.is_some()));
    if !usable {
        return Ok(());
    }
    let id = trial.run("one more", json!({})).await?;
    trial.request(&id).await?;
    holds(trial.served.get(&id) == Some(&1), || {
        format!("{id} is new and remembers requests")
    })?;
    trial.terminate(&id).await?;
    trial.reaches(&id, MicrovmState::Terminated).await
}

async fn nothing_left(trial: &mut Trial, known: Known<'_>) -> Outcome<()> {
    let daemon = &trial.daemon;
    daemon.control.shutdown().await;
    let world = &daemon.world;
    holds(world.machines().is_empty(), || {
        format!("machines are left: {:?}", world.machines())
    })?;
    holds(world.slots().is_empty(), || {
        format!("slots are left: {:?}", world.slots())
    })?;
    for place in ["microvms", "pool"] {
        let left = std::fs::read_dir(daemon.directory().join(place)).map_or(0, Iterator::count);
        holds(left == 0, || {
            format!("{left} directories are left in {place}")
        })?;
    }
    let breaches = world.contract_breaches();
    holds(breaches.is_empty(), || {
        format!("contracts were broken: {breaches:?}")
    })?;
    let bases = Template::bases(&daemon.directory());
    if let Some(before) = known.bases {
        holds(bases == *before, || "a base was written".into())?;
    }
    orphaned_bases(trial).await
}

/// Every base directory belongs to a build that has a row.
async fn orphaned_bases(trial: &Trial) -> Outcome<()> {
    let builds = trial.daemon.store.all_builds().await;
    let builds = builds.or_else(|error| violation(format!("the builds: {error}")))?;
    for file in Template::bases(&trial.daemon.directory()).keys() {
        let owned = builds.rows.iter().any(|build| file.contains(&build.id));
        holds(owned, || format!("{file} belongs to no build"))?;
    }
    Ok(())
}
