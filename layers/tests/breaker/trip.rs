//! What opens a circuit, and for how long.

use http::Request;
use tonic::{Code, Status};
use tower::Service;
use tower_iroh_layers::{
    Deadline, Fault, Incident, Origin,
    breaker::{Circuit, CircuitState, Rule},
};

use crate::peer::*;

fn rule(client: &Client) -> Option<Rule> {
    match client.circuit().state() {
        CircuitState::Open { reason, .. } => Some(reason.rule()),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn each_way_a_call_can_end_is_classified() {
    let ours = Fault::unsent(Origin::Ours, Status::unavailable("queue full"));
    let refused = Fault::unsent(Origin::Refused, Status::unavailable("later"));
    let peer_says = |code| Fault::unsent(Origin::Peer, Status::new(code, ""));
    for (reply, opens) in [
        (Reply::Head(Code::Unavailable), true),
        (Reply::NoStatus, true),
        (Reply::Reset, true),
        (Reply::Error(peer_says(Code::DataLoss)), true),
        (Reply::Http(502), true),
        (Reply::Head(Code::Internal), false),
        (Reply::Trailers(Code::Unknown), false),
        (Reply::Trailers(Code::DataLoss), false),
        // A proxy refuses the caller, its request's size or its rate.
        (Reply::Http(401), false),
        (Reply::Http(403), false),
        (Reply::Http(404), false),
        (Reply::Http(413), false),
        (Reply::Http(429), false),
        (Reply::Http(431), false),
        (link(Incident::new()), false),
        (Reply::Head(Code::NotFound), false),
        (Reply::Trailers(Code::PermissionDenied), false),
        (Reply::Trailers(Code::Cancelled), false),
        (Reply::Error(ours), false),
        (Reply::Error(refused), false),
        (Reply::Head(Code::ResourceExhausted), false),
    ] {
        let peer = Peer::new(vec![reply.clone(); 5]);
        let mut client = client(&peer, config());
        calls(&mut client, 5).await;
        assert_eq!(client.circuit().state().is_closed(), !opens, "{reply:?}");
        assert_eq!(rule(&client), opens.then_some(Rule::Run(5)), "{reply:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_ends_a_run_and_a_neutral_end_does_not() {
    let peer = Peer::new([FAIL, FAIL, FAIL, FAIL, OK, FAIL, FAIL, FAIL, FAIL]);
    let mut client = client(&peer, config());
    calls(&mut client, 9).await;
    assert!(client.circuit().state().is_closed());
    peer.plays([Reply::Trailers(Code::Cancelled), FAIL]);
    calls(&mut client, 2).await;
    assert_eq!(rule(&client), Some(Rule::Run(5)));
}

#[tokio::test(start_paused = true)]
async fn after_a_million_successes_half_failing_opens_within_the_window() {
    let peer = Peer::default();
    let mut client = client(&peer, config().failure_threshold(None));
    for _ in 0..1_000_000 {
        call(&mut client).await;
    }
    let counted = client.circuit().statistics();
    assert!(counted.calls > 100_000, "{counted:?}");
    // Ten calls a second, every other one fails.
    let mut spent = 0;
    loop {
        peer.plays([if spent % 2 == 0 { OK } else { FAIL }]);
        call(&mut client).await;
        // Asked before time goes on: the wait for the probe may be short.
        if !client.circuit().state().is_closed() {
            break;
        }
        tokio::time::advance(SECOND / 10).await;
        spent += 1;
        assert!(spent <= 102, "the window has passed");
    }
    assert!(matches!(rule(&client), Some(Rule::Rate { .. })));
}

#[tokio::test(start_paused = true)]
async fn the_share_needs_enough_calls() {
    let peer = Peer::new(vec![FAIL; 20]);
    let mut client = client(&peer, config().failure_threshold(None));
    calls(&mut client, 19).await;
    assert!(client.circuit().state().is_closed());
    call(&mut client).await;
    let reason = match client.circuit().state() {
        CircuitState::Open { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason.codes(), [(Code::Unavailable, 20)]);
    assert!(reason.to_string().starts_with("20 of 20 calls failed"));
}

#[tokio::test(start_paused = true)]
async fn what_the_application_answers_refuses_no_other_call() {
    for code in [Code::Internal, Code::Unknown, Code::DataLoss] {
        // One method that fails each time, and another that does not.
        let peer = Peer::new((0..200).map(|n| match n % 2 {
            0 => Reply::Trailers(code),
            _ => OK,
        }));
        let mut client = client(&peer, config());
        calls(&mut client, 200).await;
        // The same without a call that succeeds in between.
        peer.plays(vec![Reply::Head(code); 100]);
        calls(&mut client, 100).await;
        assert_eq!(peer.calls(), 300, "{code:?}");
        let seen = client.circuit().statistics();
        assert!(seen.state.is_closed(), "{seen:?}");
        assert_eq!((seen.held, seen.failed), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn application_errors_count_where_the_configuration_says_so() {
    for (patterns, counts) in [
        (&[][..], false),
        (&["/a.B/C"][..], true),
        (&["/a.B/*"][..], true),
        (&["*"][..], true),
        (&["/a.B/D", "x.Y"][..], false),
    ] {
        let peer = Peer::new(vec![Reply::Trailers(Code::Internal); 5]);
        let config = config().application_errors(patterns.iter().copied());
        let mut client = client(&peer, config);
        for _ in 0..5 {
            ready(&mut client).await;
            let request = Request::builder().uri("/a.B/C").body(());
            finish(client.call(request.expect("a request"))).await;
        }
        let expected = counts.then_some(Rule::Run(5));
        assert_eq!(rule(&client), expected, "{patterns:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_of_the_handler_s_own_counts_nowhere() {
    for (reply, opens) in [
        (Reply::Head(Code::DeadlineExceeded), false),
        (Reply::Trailers(Code::DeadlineExceeded), false),
        // The caller's own, by the peer's clock.
        (
            Reply::Late(SECOND * 5, Box::new(Reply::Head(Code::DeadlineExceeded))),
            true,
        ),
    ] {
        let peer = Peer::new(vec![reply.clone(); 5]);
        let mut client = client(&peer, config());
        for _ in 0..5 {
            ready(&mut client).await;
            let mut request = Request::new(());
            request.extensions_mut().insert(Deadline::after(SECOND * 5));
            finish(client.call(request)).await;
        }
        assert_eq!(rule(&client), opens.then_some(Rule::Run(5)), "{reply:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_s_pushback_is_honoured() {
    let pushback = SECOND * 7;
    let peer = Peer::new([Reply::Pushback(pushback)]);
    let mut client = client(&peer, config().min_calls(1));
    call(&mut client).await;
    assert!(wait(&mut client).await >= pushback);
    // And by a probe that is refused.
    peer.plays([Reply::Pushback(pushback * 2)]);
    call(&mut client).await;
    assert!(wait(&mut client).await >= pushback * 2);
    // Also by one that finds no room, which is no failure: it is left alone for as long as it says.
    peer.plays([Reply::Full(pushback)]);
    call(&mut client).await;
    let waited = wait(&mut client).await;
    assert!(
        waited >= pushback && waited < pushback + SECOND / 100,
        "{waited:?}"
    );
    // Not without end.
    peer.plays([Reply::Pushback(SECOND * 1_000_000)]);
    call(&mut client).await;
    assert!(wait(&mut client).await <= SECOND * 301);
    // What a peer asked for that had no room holds nobody, and counts when others fail.
    call(&mut client).await;
    peer.plays([Reply::Full(pushback)]);
    call(&mut client).await;
    assert!(client.circuit().state().is_closed());
    peer.plays([FAIL]);
    call(&mut client).await;
    assert!(wait(&mut client).await >= pushback);
}

#[tokio::test(start_paused = true)]
async fn one_lost_connection_is_one_failure_however_many_calls_it_took_along() {
    let lost = Incident::new();
    let peer = Peer::new(vec![link(lost); 50]);
    let mut client = client(&peer, config().min_calls(1).failure_rate(1.0));
    peer.script.lock().expect("no panic").push_front(OK);
    calls(&mut client, 51).await;
    assert!(client.circuit().state().is_closed());
    assert_eq!(client.circuit().statistics().failed, 1);
    peer.plays([link(Incident::new())]);
    call(&mut client).await;
    assert_eq!(rule(&client), Some(Rule::Link(2)));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_between_them_ends_a_run_of_the_link_s_failures() {
    for (between, opens) in [
        (FAIL, false),
        (Reply::Head(Code::Internal), false),
        (Reply::NoStatus, false),
        (Reply::Head(Code::ResourceExhausted), false),
        (OK, false),
        // Not known to be the peer's word.
        (Reply::Reset, true),
        (Reply::Trailers(Code::Cancelled), true),
    ] {
        let peer = Peer::new([
            link(Incident::new()),
            between.clone(),
            link(Incident::new()),
        ]);
        let mut client = client(&peer, config());
        calls(&mut client, 3).await;
        let expected = opens.then_some(Rule::Link(2));
        assert_eq!(rule(&client), expected, "{between:?}");
    }
    let mut script = vec![FAIL; 3];
    script.insert(1, link(Incident::new()));
    script.push(link(Incident::new()));
    let peer = Peer::new(script);
    let mut client = client(&peer, config());
    calls(&mut client, 5).await;
    assert_eq!(rule(&client), Some(Rule::Run(5)), "of any kind");
}

#[tokio::test(start_paused = true)]
async fn only_a_fair_deadline_counts() {
    let miss = |client: &mut Client, limit| {
        let mut request = Request::new(());
        let deadline = Deadline::after(limit);
        request.extensions_mut().insert(deadline);
        let call = client.call(request);
        async move {
            // A deadline layer above drops what it waited for.
            let _ = tokio::time::timeout_at(deadline.instant(), finish(call)).await;
        }
    };
    for (limit, opens) in [(SECOND / 2, false), (SECOND, true)] {
        let peer = Peer::new(vec![Reply::Hang; 5]);
        let mut client = client(&peer, config());
        for _ in 0..5 {
            ready(&mut client).await;
            miss(&mut client, limit).await;
        }
        assert_eq!(client.circuit().state().is_closed(), !opens, "{limit:?}");
    }
    // A second is not fair where a round trip takes 300 ms.
    let peer = Peer::new(vec![Reply::Hang; 5]);
    let circuit = Circuit::builder(Default::default()).rtt(|| Some(SECOND * 3 / 10));
    let mut client = Client::new(peer, circuit.build());
    for _ in 0..5 {
        ready(&mut client).await;
        miss(&mut client, SECOND).await;
    }
    assert!(client.circuit().state().is_closed());
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_jittered_doubles_and_ends_at_the_recovery_time() {
    let peer = Peer::default();
    let mut client = opened(&peer).await;
    for n in 0..12 {
        let most = SECOND * 2u32.pow(n).min(30);
        let waited = wait(&mut client).await;
        assert!(waited <= most + SECOND / 100, "{n}: {waited:?}");
        peer.plays([FAIL]);
        call(&mut client).await;
        assert_eq!(rule(&client), Some(Rule::Probe));
    }
}
