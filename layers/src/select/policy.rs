use std::ops::{Bound, RangeBounds};

use http::Request;

use super::{Adaptive, Arm, Canary};
use crate::{ConfigError, Methods, Urgency};

/// A policy's choice for a group of calls.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// This arm or none: a call waits for it for [`wait`](super::SelectConfigBuilder::wait) and then fails.
    Fixed(Arm),
    /// This arm; the other one when this one is not ready, or failed before anything was sent.
    Prefer(Arm),
    /// A share of the calls goes to one arm, the rest to the other. Calls in the canary fall back to the other arm as with `Prefer`. Calls outside it never
    /// go to the arm that is tried out.
    Canary(Canary),
    /// The arm that answers sooner; the other one when it is not ready, or failed before anything was sent.
    Adaptive(Adaptive),
}

impl Choice {
    /// Which arms a call may go over.
    fn arms(&self) -> u8 {
        match self {
            Self::Fixed(arm) => arm.bit(),
            Self::Canary(canary) if canary.share() == 0 => canary.to().other().bit(),
            _ => Arm::First.bit() | Arm::Second.bit(),
        }
    }

    /// Whether what was measured for `other` is true for this one too.
    pub(super) fn continues(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Canary(this), Self::Canary(other)) => this.continues(other),
            _ => self == other,
        }
    }
}

/// Which calls go over which arm. One policy is in force at a time, as a whole: see [`SelectHandle::swap`](super::SelectHandle::swap).
///
/// A rule for a call's method outranks one for its service, which outranks one for its class, which outranks the default.
///
/// ```
/// use tower_iroh_layers::{MethodConfig, Methods, Urgency, select::{Arm, Canary, Choice, SelectPolicy}};
///
/// let canary = Canary::builder("shop-to-iroh", Arm::First).share(500).build()?;
/// let over_iroh = MethodConfig::new().transport(Choice::Prefer(Arm::First));
/// let methods = Methods::builder()
///     .methods(["grpc.health.v1.Health", "/shop.v1.Stock/Watch"], over_iroh)
///     .method("shop.v1.Stock", MethodConfig::new().transport(Choice::Canary(canary)))
///     .build()?;
/// let policy = SelectPolicy::builder(Choice::Prefer(Arm::Second))
///     .methods(&methods)
///     .urgency(..=Urgency::CONTROL, Choice::Fixed(Arm::Second))
///     .build()?;
/// assert_eq!(policy.choice("/shop.v1.Stock/Watch", Urgency::default()), &Choice::Prefer(Arm::First));
/// assert_eq!(policy.choice("/shop.v1.Cart/Add", Urgency::CONTROL), &Choice::Fixed(Arm::Second));
/// # Ok::<(), tower_iroh_layers::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SelectPolicy {
    /// The first is the default.
    rules: Vec<Rule>,
    methods: Methods,
    /// By the method's entry, the rule's number; 0 where it has none.
    rule_of_entry: Vec<usize>,
    classes: Option<[usize; 8]>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    pub(super) kind: Kind,
    /// What it is for, so that it is known again in another policy.
    pub(super) covers: String,
    pub(super) choice: Choice,
}

/// Which calls a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Default,
    Method,
    Class,
}

impl SelectPolicy {
    /// Begins with the choice for calls without a rule.
    pub fn builder(default: Choice) -> SelectPolicyBuilder {
        SelectPolicyBuilder {
            default,
            methods: Methods::default(),
            classes: Vec::new(),
        }
    }

    /// The choice for a call.
    pub fn choice(&self, path: &str, urgency: Urgency) -> &Choice {
        let rule = match self.rule_of_entry[self.methods.number(path)] {
            0 => self.class(urgency),
            rule => rule,
        };
        &self.rules[rule].choice
    }

    /// Whether its table of methods chooses an arm for any method.
    pub fn has_method_rules(&self) -> bool {
        self.rule_of_entry.iter().any(|rule| *rule != 0)
    }

    /// The same with the choices of another table.
    pub fn with_methods(mut self, methods: &Methods) -> Self {
        self.set_methods(methods);
        self
    }

