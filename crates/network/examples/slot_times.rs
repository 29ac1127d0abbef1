//! Measures what slots cost on this host: making and releasing one, taking a spare, connecting
//! into a guest. Needs root. `cargo run --release -p colibri-network --example slot_times`
#![allow(clippy::print_stdout, reason = "its output is its purpose")]
#![allow(
    clippy::unwrap_used,
    reason = "a measurement that fails has nothing to say"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use colibri_guest_protocol::{AGENT_ADDRESS, FORWARD_PORT};
use colibri_network::{Egress, Network, NetworkSettings, SlotPool};
use support::Guest;

const ROUNDS: usize = 30;
const CONNECTIONS: usize = 300;

#[tokio::main]
async fn main() {
    let directory = tempfile::tempdir().unwrap();
    let settings = NetworkSettings {
        spare_slots: 0,
        ..NetworkSettings::new(directory.path())
    };
    let pool = SlotPool::open(&settings).await.unwrap();
    for egress in [Egress::Internet, Egress::Sealed] {
        // One stays, so that the host's table is not made and removed with each.
        let first = pool.acquire(egress.clone()).await.unwrap();
        let (mut made, mut released) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let slot = pool.acquire(egress.clone()).await.unwrap();
            made.push(began.elapsed());
            let began = Instant::now();
            slot.release().await.unwrap();
            released.push(began.elapsed());
        }
        report(&format!("make a slot, {egress:?}"), made);
        report(&format!("release a slot, {egress:?}"), released);
        first.release().await.unwrap();
    }
    at_once(&pool).await;
    connections(&pool).await;
    pool.close().await.unwrap();
    drop(pool);

    let settings = NetworkSettings {
        spare_slots: 2,
        ..settings
    };
    let pool = SlotPool::open(&settings).await.unwrap();
    pool.sweep(&BTreeSet::new()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    let slot = pool.acquire(Egress::Internet).await.unwrap();
    report("take a spare", vec![began.elapsed()]);
    slot.release().await.unwrap();
    pool.close().await.unwrap();
}

async fn at_once(pool: &SlotPool) {
    let began = Instant::now();
    let acquired = (0..10).map(|_| pool.acquire(Egress::Internet));
    let slots = join_all(acquired.collect()).await;
    report("make ten slots at once, all of them", vec![began.elapsed()]);
    for slot in slots {
        slot.unwrap().release().await.unwrap();
    }
}

async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *output = Some(value);
            }
        }
        if outputs.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

async fn connections(pool: &SlotPool) {
    let slot = pool.acquire(Egress::Sealed).await.unwrap();
    let guest = Guest::attach(&*slot).await;
    let listener = guest
        .namespace
        .inside(|| TcpListener::bind((AGENT_ADDRESS, FORWARD_PORT)));
    let listener = listener.unwrap();
    let agent = std::thread::spawn(move || {
        for _ in 0..CONNECTIONS {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 4]).unwrap();
            stream.write_all(&[0]).unwrap();
        }
    });
    let mut times = Vec::new();
    for _ in 0..CONNECTIONS {
        let began = Instant::now();
        drop(slot.connect(8080).await.unwrap());
        times.push(began.elapsed());
    }
    report("connect into a guest (a thread copies its frames)", times);
    agent.join().unwrap();
    slot.release().await.unwrap();
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{what}: median {median:.2?}, worst {worst:.2?}, of {}",
        times.len()
    );
}
