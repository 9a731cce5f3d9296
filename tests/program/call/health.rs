//! `health`: one status, and its changes.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    time::timeout,
};
use tonic_health::ServingStatus;

use super::{Place, SERVICE, harness::Arm};
use crate::support::{PATIENCE, program};

#[tokio::test]
async fn serving_alone_is_success() {
    for place in Place::both().await {
        let well = place.run("health", &[]).await;
        assert_eq!((well.code, well.stdout.as_str()), (Some(0), "SERVING\n"));
        place
            .world
            .health
            .set_service_status(SERVICE, ServingStatus::NotServing)
            .await;
        let ill = place.run("health", &[SERVICE]).await;
        assert_eq!(
            (ill.code, ill.stdout.as_str(), ill.stderr.as_str()),
            (Some(1), "NOT_SERVING\n", "")
        );
        let json = place.run("health", &[SERVICE, "--json"]).await;
        let expected = format!("{{\"service\":\"{SERVICE}\",\"status\":\"NOT_SERVING\"}}\n");
        assert_eq!((json.code, json.stdout), (Some(1), expected));
        let verbose = place.run("health", &["-v"]).await;
        assert_eq!(
            (verbose.code, verbose.stdout.as_str()),
            (Some(0), "SERVING\n")
        );
        assert!(verbose.stderr.contains("\ntransport  "), "{verbose:?}");
        let unknown = place.run("health", &["nobody"]).await;
        assert_eq!(unknown.code, Some(69), "NOT_FOUND");
    }
}

#[tokio::test]
async fn changes_are_watched() {
    let place = Place::new(Arm::Channel).await;
    let args = place.args("health", &[SERVICE, "-watch"]);
    let mut child = program(args)
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    for (expected, next) in [
        ("SERVING", ServingStatus::NotServing),
        ("NOT_SERVING", ServingStatus::Serving),
        ("SERVING", ServingStatus::Unknown),
    ] {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("in time");
        assert_eq!(line.expect("text").as_deref(), Some(expected));
        place.world.health.set_service_status(SERVICE, next).await;
    }
    child.kill().await.expect("running");
    let late = place
        .run("health", &[SERVICE, "-watch", "-max-time", "3"])
        .await;
    assert_eq!((late.code, late.stdout.as_str()), (Some(68), "UNKNOWN\n"));
}