    fn set_methods(&mut self, methods: &Methods) {
        let mut rules = std::mem::take(&mut self.rules);
        // Classes count by number, so rules of methods come behind them.
        rules.retain(|rule| rule.kind != Kind::Method);
        self.rule_of_entry = vec![0];
        for (pattern, entry) in methods.iter() {
            let same =
                |rule: &Rule| rule.kind == Kind::Method && Some(&rule.choice) == entry.transport();
            let rule = match (rules.iter().position(same), entry.transport()) {
                (_, None) => 0,
                (Some(rule), _) => {
                    rules[rule].covers.extend([",", pattern]);
                    rule
                }
                (None, Some(choice)) => {
                    rules.push(Rule {
                        kind: Kind::Method,
                        covers: pattern.to_owned(),
                        choice: choice.clone(),
                    });
                    rules.len() - 1
                }
            };
            self.rule_of_entry.push(rule);
        }
        self.rules = rules;
        self.methods = methods.clone();
    }

    fn class(&self, urgency: Urgency) -> usize {
        let classes = self.classes.as_ref();
        classes.map_or(0, |classes| classes[usize::from(urgency.get())])
    }

    /// The number of the rule that a request is under.
    #[inline]
    pub(super) fn rule_of<B>(&self, request: &Request<B>) -> usize {
        match self.rule_of_entry[self.methods.number(request.uri().path())] {
            0 if self.classes.is_some() => self.class(Urgency::of(request)),
            rule => rule,
        }
    }

    pub(super) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The canaries in it.
    pub fn canaries(&self) -> impl Iterator<Item = &Canary> {
        self.rules.iter().filter_map(|rule| match &rule.choice {
            Choice::Canary(canary) => Some(canary),
            _ => None,
        })
    }

    /// The same with another share for a canary.
    ///
    /// # Errors
    /// When it has no canary of this name, or the share is above 10,000 basis points.
    pub fn with_share(mut self, canary: &str, share: u32) -> Result<Self, ConfigError> {
        let found = self
            .rules
            .iter_mut()
            .find_map(|rule| match &mut rule.choice {
                Choice::Canary(found) if found.name() == canary => Some(found),
                _ => None,
            });
        let Some(found) = found else {
            let names: Vec<_> = self.canaries().map(Canary::name).collect();
            let accepted = match names.is_empty() {
                true => "the policy has no canary".to_owned(),
                false => format!("the policy has {}", names.join(", ")),
            };
            return Err(ConfigError::new("select.canary.name", canary, accepted));
        };
        *found = found.clone().with_share(share)?;
        Ok(self)
    }

    /// The arms that it ever uses.
    pub(super) fn arms(&self) -> u8 {
        self.rules
            .iter()
            .fold(0, |all, rule| all | rule.choice.arms())
    }
}

impl From<Arm> for SelectPolicy {
    /// All calls over this arm.
    fn from(arm: Arm) -> Self {
        Choice::Fixed(arm).into()
    }
}

impl From<Choice> for SelectPolicy {
    /// The same for all calls.
    fn from(choice: Choice) -> Self {
        Self {
            rules: vec![Rule {
                kind: Kind::Default,
                covers: String::new(),
                choice,
            }],
            methods: Methods::default(),
            rule_of_entry: vec![0],
            classes: None,
        }
    }
}

/// A range of urgencies.
type Class = (Bound<Urgency>, Bound<Urgency>);

/// Makes a [`SelectPolicy`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SelectPolicyBuilder {
    default: Choice,
    methods: Methods,
    classes: Vec<(Class, Choice)>,
}

impl SelectPolicyBuilder {
    /// Sets the table of methods with their [choices](crate::MethodConfig::transport). Methods with equal choices are one rule: their calls are measured
    /// together.
    pub fn methods(mut self, methods: &Methods) -> Self {
        self.methods = methods.clone();
        self
    }

    /// Sets the choice for calls of this urgency: `..=Urgency::CONTROL`, for example.
    pub fn urgency(mut self, range: impl RangeBounds<Urgency>, choice: Choice) -> Self {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        self.classes.push((range, choice));
        self
    }

