//! gRPC's [service config](https://github.com/grpc/grpc-proto/blob/master/grpc/service_config/service_config.proto) in JSON, as of its proposals
//! [A2](https://github.com/grpc/proposal/blob/master/A2-service-configs-in-dns.md) and
//! [A6](https://github.com/grpc/proposal/blob/master/A6-client-retries.md).

use std::time::Duration;

use serde_json::Value;
#[cfg(feature = "retry")]
use tonic::Code;

use super::{MethodConfig, MethodsBuilder};
use crate::ConfigError;
#[cfg(feature = "retry")]
use crate::retry::RetryPolicy;

impl MethodsBuilder {
    /// Adds the entries of gRPC's service config, as JSON: `methodConfig` with `name`, `timeout`, `waitForReady` and `retryPolicy`, and `retryThrottling`, which sets the
    /// size of the channel's retry budget.
    ///
    /// - A `retryPolicy` says that its methods may be executed twice, so they are idempotent.
    /// - As gRPC has it, the most specific entry counts as a whole: timeout, wait for ready, idempotent and retry policy are not inherited from a less specific one.
    /// - `maxAttempts` above 5 counts as 5.
    ///
    /// ```
    /// use tower_iroh_layers::Methods;
    ///
    /// let methods = Methods::builder()
    ///     .service_config(r#"{
    ///         "methodConfig": [{
    ///             "name": [{ "service": "shop.v1.Stock", "method": "Get" }],
    ///             "timeout": "1.5s",
    ///             "waitForReady": true
    ///         }]
    ///     }"#)?
    ///     .build()?;
    /// assert!(methods.get("/shop.v1.Stock/Get").waits_for_ready());
    ///
    /// let error = Methods::builder().service_config(r#"{ "methodConfig": [{ "timeOut": "1s" }] }"#).unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "methodConfig[0].timeOut = \"1s\": name, timeout, waitForReady, retryPolicy are accepted",
    /// );
    /// # Ok::<(), tower_iroh_layers::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`] for a text that is not JSON, a value that is not valid, a method with two entries, and everything that is not listed above, such as
    /// `loadBalancingConfig` or `hedgingPolicy`. It names the place, such as `methodConfig[0].retryPolicy.maxAttempts`.
    pub fn service_config(mut self, json: &str) -> Result<Self, ConfigError> {
        let value: Value = serde_json::from_str(json).map_err(|error| {
            let accepted = "a service config in JSON is accepted";
            ConfigError::new(FIELD, error, accepted)
        })?;
        let root = Json {
            at: String::new(),
            value: &value,
        };
        root.only(&["methodConfig", "retryThrottling"])?;
        if let Some(throttling) = root.get("retryThrottling") {
            self.throttling = Some(throttling.throttling()?);
        }
        let mut named = Vec::new();
        for entry in root.list("methodConfig")? {
            entry.only(&["name", "timeout", "waitForReady", "retryPolicy"])?;
            let config = entry.method_config()?;
            for name in entry.list("name")? {
                let pattern = name.pattern()?;
                if named.contains(&pattern) {
                    return Err(name.refuse("one entry per name is accepted"));
                }
                named.push(pattern.clone());
                self = self.method(pattern, config.clone());
            }
        }
        Ok(self)
    }
}

const FIELD: &str = "service_config";

/// A value and its place.
struct Json<'a> {
    at: String,
    value: &'a Value,
}

impl<'a> Json<'a> {
    fn refuse(&self, accepted: impl Into<String>) -> ConfigError {
        const MOST: usize = 60;
        let mut shown = self.value.to_string();
        if let Some((end, _)) = shown.char_indices().nth(MOST) {
            shown.truncate(end);
            shown.push_str("...");
        }
        let error = ConfigError::new(FIELD, shown, accepted);
        match self.at.is_empty() {
            true => error,
            false => error.at(self.at.clone()),
        }
    }

    fn child(&self, key: &str, value: &'a Value) -> Self {
        let dot = if self.at.is_empty() { "" } else { "." };
        Json {
            at: format!("{}{dot}{key}", self.at),
            value,
        }
    }

