//! The control channel of a guest that never stops speaking.

use colibri_guest_protocol::client::{await_session, write_frame, write_session_magic};
use colibri_guest_protocol::frame::FrameKind;
use tokio::time::timeout;

use crate::world::{Session, bound, world};

/// Where machines were stopped before QEMU had seen the end of a session, one in ten was not taken up.
const SESSIONS: usize = 60;
const PING: &[u8] = br#"{"id":1,"call":"ping"}"#;

#[tokio::test]
async fn a_guest_that_speaks_while_its_sessions_end_takes_up_the_next() {
    let Some(world) = world().await else { return };
    let (_guest, machine) = world.clone_of_base("chatty").await;
    let session = Session::open(machine.as_ref()).await;
    session.assume("chatty", 9).await;
    drop(session);
    for number in 0..SESSIONS {
        let mut stream = machine.control().await.unwrap();
        write_session_magic(&mut stream).await.unwrap();
        machine.resume().await.unwrap();
        let Ok(taken_up) = timeout(bound(10), await_session(&mut stream)).await else {
            panic!("session {number} was not taken up");
        };
        taken_up.unwrap().next(&mut stream).await.unwrap();
        // It ends while a request is under way.
        write_frame(&mut stream, FrameKind::Request, PING)
            .await
            .unwrap();
        drop(stream);
        machine.pause().await.unwrap();
    }
    machine.kill().await.unwrap();
}
