//! PID 1 of every guest: boots the machine from its initramfs, starts the image's application in a
//! container-like process, and serves the host's control channel and forward port.
//!
//! Nothing here is asynchronous and nothing is started after boot that could be started during it:
//! under software emulation every block of code is translated the first time that it runs after a
//! restore, so the way from "the host connects" to "the host is answered" is what a launch costs.
//!
//! The same binary plays three parts, told apart by how it is started: PID 1 of the machine, and the
//! two steps that turn a child of it into the application ([`container`]).

mod application;
mod boot;
mod clock;
mod connections;
mod console;
mod container;
mod control;
mod failure;
mod forward;
mod hook;
mod identity;
mod inbox;
mod mailbox;
mod modules;
mod network;
mod outbox;
mod port;

use std::process::ExitCode;
use std::sync::Arc;

use colibri_guest_protocol::message::AgentFailure;

use crate::application::Application;
use crate::mailbox::Mailbox;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(part) if part == container::ISOLATE => container::isolate(),
        Some(part) if part == container::CONTAIN => container::contain(),
        _ if std::process::id() == 1 => be_init(),
        _ => {
            console::error(
                "this is the init of a Colibri guest; it does nothing as another process",
            );
            ExitCode::FAILURE
        }
    }
}

/// Runs the machine; returns only to power it off.
fn be_init() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        console::power_off(&format!("the agent failed: {panic}"))
    }));
    match run() {
        Ok(never) => match never {},
        Err(failure) => console::power_off(&failure.to_string()),
    }
}

fn run() -> Result<std::convert::Infallible, AgentFailure> {
    boot::mount_kernel_file_systems()?;
    boot::set_limits();
    modules::load_for_boot();
    boot::set_up_control_groups()?;
    identity::create_files()?;
    boot::mount_root_disk()?;
    let forwarder = if network::configure()? {
        Some(forward::start()?)
    } else {
        None
    };
    let port = port::open_control_port()?;

    let mailbox = Arc::new(Mailbox::new()?);
    let application = Arc::new(Application::new(Arc::clone(&mailbox)));
    application.start_reaper()?;
    control::Control::new(port, mailbox, application, forwarder)?.serve()
}
