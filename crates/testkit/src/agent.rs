//! The agent of every simulated guest: the guest's end of the control channel.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use colibri_guest_protocol::frame::{FrameKind, HEADER_LENGTH, MagicFinder, header, parse_header};
use colibri_guest_protocol::message::{
    Answer, Call, Hello, HelloAnswer, HookCall, HookOutcome, Request, Response, WallClock,
};
use colibri_guest_protocol::{PROTOCOL_VERSION, SESSION_MAGIC};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use crate::faults::lock;
use crate::guest::{HookCalled, HookPlan};
use crate::machine::{MachineState, ToHost};
use crate::world::WorldState;

/// A port that no application has.
const NOBODYS_PORT: u16 = 1;

/// Exit code of an application that its stop signal ended.
const STOPPED: i32 = 143;

pub(crate) fn start(world: Arc<WorldState>, machine: Arc<MachineState>, stream: DuplexStream) {
    let deaf = &world.deaf_sessions;
    let fewer = |left: u32| left.checked_sub(1);
    let hears = deaf.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer);
    tokio::spawn(async move {
        if hears.is_ok() {
            // Until the host closes it.
            let _ = tokio::io::copy(&mut { stream }, &mut tokio::io::sink()).await;
            return;
        }
        let (reader, writer) = tokio::io::split(stream);
        let (frames, outbox) = mpsc::unbounded_channel();
        let (to_host, unasked) = mpsc::unbounded_channel();
        *lock(&machine.to_host) = Some(to_host);
        let ended = machine.ended();
        tokio::select! {
            // The session's end is the host's choice, or the machine's.
            _ = read(&world, &machine, reader, frames.clone()) => {}
            _ = write(&machine, writer, outbox) => {}
            () = relay(unasked, frames) => {}
            _ = ended => {}
        }
    });
}

type Frame = (FrameKind, Vec<u8>);

async fn read(
    world: &Arc<WorldState>,
    machine: &Arc<MachineState>,
    mut reader: ReadHalf<DuplexStream>,
    frames: mpsc::UnboundedSender<Frame>,
) -> io::Result<()> {
    let mut magic = MagicFinder::default();
    while !magic.push(reader.read_u8().await?) {}
    loop {
        let mut head = [0; HEADER_LENGTH];
        reader.read_exact(&mut head).await?;
        let (kind, length) = parse_header(head).map_err(io::Error::other)?;
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload).await?;
        if kind != FrameKind::Request {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let request: Request = serde_json::from_slice(&payload)?;
        if !machine.runs().await {
            return Ok(());
        }
        let (world, machine, frames) = (Arc::clone(world), Arc::clone(machine), frames.clone());
        match request.call {
            // A hook takes its time; the agent serves other requests meanwhile.
            Call::CallHook(_) => {
                tokio::spawn(async move { carry_out(&world, &machine, request, &frames).await });
            }
            _ => carry_out(&world, &machine, request, &frames).await,
        }
    }
}

async fn write(
    machine: &MachineState,
    mut writer: WriteHalf<DuplexStream>,
    mut outbox: mpsc::UnboundedReceiver<Frame>,
) -> io::Result<()> {
    if !machine.runs().await {
        return Ok(());
    }
    writer.write_all(&SESSION_MAGIC).await?;
    while let Some((kind, payload)) = outbox.recv().await {
        if !machine.runs().await {
            return Ok(());
        }
        writer.write_all(&header(kind, payload.len())).await?;
        writer.write_all(&payload).await?;
        writer.flush().await?;
    }
    Ok(())
}

async fn relay(mut unasked: mpsc::UnboundedReceiver<ToHost>, frames: mpsc::UnboundedSender<Frame>) {
    while let Some(what) = unasked.recv().await {
        let frame = match what {
            ToHost::Event(event) => (FrameKind::Event, json(&event)),
            ToHost::Stdout(bytes) => (FrameKind::Stdout, bytes),
        };
        // A closed session loses it.
        let _ = frames.send(frame);
    }
    std::future::pending::<()>().await;
}

async fn carry_out(
    world: &WorldState,
    machine: &MachineState,
    request: Request,
    frames: &mpsc::UnboundedSender<Frame>,
) {
    let call = name_of(&request.call);
    world
        .faults
        .points
        .mark(|| format!("before the agent's {call}"));
    let answer = match request.call {
        Call::Hello(Hello {
            protocol_version,
            session,
        }) => Answer::Hello(HelloAnswer {
            protocol_version: protocol_version.min(PROTOCOL_VERSION),
            session,
            agent_version: "simulated".into(),
            application_exit: lock(&machine.memory).application_exit,
        }),
        Call::StartApplication(_) => Answer::Started { pid: 2 },
        Call::AssumeIdentity(identity) => {
            // What it took to come here makes the clock late.
            let delay = std::mem::take(&mut *lock(&world.identity_delay));
            tokio::time::sleep(delay).await;
            let now = WallClock {
                unix_nanos: identity.wall_clock_unix_nanos,
            };
            let mut memory = lock(&machine.memory);
            memory.identity = Some(identity);
            memory.identities_assumed += 1;
            Answer::Clock(machine.set_clock(now))
        }
        Call::SetClock(now) => Answer::Clock(machine.set_clock(now)),
        Call::CallHook(call) => match call_hook(world, machine, call).await {
            Some(outcome) => Answer::Hook(outcome),
            None => return,
        },
        Call::Stop(_) => {
            if lock(&machine.memory).application_exit.is_none() {
                machine.exit_application(STOPPED);
            }
            Answer::Done
        }
        Call::Ping => Answer::Done,
    };
    world
        .faults
        .points
        .mark(|| format!("after the agent's {call}"));
    let response = Response {
        id: request.id,
        result: Ok(answer),
    };
    // A closed session wants no answer.
    let _ = frames.send((FrameKind::Response, json(&response)));
}

fn name_of(call: &Call) -> String {
    match call {
        Call::Hello(_) => "Hello".into(),
        Call::StartApplication(_) => "StartApplication".into(),
        Call::AssumeIdentity(_) => "AssumeIdentity".into(),
        Call::SetClock(_) => "SetClock".into(),
        Call::CallHook(call) => format!("CallHook {}", call.path),
        Call::Stop(_) => "Stop".into(),
        Call::Ping => "Ping".into(),
    }
}

async fn call_hook(
    world: &WorldState,
    machine: &MachineState,
    call: HookCall,
) -> Option<HookOutcome> {
    if call.port == NOBODYS_PORT {
        return Some(HookOutcome::Refused);
    }
    let hook = call.path.rsplit('/').next().unwrap_or_default().to_owned();
    lock(&machine.memory).hooks.push(HookCalled {
        hook: hook.clone(),
        port: call.port,
        body: call.body,
        headers: call.headers,
    });
    let plan = lock(&world.hooks)
        .get(&hook)
        .copied()
        .unwrap_or(HookPlan::Status(200));
    match plan {
        HookPlan::Status(status) => Some(HookOutcome::Status { status }),
        HookPlan::Refused => Some(HookOutcome::Refused),
        HookPlan::Silent => {
            tokio::time::sleep(Duration::from_millis(call.timeout_ms)).await;
            Some(HookOutcome::TimedOut)
        }
        HookPlan::Exits(code) => {
            machine.exit_application(code);
            Some(HookOutcome::Broken {
                reason: "the connection was closed".into(),
            })
        }
    }
}

fn json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    // The messages have string keys and no failing serializer.
    serde_json::to_vec(value).expect("a message is JSON")
}
