//! What a policy permits, and which texts are none.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tower_iroh_layers::authorize::{
    AccessPolicy, AccessPolicyBuilder, Decision, Identity, Limits, PolicyHandle,
};

const TEXT: &str = r#"
[roles.reader]
methods = ["/echo.v1.Echo/*", "/grpc.health.v1.Health/Check"]
[roles.admin]
methods = ["*"]
[roles.nothing]
methods = []

[peers.alice]
roles = ["reader"]
[peers.root]
roles = ["nothing", "admin"]
[peers.outcast]
roles = []

[authenticated]
roles = ["nothing"]
"#;

fn built() -> AccessPolicy {
    AccessPolicy::builder()
        .role(
            "reader",
            ["/echo.v1.Echo/*", "/grpc.health.v1.Health/Check"],
        )
        .role("admin", ["*"])
        .role("nothing", [""; 0])
        .peer("alice", ["reader"])
        .peer("root", ["nothing", "admin"])
        .peer("outcast", [""; 0])
        .authenticated(["nothing"])
        .build()
        .expect("a policy")
}

#[test]
fn the_table_of_decisions_in_toml_and_in_code() {
    use Decision::{Allowed, Denied, Unauthenticated};
    for policy in [AccessPolicy::from_toml(TEXT).expect("a policy"), built()] {
        for (who, path, decision) in [
            (Some("alice"), "/echo.v1.Echo/Echo", Allowed),
            (Some("alice"), "/echo.v1.Echo/Whatever", Allowed),
            (Some("alice"), "/grpc.health.v1.Health/Check", Allowed),
            (Some("alice"), "/grpc.health.v1.Health/Watch", Denied),
            (Some("alice"), "/grpc.health.v1.Health/check", Denied),
            (Some("alice"), "/echo.v1.Echo2/Echo", Denied),
            (Some("alice"), "/echo.v1.Echo/", Denied),
            (Some("alice"), "/echo.v1.Echo", Denied),
            (Some("alice"), "/echo.v1.Echo/Echo/more", Denied),
            (Some("alice"), "//echo.v1.Echo/Echo", Denied),
            (Some("alice"), "/echo.v1.%45cho/Echo", Denied),
            (Some("alice"), "*", Denied),
            (Some("alice"), "", Denied),
            (Some("Alice"), "/echo.v1.Echo/Echo", Denied),
            (Some("alice "), "/echo.v1.Echo/Echo", Denied),
            (Some(""), "/echo.v1.Echo/Echo", Unauthenticated),
            (Some("root"), "/any.thing/At", Allowed),
            (Some("outcast"), "/echo.v1.Echo/Echo", Denied),
            (Some("stranger"), "/echo.v1.Echo/Echo", Denied),
            (None, "/echo.v1.Echo/Echo", Unauthenticated),
            (None, "", Unauthenticated),
        ] {
            let who = who.map(Identity::from);
            assert_eq!(
                policy.decide(who.as_ref(), path),
                decision,
                "{who:?} {path:?}"
            );
        }
    }
}

#[test]
fn an_empty_policy_permits_nothing() {
    let policy = AccessPolicy::from_toml("").expect("a policy");
    assert_eq!(policy.decide(None, "/p.S/M"), Decision::Unauthenticated);
    assert_eq!(policy.decide(Some(&"a".into()), "/p.S/M"), Decision::Denied);
}

#[test]
fn a_listed_peer_has_what_its_entry_says_and_not_what_all_have() {
    let policy = AccessPolicy::builder()
        .role("all", ["*"])
        .authenticated(["all"])
        .anonymous(["all"])
        .peer("outcast", [""; 0])
        .build()
        .expect("a policy");
    assert_eq!(
        policy.decide(Some(&"outcast".into()), "/p.S/M"),
        Decision::Denied
    );
    assert_eq!(
        policy.decide(Some(&"other".into()), "/p.S/M"),
        Decision::Allowed
    );
    assert_eq!(policy.decide(None, "/p.S/M"), Decision::Allowed);
}