    /// A member that is there; null is as good as absent.
    fn get(&self, key: &str) -> Option<Self> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        Some(self.child(key, value))
    }

    /// A member that has to be there.
    fn need(&self, key: &str) -> Result<Self, ConfigError> {
        self.get(key)
            .ok_or_else(|| self.refuse(format!("{key} is required")))
    }

    /// Refuses what is no object, and members with other names.
    fn only(&self, known: &[&str]) -> Result<(), ConfigError> {
        let Some(members) = self.value.as_object() else {
            return Err(self.refuse("an object is accepted"));
        };
        let mut unknown = members.iter().filter(|(key, _)| !known.contains(&&***key));
        match unknown.next() {
            Some((key, value)) => {
                let accepted = format!("{} are accepted", known.join(", "));
                Err(self.child(key, value).refuse(accepted))
            }
            None => Ok(()),
        }
    }

    fn list(&self, key: &str) -> Result<Vec<Self>, ConfigError> {
        let Some(list) = self.get(key) else {
            return Ok(Vec::new());
        };
        let Some(values) = list.value.as_array() else {
            return Err(list.refuse("a list is accepted"));
        };
        let item = |(n, value)| Json {
            at: format!("{}[{n}]", list.at),
            value,
        };
        Ok(values.iter().enumerate().map(item).collect())
    }

    fn pattern(&self) -> Result<String, ConfigError> {
        self.only(&["service", "method"])?;
        let text = |key| match self.get(key) {
            Some(text) => match text.value.as_str() {
                Some(text) => Ok(text),
                None => Err(text.refuse("a string is accepted")),
            },
            None => Ok(""),
        };
        match (text("service")?, text("method")?) {
            ("", "") => Ok("*".to_owned()),
            ("", _) => Err(self.refuse("a method has a service")),
            (service, "") => Ok(format!("/{service}/*")),
            (service, method) => Ok(format!("/{service}/{method}")),
        }
    }

    fn method_config(&self) -> Result<MethodConfig, ConfigError> {
        let mut config = MethodConfig::of_service_config();
        if let Some(timeout) = self.get("timeout") {
            config = config.timeout(timeout.duration()?);
        }
        if let Some(waits) = self.get("waitForReady") {
            let refused = || waits.refuse("true or false is accepted");
            config = config.wait_for_ready(waits.value.as_bool().ok_or_else(refused)?);
        }
        if let Some(policy) = self.get("retryPolicy") {
            #[cfg(feature = "retry")]
            {
                config = config.retry(policy.retry_policy()?).idempotent(true);
            }
            #[cfg(not(feature = "retry"))]
            return Err(policy.refuse("no retry policy is accepted without the feature `retry`"));
        }
        Ok(config)
    }

    /// A duration as protobuf writes it in JSON: seconds with up to nine decimals, and an `s`.
    fn duration(&self) -> Result<Duration, ConfigError> {
        let read = || {
            let number = self.value.as_str()?.strip_suffix('s')?;
            let digits = number.bytes().all(|c| c.is_ascii_digit() || c == b'.');
            let seconds = number.parse().ok().filter(|_| digits)?;
            let duration = Duration::try_from_secs_f64(seconds).ok()?;
            ConfigError::lasting(FIELD, duration).ok()?;
            Some(duration)
        };
        read().ok_or_else(|| {
            self.refuse("seconds above zero, at most 365 days, such as \"1.5s\", are accepted")
        })
    }

    fn number(
        &self,
        range: impl Fn(f64) -> bool,
        accepted: &'static str,
    ) -> Result<f64, ConfigError> {
        let number = self.value.as_f64().filter(|number| range(*number));
        number.ok_or_else(|| self.refuse(accepted))
    }

    /// `maxTokens` and `tokenRatio`.
    fn throttling(&self) -> Result<(u32, f64), ConfigError> {
        self.only(&["maxTokens", "tokenRatio"])?;
        let whole = |n: f64| n.fract() == 0.0 && (1.0..=1000.0).contains(&n);
        let tokens = self.need("maxTokens")?;
        let tokens = tokens.number(whole, "a whole number from 1 to 1000 is accepted")?;
        let ratio = self.need("tokenRatio")?;
        let within = |ratio: f64| (0.001..=1000.0).contains(&ratio);
        let ratio = ratio.number(within, "a number from 0.001 to 1000 is accepted")?;
        Ok((tokens as u32, ratio))
    }

    #[cfg(feature = "retry")]
    fn retry_policy(&self) -> Result<RetryPolicy, ConfigError> {
        /// A6: "values greater than 5 are treated as 5".
        const MOST_ATTEMPTS: f64 = 5.0;
        self.only(&[
            "maxAttempts",
            "initialBackoff",
            "maxBackoff",
            "backoffMultiplier",
            "retryableStatusCodes",
        ])?;
        let whole = |n: f64| n.fract() == 0.0 && n >= 2.0;
        let attempts = self.need("maxAttempts")?;
        let attempts = attempts.number(whole, "a whole number from 2 on is accepted")?;
        let max_backoff = self.need("maxBackoff")?.duration()?;
        let initial_backoff = self.need("initialBackoff")?.duration()?;
        let multiplier = self.need("backoffMultiplier")?;
        let grows = |factor: f64| (1.0..=1000.0).contains(&factor);
        let multiplier = multiplier.number(grows, "a number from 1 to 1000 is accepted")?;
        let codes = self.list("retryableStatusCodes")?;
        if codes.is_empty() {
            return Err(self.refuse("retryableStatusCodes with at least one code is accepted"));
        }
        let codes = codes
            .iter()
            .map(Json::code)
            .collect::<Result<Vec<_>, _>>()?;
        let policy = RetryPolicy::builder()
            .max_attempts(attempts.min(MOST_ATTEMPTS) as u32)
            // A wait is the smaller one of the two anyway.
            .initial_backoff(initial_backoff.min(max_backoff))
            .max_backoff(max_backoff)
            .multiplier(multiplier)
            .codes(codes)
            .build();
        policy.map_err(|error| error.at(self.at.clone()))
    }

    #[cfg(feature = "retry")]
    fn code(&self) -> Result<Code, ConfigError> {
        let code = match self.value {
            Value::String(name) => crate::classify::code_named(name),
            Value::Number(number) => {
                let known = (1..=16).filter(|code| number.as_i64() == Some(i64::from(*code)));
                known.map(Code::from_i32).next()
            }
            _ => None,
        };
        code.filter(|code| *code != Code::Ok).ok_or_else(|| {
            self.refuse(
                "the name or number of a code that is not OK, such as \"UNAVAILABLE\", is accepted",
            )
        })
    }
}

