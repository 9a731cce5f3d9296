//! The order of things: rest, attack, rest, and so on.

use std::{path::PathBuf, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    Error,
    attacker::{Cost, attack},
    attacks::Attack,
    honest::{Callers, Tally},
    report,
    server::Fortress,
    verdict::{self, Row, Seen},
    vitals::Vitals,
};

/// How often the server is looked at during an attack.
const LOOK: Duration = Duration::from_millis(50);

/// What is to be done.
pub(crate) struct Plan {
    pub(crate) attacks: Vec<Attack>,
    pub(crate) time: Duration,
    /// The quiet time before each attack.
    pub(crate) calm: Duration,
    /// All attacks are repeated for so long.
    pub(crate) repeat: Option<Duration>,
    /// A 99th percentile below this is never too slow.
    pub(crate) floor: Duration,
    /// How long memory and file descriptors may take to come back after the last attack.
    pub(crate) recovery: Duration,
    pub(crate) json: Option<PathBuf>,
}

/// Whether every promise was kept.
pub(crate) async fn run(plan: &Plan) -> Result<bool, Error> {
    if !cfg!(target_os = "linux") {
        return Err("the attackers need the addresses that Linux has in 127.0.0.0/8".into());
    }
    let fortress = Fortress::start().await?;
    let mut callers = Callers::start(&fortress.ticket.parse()?).await?;
    // The first calls of a connection are slower: they are nobody's measure.
    sleep(plan.calm.max(Duration::from_secs(2))).await;
    callers.next_phase().await?;
    let mut idle = Tally::default();
    let mut rest = None;
    let mut rows = Vec::new();
    let mut broken = Vec::new();
    let began = Instant::now();
    report::head();
    loop {
        for one in &plan.attacks {
            sleep(plan.calm).await;
            let calm = callers.next_phase().await?;
            idle.add(&calm)?;
            let before = fortress.vitals()?;
            let rest = rest.get_or_insert(before);
            let (cost, most) = watched(&fortress, one, plan.time).await?;
            let during = callers.next_phase().await?;
            let seen = Seen {
                attack: one.clone(),
                cost,
                time: plan.time,
                calm,
                during,
                before,
                most,
                after: fortress.vitals()?,
            };
            let row = Row::new(plan, &seen, &idle, rest);
            report::line(&row);
            broken.extend(
                row.broken
                    .iter()
                    .map(|why| format!("{}: {why}", row.attack)),
            );
            rows.push(row);
        }
        if plan.repeat.is_none_or(|most| began.elapsed() >= most) {
            break;
        }
    }
    let rest = rest.unwrap_or_default();
    let end = recovered(&fortress, &rest, plan.recovery).await?;
    broken.extend(verdict::left(&rest, &end));
    if idle.failed > 0 {
        broken.push(format!(
            "calls failed between the attacks: {:?}",
            idle.reasons
        ));
    }
    report::end(&rows, &idle, &rest, &end, &broken);
    if let Some(file) = &plan.json {
        std::fs::write(file, serde_json::to_vec_pretty(&rows)?)?;
    }
    drop(callers);
    fortress.stop().await?;
    Ok(broken.is_empty())
}

/// Runs an attack, and tells what it cost and the most that the server held meanwhile.
async fn watched(
    fortress: &Fortress,
    one: &Attack,
    time: Duration,
) -> Result<(Cost, Vitals), Error> {
    let mut most = Vitals::default();
    let attack = attack(&one.name, &fortress.ticket, time);
    let mut attack = std::pin::pin!(attack);
    loop {
        let now = fortress.vitals()?;
        most.memory = most.memory.max(now.memory);
        most.files = most.files.max(now.files);
        tokio::select! {
            cost = &mut attack => return Ok((cost?, most)),
            () = sleep(LOOK) => {}
        }
    }
}

/// What the server holds once it is as before, or when the time for that is over.
async fn recovered(fortress: &Fortress, rest: &Vitals, most: Duration) -> Result<Vitals, Error> {
    let began = Instant::now();
    loop {
        let now = fortress.vitals()?;
        if verdict::left(rest, &now).is_empty() || began.elapsed() >= most {
            return Ok(now);
        }
        sleep(Duration::from_millis(200)).await;
    }
}