#[test]
fn an_empty_identity_is_none() {
    let nobody = Identity::from("");
    let policy =
        |builder: AccessPolicyBuilder| builder.role("all", ["*"]).build().expect("a policy");
    let authenticated = policy(AccessPolicy::builder().authenticated(["all"]));
    assert_eq!(
        authenticated.decide(Some(&nobody), "/p.S/M"),
        Decision::Unauthenticated
    );
    let anonymous = policy(AccessPolicy::builder().anonymous(["all"]));
    assert_eq!(anonymous.decide(Some(&nobody), "/p.S/M"), Decision::Allowed);
}

#[test]
fn a_mistake_is_named_with_its_line_and_key() {
    let role = "[roles.reader]\nmethods = [\"/p.S/M\"]\n";
    for (text, line, message) in [
        (
            "[peers.a]\nroles = [\"x\"]",
            2,
            "line 2: peers.\"a\".roles: there is no role \"x\"; add [roles.x]",
        ),
        (
            &format!("{role}[peers.a]\nroles = [\n  \"reader\",\n  \"raeder\",\n]"),
            6,
            "line 6: peers.\"a\".roles: there is no role \"raeder\"; did you mean \"reader\"?",
        ),
        (
            &format!("{role}[anonymous]\nroles = [\"reeder\"]"),
            4,
            "anonymous.roles: there is no role",
        ),
        (
            &format!("{role}[authenticated]\nroles = [\"\"]"),
            4,
            "authenticated.roles: there is no role",
        ),
        (
            "[role.reader]\nmethods = []",
            1,
            "unknown field `role`, expected one of `roles`",
        ),
        (
            "[roles.reader]\nmethod = []",
            2,
            "unknown field `method`, expected `methods`",
        ),
        ("[roles.reader]\n", 1, "missing field `methods`"),
        ("[peers.a]\nlimits = {}", 1, "missing field `roles`"),
        ("[anonymous]\n", 1, "missing field `roles`"),
        (
            "\n[roles.reader]\nmethods = [\"p.S/M\"]",
            3,
            "line 3: roles.reader.methods: \"p.S/M\" is no method",
        ),
        ("[roles.r]\nmethods = [\"/p.S\"]", 2, "is no method"),
        ("[roles.r]\nmethods = [\"/p.S/\"]", 2, "is no method"),
        ("[roles.r]\nmethods = [\"/p.S/Get*\"]", 2, "is no method"),
        ("[roles.r]\nmethods = [\"/*/M\"]", 2, "is no method"),
        ("[roles.r]\nmethods = [\"/p.*/*\"]", 2, "is no method"),
        ("[roles.r]\nmethods = [\"/p.S/M/N\"]", 2, "is no method"),
        ("[roles.r]\nmethods = [\"/p.S/M \"]", 2, "is no method"),
        ("[roles.r]\nmethods = [\"\"]", 2, "is no method"),
        ("[roles.r]\nmethods = [\"**\"]", 2, "is no method"),
        ("[roles.r]\nmethods = \"*\"", 2, "invalid type"),
        (
            "[limits]\nrate = 0.0",
            1,
            "line 1: limits.rate: 0.00001 to 1000000000 calls per second",
        ),
        ("[limits]\nrate = nan", 1, "limits.rate"),
        ("[limits]\nrate = -1.0", 1, "limits.rate"),
        ("[limits]\nrate = inf", 1, "limits.rate"),
        ("[limits]\nburst = 3", 1, "limits.burst: it needs a rate"),
        (
            "[limits]\nconcurrent = 0",
            1,
            "limits.concurrent: must be at least 1",
        ),
        (
            "[limits]\nmax_message_bytes = 0",
            1,
            "limits.max_message_bytes: must be at least 1",
        ),
        ("[limits]\nmax_message_bytes = -1", 2, "invalid value"),
        (
            "[limits]\nmax_mesage_bytes = 1",
            2,
            "unknown field `max_mesage_bytes`",
        ),
        (
            "[peers.a]\nroles = []\nlimits = { rate = 1.0, burst = 0 }",
            3,
            "line 3: peers.\"a\".limits.burst",
        ),
        (
            "[peers.a]\nroles = []\n[peers.a]\nroles = []",
            3,
            "duplicate key",
        ),
        ("[peers.\"\"]\nroles = []", 1, "an identity has a name"),
        (
            "\n[peers.\"alice \"]\nroles = []",
            2,
            "line 2: peers.\"alice \": whitespace around a name",
        ),
        ("[peers.\"\\talice\"]\nroles = []", 1, "whitespace around"),
        ("what is this", 1, "line 1: "),
    ] {
        let error = AccessPolicy::from_toml(text).expect_err(text);
        let shown = error.to_string();
        assert!(shown.contains(message), "{text:?}: {shown}");
        assert_eq!(error.line().unwrap_or(0), line, "{text:?}: {shown}");
    }
}