#[cfg(all(test, feature = "retry"))]
mod tests {
    use super::*;
    use crate::Methods;

    /// The example of A6, with a service and a default beside it.
    const GOOD: &str = r#"{
        "methodConfig": [
            { "name": [{ "service": "a.B" }, { "service": "c.D", "method": "E" }],
              "timeout": "2.5s",
              "retryPolicy": { "maxAttempts": 9, "initialBackoff": "0.1s", "maxBackoff": "1s",
                "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE", 4] } },
            { "name": [{ "service": "a.B", "method": "Whole" }], "waitForReady": true },
            { "name": [{}], "timeout": "60s", "waitForReady": null }
        ],
        "retryThrottling": { "maxTokens": 20, "tokenRatio": 0.5 }
    }"#;

    #[test]
    fn a_service_config_is_read() {
        let builder = Methods::builder().service_config(GOOD).expect("valid");
        let methods = builder.build().expect("valid");
        assert_eq!(methods.throttling(), Some((20, 0.5)));
        for path in ["/a.B/Other", "/c.D/E"] {
            let entry = methods.get(path);
            assert_eq!(entry.timeout(), Some(Duration::from_millis(2500)));
            assert!(entry.is_idempotent() && !entry.waits_for_ready());
            let expected = RetryPolicy::builder()
                .max_attempts(5)
                .codes([Code::Unavailable, Code::DeadlineExceeded]);
            assert_eq!(entry.retry(), Some(&expected.build().expect("valid")));
        }
        // The most specific entry as a whole.
        let whole = methods.get("/a.B/Whole");
        assert!(whole.waits_for_ready() && whole.retry().is_none());
        assert!(!whole.is_idempotent() && whole.timeout().is_none());
        let default = methods.get("/x.Y/Z");
        assert_eq!(default.timeout(), Some(Duration::from_secs(60)));
    }

    #[test]
    fn bad_input_is_refused_by_name_and_place() {
        let policy = |part: &str| {
            let parts = r#""maxAttempts": 2, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": [14]"#;
            let key = part.split(':').next().unwrap_or_default();
            let kept = parts.split(", ").filter(|it| !it.starts_with(key));
            let all: Vec<_> = kept.chain([part]).collect();
            let all = all.join(", ");
            format!(
                r#"{{ "methodConfig": [{{ "retryPolicy": {{ {} }} }}] }}"#,
                all.trim_end_matches(", ")
            )
        };
        let entry = |entry: &str| format!(r#"{{ "methodConfig": [{{ "name": [] }}, {entry}] }}"#);
        let throttling = |of: &str| format!(r#"{{ "retryThrottling": {of} }}"#);
        for (json, expected) in [
            ("{".to_owned(), "service_config = EOF while parsing"),
            (
                "[]".to_owned(),
                "service_config = []: an object is accepted",
            ),
            (
                r#"{ "loadBalancingConfig": [] }"#.to_owned(),
                "loadBalancingConfig = []: methodConfig, retryThrottling are accepted",
            ),
            (
                r#"{ "methodConfig": 3 }"#.to_owned(),
                "methodConfig = 3: a list is accepted",
            ),
            (
                entry(r#"{ "hedgingPolicy": {} }"#),
                "methodConfig[1].hedgingPolicy = {}: name, timeout, waitForReady, retryPolicy are accepted",
            ),
            (
                entry(r#"{ "timeout": "1m" }"#),
                "methodConfig[1].timeout = \"1m\": seconds above zero",
            ),
            (
                entry(r#"{ "timeout": "0s" }"#),
                "methodConfig[1].timeout = \"0s\": ",
            ),
            (
                entry(r#"{ "timeout": "-1s" }"#),
                "methodConfig[1].timeout = \"-1s\": ",
            ),
            (
                entry(r#"{ "timeout": 1 }"#),
                "methodConfig[1].timeout = 1: ",
            ),
            (
                entry(r#"{ "waitForReady": "yes" }"#),
                "methodConfig[1].waitForReady = \"yes\": true or false is accepted",
            ),
            (
                entry(r#"{ "name": [{ "method": "C" }] }"#),
                "methodConfig[1].name[0] = {\"method\":\"C\"}: a method has a service",
            ),
            (
                entry(r#"{ "name": [{ "service": 1 }] }"#),
                "methodConfig[1].name[0].service = 1: a string is accepted",
            ),
            (
                entry(r#"{ "name": [{ "service": "a.B" }, { "method": "", "service": "a.B" }] }"#),
                "methodConfig[1].name[1] = {\"method\":\"\",\"service\":\"a.B\"}: one entry per name is accepted",
            ),
            (
                policy(r#""maxAttempts": 1"#),
                "methodConfig[0].retryPolicy.maxAttempts = 1: a whole number from 2 on is accepted",
            ),
            (
                policy(r#""initialBackoff": "0s""#),
                "methodConfig[0].retryPolicy.initialBackoff = \"0s\": ",
            ),
            (
                policy(r#""maxBackoff": null"#),
                "methodConfig[0].retryPolicy = ",
            ),
            (
                policy(r#""backoffMultiplier": 0.5"#),
                "methodConfig[0].retryPolicy.backoffMultiplier = 0.5: a number from 1 to 1000 is accepted",
            ),
            (
                policy(r#""retryableStatusCodes": []"#),
                "methodConfig[0].retryPolicy = ",
            ),
            (
                policy(r#""retryableStatusCodes": ["OK"]"#),
                "methodConfig[0].retryPolicy.retryableStatusCodes[0] = \"OK\": the name or number of a code",
            ),
            (
                policy(r#""perAttemptRecvTimeout": "1s""#),
                "methodConfig[0].retryPolicy.perAttemptRecvTimeout = \"1s\": maxAttempts, ",
            ),
            (
                throttling(r#"{ "maxTokens": 1001, "tokenRatio": 1 }"#),
                "retryThrottling.maxTokens = 1001: a whole number from 1 to 1000 is accepted",
            ),
            (
                throttling(r#"{ "maxTokens": 1 }"#),
                "retryThrottling = {\"maxTokens\":1}: tokenRatio is required",
            ),
            (
                throttling(r#"{ "maxTokens": 1, "tokenRatio": 0 }"#),
                "retryThrottling.tokenRatio = 0: a number from 0.001 to 1000 is accepted",
            ),
        ] {
            let error = Methods::builder().service_config(&json);
            let error = error.expect_err(&json).to_string();
            assert!(error.starts_with(expected), "{error}\n{expected}");
        }
        let named = entry(r#"{ "name": [{ "service": "a b" }] }"#);
        let builder = Methods::builder().service_config(&named).expect("JSON");
        assert_eq!(builder.build().expect_err("no name").field(), "methods");
    }
}
