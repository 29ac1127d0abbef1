//! Slots come, go, survive their daemon, and leave nothing.

mod support;

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use colibri_network::{Egress, Network, NetworkError, NetworkSettings, SlotPool, probe};
use support::{
    Guest, PATIENCE, Traces, can_make_slots, dns_query, dns_upstream, output, run, settings,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_made_and_released_leaves_nothing() {
    if !can_make_slots() {
        return;
    }
    let (directory, settings) = settings();
    let traces = Traces::of(directory.path());
    let pool = SlotPool::open(&settings).await.unwrap();
    for egress in [Egress::Internet, Egress::Sealed] {
        let slot = pool.acquire(egress.clone()).await.unwrap();
        assert_eq!(slot.uid(), Some(settings.base_uid + slot.index()));
        let made = traces.all();
        assert!(
            made.iter()
                .any(|trace| trace.contains(&traces.namespace(slot.index())))
        );
        assert_eq!(
            made.iter()
                .any(|trace| trace.contains(&traces.veth(slot.index()))),
            egress == Egress::Internet
        );
        slot.release().await.unwrap();
        slot.release().await.unwrap();
        assert_eq!(traces.all(), Vec::<String>::new());
        assert!(matches!(
            slot.attach().await,
            Err(NetworkError::Gone { .. })
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spare_slots_are_kept_ready_and_closed_with_the_pool() {
    if !can_make_slots() {
        return;
    }
    let (directory, settings) = settings();
    let traces = Traces::of(directory.path());
    let settings = NetworkSettings {
        spare_slots: 2,
        slots: 3,
        ..settings
    };
    let pool = SlotPool::open(&settings).await.unwrap();
    pool.sweep(&BTreeSet::new()).await.unwrap();
    // Spares give way when somebody needs the last slot.
    let sealed = pool.acquire(Egress::Sealed).await.unwrap();
    let others = [
        pool.acquire(Egress::Sealed).await.unwrap(),
        pool.acquire(Egress::Internet).await.unwrap(),
    ];
    let exhausted = pool.acquire(Egress::Internet).await.err();
    assert!(matches!(
        exhausted,
        Some(NetworkError::Exhausted { capacity: 3 })
    ));
    for slot in others {
        slot.release().await.unwrap();
    }
    pool.close().await.unwrap();
    let namespaces = output("ip", &["netns", "list"]);
    let left: Vec<&str> = namespaces
        .lines()
        .filter(|name| name.contains(traces.mark()))
        .collect();
    assert_eq!(
        left,
        [traces.namespace(sealed.index())],
        "the slot in use stays"
    );
    sealed.release().await.unwrap();
    pool.close().await.unwrap();
    assert_eq!(traces.all(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_acquire_loses_no_slot() {
    if !can_make_slots() {
        return;
    }
    let (directory, settings) = settings();
    let traces = Traces::of(directory.path());
    let settings = NetworkSettings {
        slots: 1,
        ..settings
    };
    let pool = SlotPool::open(&settings).await.unwrap();
    let abandoned = tokio::time::timeout(Duration::from_millis(2), pool.acquire(Egress::Internet));
    drop(abandoned.await);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let slot = loop {
        match pool.acquire(Egress::Internet).await {
            Ok(slot) => break slot,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    };
    slot.release().await.unwrap();
    pool.close().await.unwrap();
    assert_eq!(traces.all(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_daemon_adopts_what_it_knows_and_sweeps_the_rest() {
    if !can_make_slots() {
        return;
    }
    let (directory, settings) = settings();
    let traces = Traces::of(directory.path());
    let (upstream, _questions) = dns_upstream(b"");
    let settings = NetworkSettings {
        dns_upstreams: vec![upstream],
        ..settings
    };

    let crashed = SlotPool::open(&settings).await.unwrap();
    let kept = crashed.acquire(Egress::Internet).await.unwrap();
    let sealed = crashed.acquire(Egress::Sealed).await.unwrap();
    let lost = crashed.acquire(Egress::Internet).await.unwrap();
    let (kept_index, sealed_index, lost_index) = (kept.index(), sealed.index(), lost.index());
    let guest = Guest::attach(&*kept).await;
    let name = traces.namespace(lost_index);
    let mut leftover = Command::new("ip")
        .args(["netns", "exec", &name, "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    drop((crashed, kept, sealed, lost));

    let next = SlotPool::open(&settings).await.unwrap();
    next.sweep(&BTreeSet::from([kept_index, sealed_index]))
        .await
        .unwrap();
    assert!(
        !leftover.wait().unwrap().success(),
        "what ran in the lost slot is killed"
    );
    let left = traces.all().join("\n");
    assert!(
        !left.contains(&traces.namespace(lost_index)) && !left.contains(&traces.veth(lost_index))
    );

    assert!(matches!(
        next.adopt(lost_index).await.err(),
        Some(NetworkError::Gone { .. })
    ));
    let kept = next.adopt(kept_index).await.unwrap();
    assert!(matches!(
        next.adopt(kept_index).await.err(),
        Some(NetworkError::InUse { .. })
    ));
    let sealed = next.adopt(sealed_index).await.unwrap();

    let socket = guest.udp(colibri_guest_protocol::GUEST_ADDRESS);
    socket
        .send_to(&dns_query(5), (colibri_guest_protocol::GATEWAY_ADDRESS, 53))
        .unwrap();
    let mut answer = [0; 512];
    assert!(
        socket.recv(&mut answer).is_ok(),
        "an adopted slot has its DNS relay again"
    );

    // A slot in use is nobody's to sweep.
    next.sweep(&BTreeSet::new()).await.unwrap();
    assert!(
        traces
            .all()
            .join("\n")
            .contains(&traces.namespace(kept_index))
    );
    kept.release().await.unwrap();
    sealed.release().await.unwrap();
    assert_eq!(traces.all(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_host_table_comes_back() {
    if !can_make_slots() {
        return;
    }
    let (directory, settings) = settings();
    let traces = Traces::of(directory.path());
    let pool = SlotPool::open(&settings).await.unwrap();
    let slot = pool.acquire(Egress::Internet).await.unwrap();
    let whole = output("nft", &["-s", "list", "table", "inet", &traces.table()]);
    run("nft", &["delete", "table", "inet", &traces.table()]);
    pool.sweep(&BTreeSet::new()).await.unwrap();
    assert_eq!(
        output("nft", &["-s", "list", "table", "inet", &traces.table()]),
        whole
    );
    run("nft", &["flush", "table", "inet", &traces.table()]);
    pool.sweep(&BTreeSet::new()).await.unwrap();
    assert_eq!(
        output("nft", &["-s", "list", "table", "inet", &traces.table()]),
        whole
    );
    slot.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_daemons_share_a_host_and_never_an_address() {
    if !can_make_slots() {
        return;
    }
    let ((one_directory, one), (other_directory, other)) = (settings(), settings());
    let (one_pool, other_pool) = (
        SlotPool::open(&one).await.unwrap(),
        SlotPool::open(&other).await.unwrap(),
    );
    let slots = [
        one_pool.acquire(Egress::Internet).await.unwrap(),
        other_pool.acquire(Egress::Internet).await.unwrap(),
    ];
    assert_eq!(slots[0].index(), slots[1].index());
    let address = |directory: &tempfile::TempDir| Traces::of(directory.path()).host_address(0);
    assert_ne!(address(&one_directory), address(&other_directory));

    let (directory, third) = settings();
    let taken = format!("{}/20", address(&one_directory)).parse().unwrap();
    let third = NetworkSettings {
        address_block: Some(taken),
        ..third
    };
    let refused = SlotPool::open(&third).await.unwrap_err().to_string();
    assert!(refused.contains("network.address_block"), "{refused}");
    drop(directory);
    for slot in slots {
        slot.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_succeeds_here_and_leaves_nothing() {
    if !can_make_slots() {
        return;
    }
    probe().await.unwrap();
    colibri_network::forwarding_obstacles().await.unwrap();
}