    /// Checks the rules.
    ///
    /// # Errors
    /// When an urgency has two rules, a range is empty, or two different canaries have one name.
    pub fn build(self) -> Result<SelectPolicy, ConfigError> {
        let mut policy = SelectPolicy::from(self.default);
        for (range, choice) in self.classes {
            const FIELD: &str = "select.urgency";
            let rule = policy.rules.len();
            let classes = policy.classes.get_or_insert([0; 8]);
            let mut any = false;
            for (n, place) in (0..).zip(classes) {
                if !Urgency::new(n).is_ok_and(|urgency| range.contains(&urgency)) {
                    continue;
                }
                any = true;
                let accepted = "an urgency has one rule, and this one has two";
                ConfigError::require(*place == 0, FIELD, n, accepted)?;
                *place = rule;
            }
            let shown = format!("{range:?}");
            if !any {
                let accepted = "a range with at least one urgency is accepted";
                return Err(ConfigError::new(FIELD, shown, accepted));
            }
            policy.rules.push(Rule {
                kind: Kind::Class,
                covers: shown,
                choice,
            });
        }
        policy.set_methods(&self.methods);
        let mut names: Vec<_> = policy.canaries().map(Canary::name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let accepted = "a canary's name is its own, and two have this one";
            return Err(ConfigError::new("select.canary.name", twice[0], accepted));
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MethodConfig;

    const IROH: Choice = Choice::Fixed(Arm::First);
    const TCP: Choice = Choice::Fixed(Arm::Second);

    #[test]
    fn the_most_special_rule_counts() {
        let methods = Methods::builder()
            .method("a.B", MethodConfig::new().transport(IROH))
            .method("/a.B/C", MethodConfig::new().transport(TCP))
            .build()
            .expect("accepted");
        let policy = SelectPolicy::builder(Choice::Prefer(Arm::Second))
            .methods(&methods)
            .urgency(Urgency::BULK.., Choice::Prefer(Arm::First))
            .build()
            .expect("accepted");
        let choice = |path, urgency| policy.choice(path, urgency).clone();
        assert_eq!(choice("/a.B/C", Urgency::BULK), TCP);
        assert_eq!(choice("/a.B/D", Urgency::BULK), IROH);
        assert_eq!(
            choice("/x.Y/Z", Urgency::LOWEST),
            Choice::Prefer(Arm::First)
        );
        assert_eq!(
            choice("/x.Y/Z", Urgency::CONTROL),
            Choice::Prefer(Arm::Second)
        );
    }

    #[test]
    fn only_the_arms_that_may_be_needed_are() {
        let canary = |share| {
            let canary = Canary::builder("n", Arm::First).share(share);
            Choice::Canary(canary.build().expect("accepted"))
        };
        let arms = |choice| {
            SelectPolicy::builder(choice)
                .build()
                .expect("accepted")
                .arms()
        };
        assert_eq!(arms(TCP), Arm::Second.bit());
        assert_eq!(arms(canary(0)), Arm::Second.bit());
        assert_eq!(arms(canary(1)), 3);
        assert_eq!(arms(Choice::Prefer(Arm::First)), 3);
        assert_eq!(SelectPolicy::from(Arm::First).arms(), Arm::First.bit());
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let field = |builder: SelectPolicyBuilder| builder.build().expect_err("refused").field();
        let new = || SelectPolicy::builder(TCP);
        let canary = || {
            let canary = Canary::builder("n", Arm::First);
            Choice::Canary(canary.build().expect("accepted"))
        };
        let of = |choice| {
            let config = MethodConfig::new().transport(choice);
            let methods = Methods::builder().method("a.B", config);
            methods.build().expect("accepted")
        };
        let (low, high) = (Urgency::BULK, Urgency::CONTROL);
        assert_eq!(field(new().urgency(low..high, IROH)), "select.urgency");
        assert_eq!(
            field(new().urgency(..=high, IROH).urgency(.., TCP)),
            "select.urgency"
        );
        assert_eq!(
            field(new().methods(&of(canary())).urgency(.., canary())),
            "select.canary.name"
        );
        let none = new().build().expect("accepted").with_share("n", 1);
        assert!(none.expect_err("refused").accepted().contains("no canary"));
    }
}