#[test]
fn code_has_the_same_checks() {
    let error = |builder: tower_iroh_layers::authorize::AccessPolicyBuilder| {
        builder.build().expect_err("a mistake")
    };
    let twice = error(AccessPolicy::builder().role("r", ["*"]).role("r", ["*"]));
    assert_eq!(twice.to_string(), "roles.r: this role is there twice");
    let twice = error(
        AccessPolicy::builder()
            .peer("p", [""; 0])
            .peer("p", [""; 0]),
    );
    assert_eq!(twice.key(), "peers.\"p\"");
    let limits = error(AccessPolicy::builder().limits(Limits::new().rate(f64::NAN, 1)));
    assert_eq!((limits.line(), limits.key()), (None, "limits.rate"));
    let limits = Limits::new().concurrent(0);
    error(AccessPolicy::builder().peer_with_limits("p", [""; 0], limits));
}

#[test]
fn a_peer_is_shut_out_however_its_name_is_spelled() {
    let policy = |name: &str| {
        format!(
            "[roles.all]\nmethods = [\"*\"]\n[authenticated]\nroles = [\"all\"]\n\
             [peers.2b8c]\nroles = []\n[peers.\"{name}\"]\nroles = []"
        )
    };
    let spelling = |name: &str| match name.trim() {
        "" => Err("no digits".to_owned()),
        name => Ok(name.to_lowercase()),
    };
    let handle = PolicyHandle::new(AccessPolicy::from_toml("").expect("a policy"));
    assert_eq!(handle.reload_toml_with(&policy(" 77AA "), spelling), Ok(2));
    let outcast = Identity::from("77aa");
    assert_eq!(
        handle.policy().decide(Some(&outcast), "/p.S/M"),
        Decision::Denied
    );
    for (name, message) in [
        ("2B8C", "line 7: peers.\"2b8c\": this peer is listed twice"),
        (" ", "line 7: peers.\" \": no digits"),
    ] {
        let error = handle.reload_toml_with(&policy(name), spelling);
        assert_eq!(error.expect_err(name).to_string(), message);
    }
    assert_eq!(handle.generation(), 2);
}

#[test]
fn a_bad_reload_leaves_the_old_policy_in_force() {
    let handle = PolicyHandle::new(built());
    assert!(
        handle
            .reload_toml("[peers.alice]\nroles = [\"reader\"]")
            .is_err()
    );
    assert_eq!(handle.generation(), 1);
    let alice = Identity::from("alice");
    assert_eq!(
        handle.policy().decide(Some(&alice), "/echo.v1.Echo/Echo"),
        Decision::Allowed
    );
    assert_eq!(handle.reload_toml("").expect("a policy"), 2);
    assert_eq!(
        handle.policy().decide(Some(&alice), "/echo.v1.Echo/Echo"),
        Decision::Denied
    );
}

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just("*".to_owned()),
        4 => "/[ab]\\.S/\\*",
        8 => "/[ab]\\.S/[MN]",
    ]
}

