//! Challenges of clients that poll.

use super::*;

fn challenge(client: &mut Client) {
    let id = client.id;
    client.rig.message(ShardMessage::Challenge { id });
    client.rig.core.serve_polls(client.rig.now);
}

fn pass(client: &mut Client, ms: u64) {
    client.rig.pass(ms);
    client.rig.core.serve_polls(client.rig.now);
}

/// A client that polls and is connected to the namespace.
fn connected(revision: Revision) -> Client {
    let mut client = Client::open(Limits::default(), revision);
    // With revision 3 the server connects it.
    if revision == Revision::Four {
        assert_eq!(client.post("40"), Ok(()));
        client.poll();
    }
    client
}

#[test]
fn a_client_that_polls_on_has_answered_and_is_told_to_stay_away() {
    for (revision, ping) in [(Revision::Four, "2"), (Revision::Three, "1:6")] {
        let mut client = connected(revision);
        let mut waiting = client.get().expect("taken");
        challenge(&mut client);
        assert_eq!(text(&waiting.try_recv().expect("the poll ends")), ping);
        let mut next = client.get().expect("taken");
        pass(&mut client, 5_999);
        assert!(
            next.try_recv().is_err(),
            "{revision:?}: it has a second more than a silent one"
        );
        pass(&mut client, 1);
        let told = text(&next.try_recv().expect("the last words"));
        assert!(
            told.contains("\"code\":\"DISPLACED\"") && told.ends_with("41"),
            "{revision:?}: {told}"
        );
        assert!(client.poll().ends_with('1'), "the end of the transport");
        assert!(client.is_gone());
        assert_eq!(client.rig.metrics.endings(Disconnect::Displaced), 1);
    }
}

#[test]
fn a_client_that_stopped_polling_is_dead() {
    for revision in [Revision::Four, Revision::Three] {
        let mut client = connected(revision);
        // Its last request still waits, as that of a client whose network is gone.
        let mut waiting = client.get().expect("taken");
        challenge(&mut client);
        waiting.try_recv().expect("written to a dead socket");
        pass(&mut client, 5_000);
        assert!(client.is_gone(), "{revision:?}");
        assert_eq!(client.rig.metrics.endings(Disconnect::HeartbeatTimeout), 1);
    }
}