/// What a pattern means, said as plainly as can be.
fn matches(pattern: &str, path: &str) -> bool {
    if pattern == "*" || pattern == path {
        return true;
    }
    let (Some(prefix), Some(rest)) = (
        pattern.strip_suffix('*'),
        path.strip_prefix(pattern.trim_end_matches('*')),
    ) else {
        return false;
    };
    !prefix.is_empty() && !rest.is_empty() && !rest.contains('/')
}

type Roles = BTreeMap<String, Vec<String>>;

fn roles() -> impl Strategy<Value = Roles> {
    proptest::collection::btree_map("[r-t]", proptest::collection::vec(pattern(), 0..3), 3..=3)
}

fn names() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec("[r-t]", 0..3)
}

proptest! {
    #[test]
    fn any_policy_decides_as_a_naive_model_does(
        roles in roles(),
        peers in proptest::collection::btree_map("[p-q]", names(), 0..=2),
        authenticated in proptest::option::of(names()),
        anonymous in proptest::option::of(names()),
        who in proptest::option::of("[o-q]"),
        path in prop_oneof!["/[ab]\\.S/[MN]", "/[ab]\\.S/", "/[ab]\\.S/M/N", "\\PC{0,12}", "/[ab*.S/M]{0,8}"],
    ) {
        let mut builder = AccessPolicy::builder();
        for (name, methods) in &roles {
            builder = builder.role(name, methods.clone());
        }
        for (peer, roles) in &peers {
            builder = builder.peer(peer, roles.clone());
        }
        if let Some(roles) = &authenticated {
            builder = builder.authenticated(roles.clone());
        }
        if let Some(roles) = &anonymous {
            builder = builder.anonymous(roles.clone());
        }
        let policy = builder.build().expect("a policy");

        let granted = match &who {
            None => anonymous.as_ref(),
            Some(who) => peers.get(who).or(authenticated.as_ref()),
        };
        let mut patterns = granted.into_iter().flatten().flat_map(|role| &roles[role]);
        let permitted = patterns.any(|pattern| matches(pattern, &path));
        let identity = who.map(Identity::from);
        let decision = policy.decide(identity.as_ref(), &path);
        prop_assert_eq!(decision == Decision::Allowed, permitted, "{:?} {:?}", identity, path);
        if !permitted {
            let code = if identity.is_some() { Decision::Denied } else { Decision::Unauthenticated };
            prop_assert_eq!(decision, code);
        }
    }

    #[test]
    fn what_is_not_granted_by_name_is_never_permitted(who in "\\PC{0,8}", path in "\\PC{0,24}") {
        let policy = AccessPolicy::from_toml(TEXT).expect("a policy");
        prop_assume!(!["", "alice", "root"].contains(&who.as_str()));
        let stranger = Identity::from(who);
        prop_assert_eq!(policy.decide(Some(&stranger), &path), Decision::Denied);
        prop_assert_eq!(policy.decide(None, &path), Decision::Unauthenticated);
    }

    #[test]
    fn who_is_not_admitted_may_nothing(
        who in prop::option::of(prop_oneof![Just("alice"), Just("root"), Just("outcast"), Just("bob"), Just("")]),
        path in "(/[a-z]{1,4}){0,3}",
        open in any::<bool>(),
    ) {
        let text = format!("{TEXT}[anonymous]\nroles = {}", if open { r#"["reader"]"# } else { "[]" });
        let policy = AccessPolicy::from_toml(&text).expect("a policy");
        let identity = who.map(Identity::from);
        let admitted = policy.admits(identity.as_ref());
        let expected = match who {
            Some("alice" | "root") => true,
            None | Some("") => open,
            _ => false,
        };
        prop_assert_eq!(admitted, expected);
        if !admitted {
            prop_assert_ne!(policy.decide(identity.as_ref(), &path), Decision::Allowed);
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,60}", cut in 0..TEXT.len()) {
        let _ = AccessPolicy::from_toml(&text);
        let _ = AccessPolicy::from_toml(&TEXT[..cut]);
        let _ = AccessPolicy::from_toml(&format!("{}{text}{}", &TEXT[..cut], &TEXT[cut..]));
    }
}
